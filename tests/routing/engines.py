"""A few engines side by side, joined by hand: messages go where the test sends them, at once, in order."""

from __future__ import annotations

import hashlib
import itertools

from vanrouter.messages import KeyInfo, Sealed
from vanrouter.model import RouterId, SiteId, site_id_of_key
from vanrouter.plane import LinkState
from vanrouter.routing import Action, Engine, Limits, PathChanged, RouteChanged, Send


def site(name: str) -> SiteId:
    return site_id_of_key(name.encode())


def router(name: str, boot: int = 1) -> str:
    return str(RouterId(site(name), boot))


def sign(name: str):  # type: ignore[no-untyped-def]
    return lambda message: hashlib.sha256(name.encode() + message).digest()


def verify(identity: bytes, message: bytes, signature: bytes) -> bool:
    return signature == hashlib.sha256(identity + message).digest()


def issuers(sealed: Sealed) -> list[tuple[str, str]]:
    """An admission is ``issuer>subject`` in words; who may write it is not the question here."""
    return [tuple(str(site(name)) for name in raw.decode().split(">")) for raw in sealed.admissions]  # type: ignore[misc]


class World:
    """Engines by name. `link` and `unlink` tell both ends; `settle` carries messages until there are none."""

    def __init__(self) -> None:
        self.now = 100.0
        self.engines: dict[str, Engine] = {}
        self.links: set[frozenset[str]] = set()
        self.actions: dict[str, list[Action]] = {}
        self.sent: list[tuple[str, str, Send]] = []

    def add(
        self, *names: str, edge: bool = False, boot: int = 1, admitted_by: tuple[str, ...] = (), limits: Limits | None = None
    ) -> Engine:
        for name in names:
            self.engines[name] = Engine(
                RouterId(site(name), boot),
                identity=name.encode(),
                sign=sign(name),
                name=name,
                verify=verify,
                issuers=issuers,
                issuers_of_own=[str(site(issuer)) for issuer in admitted_by],
                admissions=[f"{issuer}>{name}".encode() for issuer in admitted_by],
                edge=edge,
                limits=limits,
                now=self.now,
            )
            self.actions[name] = []
        return self.engines[names[-1]]

    def state(self, at: str, of: str, **changes: object) -> None:
        values: dict[str, object] = {"lanes": 1, "lanes_wanted": 1, "cost": 1} | changes
        other = self.engines[of]
        link = LinkState(router=other.own, site_name=of, **values)  # type: ignore[arg-type]
        self.engines[at].handle_link(link, edge=other.edge, now=self.now)

    def link(self, *names: str, **changes: object) -> None:
        """A line of links."""
        for a, b in itertools.pairwise(names):
            self.links.add(frozenset((a, b)))
            self.state(a, b, **changes)
            self.state(b, a, **changes)

    def unlink(self, a: str, b: str) -> None:
        self.links.discard(frozenset((a, b)))
        self.state(a, b, lanes=0)
        self.state(b, a, lanes=0)

    def work(self) -> bool:
        """Everything that is due goes once. Whether there was anything."""
        names = {engine.own: name for name, engine in self.engines.items()}
        for name, engine in self.engines.items():
            self.actions[name] += engine.take_actions(self.now)
        post = []
        for name, engine in self.engines.items():
            for peer in engine.peers():
                while (send := engine.next_message(peer, self.now)) is not None:
                    engine.sent(send)
                    if peer in names:
                        post.append((name, names[peer], send))
        self.sent += post
        for sender, receiver, send in post:
            self.engines[receiver].handle_message_untrusted(self.engines[sender].own, send.data, now=self.now)
        return bool(post)

    def settle(self, seconds: float = 0.0) -> None:
        """Until nothing is due, in steps of half a second."""
        until = self.now + seconds
        while self.work():
            pass
        while self.now < until:
            self.now = min(until, self.now + 0.5)
            while self.work():
                pass

    def set(self, name: str, key: str, targets: int = 1, *, cost: int = 0, listeners: int = 0) -> None:
        info = KeyInfo(key=key, targets=targets, cost=cost, listeners=listeners) if targets or listeners else None
        self.engines[name].set_local(key, info, now=self.now)

    def take(self, name: str) -> list[Action]:
        out, self.actions[name] = self.actions[name], []
        return out

    def routes(self, name: str) -> dict[str, list[tuple[str, str, int]]]:
        """key -> (router, next hop, price), by names."""
        names = {engine.own: name for name, engine in self.engines.items()}
        return {key: [(names[r], names[hop], cost) for r, hop, cost in found] for key, found in reachable(self.engines[name]).items()}

    def path(self, a: str, b: str) -> tuple[int, list[str]] | None:
        names = {engine.own: name for name, engine in self.engines.items()}
        path = self.engines[a].path(self.engines[b].own)
        return (path[0], [names[hop] for hop in path[1]]) if path is not None else None


def reachable(engine: Engine) -> dict[str, list[tuple[str, str, int]]]:
    """key -> (router, next hop, price of path and target), cheapest first: what a plane makes of paths and routes."""
    out: dict[str, list[tuple[str, str, int]]] = {}
    for key, targets in engine.routes().items():
        for target in targets:
            if (path := engine.path(target.router)) is not None:
                out.setdefault(key, []).extend((target.router, hop, path[0] + target.cost) for hop in path[1])
        if key in out:
            out[key].sort(key=lambda way: (way[2], way[0], way[1]))
    return out


def of_type(actions: list[Action], kind: type) -> list[Action]:
    return [action for action in actions if isinstance(action, kind)]


__all__ = ["PathChanged", "RouteChanged", "World", "issuers", "of_type", "reachable", "router", "sign", "site", "verify"]
