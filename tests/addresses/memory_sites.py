"""Sites in memory: real tables, routing and exchanges, planes that obey at once, wires that lose nothing, a clock that the test moves."""

from __future__ import annotations

import hashlib

from vanrouter import addresses
from vanrouter.addresses import AddressStatus, AddressTable, Delta, LocalConnector, LocalListener
from vanrouter.conditions import Condition
from vanrouter.messages import Fragment, KeyInfo, ServicePort, SiteInfo
from vanrouter.model import RouterId, SiteId, site_id_of_key
from vanrouter.plane import BindStatus, LinkState, Listener, ListenerState, Path, Ref, Route, RouteTarget
from vanrouter.routing import Engine, Speaker


def fake_sign(key: bytes):  # type: ignore[no-untyped-def]
    return lambda message: hashlib.sha256(key + message).digest()


def fake_verify(identity: bytes, message: bytes, signature: bytes) -> bool:
    return signature == hashlib.sha256(identity + message).digest()


def router(name: str, boot: int = 1) -> str:
    return str(RouterId(site_id_of_key(name.encode()), boot))


def service(address: str, port: int, protocol: str = "tcp") -> ServicePort:
    return ServicePort(address=address, port=port, protocol=protocol)


def connector(name: str, port: int = 8080, *, key: str = "", host: str = "127.0.0.1", offer: ServicePort | None = None) -> LocalConnector:
    key = key or (f"{offer.address}:{offer.port}" if offer else name)
    return LocalConnector(name=name, routing_key=key, host=host, port=port, service=offer)


def listener(name: str, port: int, *, key: str = "", host: str = "127.0.0.1") -> LocalListener:
    return LocalListener(name=name, routing_key=key or name, host=host, port=port)


def fragment(name: str, sequence: int, *keys: KeyInfo, number: int = 0, boot: int = 1, draining: bool = False) -> Fragment:
    return Fragment(origin=router(name, boot), number=number, sequence=sequence, keys=list(keys), draining=draining)


def offer(address: str, port: int, protocol: str = "tcp", *, key: str = "") -> KeyInfo:
    return KeyInfo(key=key or f"{address}:{port}", targets=1, services=[service(address, port, protocol)])


def entries(delta: Delta) -> tuple[list[str], list[str]]:
    """kind/name of what is put and what is dropped, sorted."""
    puts = sorted(f"{type(e).__struct_config__.tag}/{e.name}" for e in delta.put)
    return puts, sorted(f"{r.kind}/{r.name}" for r in delta.drop)


def condition(statuses: list[AddressStatus], name: str, type: str) -> Condition:
    (status,) = [s for s in statuses if s.name == name]
    (found,) = [c for c in status.conditions if c.type == type]
    return found


def learn(table: AddressTable, fragment: Fragment, *, now: float = 0.0) -> bool:
    """What routing does with a fragment that it takes: the table has it, and the routes that follow from it."""
    before = table.remote.keys_of(fragment.origin)
    taken = table.put_fragment_untrusted(fragment, now=now)
    for key in dict.fromkeys([*before, *table.remote.keys_of(fragment.origin)]):
        targets = [RouteTarget(router, info.cost) for router, info in table.remote.key(key).items() if info.targets]
        table.set_route(key, sorted(targets, key=lambda t: (t.cost, t.router)), now=now)
    return taken


def direct(router: str, cost: int) -> addresses.Path:
    """The path to a neighbour."""
    return addresses.Path((router,), cost)


def forget(table: AddressTable, router: str, *, now: float = 0.0) -> None:
    before = table.remote.keys_of(router)
    table.forget(router, now=now)
    for key in before:
        table.set_route(key, [RouteTarget(r, info.cost) for r, info in table.remote.key(key).items() if info.targets], now=now)


