"""
The links of a site: those it dials, each with its supervisor, and what the data plane says of all of them, whoever dialled.

Carries out what supervisors decide; resolves names for them through ``Names``; loads credentials. Decides nothing about when to dial. Of an
edge site `Uplinks` decides which links stand by: those have nothing to dial, and the data plane does not know them.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from vanrouter.conditions import Condition, Conditions, Status
from vanrouter.errors import ConfigError, NotReady, StoreError
from vanrouter.links import Action, CancelDial, Endpoint, LinkStatus, LinkSupervisor, Retire, Uplinks
from vanrouter.links.status import AFTER_LOSS, words_for_silence
from vanrouter.messages import Reachable
from vanrouter.model import SiteId
from vanrouter.pki import build_credential
from vanrouter.pki.authority import van_name
from vanrouter.plane import Credential, Dial, DialResult, Link, LinkState, Ref
from vanrouter.resources import Secret
from vanrouter.resources.kinds import check_link_files
from vanrouter.resources.shapes import format_host_port, is_ip
from vanrouter.sites.context import Context
from vanrouter.sites.doubles import Doubles
from vanrouter.sites.learned import Learned
from vanrouter.sites.wanted import WantedLink
from vanrouter.tokens import LinkCredential

__all__ = ["DialledLink", "Links"]

log = logging.getLogger("vanrouter.sites")

UNKNOWN_SITE: Final = "unknown.van"
MAX_GOING: Final = 16
LOOK_FOR_STREAMS: Final = 1.0  # an uplink that is not needed any more is closed when it has none


class DialledLink:
    """One configured link."""

    def __init__(self, wanted: WantedLink) -> None:
        self.wanted = wanted
        self.secret: Secret | None = None
        self.issued: LinkCredential | None = None  # from a token: it can be renewed
        self.credential: Credential | None = None
        self.supervisor: LinkSupervisor | None = None
        self.conditions = Conditions()
        self.renewal_error = ""
        self.is_to_siblings = False
        self.own: set[tuple[str, int]] = set()  # of a link to siblings: the endpoints that turned out to be ours
        self.alone: Condition | None = None  # of a link to siblings: all of them are ours
        self.refused: Condition | None = None  # we refuse the site that it leads to
        self.renew_at = math.inf  # wall clock: of a credential that is made here
        self.stands_by = False
        self.standby = Conditions()  # what is said instead of the supervisor's condition

    @property
    def expected_site(self) -> str:
        return self.wanted.site_id or (self.issued.issuer if self.issued is not None else "")

    @property
    def verify_host(self) -> bool:
        return self.wanted.verify_host or (self.issued is not None and self.issued.verify_host)


class Links:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._ids = itertools.count(1)
        self._dials: dict[int, Dial] = {}
        self.dialled: dict[str, DialledLink] = {}
        self.states: dict[str, LinkState] = {}  # by router: every link that is up
        self._conditions: dict[str, Conditions] = {}  # by router: how that link is, and since when
        self.doubles = Doubles(str(context.keys.site_id))
        self._learned = Learned(context.home.state)
        self._going: dict[str, list[tuple[str, int]]] = {}  # by site: where it was linked to and is not, or not for long
        self._refused: frozenset[str] = frozenset()
        self._uplinks = Uplinks(now=context.now()) if context.edge else None
        self._stopped = False
        self._look_at = math.inf  # when to look whether an uplink that is not needed any more has streams

    # ---- what is wanted ------------------------------------------------------------------------------------------------------------------

    def reconcile(self, wanted: Mapping[str, WantedLink], secrets: Mapping[str, Secret]) -> None:
        if self._context.in_pod is not None:
            ours = {link.site_id for link in wanted.values()}
            self._learned.offer({site: places for site, places in self._context.in_pod.learned.items() if site in ours})
        self._want_names(wanted.values())
        if self._uplinks is not None:
            self._uplinks.set_links({name: link.cost for name, link in wanted.items()}, now=self._context.now())
        for name in [n for n in self.dialled if n not in wanted]:
            self._drop(name)
        for name, link in wanted.items():
            known = self.dialled.get(name)
            secret = secrets.get(link.credential)
            if known is None:
                known = self.dialled[name] = DialledLink(link)
            elif known.wanted == link and known.secret == secret and known.credential is not None:
                self._set_endpoints(known)
                continue
            changed = known.wanted != link
            known.wanted, known.secret = link, secret
            self._configure(known, dial_again=changed)
        self._stand_by()
        sites = {link.expected_site for link in self.dialled.values()}
        self._learned.keep(sites)
        self._going = {site: places for site, places in self._going.items() if site in sites}

    def _want_names(self, wanted: Iterable[WantedLink]) -> None:
        told = [host for link in self.dialled.values() for host, _ in self._learned.of(link.expected_site)]
        told += [host for places in self._going.values() for host, _ in places]
        self._context.names.want("links", [*(host for w in wanted for host, _ in w.endpoints), *told])

    def learn(self, site: str, endpoints: Sequence[Reachable]) -> None:
        """A site that is linked with us says where it is linked to: the next lane may go there, and lanes to what goes are moved there."""
        links = [link for link in self.dialled.values() if link.expected_site == site and not link.is_to_siblings]
        places = [(e.host, e.port) for e in endpoints]
        staying = {(e.host, e.port) for e in endpoints if not e.going}
        before = self._going.get(site, [])
        went = dict.fromkeys([*(p for p in places if p not in staying), *self._learned.of(site), *before])
        going = [place for place in went if place not in staying][:MAX_GOING]
        changed = going != before
        self._going[site] = going
        if links and (self._learned.put(site, places) or changed):
            log.info("addresses learned", extra={"site": site, "links": len(links)})
            self._want_names(link.wanted for link in self.dialled.values())
            for link in links:
                self._set_endpoints(link)

    def learned(self, name: str) -> Sequence[tuple[str, int]]:
        """Where the site that a link leads to says that it is linked to."""
        return self._learned.of(self.dialled[name].expected_site)

    def credential_changed(self, credential: str) -> None:
        """What the state has under this name is new: a redemption or a renewal."""
        for link in self.dialled.values():
            if link.wanted.credential == credential:
                self._configure(link)

    def set_refused(self, sites: frozenset[str]) -> None:
        """The sites that are refused here from now on. What leads to one that is not any more is dialled at once."""
        again, self._refused = self._refused - sites, sites
        for link in self.dialled.values():
            self._say_refused(link)
            if link.supervisor is not None and link.expected_site in again:
                self._carry_out(link.supervisor.credentials_changed(now=self._context.now()))

    def _say_refused(self, link: DialledLink) -> None:
        before, link.refused = link.refused, None
        if link.expected_site in self._refused:
            name, since = link.wanted.name, before.since if before is not None else self._context.now()
            text = f"link {name} leads to site {link.expected_site}, which this site refuses (spec.refusedSites)"
            todo = f"take it out of spec.refusedSites of this site, or delete the link: van link delete {name}"
            link.refused = Condition(type="Operational", status="False", reason="SiteRefused", message=text, since=since, next=todo)

    def leaf_changed(self) -> None:
        """There is another leaf of our own, for the links with other routers of this site."""
        for link in self.dialled.values():
            if link.is_to_siblings:
                link.credential = None
                self._configure(link)

    def _configure(self, link: DialledLink, *, dial_again: bool = False) -> None:
        """``dial_again``: a person changed the link; what could not be helped by redialling may work now."""
        now, name = self._context.now(), link.wanted.name
        before = (link.expected_site, link.credential)
        try:
            self._load_credential(link)
        except NotReady as exc:
            link.conditions.set("Configured", "Unknown", "Pending", f"link {name}: {exc}", now=now, next=exc.hint)
            if link.credential is None:
                return
        except (ConfigError, StoreError) as exc:
            reason = "InvalidCredential" if isinstance(exc, ConfigError) else "StoreFailed"
            link.conditions.set("Configured", "False", reason, f"link {name}: {exc}", now=now, next=exc.hint)
            if link.credential is None:
                return
        else:
            link.conditions.set("Configured", "True", "Configured", f"link {name} has a credential", now=now)
        assert link.credential is not None
        link.stands_by = self._uplinks is not None and name not in self._uplinks.dialled(now)
        if not link.stands_by or self._context.forwarding.entry("link", name) is not None:
            self._put_entry(link)
        if link.supervisor is not None and before[0] != link.expected_site:
            self._carry_out(link.supervisor.drop(now=now))
            link.supervisor = None
        if link.supervisor is None:
            link.supervisor = LinkSupervisor(
                name, rng=self._context.rng, next_id=lambda: next(self._ids), now=now, expected_site=link.expected_site
            )
            for state in self.states.values():
                self._carry_out(link.supervisor.handle_link_state(state, now=now))
        elif dial_again or before[1] != link.credential:
            self._carry_out(link.supervisor.credentials_changed(now=now))
        self._say_refused(link)
        self._set_endpoints(link)

    def _put_entry(self, link: DialledLink) -> None:
        if link.credential is not None:
            name, cost = link.wanted.name, link.wanted.cost
            entry = Link(name=name, credential=link.credential.name, expected_site=link.expected_site, cost=cost)
            self._context.forwarding.change(put=[link.credential, entry])

    def _load_credential(self, link: DialledLink) -> None:
        """Raises ConfigError when there is none, or it is broken; the old one stays."""
        wanted, identity = link.wanted, self._context.keys.identity
        name = f"link:{wanted.name}"
        link.is_to_siblings = wanted.site_id == self._context.keys.site_id
        if link.is_to_siblings:
            if link.credential is None or self._context.wall() >= link.renew_at:
                self._make_sibling_credential(link, name)
            return
        files = None if link.secret is not None else self._context.home.state.read_credential(wanted.credential)
        given: Mapping[str, bytes] | None = link.secret.data if link.secret is not None else None
        if files is not None and self._context.in_pod is not None and "link.json" not in files:
            given = files  # in a pod the Secrets of a user come with all other keys
        if given is not None:
            check_link_files(wanted.credential, given)
            link.issued = None
            link.credential = build_credential(
                name,
                certificate_pem=given["tls.crt"],
                key_pem=given["tls.key"],
                trust_pem=given["ca.crt"],
                identity=identity,
                verify_host=wanted.verify_host,
            )
            return
        if files is None and self._context.in_pod is not None:
            raise NotReady(
                f"it waits for its credential {wanted.credential}: there is no such Secret yet, or no token that became it",
                hint=f"a Secret of your own has tls.crt, tls.key, ca.crt and a label: kubectl label secret {wanted.credential} "
                "vanrouter.io/type=resource; of a token, its Secret says how far it is",
            )
        if files is None:
            raise ConfigError(
                f"its credential {wanted.credential} is neither in the state nor a Secret in resources/",
                hint="redeem a token for it: van link create FILE; or put a Secret with tls.crt, tls.key and ca.crt there",
            )
        issued = LinkCredential.from_files(files)
        link.credential = issued.credential(name, identity)
        link.issued = issued

    def _make_sibling_credential(self, link: DialledLink, name: str) -> None:
        """To another router of this very site: a leaf of our own CA."""
        keys, wall, rng = self._context.keys, self._context.wall(), self._context.rng
        shown = keys.leaves.client(now=wall, lifetime=self._context.timing.leaf_lifetime, jitter=rng.random())
        link.renew_at = shown.renew_at
        link.credential = build_credential(
            name,
            certificate_pem=shown.certificate,
            key_pem=shown.key,
            trust_pem=keys.leaves.ca_pem(),
            identity=keys.identity,
        )

    def _set_endpoints(self, link: DialledLink) -> None:
        """From the names' last answers."""
        if link.supervisor is None:
            return
        now = self._context.now()
        if link.stands_by:
            self._carry_out(link.supervisor.set_endpoints([], now=now))
            return
        site_name = van_name(SiteId(link.expected_site)) if link.expected_site else UNKNOWN_SITE
        endpoints: list[Endpoint] = []
        unresolved: list[tuple[str, str]] = []
        told = [] if link.is_to_siblings else [e for e in self._learned.of(link.expected_site) if e not in link.wanted.endpoints]
        for host, port in [*link.wanted.endpoints, *told]:
            answer = self._context.names.get(host)
            if answer is None:
                continue
            if answer.error and (host, port) not in told:
                unresolved.append((host, answer.error))
            server_name = site_name if is_ip(host) and not link.verify_host else host
            endpoints += [Endpoint(host=a, port=port, server_name=server_name) for a in answer.addresses if (a, port) not in link.own]
        link.alone = self._alone(link) if link.own and not endpoints and not unresolved else None
        going: list[Endpoint] = []
        for host, port in self._going.get(link.expected_site, ()):
            if (answer := self._context.names.get(host)) is not None:
                server_name = site_name if is_ip(host) and not link.verify_host else host
                going += [Endpoint(host=a, port=port, server_name=server_name) for a in answer.addresses]
        self._carry_out(link.supervisor.set_endpoints(endpoints, now=now, leaving=going))
        for host, error in unresolved:
            link.supervisor.unresolved(host, error, now=now)

    def _alone(self, link: DialledLink) -> Condition:
        name, own = link.wanted.name, ", ".join(sorted(format_host_port(host, port) for host, port in link.own))
        text = f"link {name} leads from this router to itself: it is for the other routers of this site, and {own} is our own link access"
        todo = f"give it the link accesses of the other routers of this site too, or delete it: van link delete {name}"
        since = link.alone.since if link.alone is not None else self._context.now()
        return Condition(type="Operational", status="False", reason="SelfLink", message=text, since=since, next=todo)

    def _drop(self, name: str) -> None:
        link = self.dialled.pop(name)
        if link.supervisor is not None:
            self._carry_out(link.supervisor.drop(now=self._context.now()))
        self._context.forwarding.change(drop=[Ref("link", name), Ref("credential", f"link:{name}")])

    # ---- what happens --------------------------------------------------------------------------------------------------------------------

    def handle_link_state(self, state: LinkState) -> None:
        now = self._context.now()
        known = state.router in self.states
        self.doubles.handle(state, now=now)
        if state.lanes > 0:
            self.states[state.router] = state
            status, reason, message, todo = _words(state)
            self._conditions.setdefault(state.router, Conditions()).set("Operational", status, reason, message, now=now, next=todo)
        else:
            self.states.pop(state.router, None)
            self._conditions.pop(state.router, None)
        if known != (state.lanes > 0):
            what = "link up" if state.lanes > 0 else "link down"
            log.info(what, extra={"site": state.site_name, "router": state.router, "address": state.address, "reason": state.error})
        for link in list(self.dialled.values()):
            if link.supervisor is not None:
                self._carry_out(link.supervisor.handle_link_state(state, now=now))
        if self._uplinks is not None:
            for name in self.dialled:
                self._uplinks.set_well(name, any(_is_well(s) for s in self.states.values() if name in s.dialled), now=now)
            self._stand_by()

    def handle_dial_result(self, result: DialResult) -> None:
        dial = self._dials.pop(result.id, None)
        link = self.dialled.get(dial.link) if dial is not None else None
        if dial is None or link is None or link.supervisor is None:
            return
        name = dial.link
        self._carry_out(link.supervisor.handle_dial_result(result, now=self._context.now()))
        if result.reason == "self" and link.is_to_siblings:
            link.own.add((dial.host, dial.port))  # all routers of a site may have the same list of them
            self._set_endpoints(link)
        elif not result.router and result.reason != "cancelled":
            log.info("dial failed", extra={"link": name, "reason": result.reason, "error": result.error})
            for host, _ in link.wanted.endpoints:
                self._context.names.ask_again(host)

    @property
    def deadline(self) -> float:
        own = min(self._look_at, self._uplinks.deadline(self._context.now())) if self._uplinks is not None else math.inf
        wall, now = self._context.wall(), self._context.now()
        renewal = min((now + max(0.0, link.renew_at - wall) for link in self.dialled.values()), default=math.inf)
        return min((own, renewal, *(link.supervisor.deadline for link in self.dialled.values() if link.supervisor is not None)))

    def handle_timeout(self) -> None:
        now, wall = self._context.now(), self._context.wall()
        for link in list(self.dialled.values()):
            if wall >= link.renew_at:
                self._configure(link)
        for link in list(self.dialled.values()):
            if link.supervisor is not None and link.supervisor.deadline <= now:
                self._carry_out(link.supervisor.handle_timeout(now))
        self._stand_by()

    def stop(self) -> None:
        """Dial no more."""
        self._stopped = True
        for link in self.dialled.values():
            if link.supervisor is not None:
                self._carry_out(link.supervisor.drop(now=self._context.now()))

    def _stand_by(self) -> None:
        """Of an edge site: who begins to stand by, who is called, and whose lanes are not needed any more."""
        if self._uplinks is None or self._stopped:
            return
        now = self._context.now()
        dialled, used = self._uplinks.dialled(now), self._uplinks.in_use
        for name, link in self.dialled.items():
            stands_by = name not in dialled
            if stands_by:
                text = f"link {name} stands by: it is dialled when link {used or dialled[-1]}, which is in use, is lost or silent"
                link.standby.set("Operational", "True", "Standby", text, now=now)
            if stands_by != link.stands_by:
                link.stands_by = stands_by
                if not stands_by:
                    link.standby = Conditions()
                    self._put_entry(link)
                self._set_endpoints(link)
        self._close_surplus(now)

    def _close_surplus(self, now: float) -> None:
        assert self._uplinks is not None
        self._look_at = math.inf
        for name in self._uplinks.surplus(now):
            routers = [router for router, state in self.states.items() if name in state.dialled]
            if not routers:
                continue
            by_link = self._context.plane.counters().by_link
            if any(by_link.get(router, [0])[0] for router in routers):
                self._look_at = now + LOOK_FOR_STREAMS
            else:
                log.info("uplink stands by again", extra={"link": name})
                self._context.forwarding.change(drop=[Ref("link", name)])

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Dial():
                    self._dials[action.id] = action
                    self._context.plane.dial(action)
                case CancelDial():
                    self._context.plane.cancel_dial(action.id)
                case Retire():
                    log.info("lanes leave an address that goes", extra={"link": action.link, "address": str(action.endpoint)})
                    self._context.plane.retire(action.link, action.endpoint.host, action.endpoint.port)
        self._context.timers.wake()

    # ---- what others ask -----------------------------------------------------------------------------------------------------------------

    def status(self, name: str) -> tuple[LinkStatus | None, list[Condition]]:
        """What the supervisor says, and the conditions: Configured, and Operational where it is dialled."""
        link = self.dialled[name]
        status = link.supervisor.status() if link.supervisor is not None else None
        if link.stands_by and (status is None or not status.active):
            return status, [*link.conditions.list(), *link.standby.list()]
        if (instead := link.refused or link.alone) is not None:
            return status, [*link.conditions.list(), instead]
        return status, [*link.conditions.list(), *([status.condition] if status is not None else [])]

    def priced(self, state: LinkState) -> LinkState:
        """With the cost that this end wants now. The other end says its own, and routing takes the larger one, so that a changed cost
        needs no new lane. Of a link with an edge, only what the edge says counts; until it has, what it said when it dialled."""
        if state.edge:
            return state
        wanted = [self.dialled[name].wanted.cost for name in state.dialled if name in self.dialled]
        return msgspec.structs.replace(state, cost=min(wanted, default=1))

    def operational(self, router: str) -> list[Condition]:
        """How the link with a router is, whoever dialled it."""
        conditions = self._conditions.get(router)
        return conditions.list() if conditions is not None else []

    def linked_sites(self) -> set[str]:
        """Other routers of this site are none."""
        return {router.partition("/")[0] for router in self.states} - {str(self._context.keys.site_id)}


def _is_well(state: LinkState) -> bool:
    return state.lanes > 0 and not state.suspect and not state.draining


def _words(state: LinkState) -> tuple[Status, str, str, str]:
    who = state.site_name
    if state.draining:
        return "True", "Draining", f"the router of {who} is leaving; its streams go on until its deadline", ""
    if state.suspect:
        return "Unknown", "Suspect", words_for_silence(who), AFTER_LOSS
    return "True", "Active", f"linked from {who} with {state.lanes} lane{'s' if state.lanes != 1 else ''}", ""
