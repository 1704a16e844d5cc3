"""
The address table of one site: desired plane entries, and what is matched, from what is configured, advertised and observed.

Refuses to send, sign, resolve or bind. Inputs are small facts; each marks the routing keys that it touches, and only those are worked out
anew. `take_changes` gives the difference since it was last called, `entries` everything, for a snapshot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from vanrouter.addresses.health import Verdict
from vanrouter.addresses.model import AddressStatus, Delta, LocalConnector, LocalListener, Path, Reserved, ServiceStatus
from vanrouter.addresses.offered import LAST_RESORT, Offered, offered_targets
from vanrouter.addresses.ports import Ports
from vanrouter.addresses.remote import MAX_KEYS_PER_SITE, Remote
from vanrouter.addresses.sync import ServiceSync
from vanrouter.addresses.words import Facts, describe_connector, describe_listener, describe_service
from vanrouter.conditions import Conditions
from vanrouter.errors import ConfigError
from vanrouter.messages import MAX_SERVICES_PER_KEY, Fragment, KeyInfo, Problem, ServicePort
from vanrouter.model import RouterId
from vanrouter.plane import AnyEntry, BindStatus, Connector, Listener, ListenerState, Ref, Route, RouteTarget
from vanrouter.plane import Path as PathEntry

__all__ = ["SYNC_LINGER", "AddressTable"]

SYNC_LINGER: Final = 60.0  # a link that is down keeps its services' listeners so long, so that a short outage frees no port
_BROKEN: Final = (BindStatus.IN_USE, BindStatus.DENIED, BindStatus.FAILED)


class _Key(msgspec.Struct):
    """Everything of this site about one routing key."""

    connectors: dict[str, LocalConnector] = {}
    listeners: dict[str, LocalListener] = {}


class AddressTable:
    """Feed facts in; take the difference out."""

    def __init__(
        self,
        own: RouterId,
        *,
        service_address: str = "127.0.0.1",
        service_sync: bool = True,
        sync_own: bool = True,
    ) -> None:
        self.own = str(own)
        self.remote = Remote()
        self._service_address, self._service_sync = service_address, service_sync
        self._sync = ServiceSync(self.own, enabled=service_sync, include_own=sync_own, taken=self._taken)
        self._listeners: dict[str, LocalListener] = {}
        self._ports = Ports(automatic=(automatic := dict[str, tuple[str, int]]()), bound=self._bound)
        self._automatic = automatic  # name of an automatic listener -> its (address, port)
        self._connectors: dict[str, LocalConnector] = {}
        self._keys: dict[str, _Key] = {}
        self._paths: dict[str, Path] = {}
        self._targets: dict[str, list[RouteTarget]] = {}  # routing key -> who has targets elsewhere, reachable or not
        self._site_names: dict[str, str] = {}  # site id -> the name that people know it by
        self._lost: dict[str, float] = {}  # routers that lost their path -> until when their services keep their listeners
        self._binds: dict[str, ListenerState] = {}
        self._verdicts: dict[str, Verdict] = {}  # of the targets here
        self._reported: dict[str, list[Problem]] = {}  # router -> what it cannot do with what we advertise
        self._advertised: dict[str, KeyInfo] = {}
        self._advertise: dict[str, KeyInfo | None] = {}  # changed, not yet taken
        self._crowded: dict[str, None] = {}  # beyond what one site may advertise
        self._conditions: dict[tuple[str, str], Conditions] = {}
        self._desired: dict[tuple[str, str], AnyEntry] = {}
        self._handed: dict[tuple[str, str], AnyEntry] = {}
        self._touched: dict[tuple[str, str], None] = {}
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
        self._connectors[connector.name] = connector
        self._ports.put_connector(connector)
        self._key(connector.routing_key).connectors[connector.name] = connector
        self._dirty[connector.routing_key] = None
        self._targets_changed(*{c.port for c in (before, connector) if c is not None})
        self._work(now)

    def drop_connector(self, name: str, *, now: float) -> None:
        connector = self._drop_connector(name)
        if connector is not None:
            self._verdicts.pop(name, None)
            self._conditions.pop(("connector", name), None)
            self._targets_changed(connector.port)
            self._work(now)

    def set_reserved(self, reserved: list[Reserved], *, now: float) -> None:
        """Ports of this site that are neither listeners nor targets: its link accesses."""
        self._ports_changed(*self._ports.reserve(reserved))
        self._work(now)

    def set_sync(self, *, service_address: str, service_sync: bool, sync_own: bool = True, now: float) -> None:
        if service_sync != self._service_sync:
            self._service_sync = service_sync
            self._dirty.update(dict.fromkeys(self._keys))
        self._sync.configure(enabled=service_sync, include_own=sync_own)
        if service_address != self._service_address:
            self._service_address = service_address
            for address in self._sync.addresses():
                self._ports_changed(*(d.port for d in self._sync.decisions(address)))
            for name, slot in list(self._automatic.items()):
                self._put_listener(self._automatic_listener(name, *slot))
        self._work(now)

    # ---- what others say, and how they are reached -------------------------------------------------------------------------------------

    def set_path(self, router: str, path: Path | None, *, now: float) -> None:
        """How this router is reached now. None: not at all; what it offers keeps its listeners for `SYNC_LINGER`.

        A path that changes is one entry for the plane. Keys are looked at only when it comes or goes: they are matched, or not, then.
        """
        before = self._paths.get(router)
        if path == before:
            return
        if path is None:
            del self._paths[router]
            self._lost[router] = now + SYNC_LINGER
            self._want(("path", router), None)
        else:
            self._paths[router] = path
            was_counted = self._lost.pop(router, None) is not None
            self._want(("path", router), PathEntry(name=router, next_hops=list(path.next_hops), cost=path.cost))
            if before is None and not was_counted:
                self._offer_all(router)
        if (path is None) != (before is None):
            self._dirty.update(dict.fromkeys(self.remote.keys_of(router)))
        self._work(now)

    def set_route(self, key: str, targets: list[RouteTarget], *, now: float) -> None:
        """The routers that have targets of this key, whether there is a path to them or not. None: nobody any more."""
        if targets:
            self._targets[key] = targets
        else:
            self._targets.pop(key, None)
        self._dirty[key] = None
        self._work(now)

    def set_site_name(self, site: str, name: str) -> None:
        """For messages to people only."""
        self._site_names[site] = name

    def site_name(self, site: str) -> str:
        """Empty: it has not said."""
        return self._site_names.get(site, "")

    def put_fragment_untrusted(self, fragment: Fragment, *, now: float) -> bool:
        """Take what a router advertises; who it is was verified by the caller. False: nothing newer. Raises RemoteProtocolError."""
        changed = self.remote.put_untrusted(fragment, now=now)
        if changed is None:
            return False
        if fragment.name:
            self._site_names[fragment.origin.partition("/")[0]] = fragment.name
        self._remote_changed(fragment.origin, changed, now)
        return True

    def forget(self, router: str, *, now: float) -> None:
        """Nothing of this start of this router counts any more."""
        self._lost.pop(router, None)
        self._reported.pop(router, None)
        self._remote_changed(router, self.remote.remove(router), now)
        site = router.partition("/")[0]
        if not self.remote.has_site(site):
            self._site_names.pop(site, None)

    def set_reported(self, router: str, problems: list[Problem], *, now: float) -> None:
        """What this router cannot do with what we advertise; replaces what it said before."""
        keys = {p.key for p in (*self._reported.get(router, ()), *problems)}
        if problems:
            self._reported[router] = problems
        else:
            self._reported.pop(router, None)
        self._dirty.update(dict.fromkeys(key for key in keys if key in self._keys))
        self._work(now)

    # ---- what the data plane reports ---------------------------------------------------------------------------------------------------

    def handle_listener_state(self, state: ListenerState, *, now: float) -> None:
        listener = self._listeners.get(state.name)
        if listener is None:
            return
        was_bound = self._bound(state.name)
        if state.gone:
            self._binds.pop(state.name, None)
        else:
            self._binds[state.name] = state
        if self._bound(state.name) != was_bound:
            self._ports_changed(listener.port)
        slot = self._automatic.get(state.name)
        if slot is not None:
            self._sync.bind_result(*slot, (state.error or state.status.value) if state.status in _BROKEN and not state.gone else "")
        self._dirty.update(dict.fromkeys(listener.routing_keys))
        self._work(now)

    def set_verdicts(self, verdicts: Mapping[str, Verdict | None], *, now: float) -> None:
        """What checks say of the targets here. Of one that nobody checks nothing is said: it is trusted."""
        for name, verdict in verdicts.items():
            connector = self._connectors.get(name)
            if connector is None:
                continue
            if verdict is None:
                self._verdicts.pop(name, None)
            else:
                self._verdicts[name] = verdict
            self._dirty[connector.routing_key] = None
        self._work(now)

    # ---- time --------------------------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `handle_timeout` is next worth calling; ``inf`` means never."""
        return min((self.remote.deadline, *self._lost.values()), default=math.inf)

    def handle_timeout(self, now: float) -> None:
        """Forget what was not refreshed, and what is offered by who did not come back. Calling early is harmless."""
        for router, until in list(self._lost.items()):
            if now >= until:
                del self._lost[router]
                self._reported.pop(router, None)
                self._offer_all(router)
                self._dirty.update(dict.fromkeys(self.remote.keys_of(router)))
                self._work(now)
        for router, changed in self.remote.expire(now).items():
            self._remote_changed(router, changed, now)

    # ---- outputs -----------------------------------------------------------------------------------------------------------------------

    def take_changes(self) -> Delta:
        """What the data plane must change since the last call. Empty when nothing did."""
        put: list[AnyEntry] = []
        drop: list[Ref] = []
        for ref in self._touched:
            wanted, handed = self._desired.get(ref), self._handed.get(ref)
            if wanted == handed:
                continue
            if wanted is not None:
                put.append(wanted)
                self._handed[ref] = wanted
            else:
                drop.append(Ref(ref[0], ref[1]))  # type: ignore[arg-type]
                del self._handed[ref]
                if ref[0] == "listener":
                    # Only now: one that was dropped and put again in between is the same to the plane, which says nothing new of it.
                    self._binds.pop(ref[1], None)
        self._touched.clear()
        return Delta(put, drop)

    def entries(self) -> list[AnyEntry]:
        """Everything wanted now, for a snapshot; counts as taken."""
        self._handed = dict(self._desired)
        self._touched.clear()
        return list(self._desired.values())

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
        return [router for router in self._sync.take_routers() if router != self.own]

    def problems(self, router: str) -> list[Problem]:
        """What is wrong here with what this router offers."""
        return self._sync.problems(router)

    def settled(self, keys: list[str]) -> bool:
        """Whether every listener of these keys is in force as far as it can be: bound or refused, and listening where it is matched."""
        for key in keys:
            known = self._keys.get(key)
            for name, listener in known.listeners.items() if known is not None else ():
                if ("listener", name) not in self._desired:
                    continue
                state = self._binds.get(name)
                if state is None or (state.status is BindStatus.BOUND and any(map(self.matched_listener, listener.routing_keys))):
                    return False
        return True

    def matched_listener(self, key: str) -> bool:
        """Whether a target for this key is reachable."""
        if any(("connector", name) in self._desired for name in self._key_or_empty(key).connectors):
            return True
        return any(target.router in self._paths for target in self.targets(key))

    def matched_connector(self, key: str) -> bool:
        """Whether a listener for this key is reachable."""
        if any(self._listener_works(name) for name in self._key_or_empty(key).listeners):
            return True
        return bool(self.listening_elsewhere(key))

    def listening_elsewhere(self, key: str) -> list[str]:
        """The reachable routers that have a listener for this key."""
        return sorted(router for router, info in self.remote.key(key).items() if info.listeners and router in self._paths)

    def site_names(self) -> dict[str, str]:
        """Site id -> name, of all that can be reached and have said theirs."""
        sites = {router.partition("/")[0] for router in self._paths}
        return {site: self._site_names[site] for site in sites if site in self._site_names}

    def listener_statuses(self) -> list[AddressStatus]:
        return [self._listener_status(self._listeners[name]) for name in sorted(self._listeners)]

    def connector_statuses(self) -> list[AddressStatus]:
        return [
            AddressStatus(
                name=c.name,
                routing_key=c.routing_key,
                host=c.host,
                port=c.port,
                matched=self.matched_connector(c.routing_key),
                automatic=False,
                conditions=self._conditions[("connector", c.name)].list(),
                service=c.service,
            )
            for _, c in sorted(self._connectors.items())
        ]

    def connector_error(self, name: str) -> str:
        """Why no stream goes to this target: it fails its checks or, unchecked, its connects. Empty: streams go there."""
        verdict = self._verdicts.get(name)
        if verdict is not None and verdict.is_out and ("connector", name) not in self._desired:
            return f"it fails its checks: {verdict.error}"
        return verdict.error if verdict is not None and verdict.connects_failed and verdict.check.type == "none" else ""

    def services(self) -> list[ServiceStatus]:
        """One per address of the network, as known here."""
        by_address: dict[str, list[AddressStatus]] = {}
        for name, (address, _) in sorted(self._automatic.items()):
            by_address.setdefault(address, []).append(self._listener_status(self._listeners[name]))
        out = []
        for address in self._sync.addresses():
            offers, decisions = self._sync.offers(address), self._sync.decisions(address)
            conflicts = [f"{self._site(o.router)}: {o.problem}" for o in offers if o.service.protocol != self._sync.protocol(address)]
            out.append(
                ServiceStatus(
                    address=address,
                    conditions=self._conditions.setdefault(("service", address), Conditions()).list(),
                    protocol=self._sync.protocol(address),
                    ports=sorted({o.service.port for o in offers}),
                    offers=offers,
                    listeners=by_address.get(address, []),
                    skipped=[d.problem for d in decisions if d.problem is not None],
                    conflict="; ".join(conflicts),
                )
            )
        return out

    def offer_info(self, router: str, key: str) -> KeyInfo | None:
        """What this router, perhaps our own, has of this key now. None: nothing, or it cannot be reached."""
        if router == self.own:
            return self._advertised.get(key)
        return self.remote.info(router, key) if router in self._paths else None

    def targets(self, key: str) -> list[RouteTarget]:
        """The routers besides this one where streams for this key may go, whether there is a path to them or not."""
        return [target for target in self._targets.get(key, ()) if self._sync.usable(target.router, key)]

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
        for slot, decision in self._sync.take():
            name = f"{slot[0]}:{slot[1]}"
            if decision is not None and decision.problem is None:
                self._automatic[name] = slot
                self._put_listener(self._automatic_listener(name, *slot))
            elif name in self._automatic:
                del self._automatic[name]
                self._drop_listener(name)
            if not self._sync.has(slot[0]):
                self._conditions.pop(("service", slot[0]), None)
        self._dirty.update(dict.fromkeys(self._sync.take_keys()))

    def _work_key(self, key: str, now: float) -> None:
        known = self._key_or_empty(key)
        targets = self.targets(key)
        offered = self._offered(key, known)
        self._want(("route", key), Route(name=key, targets=targets) if targets else None)
        for c in known.connectors.values():
            entry = Connector(name=c.name, routing_key=key, host=c.host, port=c.port, embedded=c.embedded)
            self._want(("connector", c.name), entry if c.name in offered.here else None)
        for name, listener in known.listeners.items():
            works = not self._ports.listener_clash(listener)
            entry2 = Listener(
                name=name,
                host=listener.host,
                port=listener.port,
                routing_key=listener.routing_key,
                strategy=listener.strategy,
                keys=list(listener.keys),
            )
            self._want(("listener", name), entry2 if works else None)
        self._advertise_key(key, known, offered)
        facts = self._facts(key)
        for name, listener in known.listeners.items():
            conditions = self._conditions.setdefault(("listener", name), Conditions())
            its = self._facts(*listener.routing_keys) if listener.keys else facts
            describe_listener(conditions, listener, its, self._ports.listener_clash(listener), self._binds.get(name), now=now)
        for c in known.connectors.values():
            conditions = self._conditions.setdefault(("connector", c.name), Conditions())
            reported = [(self._site(router), p) for router, problems in self._reported.items() for p in problems if p.key == key]
            here = ""
            if c.service is not None and self._service_sync:
                here = _refusal(c.service) or self._sync.problem_of(self.own, key, c.service)
            describe_connector(
                conditions,
                c,
                facts,
                self._ports.connector_clash(c),
                self._verdicts.get(c.name),
                c.name in offered.here,
                here,
                reported,
                key in self._crowded,
                now=now,
            )
        for address in self._sync.addresses_of(key, (self.own, *self.remote.key(key))):
            self._describe_service(address, now)
        if key in self._keys and not known.connectors and not known.listeners:
            del self._keys[key]

    def _describe_service(self, address: str, now: float) -> None:
        places = {(offer.router, offer.key): self.offer_info(offer.router, offer.key) for offer in self._sync.offers(address)}
        here = str(self.own).partition("/")[0]
        names = {router: "" if router.partition("/")[0] == here else self._site(router) for router, _ in places}
        infos = [(names[router], info) for (router, _), info in places.items() if info is not None]
        describe_service(self._conditions.setdefault(("service", address), Conditions()), address, infos, now=now)

    def _facts(self, *keys: str) -> Facts:
        """What there is for any of these keys."""
        known = [self._key_or_empty(key) for key in keys]
        remote = [item for key in keys for item in self.remote.key(key).items()]
        return Facts(
            targets_here=sum(("connector", name) in self._desired for k in known for name in k.connectors),
            targets_elsewhere=sorted({self._site(t.router) for key in keys for t in self.targets(key) if t.router in self._paths}),
            listeners_here=sum(self._listener_works(name) for k in known for name in k.listeners),
            listeners_elsewhere=sorted({self._site(router) for key in keys for router in self.listening_elsewhere(key)}),
            down_here=sum(name in self._verdicts and self._verdicts[name].is_out for k in known for name in k.connectors),
            down_elsewhere=sorted({self._site(router) for router, info in remote if info.down and router in self._paths}),
        )

    def _advertise_key(self, key: str, known: _Key, offered: Offered) -> None:
        listeners = sum(self._listener_works(name) for name in known.listeners)
        services = self._offers(known) if self._service_sync else []
        info: KeyInfo | None = None
        if not (offered.targets or offered.down or listeners):
            self._crowded.pop(key, None)
        elif key not in self._advertised and len(self._advertised) >= MAX_KEYS_PER_SITE:
            self._crowded[key] = None
        else:
            info = KeyInfo(
                key=key,
                targets=offered.targets,
                listeners=listeners,
                cost=offered.cost,
                services=services[:MAX_SERVICES_PER_KEY],
                down=offered.down,
            )
        if info == self._advertised.get(key):
            return
        self._advertise[key] = info
        if info is not None:
            self._advertised[key] = info
            return
        del self._advertised[key]
        if self._crowded:
            waiting = next(iter(self._crowded))
            del self._crowded[waiting]
            self._dirty[waiting] = None

    def _offer_own(self, key: str) -> None:
        self._sync.set_offers(self.own, key, self._offers(self._key_or_empty(key)))

    def _offers(self, known: _Key) -> list[ServicePort]:
        """The services that work here and that others would take."""
        services = {c.service for c in known.connectors.values() if c.service is not None and self._connector_works(c)}
        return sorted(service for service in services if not _refusal(service))

    def _offer(self, router: str, key: str) -> None:
        """What a router offers counts while there is a path to it, and `SYNC_LINGER` longer; targets that are down return."""
        info = self.remote.info(router, key)
        counts = info is not None and (info.targets or info.down) and (router in self._paths or router in self._lost)
        self._sync.set_offers(router, key, list(info.services) if info is not None and counts else [])

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

    def _want(self, ref: tuple[str, str], entry: AnyEntry | None) -> None:
        if entry is None:
            self._desired.pop(ref, None)
        else:
            self._desired[ref] = entry
        self._touched[ref] = None

    # ---- listeners, connectors, and who is in whose way --------------------------------------------------------------------------------

    def _key(self, key: str) -> _Key:
        return self._keys.setdefault(key, _Key())

    def _key_or_empty(self, key: str) -> _Key:
        return self._keys.get(key) or _Key()

    def _automatic_listener(self, name: str, address: str, port: int) -> LocalListener:
        decision = self._sync.decision(address, port)
        assert decision is not None
        return LocalListener(name=name, routing_key=decision.key, host=self._service_address, port=port)

    def _put_listener(self, listener: LocalListener) -> None:
        before = self._listeners.get(listener.name)
        if before == listener:
            return
        if before is not None:
            self._forget_keys(before)
            if (before.host, before.port) != (listener.host, listener.port):
                self._binds.pop(listener.name, None)
            if before.port != listener.port:
                self._ports.drop_listener(before)
                self._ports_changed(before.port)
        self._listeners[listener.name] = listener
        self._ports.put_listener(listener)
        for key in listener.routing_keys:
            self._key(key).listeners[listener.name] = listener
            self._dirty[key] = None

    def _drop_listener(self, name: str) -> LocalListener | None:
        listener = self._listeners.pop(name, None)
        if listener is not None:
            self._forget_keys(listener)
            self._ports.drop_listener(listener)
            self._conditions.pop(("listener", name), None)
            self._want(("listener", name), None)
        return listener

    def _forget_keys(self, listener: LocalListener) -> None:
        for key in listener.routing_keys:
            self._keys[key].listeners.pop(listener.name, None)
            self._dirty[key] = None

    def _drop_connector(self, name: str) -> LocalConnector | None:
        connector = self._connectors.pop(name, None)
        if connector is not None:
            self._keys[connector.routing_key].connectors.pop(name, None)
            self._ports.drop_connector(connector)
            self._dirty[connector.routing_key] = None
            self._want(("connector", name), None)
        return connector

    def _ports_changed(self, *ports: int) -> None:
        """Something of ours took or left these ports: services, listeners and targets on them may fare differently now."""
        for port in ports:
            if port:
                self._sync.port_changed(port)
                self._dirty.update(dict.fromkeys(self._ports.keys_on(port)))

    def _targets_changed(self, *ports: int) -> None:
        """The same for targets: they are in the way of services and listeners, never of each other."""
        for port in ports:
            if port:
                self._sync.port_changed(port)
                self._dirty.update(dict.fromkeys(self._ports.keys_of_listeners_on(port)))

    def _site(self, router: str) -> str:
        site = router.partition("/")[0]
        return self._site_names.get(site, site)

    def _taken(self, port: int) -> str:
        return self._ports.taken(self._service_address, port)

    def _bound(self, name: str) -> bool:
        state = self._binds.get(name)
        return state is not None and state.status not in _BROKEN

    def _offered(self, key: str, known: _Key) -> Offered:
        working = [c for c in known.connectors.values() if self._connector_works(c)]
        if not any(c.name in self._verdicts for c in working):
            return offered_targets(working, {}, better_elsewhere=False)
        elsewhere = any(target.cost < LAST_RESORT and target.router in self._paths for target in self.targets(key))
        return offered_targets(working, self._verdicts, better_elsewhere=elsewhere)

    def _connector_works(self, connector: LocalConnector) -> bool:
        return not self._ports.connector_clash(connector)

    def _listener_works(self, name: str) -> bool:
        return self._bound(name) and ("listener", name) in self._desired

    def _listener_status(self, listener: LocalListener) -> AddressStatus:
        return AddressStatus(
            name=listener.name,
            routing_key=listener.routing_key,
            host=listener.host,
            port=listener.port,
            matched=any(map(self.matched_listener, listener.routing_keys)),
            keys=listener.keys,
            strategy=listener.strategy,
            automatic=listener.name in self._automatic,
            conditions=self._conditions[("listener", listener.name)].list(),
        )


def _refusal(service: ServicePort) -> str:
    """Why nobody would take this service; empty: they would."""
    try:
        service.check()
    except ConfigError as err:
        return str(err)
    return ""
