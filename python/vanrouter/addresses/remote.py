"""
What other routers advertise: the newest fragment of each number, per router id, and who serves or wants which key.

Refuses to know paths, services or the data plane; it says which keys changed, and the table does the rest. Only bounded state: at most
4,096 keys per site (further ones are refused and named), 1,024 fragments and 64 routers per site, 900 s without a refresh.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import msgspec

from vanrouter.errors import RemoteProtocolError
from vanrouter.messages import Fragment, KeyInfo

__all__ = ["MAX_AGE", "MAX_JUMP", "MAX_KEYS_PER_SITE", "MAX_ROUTERS_PER_SITE", "Remote"]

MAX_KEYS_PER_SITE: Final = 4096
MAX_ROUTERS_PER_SITE: Final = 64
MAX_FRAGMENTS_PER_SITE: Final = 1024  # all its routers together
MAX_REFUSED_NAMES: Final = 1024
MAX_AGE: Final = 900.0
MAX_JUMP: Final = 1 << 32  # a sequence that runs ahead further than this is a lie
SWEEP_EVERY: Final = 30.0
MAX_TOMBSTONES: Final = 4096


class _Stored(msgspec.Struct):
    fragment: Fragment
    keys: dict[str, KeyInfo]
    expires: float


class _Origin(msgspec.Struct):
    site: str
    fragments: dict[int, _Stored] = {}
    keys: dict[str, tuple[int, KeyInfo]] = {}  # accepted ones, and the number of the fragment that says so


class _Site(msgspec.Struct):
    routers: set[str] = set()
    keys: dict[str, int] = {}  # accepted keys, and how many of its routers have them
    refused: dict[str, None] = {}
    fragments: int = 0


class Remote:
    """The advertisements of all other routers. Every method returns the keys whose picture may have changed."""

    def __init__(self) -> None:
        self._origins: dict[str, _Origin] = {}
        self._sites: dict[str, _Site] = {}
        self._by_key: dict[str, dict[str, KeyInfo]] = {}
        self._tombstones: dict[str, float] = {}
        self._next_sweep = math.inf

    # ---- questions ---------------------------------------------------------------------------------------------------------------------

    def key(self, key: str) -> dict[str, KeyInfo]:
        """Router id -> what it says of this key."""
        return self._by_key.get(key, {})

    def keys(self) -> Iterator[str]:
        return iter(self._by_key)

    def keys_of(self, router: str) -> list[str]:
        origin = self._origins.get(router)
        return list(origin.keys) if origin is not None else []

    def keys_in(self, router: str, number: int) -> list[str]:
        """The keys of one fragment."""
        origin = self._origins.get(router)
        stored = origin.fragments.get(number) if origin is not None else None
        return list(stored.keys) if stored is not None else []

    def info(self, router: str, key: str) -> KeyInfo | None:
        return self._by_key.get(key, {}).get(router)

    def fragments(self, router: str) -> list[Fragment]:
        """What it says now, by number."""
        origin = self._origins.get(router)
        return [stored.fragment for _, stored in sorted(origin.fragments.items(), key=lambda item: item[0])] if origin is not None else []

    def routers(self) -> list[str]:
        return list(self._origins)

    def has_site(self, site: str) -> bool:
        """Whether a router of this site advertises anything."""
        return site in self._sites

    def sequence(self, router: str, number: int) -> int:
        origin = self._origins.get(router)
        stored = origin.fragments.get(number) if origin is not None else None
        return stored.fragment.sequence if stored is not None else 0

    def sequences(self, router: str) -> dict[int, int]:
        """Number -> sequence of everything that this router advertises."""
        origin = self._origins.get(router)
        return {number: stored.fragment.sequence for number, stored in origin.fragments.items()} if origin is not None else {}

    def draining(self, router: str) -> bool:
        origin = self._origins.get(router)
        first = origin.fragments.get(0) if origin is not None else None
        return first is not None and first.fragment.draining

    def refused(self, site: str) -> list[str]:
        """Keys of this site beyond the most that one site may have."""
        known = self._sites.get(site)
        return list(known.refused) if known is not None else []

    @property
    def deadline(self) -> float:
        return self._next_sweep

    # ---- changes -----------------------------------------------------------------------------------------------------------------------

    def put_untrusted(self, fragment: Fragment, *, now: float) -> set[str] | None:
        """None: not newer than what is there (or of a router that has withdrawn). Raises RemoteProtocolError for a jump or too many."""
        router = fragment.origin
        if router in self._tombstones:
            return None
        site_id = router.partition("/")[0]
        origin = self._origins.get(router)
        if origin is None:
            site = self._sites.setdefault(site_id, _Site())
            if len(site.routers) >= MAX_ROUTERS_PER_SITE:
                raise RemoteProtocolError(f"site {site_id} advertises as more than {MAX_ROUTERS_PER_SITE} routers")
            site.routers.add(router)
            origin = self._origins[router] = _Origin(site_id)
        stored = origin.fragments.get(fragment.number)
        last = stored.fragment.sequence if stored is not None else 0
        if fragment.sequence <= last:
            return None
        if fragment.sequence - last > MAX_JUMP:
            raise RemoteProtocolError(f"fragment {fragment.number} of {router} jumps from sequence {last} to {fragment.sequence}")
        site = self._sites[site_id]
        if stored is None:
            if site.fragments >= MAX_FRAGMENTS_PER_SITE:
                raise RemoteProtocolError(f"site {site_id} advertises in more than {MAX_FRAGMENTS_PER_SITE} fragments")
            site.fragments += 1
        keys = {info.key: info for info in fragment.keys}
        origin.fragments[fragment.number] = _Stored(fragment, keys, now + MAX_AGE)
        self._next_sweep = min(self._next_sweep, now + SWEEP_EVERY)
        return self._replace(router, origin, fragment.number, stored.keys if stored is not None else {}, keys)

    def remove(self, router: str) -> set[str]:
        """Forget everything of this router id. It may come back with what it advertises then."""
        origin = self._origins.pop(router, None)
        if origin is None:
            return set()
        changed = set(origin.keys)
        for key in list(origin.keys):
            self._delete(router, origin, key)
        site = self._sites[origin.site]
        site.routers.discard(router)
        site.fragments -= len(origin.fragments)
        changed |= self._readmit(origin.site)
        if not site.routers:
            del self._sites[origin.site]
        return changed

    def withdraw(self, router: str, *, now: float) -> set[str]:
        """Forget this router id for good: nothing older may bring it back while it could still be on its way."""
        while len(self._tombstones) >= MAX_TOMBSTONES:
            del self._tombstones[next(iter(self._tombstones))]
        self._tombstones[router] = now + MAX_AGE
        self._next_sweep = min(self._next_sweep, now + SWEEP_EVERY)
        return self.remove(router)

    def expire(self, now: float) -> dict[str, set[str]]:
        """Drop fragments that were not refreshed: router -> keys that may have changed with it. Calling early is harmless."""
        changed: dict[str, set[str]] = {}
        if now < self._next_sweep:
            return changed
        for router, origin in list(self._origins.items()):
            for number, stored in list(origin.fragments.items()):
                if now >= stored.expires:
                    changed.setdefault(router, set()).update(self._replace(router, origin, number, stored.keys, {}))
                    del origin.fragments[number]
                    self._sites[origin.site].fragments -= 1
            if not origin.fragments:
                changed.setdefault(router, set()).update(self.remove(router))
        for router, until in list(self._tombstones.items()):
            if now >= until:
                del self._tombstones[router]
        self._next_sweep = now + SWEEP_EVERY if self._origins or self._tombstones else math.inf
        return changed

    # ---- inside ------------------------------------------------------------------------------------------------------------------------

    def _replace(self, router: str, origin: _Origin, number: int, old: dict[str, KeyInfo], new: dict[str, KeyInfo]) -> set[str]:
        changed: set[str] = set()
        for key in old:
            if key not in new and origin.keys.get(key, (-1, None))[0] == number:
                self._delete(router, origin, key)
                changed.add(key)
        freed = bool(changed)
        for key, info in new.items():
            before = origin.keys.get(key)
            if before is not None and before[1] == info:
                origin.keys[key] = (number, info)
            elif self._put(router, origin, number, key, info):
                changed.add(key)
        if freed:
            changed |= self._readmit(origin.site)
        return changed

    def _put(self, router: str, origin: _Origin, number: int, key: str, info: KeyInfo) -> bool:
        site = self._sites[origin.site]
        if key not in site.keys and len(site.keys) >= MAX_KEYS_PER_SITE:
            if len(site.refused) < MAX_REFUSED_NAMES:
                site.refused[key] = None
            return False
        site.refused.pop(key, None)
        if key not in origin.keys:
            site.keys[key] = site.keys.get(key, 0) + 1
        origin.keys[key] = (number, info)
        self._by_key.setdefault(key, {})[router] = info
        return True

    def _delete(self, router: str, origin: _Origin, key: str) -> None:
        del origin.keys[key]
        site = self._sites[origin.site]
        site.keys[key] -= 1
        if not site.keys[key]:
            del site.keys[key]
        routers = self._by_key[key]
        del routers[router]
        if not routers:
            del self._by_key[key]

    def _readmit(self, site_id: str) -> set[str]:
        """There is room again: keys of this site that were refused may come in."""
        site = self._sites[site_id]
        if not site.refused or len(site.keys) >= MAX_KEYS_PER_SITE:
            return set()
        site.refused.clear()
        changed: set[str] = set()
        for router in sorted(site.routers):
            origin = self._origins[router]
            for number, stored in origin.fragments.items():
                for key, info in stored.keys.items():
                    if key not in origin.keys and self._put(router, origin, number, key, info):
                        changed.add(key)
        return changed
