"""
Which sites belong to our network: those joined to us by links of our own, or by a chain of admissions or of links that both ends report.

Refuses to check signatures: it is told pairs (issuer, subject) that hold. Every site that is in has a *sponsor*, the site through which it
came in, and no site may bring in more than `max_per_admitter`, those counted that came in through them. Sites that admitted us, and those
that admitted them, are exempt: half of the network may have come through them. Only bounded state: at most 8 vouched issuers per site.

    ours ──▶ linked          our own links, and ourselves
      ▲
      └──── founder ──▶ site ──▶ site       ──▶ admits; a chain may be walked either way
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

__all__ = ["MAX_PER_ADMITTER", "Membership"]

MAX_PER_ADMITTER: Final = 512
MAX_VOUCHED: Final = 8

Pair = tuple[str, str]  # issuer, subject


class _Member(msgspec.Struct):
    sponsor: str  # "" for ourselves and for what is linked to us
    records: int = 0  # routers of it in the database
    under: int = 0  # sites that came in through it
    linked: int = 0  # our own links to it
    vouches: tuple[str, ...] = ()  # the sites that admitted it: they belong to us as well


class Membership:
    def __init__(self, own: str, issuers: Sequence[str] = (), *, max_per_admitter: int = MAX_PER_ADMITTER) -> None:
        """``issuers``: of the admissions that we hold."""
        self._own, self._most = own, max_per_admitter
        self._members: dict[str, _Member] = {own: _Member("", linked=1)}
        self._vouched: dict[str, dict[str, None]] = {}
        self._above: set[str] = {own}  # who admitted us, and who admitted them
        self._learn(own, [(issuer, own) for issuer in issuers])

    def set_issuers(self, issuers: Sequence[str]) -> None:
        """Of the admissions that we hold now."""
        self._learn(self._own, [(issuer, self._own) for issuer in issuers])

    def __contains__(self, site: str) -> bool:
        return site in self._members

    def link_up(self, site: str) -> None:
        member = self._members.setdefault(site, _Member(""))
        member.linked += 1
        if sponsor := member.sponsor:  # it stands by itself now, and takes along those that came in through it
            self._count(sponsor, -1 - member.under)
            member.sponsor = ""
            self.tidy(sponsor)

    def link_down(self, site: str) -> None:
        """It stays while it advertises, or others came in through it."""
        self._members[site].linked -= 1
        self.tidy(site)

    def admit(self, site: str, pairs: Sequence[Pair]) -> tuple[str, str]:
        """Why what this site advertises is not taken, as reason and message; empty: it is."""
        if site not in self._members:
            sponsors = self._sponsors(site, pairs)
            if not sponsors:
                return "NotJoined", f"nothing joins site {site} to this network"
            free = [sponsor for sponsor in sponsors if self._has_room(sponsor)]
            if not free:
                return "TooManySites", f"site {sponsors[0]} brings in more than {self._most} sites"
            self._members[site] = _Member(free[0])
            self._count(free[0], 1)
        self._learn(site, pairs)
        return "", ""

    def router_added(self, site: str) -> None:
        self._members[site].records += 1

    def router_removed(self, site: str) -> None:
        member = self._members.get(site)
        if member is not None:
            member.records -= 1
            self.tidy(site)

    def tidy(self, site: str) -> None:
        """Forget it unless something holds it: a router, a link, or a site that came in through it."""
        while site:
            member = self._members.get(site)
            if member is None or member.records or member.under or member.linked:
                return
            self._unvouch(site, member)
            del self._members[site]
            sponsor = member.sponsor
            self._count(sponsor, -1)
            site = sponsor

    # ---- inside ------------------------------------------------------------------------------------------------------------------------

    def _sponsors(self, site: str, pairs: Sequence[Pair]) -> list[str]:
        """Members that vouch for it: directly, by a chain carried along, or because it admitted them."""
        found: dict[str, None] = {}
        wanted, seen = [site], {site}
        while wanted:
            subject = wanted.pop()
            for issuer, other in pairs:
                if other == subject and issuer in self._members:
                    found[issuer] = None
                elif other == subject and issuer not in seen:
                    seen.add(issuer)
                    wanted.append(issuer)
            for member in self._vouched.get(subject, ()):
                if member in self._members:
                    found[member] = None
        return list(found)

    def _learn(self, site: str, pairs: Sequence[Pair]) -> None:
        member = self._members[site]
        vouches = tuple(dict.fromkeys(issuer for issuer, subject in pairs if subject == site))[:MAX_VOUCHED]
        if site in self._above:
            self._above.update(vouches)
        if vouches == member.vouches:
            return
        self._unvouch(site, member)
        member.vouches = vouches
        for issuer in vouches:
            self._vouched.setdefault(issuer, {})[site] = None

    def _unvouch(self, site: str, member: _Member) -> None:
        for issuer in member.vouches:
            sites = self._vouched[issuer]
            del sites[site]
            if not sites:
                del self._vouched[issuer]

    def _has_room(self, sponsor: str) -> bool:
        at = sponsor
        while at:
            member = self._members[at]
            if at not in self._above and member.under >= self._most:
                return False
            at = member.sponsor
        return True

    def _count(self, sponsor: str, by: int) -> None:
        while sponsor:
            member = self._members[sponsor]
            member.under += by
            sponsor = member.sponsor