class Site:
    """One site with a plane that binds every listener unless its port is in ``busy``."""

    def __init__(self, name: str, *, service_address: str = "127.0.0.1", sync: bool = True, boot: int = 1, edge: bool = False) -> None:
        self.name = name
        self.router = router(name, boot)
        self.busy: set[tuple[str, int]] = set()
        self.table = AddressTable(RouterId.parse(self.router), service_address=service_address, service_sync=sync)
        self.engine = Engine(
            RouterId.parse(self.router),
            identity=name.encode(),
            sign=fake_sign(name.encode()),
            verify=fake_verify,
            name=name,
            edge=edge,
            now=0.0,
        )
        self.edge = edge
        self.speaker = Speaker(self.table, self.engine, info=SiteInfo(name=name, service_sync=sync))
        self.exchange = self.speaker.exchange
        self.generation = 0
        self.plane: dict[tuple[str, str], object] = {}
        self.deltas: list[Delta] = []

    def apply(self, now: float) -> bool:
        """Hand the changes to the plane, and answer for it. Whether there were any."""
        self.speaker.work(now)
        delta = self.table.take_changes()
        if delta:
            self.generation += 1
            self.deltas.append(delta)
            for ref in delta.drop:
                del self.plane[ref.kind, ref.name]
            for entry in delta.put:
                self.plane[type(entry).__struct_config__.tag, entry.name] = entry
        self.exchange.handed_over(self.generation)
        self.exchange.handle_in_force(self.generation)
        for (kind, name), entry in list(self.plane.items()):
            if kind == "listener" and isinstance(entry, Listener):
                status = BindStatus.BOUND
                if (entry.host, entry.port) in self.busy:
                    status = BindStatus.IN_USE
                elif self.table.matched_listener(entry.routing_key):
                    status = BindStatus.LISTENING
                self.table.handle_listener_state(
                    ListenerState(name=name, status=status, port=entry.port, error="address in use" if "in_use" in status else ""), now=now
                )
        self.speaker.work(now)
        return bool(delta)

    def listening(self) -> dict[str, str]:
        """name -> host:port of the listeners in the plane."""
        return {e.name: f"{e.host}:{e.port}" for e in self.plane.values() if isinstance(e, Listener)}

    def routes(self) -> dict[str, list[tuple[str, str, int]]]:
        """key -> (router, next hop, price of path and target), cheapest first: what the plane makes of its paths and routes."""
        paths = {e.name: e for e in self.plane.values() if isinstance(e, Path)}
        out: dict[str, list[tuple[str, str, int]]] = {}
        for route in self.plane.values():
            for target in route.targets if isinstance(route, Route) else ():
                if (path := paths.get(target.router)) is not None:
                    ways = [(target.router, hop, path.cost + target.cost) for hop in path.next_hops]
                    out[route.name] = sorted(out.get(route.name, []) + ways, key=lambda way: (way[2], way))
        return out

    def due(self, peer: str, now: float) -> list[bytes]:
        """Everything that is to go to this peer, as taken by a plane that takes everything."""
        out = []
        while messages := self.speaker.next_messages(peer, now):
            for message in messages:
                self.speaker.sent(message)
                out.append(message.data)
        return out


class Network:
    """Sites with direct links. `settle` lets everything run until nothing more happens."""

    def __init__(self, *sites: Site) -> None:
        self.sites = {site.router: site for site in sites}
        self.links: set[frozenset[str]] = set()
        self.now = 0.0
        self.sent = 0

    def link(self, a: Site, b: Site, cost: int = 1) -> None:
        self.links.add(frozenset((a.router, b.router)))
        for one, other in ((a, b), (b, a)):
            up = LinkState(router=other.router, site_name=other.name, lanes=1, lanes_wanted=1, cost=cost, edge=other.edge)
            one.speaker.handle_link_state(up, now=self.now)
            one.speaker.handle_messages_reset(other.router, now=self.now)

    def unlink(self, a: Site, b: Site) -> None:
        self.links.discard(frozenset((a.router, b.router)))
        for one, other in ((a, b), (b, a)):
            gone = LinkState(router=other.router, site_name=other.name, lanes=0, lanes_wanted=1, error="cut")
            one.speaker.handle_link_state(gone, now=self.now)

    def deliver(self) -> bool:
        moved = False
        for site in self.sites.values():
            site.speaker.work(self.now)
            for peer in site.speaker.routers():
                if frozenset((site.router, peer)) in self.links:
                    for data in site.due(peer, self.now):
                        self.sites[peer].speaker.handle_message_untrusted(site.router, data, now=self.now)
                        self.sent += 1
                        moved = True
        return moved

    def settle(self) -> None:
        for _ in range(100):
            moved = self.deliver()
            for site in self.sites.values():
                moved |= site.apply(self.now)
            if not moved and not self.deliver():
                return
        raise AssertionError("it does not settle")

    def run(self, seconds: float, step: float = 0.5) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + step)
            self.settle()


__all__ = [
    "KeyInfo",
    "Network",
    "Ref",
    "Site",
    "SiteId",
    "condition",
    "connector",
    "direct",
    "entries",
    "forget",
    "fragment",
    "learn",
    "listener",
    "offer",
    "router",
    "service",
]
