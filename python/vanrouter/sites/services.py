"""
Listeners, connectors and what other sites serve: drives the address table, routing and the talk with the other control planes.

``flush`` is the one place where what they decided goes to the data plane and to the peers. Call it after any input.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

import vanrouter
from vanrouter.addresses import AddressTable, LocalConnector, LocalListener, Reserved
from vanrouter.addresses.health import Health, State, Verdict
from vanrouter.checks import Check
from vanrouter.errors import LocalProtocolError, RemoteProtocolError
from vanrouter.messages import Reachable, SiteInfo
from vanrouter.model import RouterId
from vanrouter.plane import ConnectorState, InForce, LinkState, ListenerState, Message, MessagesReset, Tls
from vanrouter.resources.kinds import SiteSpec
from vanrouter.resources.shapes import format_host_port
from vanrouter.routing import Engine, Speaker
from vanrouter.routing.prices import price_in_force, price_of_peer
from vanrouter.sites.admissions import Admissions, held_admissions
from vanrouter.sites.context import Context
from vanrouter.sites.probes import Probes
from vanrouter.sites.wanted import Fault, WantedConnector, WantedListener
from vanrouter.stores.resources import Problem

if TYPE_CHECKING:
    from vanrouter.sites.in_pod import InPod

__all__ = ["Services"]

log = logging.getLogger("vanrouter.sites")

MAX_ENDPOINTS: Final = 16
MAX_ROUTERS: Final = 64  # of one site, as others are told

# What to do about what a member did (`vanrouter.routing.Problem.reason`).
_NEXT: Final = {
    "LinkToItself": "give the link the endpoint of another site",
    "DuplicateRouter": "somebody has a copy of this site's identity key: end the other router, or delete this site and create it anew",
    "NotJoined": "nothing if the network is still converging; else link that site to one of this network",
    "TooManySites": "look at who admits so many sites, and delete the links to it if they are not wanted",
    "NoRoom": "the network is larger than this router may keep (docs/routing.md, bounds)",
    "BrokeRules": "look at that site, and compare the versions (van version); if it goes on, delete the links with it at both ends",
    "TooFrequent": "look at that site: something there changes all the time, or it runs something else than this software",
    "RefusedSite": "refuse it at the sites that it is linked with too (spec.refusedSites of their Site), or take it from the list here",
    "EdgeRelays": "look at that edge site: it runs something else than this software",
}


class Services:
    def __init__(self, context: Context, spec: SiteSpec) -> None:
        self._context = context
        self._admissions = Admissions(context.wall)
        held = held_admissions(context.home.state)
        self._in_pod = context.in_pod
        if self._in_pod is None:
            self.table = AddressTable(context.own, service_address=spec.service_address, service_sync=spec.service_sync)
        else:
            any_host, place = self._in_pod.any_host, self._in_pod.port
            self.table = AddressTable(context.own, service_address=any_host, service_sync=spec.service_sync, place=place)
        self.engine = Engine(
            context.own,
            identity=context.keys.identity.public_der,
            sign=context.keys.identity.sign,
            name=context.site_name,
            version=vanrouter.__version__,
            issuers=self._admissions.issuers,
            issuers_of_own=[issuer for issuer, _ in self._admissions.pairs(held)],
            admissions=held,
            edge=context.edge,
            now=context.now(),
        )
        self._siblings: list[str] = []  # the other live routers of this site
        self._speaker = Speaker(self.table, self.engine, info=self._info(spec))
        self.exchange = self._speaker.exchange
        self._hop_limit = 0
        self._spec = spec
        self._listeners: dict[str, LocalListener] = {}
        self._connectors: dict[str, LocalConnector] = {}
        self._embedded: dict[str, LocalConnector] = {}
        self._lent: dict[str, LocalListener] = {}  # listeners for programs in this process
        self.faults: dict[tuple[str, str], Fault] = {}  # names that cannot be resolved
        self._health = Health(context.rng)
        self.probes = Probes(self._health, changed=self._checked)
        self._hosts: dict[str, str] = {}  # connector -> its host as it was written
        self._out: set[str] = set()  # connectors whose target is out
        self.flushed: Callable[[], None] = lambda: None  # something may have changed
        self.watchers: list[Callable[[], None]] = []  # the same, for whoever comes and goes
        self._absent: dict[str, Verdict] = {}  # connectors that have no target at all

    def _info(self, spec: SiteSpec) -> SiteInfo:
        context, in_pod = self._context, self._in_pod
        return SiteInfo(
            name=context.site_name,
            version=vanrouter.__version__,
            platform="linux" if in_pod is None else "kubernetes",
            namespace=(context.home.directory.name if in_pod is None else in_pod.namespace)[:63],
            routers=[str(context.own), *self._siblings][:MAX_ROUTERS],
            service_sync=spec.service_sync,
            endpoints=self._endpoints()[:MAX_ENDPOINTS],
        )

    def _endpoints(self) -> list[Reachable]:
        """Where others link to us. A host says nothing: its addresses need not be those at which others reach it, and a link that leads by
        another way was made so on purpose.
        """
        in_pod = self._in_pod
        if in_pod is not None:
            return [Reachable(e.host, e.port, (e.host, e.port) in in_pod.going) for e in in_pod.endpoints]
        return []

    # ---- what is wanted ------------------------------------------------------------------------------------------------------------------

    def reconcile(
        self,
        spec: SiteSpec,
        listeners: Mapping[str, WantedListener],
        connectors: Mapping[str, WantedConnector],
        reserved: list[Reserved],
    ) -> None:
        now, table = self._context.now(), self.table
        if self._in_pod is not None:  # a listener's host is the name of a Service, and clients come to the pod
            spec = msgspec.structs.replace(spec, service_address=self._in_pod.any_host)
        hosts = [x.host for x in listeners.values() if self._in_pod is None] + [x.host for x in connectors.values() if not x.absent]
        self._context.names.want("services", [spec.service_address, *hosts])
        self.faults.clear()
        wanted_listeners = {**self._resolved_listeners(listeners), **self._lent}
        wanted_connectors = {**self._resolved_connectors(connectors), **self._embedded}
        table.set_reserved(reserved, now=now)
        if (address := self._address("Site", "serviceAddress", spec.service_address)) is not None:
            table.set_sync(service_address=address, service_sync=spec.service_sync, now=now)
        for name in self._listeners.keys() - wanted_listeners.keys():
            table.drop_listener(name, now=now)
        for name in self._connectors.keys() - wanted_connectors.keys():
            table.drop_connector(name, now=now)
        for name, listener in wanted_listeners.items():
            if self._listeners.get(name) != listener:
                table.put_listener(listener, now=now)
        for name, connector in wanted_connectors.items():
            if self._connectors.get(name) != connector:
                table.put_connector(connector, now=now)
        self._listeners, self._connectors = wanted_listeners, wanted_connectors
        self._spec = spec
        self._check_targets(connectors)
        self._say_absent(connectors)
        self.exchange.set_info(self._info(spec))
        self.flush()

    def lacks_port(self, name: str) -> bool:
        """Whether this listener waits for a port of the pod."""
        kind, called = ("MultiKeyListener", name.partition("/")[2]) if "/" in name else ("Listener", name)
        return (fault := self.faults.get((kind, called))) is not None and fault.reason == "Pending"

    def places_changed(self) -> None:
        """Other ports of this pod are given to listeners."""
        self.table.places_changed(now=self._context.now())

    def _say_absent(self, wanted: Mapping[str, WantedConnector]) -> None:
        """What has no target now is offered on, as one that is down: its listeners elsewhere stay."""
        said = {
            name: Verdict(state=State.EJECTED, check=c.check, error=c.absent, may_serve=False)
            for name, c in wanted.items()
            if c.absent and name in self._connectors
        }
        changed = {name: verdict for name, verdict in said.items() if self._absent.get(name) != verdict}
        self._absent = said
        if changed:
            self.table.set_verdicts(changed, now=self._context.now())

    def _check_targets(self, wanted: Mapping[str, WantedConnector]) -> None:
        now = self._context.now()
        found = {name: c for name, c in self._connectors.items() if name in wanted and not c.embedded and not wanted[name].absent}
        for name in self._hosts.keys() - found.keys():
            self._health.drop(name)
        for name, connector in found.items():
            check = wanted[name].check
            if (tls := self._context.forwarding.entry("tls", connector.tls)) is not None:
                assert isinstance(tls, Tls)
                check = msgspec.structs.replace(check, tls=tls, port=0 if check.port == connector.port else check.port)
            self._health.put(name, connector.host, connector.port, check, now=now)
        self._hosts = {name: wanted[name].host for name in found}
        self._take_verdicts()
        self.probes.wake()

    def lend(self, listener: LocalListener) -> None:
        """A listener that no resource asks for."""
        self._lent[listener.name] = self._listeners[listener.name] = listener
        self.table.put_listener(listener, now=self._context.now())
        self.flush()

    def take_back(self, name: str) -> None:
        if self._lent.pop(name, None) is not None:
            self._listeners.pop(name, None)
            self.table.drop_listener(name, now=self._context.now())
            self.flush()

    def embed(self, connector: LocalConnector) -> None:
        """A target in this process, or one that this process vouches for: it is not checked."""
        self._embedded[connector.name] = self._connectors[connector.name] = connector
        self.table.put_connector(connector, now=self._context.now())
        self._health.put(connector.name, connector.host, connector.port, Check(type="none"), now=self._context.now())
        self._take_verdicts()
        self.flush()

    def unembed(self, name: str) -> None:
        if self._embedded.pop(name, None) is not None:
            self._connectors.pop(name, None)
            self._health.drop(name)
            self.table.drop_connector(name, now=self._context.now())
            self.flush()

    def _resolved_listeners(self, wanted: Mapping[str, WantedListener]) -> dict[str, LocalListener]:
        found: dict[str, LocalListener] = {}
        for name, w in wanted.items():
            if self._in_pod is not None:
                if (listener := self._in_this_pod(self._in_pod, name, w)) is not None:
                    found[name] = listener
                continue
            kind, called = ("MultiKeyListener", name.partition("/")[2]) if w.keys else ("Listener", name)
            if (host := self._address(kind, called, w.host)) is not None:
                found[name] = LocalListener(
                    name=name,
                    routing_key=w.routing_key,
                    host=host,
                    port=w.port,
                    strategy=w.strategy,
                    keys=w.keys,
                    tls=w.tls.name if w.tls is not None else "",
                )
        return found

    def _in_this_pod(self, in_pod: InPod, name: str, w: WantedListener) -> LocalListener | None:
        port = in_pod.port(w.host, w.port)
        if not port:
            kind, called = ("MultiKeyListener", name.partition("/")[2]) if w.keys else ("Listener", name)
            text = f"{w.host}:{w.port} has no port in the router's pod yet"
            self.faults[kind, called] = Fault("Pending", text, "the controller gives it: look at its pod")
            return None
        return LocalListener(
            name=name,
            routing_key=w.routing_key,
            host=in_pod.any_host,
            port=port,
            strategy=w.strategy,
            keys=w.keys,
            reached_at=(w.host, w.port),
            tls=w.tls.name if w.tls is not None else "",
        )

    def _resolved_connectors(self, wanted: Mapping[str, WantedConnector]) -> dict[str, LocalConnector]:
        found: dict[str, LocalConnector] = {}
        for name, w in wanted.items():
            if w.absent:
                found[name] = LocalConnector(name=name, routing_key=w.routing_key, port=w.port, service=w.service)
            elif (host := self._address("Connector", name, w.host)) is not None:
                tls = w.tls.name if w.tls is not None else ""
                found[name] = LocalConnector(name=name, routing_key=w.routing_key, host=host, port=w.port, tls=tls, service=w.service)
        return found

    def _address(self, kind: str, name: str, host: str) -> str | None:
        answer = self._context.names.get(host)
        if answer is not None and answer.addresses:
            return answer.addresses[0]
        if answer is None:
            self.faults[kind, name] = Fault("Resolving", f"{host} is being looked up")
        else:
            todo = "check the name and the name servers of this host, or write an IP address"
            self.faults[kind, name] = Fault("NameNotFound", f"{kind.lower()} {name}: {answer.error}", todo)
        return None

    # ---- what happens --------------------------------------------------------------------------------------------------------------------

    def handle(self, event: ListenerState | ConnectorState | LinkState | InForce | MessagesReset) -> None:
        now = self._context.now()
        match event:
            case ListenerState():
                self.table.handle_listener_state(event, now=now)
            case ConnectorState():
                self._health.handle_connects(event.name, event.failures, event.error, now=now)
                self._take_verdicts()
                self.probes.wake()
            case LinkState():
                self._speaker.handle_link_state(event, now=now)
            case MessagesReset():
                self._speaker.handle_messages_reset(event.router, now=now)
            case InForce():
                self._context.forwarding.in_force = event.generation
                self.exchange.handle_in_force(event.generation)

    def _checked(self) -> None:
        """A check has ended."""
        if self._take_verdicts():
            self.flush()

    def _take_verdicts(self) -> bool:
        """Whether there were new ones."""
        verdicts = self._health.take_changed()
        for name, verdict in verdicts.items():
            is_out, was_out = verdict is not None and verdict.is_out, name in self._out
            if is_out and name in self._hosts:
                self._context.names.ask_again(self._hosts[name])  # it may have moved
            if verdict is not None and is_out != was_out:
                c = self._connectors[name]
                extra = {"connector": name, "target": format_host_port(c.host, c.port)}
                if is_out:
                    log.warning("a target fails its checks", extra={**extra, "error": verdict.error})
                else:
                    log.info("a target is back", extra=extra)
            (self._out.add if is_out else self._out.discard)(name)
        if verdicts:
            self.table.set_verdicts(verdicts, now=self._context.now())
        return bool(verdicts)

    def handle_message(self, message: Message) -> None:
        try:
            self._speaker.handle_message_untrusted(message.router, message.data, now=self._context.now())
        except RemoteProtocolError as exc:
            self.cut(message.router, str(exc))

    def cut(self, router: str, error: str) -> None:
        """A peer that breaks the rules loses its link, and is named; it may dial again."""
        log.warning("control message refused", extra={"router": router, "error": error})
        self.engine.accuse(router, f"its control message was refused, and its link was cut: {error}"[:300], now=self._context.now())
        self._context.plane.cut(router, f"control message refused: {error}"[:200])

    def link_cost(self, router: str, default: int) -> int:
        """What the link with this router costs: the larger of what both ends say; ``default``: of a link that is not for routing (yet)."""
        return price_in_force(self.engine, router, default)

    def peer_cost(self, router: str, default: int) -> int:
        """What the other end wants of the link with this router."""
        return price_of_peer(self.engine, router, default)

    def is_only_ours(self, router: str, key: str) -> bool:
        """Whether what this router offers under a key is what we offer: an uplink tells of it as its own."""
        info, ours = self.engine.remote.info(router, key), self.engine.own_keys(merged=False).get(key)
        return self.engine.counts_ours(router) and info is not None and ours is not None and info.targets <= ours.targets

    def has_joined(self) -> bool:
        """Whether a neighbour has said who it is and what it serves, and streams can go there."""
        return any(peer.info is not None and self.engine.path(peer.router) is not None for peer in self.exchange.peers())

    def problems(self, site_name: Callable[[str], str]) -> list[Problem]:
        """What members did that routing did not take, for status. ``site_name`` of a router or site id."""
        return [
            Problem(
                f"network: {found.reason}",
                f"site {site_name(found.subject)} ({found.subject}): {found.message} (it came from site {site_name(found.peer)})",
                _NEXT.get(found.reason, "look at that site: van status there; if nobody answers for it, delete the links that lead to it"),
            )
            for found in self.engine.problems(self._context.now())
        ]

    def admissions_changed(self) -> None:
        """A token was redeemed, or a certificate renewed: what we advertise carries the new admission."""
        held = held_admissions(self._context.home.state)
        self.engine.set_admissions(held, [issuer for issuer, _ in self._admissions.pairs(held)], now=self._context.now())
        self.flush()

    def set_refused(self, sites: frozenset[str]) -> None:
        """Nothing that these sites advertise counts, from now on and until they are left out here."""
        self.engine.set_refused(sites, now=self._context.now())
        self.flush()

    def set_draining(self) -> None:
        """Grace: the others prefer other routers from now on."""
        self.engine.set_draining(True, now=self._context.now())
        self.flush()

    def leave(self) -> None:
        """This router is about to end: the last thing that it says."""
        self.engine.leave(now=self._context.now())
        self.flush()

    @property
    def deadline(self) -> float:
        return self._speaker.deadline

    def handle_timeout(self) -> None:
        self._speaker.handle_timeout(self._context.now())

    def flush(self) -> None:
        """Hand changes to the plane and messages to the peers, until there is nothing new to hand over."""
        self.flushed()
        for changed in self.watchers:
            changed()
        context, now = self._context, self._context.now()
        for problem in self._speaker.work(now):
            extra = {"reason": problem.reason, "subject": problem.subject, "router": problem.peer, "problem": problem.message}
            log.warning("a member broke the rules of routing", extra=extra)
        if self._hop_limit != self._speaker.hop_limit:
            self._hop_limit = self._speaker.hop_limit
            context.plane.set_hop_limit(self._hop_limit)
        if (siblings := self.engine.siblings()) != self._siblings:
            self._siblings = siblings
            boots = [context.own.boot, *(RouterId.parse(router).boot for router in siblings)]
            context.plane.set_siblings(sorted(boots[:MAX_ROUTERS]))
            self.exchange.set_info(self._info(self._spec))
        delta = self.table.take_changes()
        context.forwarding.change(put=delta.put, drop=delta.drop)
        self.exchange.handed_over(context.forwarding.generation)
        for router in self._speaker.routers():
            self._send(router, now)
        context.timers.wake()

    def _send(self, router: str, now: float) -> None:
        """Everything that is due to this peer, as far as the plane takes it."""
        while messages := self._speaker.next_messages(router, now):
            for message in messages:
                try:
                    taken = self._context.plane.send_message(router, message.data)
                except LocalProtocolError:
                    log.exception("control message not sent", extra={"router": router})
                    return
                if not taken:
                    return
                self._speaker.sent(message)
