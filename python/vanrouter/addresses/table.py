"""
The address table of one site: desired plane entries, and what is matched, from what is configured, advertised and observed.

Refuses to send, sign, resolve or bind. Inputs are small facts; each marks the routing keys that it touches, and only those are worked out
anew. `take_changes` gives the difference since it was last called, `entries` everything, for a snapshot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from vanrouter.addresses.health import Verdict
from vanrouter.addresses.known import BROKEN, KeyPlaces, Known
from vanrouter.addresses.model import AddressStatus, Delta, LocalConnector, LocalListener, Path, Place, Reserved, ServiceStatus
from vanrouter.addresses.offered import Offered
from vanrouter.addresses.remote import MAX_KEYS_PER_SITE
from vanrouter.addresses.statuses import Statuses
from vanrouter.messages import MAX_SERVICES_PER_KEY, Fragment, KeyInfo, Problem
from vanrouter.model import RouterId
from vanrouter.plane import AnyEntry, Connector, Listener, ListenerState, Route, RouteTarget
from vanrouter.plane import Path as PathEntry

__all__ = ["SYNC_LINGER", "AddressTable"]

SYNC_LINGER: Final = 60.0  # a link that is down keeps its services' listeners so long, so that a short outage frees no port


class AddressTable:
    """Feed facts in; take the difference out."""

    def __init__(
        self,
        own: RouterId,
        *,
        service_address: str = "127.0.0.1",
        service_sync: bool = True,
        sync_own: bool = True,
        place: Place | None = None,
    ) -> None:
        """``place``: in a pod, the port of it that is given to an address and port; ``service_address`` is then any address of the pod."""
        self._known = Known(own, service_address=service_address, service_sync=service_sync, sync_own=sync_own, place=place)
        self.own, self.remote = self._known.own, self._known.remote
        self._statuses = Statuses(self._known)
        self._advertise: dict[str, KeyInfo | None] = {}  # changed, not yet taken
        self._dirty: dict[str, None] = {}

    # ---- what is configured here -------------------------------------------------------------------------------------------------------

    def put_listener(self, listener: LocalListener, *, now: float) -> None:
        """Add a listener, or change the one of this name."""
        self._put_listener(listener)
        self._ports_changed(listener.port)
        self._work(now)

    def drop_listener(self, name: str, *, now: float) -> None:
        listener = self._drop_listener(name)
        if listener is not None:
            self._ports_changed(listener.port)
            self._work(now)

    def put_connector(self, connector: LocalConnector, *, now: float) -> None:
        """Add a connector, or change the one of this name."""
        before = self._drop_connector(connector.name)
        self._known.connectors[connector.name] = connector
        self._known.ports.put_connector(connector)
        self._key(connector.routing_key).connectors[connector.name] = connector
        self._dirty[connector.routing_key] = None
        self._targets_changed(*{c.port for c in (before, connector) if c is not None})
        self._work(now)

    def drop_connector(self, name: str, *, now: float) -> None:
        connector = self._drop_connector(name)
        if connector is not None:
            self._known.verdicts.pop(name, None)
            self._statuses.forget("connector", name)
            self._targets_changed(connector.port)
            self._work(now)

    def set_reserved(self, reserved: list[Reserved], *, now: float) -> None:
        """Ports of this site that are neither listeners nor targets: its link accesses."""
        self._ports_changed(*self._known.ports.reserve(reserved))
        self._work(now)

    def set_sync(self, *, service_address: str, service_sync: bool, sync_own: bool = True, now: float) -> None:
        if service_sync != self._known.service_sync:
            self._known.service_sync = service_sync
            self._dirty.update(dict.fromkeys(self._known.keys))
        self._known.sync.configure(enabled=service_sync, include_own=sync_own)
        if service_address != self._known.service_address:
            self._known.service_address = service_address
            for address in self._known.sync.addresses():
                self._ports_changed(*(d.at for d in self._known.sync.decisions(address)))
            for name, slot in list(self._known.automatic.items()):
                self._put_listener(self._automatic_listener(name, *slot))
        self._work(now)

    def places_changed(self, *, now: float) -> None:
        """Ports of this pod were given or taken back."""
        self._known.sync.places_changed()
        self._work(now)

    # ---- what others say, and how they are reached -------------------------------------------------------------------------------------

    def set_path(self, router: str, path: Path | None, *, now: float) -> None:
        """How this router is reached now. None: not at all; what it offers keeps its listeners for `SYNC_LINGER`.

        A path that changes is one entry for the plane. Keys are looked at only when it comes or goes: they are matched, or not, then.
        """
        before = self._known.paths.get(router)
        if path == before:
            return
        if path is None:
            del self._known.paths[router]
            self._known.lost[router] = now + SYNC_LINGER
            self._known.difference.want(("path", router), None)
        else:
            self._known.paths[router] = path
            was_counted = self._known.lost.pop(router, None) is not None
            self._known.difference.want(("path", router), PathEntry(name=router, next_hops=list(path.next_hops), cost=path.cost))
            if before is None and not was_counted:
                self._offer_all(router)
        if (path is None) != (before is None):
            self._dirty.update(dict.fromkeys(self.remote.keys_of(router)))
        self._work(now)

    def set_route(self, key: str, targets: list[RouteTarget], *, now: float) -> None:
        """The routers that have targets of this key, whether there is a path to them or not. None: nobody any more."""
        if targets:
            self._known.targets_of[key] = targets
        else:
            self._known.targets_of.pop(key, None)
        self._dirty[key] = None
        self._work(now)

    def set_site_name(self, site: str, name: str) -> None:
        """For messages to people only."""
        self._known.site_names[site] = name

    def site_name(self, site: str) -> str:
        """Empty: it has not said."""
        return self._known.site_names.get(site, "")

    def put_fragment_untrusted(self, fragment: Fragment, *, now: float) -> bool:
        """Take what a router advertises; who it is was verified by the caller. False: nothing newer. Raises RemoteProtocolError."""
        changed = self.remote.put_untrusted(fragment, now=now)
        if changed is None:
            return False
        if fragment.name:
            self._known.site_names[fragment.origin.partition("/")[0]] = fragment.name
        self._remote_changed(fragment.origin, changed, now)
        return True

    def forget(self, router: str, *, now: float) -> None:
        """Nothing of this start of this router counts any more."""
        self._known.lost.pop(router, None)
        self._known.reported.pop(router, None)
        self._remote_changed(router, self.remote.remove(router), now)
        site = router.partition("/")[0]
        if not self.remote.has_site(site):
            self._known.site_names.pop(site, None)

    def set_reported(self, router: str, problems: list[Problem], *, now: float) -> None:
        """What this router cannot do with what we advertise; replaces what it said before."""
        keys = {p.key for p in (*self._known.reported.get(router, ()), *problems)}
        if problems:
            self._known.reported[router] = problems
        else:
            self._known.reported.pop(router, None)
        self._dirty.update(dict.fromkeys(key for key in keys if key in self._known.keys))
        self._work(now)

    # ---- what the data plane reports ---------------------------------------------------------------------------------------------------

    def handle_listener_state(self, state: ListenerState, *, now: float) -> None:
        listener = self._known.listeners.get(state.name)
        if listener is None:
            return
        was_bound = self._known.bound(state.name)
        if state.gone:
            self._known.binds.pop(state.name, None)
        else:
            self._known.binds[state.name] = state
        if self._known.bound(state.name) != was_bound:
            self._ports_changed(listener.port)
        slot = self._known.automatic.get(state.name)
        if slot is not None:
            self._known.sync.bind_result(*slot, (state.error or state.status.value) if state.status in BROKEN and not state.gone else "")
        self._dirty.update(dict.fromkeys(listener.routing_keys))
        self._work(now)

    def set_verdicts(self, verdicts: Mapping[str, Verdict | None], *, now: float) -> None:
        """What checks say of the targets here. Of one that nobody checks nothing is said: it is trusted."""
        for name, verdict in verdicts.items():
            connector = self._known.connectors.get(name)
            if connector is None:
                continue
            if verdict is None:
                self._known.verdicts.pop(name, None)
            else:
                self._known.verdicts[name] = verdict
            self._dirty[connector.routing_key] = None
        self._work(now)

    # ---- time --------------------------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `handle_timeout` is next worth calling; ``inf`` means never."""
        return min((self.remote.deadline, *self._known.lost.values()), default=math.inf)

    def handle_timeout(self, now: float) -> None:
        """Forget what was not refreshed, and what is offered by who did not come back. Calling early is harmless."""
        for router, until in list(self._known.lost.items()):
            if now >= until:
                del self._known.lost[router]
                self._known.reported.pop(router, None)
                self._offer_all(router)
                self._dirty.update(dict.fromkeys(self.remote.keys_of(router)))
                self._work(now)
        for router, changed in self.remote.expire(now).items():
            self._remote_changed(router, changed, now)

    # ---- outputs -----------------------------------------------------------------------------------------------------------------------

    def take_changes(self) -> Delta:
        """What the data plane must change since the last call. Empty when nothing did."""
        delta = self._known.difference.take()
        for ref in delta.drop:
            if ref.kind == "listener":
                # Only now: one that was dropped and put again in between is the same to the plane, which says nothing new of it.
                self._known.binds.pop(ref.name, None)
        return delta

    def entries(self) -> list[AnyEntry]:
        """Everything wanted now, for a snapshot; counts as taken."""
        return self._known.difference.entries()

    def take_advertised(self) -> dict[str, KeyInfo | None]:
        """What others should know: the keys whose picture changed since the last call; None: not advertised any more."""
        out, self._advertise = self._advertise, {}
        return out

    @property
    def has_news(self) -> bool:
        """Whether `take_advertised` would give something."""
        return bool(self._advertise)

    def take_problem_routers(self) -> list[str]:
        """The routers to whom `problems` must be told again."""
        return [router for router in self._known.sync.take_routers() if router != self.own]

    def problems(self, router: str) -> list[Problem]:
        """What is wrong here with what this router offers."""
        return self._known.sync.problems(router)

    # ---- questions ---------------------------------------------------------------------------------------------------------------------

    def settled(self, keys: list[str]) -> bool:
        """Whether every listener of these keys is in force as far as it can be: bound or refused, and listening where it is matched."""
        return self._known.settled(keys)

    def matched_listener(self, key: str) -> bool:
        """Whether a target for this key is reachable."""
        return self._known.matched_listener(key)

    def reachable_keys(self) -> set[str]:
        """The routing keys that have a target which is reachable."""
        return {key for key in {*self._known.keys, *self._known.targets_of} if self._known.matched_listener(key)}

    def matched_connector(self, key: str) -> bool:
        """Whether a listener for this key is reachable."""
        return self._known.matched_connector(key)

    def listening_elsewhere(self, key: str) -> list[str]:
        """The reachable routers that have a listener for this key."""
        return self._known.listening_elsewhere(key)

    def targets(self, key: str) -> list[RouteTarget]:
        """The routers besides this one where streams for this key may go, whether there is a path to them or not."""
        return self._known.targets(key)

    def offer_info(self, router: str, key: str) -> KeyInfo | None:
        """What this router, perhaps our own, has of this key now. None: nothing, or it cannot be reached."""
        return self._known.offer_info(router, key)

    def connector_error(self, name: str) -> str:
        """Why no stream goes to this target: it fails its checks or, unchecked, its connects. Empty: streams go there."""
        return self._known.connector_error(name)

    def listener_statuses(self) -> list[AddressStatus]:
        return self._statuses.listeners()

    def connector_statuses(self) -> list[AddressStatus]:
        return self._statuses.connectors()

    def services(self) -> list[ServiceStatus]:
        """One per address of the network, as known here."""
        return self._statuses.services()

    def site_names(self) -> dict[str, str]:
        """Site id -> name, of all that can be reached and have said theirs."""
        sites = {router.partition("/")[0] for router in self._known.paths}
        return {site: self._known.site_names[site] for site in sites if site in self._known.site_names}

    # ---- working out what was touched --------------------------------------------------------------------------------------------------

    def _work(self, now: float) -> None:
        """Work out every key that was touched, until nothing touches another one: offers lead to listeners, and those to keys."""
        self._follow_sync()
        while self._dirty:
            todo: dict[str, None] = {}
            while self._dirty:
                todo.update(self._dirty)
                for key in self._dirty:
                    self._offer_own(key)
                self._dirty.clear()
                self._follow_sync()
                self._dirty = {key: None for key in self._dirty if key not in todo}
            for key in todo:
                self._work_key(key, now)

    def _follow_sync(self) -> None:
        """Make and drop the automatic listeners that service sync decided anew."""
        for slot, decision in self._known.sync.take():
            name = f"{slot[0]}:{slot[1]}"
            if decision is not None and decision.problem is None:
                self._known.automatic[name] = slot
                self._put_listener(self._automatic_listener(name, *slot))
            elif name in self._known.automatic:
                del self._known.automatic[name]
                self._drop_listener(name)
            if not self._known.sync.has(slot[0]):
                self._statuses.forget("service", slot[0])
        self._dirty.update(dict.fromkeys(self._known.sync.take_keys()))

    def _work_key(self, key: str, now: float) -> None:
        known = self._known.key_or_empty(key)
        targets = self._known.targets(key)
        offered = self._known.offered(key, known)
        self._known.difference.want(("route", key), Route(name=key, targets=targets) if targets else None)
        for c in known.connectors.values():
            entry = Connector(name=c.name, routing_key=key, host=c.host, port=c.port, embedded=c.embedded, tls=c.tls)
            self._known.difference.want(("connector", c.name), entry if c.name in offered.here else None)
        for name, listener in known.listeners.items():
            works = not self._known.ports.listener_clash(listener)
            entry2 = Listener(
                name=name,
                host=listener.host,
                port=listener.port,
                routing_key=listener.routing_key,
                strategy=listener.strategy,
                keys=list(listener.keys),
                tls=listener.tls,
            )
            self._known.difference.want(("listener", name), entry2 if works else None)
        self._advertise_key(key, known, offered)
        self._statuses.describe(key, offered, now=now)
        if key in self._known.keys and not known.connectors and not known.listeners:
            del self._known.keys[key]

    def _advertise_key(self, key: str, known: KeyPlaces, offered: Offered) -> None:
        listeners = sum(self._known.listener_works(name) for name in known.listeners)
        services = self._known.offers(known) if self._known.service_sync else []
        info: KeyInfo | None = None
        if not (offered.targets or offered.down or listeners):
            self._known.crowded.pop(key, None)
        elif key not in self._known.advertised and len(self._known.advertised) >= MAX_KEYS_PER_SITE:
            self._known.crowded[key] = None
        else:
            info = KeyInfo(
                key=key,
                targets=offered.targets,
                listeners=listeners,
                cost=offered.cost,
                services=services[:MAX_SERVICES_PER_KEY],
                down=offered.down,
            )
        if info == self._known.advertised.get(key):
            return
        self._advertise[key] = info
        if info is not None:
            self._known.advertised[key] = info
            return
        del self._known.advertised[key]
        if self._known.crowded:
            waiting = next(iter(self._known.crowded))
            del self._known.crowded[waiting]
            self._dirty[waiting] = None

    def _offer_own(self, key: str) -> None:
        self._known.sync.set_offers(self.own, key, self._known.offers(self._known.key_or_empty(key)))

    def _offer(self, router: str, key: str) -> None:
        """What a router offers counts while there is a path to it, and `SYNC_LINGER` longer; targets that are down return."""
        info = self.remote.info(router, key)
        counts = info is not None and (info.targets or info.down) and (router in self._known.paths or router in self._known.lost)
        self._known.sync.set_offers(router, key, list(info.services) if info is not None and counts else [])

    def _offer_all(self, router: str) -> None:
        for key in sorted(self.remote.keys_of(router)):
            self._offer(router, key)

    def _remote_changed(self, router: str, changed: set[str], now: float) -> None:
        for key in sorted(changed):
            self._offer(router, key)
        # Room at a site's limit may have let in keys of its other routers: those are in `changed` too.
        for key in sorted(changed):
            for other in self.remote.key(key):
                if other != router:
                    self._offer(other, key)
        self._dirty.update(dict.fromkeys(changed))
        self._work(now)

    # ---- listeners, connectors, and who is in whose way --------------------------------------------------------------------------------

    def _key(self, key: str) -> KeyPlaces:
        return self._known.keys.setdefault(key, KeyPlaces())

    def _automatic_listener(self, name: str, address: str, port: int) -> LocalListener:
        decision = self._known.sync.decision(address, port)
        assert decision is not None
        reached_at = (address, port) if self._known.place is not None else None
        host = self._known.service_address
        return LocalListener(name=name, routing_key=decision.key, host=host, port=decision.at, reached_at=reached_at)

    def _put_listener(self, listener: LocalListener) -> None:
        before = self._known.listeners.get(listener.name)
        if before == listener:
            return
        if before is not None:
            self._forget_keys(before)
            if (before.host, before.port) != (listener.host, listener.port):
                self._known.binds.pop(listener.name, None)
            if before.port != listener.port:
                self._known.ports.drop_listener(before)
                self._ports_changed(before.port)
        self._known.listeners[listener.name] = listener
        self._known.ports.put_listener(listener)
        for key in listener.routing_keys:
            self._key(key).listeners[listener.name] = listener
            self._dirty[key] = None

    def _drop_listener(self, name: str) -> LocalListener | None:
        listener = self._known.listeners.pop(name, None)
        if listener is not None:
            self._forget_keys(listener)
            self._known.ports.drop_listener(listener)
            self._statuses.forget("listener", name)
            self._known.difference.want(("listener", name), None)
        return listener

    def _forget_keys(self, listener: LocalListener) -> None:
        for key in listener.routing_keys:
            self._known.keys[key].listeners.pop(listener.name, None)
            self._dirty[key] = None

    def _drop_connector(self, name: str) -> LocalConnector | None:
        connector = self._known.connectors.pop(name, None)
        if connector is not None:
            self._known.keys[connector.routing_key].connectors.pop(name, None)
            self._known.ports.drop_connector(connector)
            self._dirty[connector.routing_key] = None
            self._known.difference.want(("connector", name), None)
        return connector

    def _ports_changed(self, *ports: int) -> None:
        """Something of ours took or left these ports: services, listeners and targets on them may fare differently now."""
        for port in ports:
            if port:
                self._known.sync.port_changed(port)
                self._dirty.update(dict.fromkeys(self._known.ports.keys_on(port)))

    def _targets_changed(self, *ports: int) -> None:
        """The same for targets: they are in the way of services and listeners, never of each other."""
        for port in ports:
            if port:
                self._known.sync.port_changed(port)
                self._dirty.update(dict.fromkeys(self._known.ports.keys_of_listeners_on(port)))
