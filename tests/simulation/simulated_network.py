"""
Real engines on one virtual clock, joined by links that delay, lose, repeat and reorder, all from one seed.

A link keeps order while it lasts, as stream 0 of a lane does. When its lane is replaced (`switch_lane`) or it comes back, what was under
way is lost, late or doubled, and both ends are told so. Each end learns of a link's state at its own time.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from typing import NamedTuple

from simulated_keys import FastKeys, Keys

from vanrouter.errors import RemoteProtocolError
from vanrouter.messages import KeyInfo
from vanrouter.model import RouterId, SiteId, site_id_of_key
from vanrouter.plane import LinkState, RouteTarget
from vanrouter.routing import Engine, Limits, PathChanged, Problem, RouteChanged

QUEUE = 64  # messages that a plane keeps for one link


class Link:
    """The truth about a link."""

    def __init__(self, a: str, b: str, costs: tuple[int, int], latency: float) -> None:
        self.ends = (a, b)
        self.cost, self.latency = max(costs), latency
        self.up, self.suspect = True, False
        self.generation = {a: 0, b: 0}
        self.flying: dict[str, list[tuple[float, Router, bytes]]] = {a: [], b: []}  # toward this end, in order
        self.seen: dict[str, bool] = {a: False, b: False}
        self.cuts = 0
        self.cuts_seen = {a: 0, b: 0}

    def other(self, end: str) -> str:
        return self.ends[1] if end == self.ends[0] else self.ends[0]

    def drop(self, end: str) -> None:
        """What is under way toward this end never arrives."""
        self.generation[end] += 1
        self.flying[end].clear()


class Way(NamedTuple):
    """One way of a stream to a target."""

    router: str
    next_hop: str
    cost: int


class Router:
    """One start of one site's router, and a plane that does as it is told."""

    def __init__(self, network: Network, name: str, boot: int, *, edge: bool) -> None:
        self.network, self.name, self.edge = network, name, edge
        site = network.site(name)
        self.id = str(RouterId(site, boot))
        self.engine = Engine(
            RouterId(site, boot),
            identity=network.keys.identity(name),
            sign=network.keys.sign(name),
            verify=network.keys.verify,
            issuers=network.keys.issuers,
            issuers_of_own=[str(network.site(i)) for i in network.admitted_by.get(name, ())],
            admissions=[network.keys.admit(i, site) for i in network.admitted_by.get(name, ())],
            edge=edge,
            limits=network.limits,
            now=network.now,
        )
        self.said: dict[str, list[RouteTarget]] = {}
        self.keys: dict[str, KeyInfo] = {}
        self.problems: list[Problem] = []
        self.draining = False
        self.alive = True
        self.timer = math.inf
        self.changes = 0

    @property
    def routes(self) -> dict[str, list[Way]]:
        """What a plane makes of paths and routes, cheapest first. Keys that lead nowhere are left out."""
        out: dict[str, list[Way]] = {}
        for key, targets in self.said.items():
            for target in targets:
                if (path := self.engine.path(target.router)) is not None:
                    out.setdefault(key, []).extend(Way(target.router, hop, path[0] + target.cost) for hop in path[1])
            out.get(key, []).sort(key=lambda way: (way.cost, way.router, way.next_hop))
        return out

    def set_key(self, key: str, targets: int, cost: int = 0) -> None:
        if targets:
            self.keys[key] = KeyInfo(key=key, targets=targets, cost=cost)
        else:
            self.keys.pop(key, None)
        self.engine.set_local(key, self.keys.get(key), now=self.network.now)
        self.work()

    def drain(self) -> None:
        self.draining = True
        self.engine.set_draining(True, now=self.network.now)
        self.work()

    def work(self) -> None:
        """Carry out what the engine wants."""
        now = self.network.now
        for action in self.engine.take_actions(now):
            if isinstance(action, RouteChanged):
                assert self.said.get(action.key, []) != action.targets, "only what changed is said"
                self.said[action.key] = action.targets
                self.changes += 1
            elif isinstance(action, Problem):
                self.problems.append(action)
            elif isinstance(action, PathChanged):
                self.changes += 1
                self.network.path_moves += 1
        for peer in self.engine.peers():
            while (send := self.engine.next_message(peer, now)) is not None:
                if not self.network.send(self, peer, send.data):
                    break
                self.engine.sent(send)
        deadline = self.engine.deadline
        if deadline < self.timer:
            self.timer = max(deadline, now)
            self.network.at(self.timer, self.wake)

    def wake(self) -> None:
        if self.alive and self.network.now >= self.timer:
            self.timer = math.inf
            self.work()


class Network:
    def __init__(
        self, seed: int, *, keys: Keys | None = None, latency: tuple[float, float] = (0.001, 0.1), limits: Limits | None = None
    ) -> None:
        self.rng = random.Random(seed)
        self.keys: Keys = keys if keys is not None else FastKeys()
        self.limits = limits
        self.now = 1_000.0
        self.routers: dict[str, Router] = {}  # by router id, live ones
        self.by_name: dict[str, Router] = {}
        self.links: dict[frozenset[str], Link] = {}  # by names
        self.admitted_by: dict[str, list[str]] = {}
        self.latency = latency
        self.messages = 0
        self.bytes = 0
        self.path_moves = 0  # how often any router said that a path changed, or a router came or went
        self.boots = itertools.count(1)
        self.on_step: Callable[[], None] | None = None
        self.intercept: Callable[[Router, str, bytes], list[bytes]] | None = None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def site(self, name: str) -> SiteId:
        return site_id_of_key(self.keys.identity(name))

    # ---- building and breaking ---------------------------------------------------------------------------------------------------------

    def start(self, name: str, *, edge: bool = False) -> Router:
        router = Router(self, name, next(self.boots), edge=edge)
        self.routers[router.id] = self.by_name[name] = router
        self.path_moves += 1
        router.work()
        return router

    def link(self, a: str, b: str, *, costs: tuple[int, int] = (1, 1)) -> Link:
        link = self.links[frozenset((a, b))] = Link(a, b, costs, self.rng.uniform(*self.latency))
        self._announce(link)
        return link

    def cut(self, link: Link) -> None:
        """Both ends find out at their own time; what was under way is lost."""
        link.up, link.suspect = False, False
        link.cuts += 1
        self._disturb(link, keep=0.0)
        self._announce(link)

    def restore(self, link: Link) -> None:
        link.up = True
        self._announce(link)

    def set_suspect(self, link: Link, suspect: bool) -> None:
        link.suspect = suspect
        self._announce(link)

    def switch_lane(self, link: Link) -> None:
        """Another lane carries the messages now: some are lost, some late, some doubled."""
        if link.up:
            self._disturb(link, keep=0.5)
            for end in link.ends:
                self.at(self.now + self.rng.uniform(0.0, 0.05), lambda end=end: self._reset(link, end))

    def stop(self, name: str, *, gracefully: bool = False) -> None:
        router = self.by_name.pop(name)
        if gracefully:
            router.engine.leave(now=self.now)
            router.work()
        router.alive = False
        del self.routers[router.id]
        self.path_moves += 1
        for link in self.links.values():
            if name in link.ends:
                link.seen[name] = False
                for end in (name,) if gracefully else link.ends:
                    link.drop(end)
                peer = self.by_name.get(link.other(name))
                if peer is not None and link.seen[peer.name]:
                    delay = link.latency + (0.0 if gracefully else self.rng.uniform(0.0, 0.5))
                    self.at(self.now + delay, lambda link=link, peer=peer: self._gone(link, peer, router.id))

    def restart(self, name: str, *, gracefully: bool = False) -> Router:
        """A new origin at once; its site's keys come back with it."""
        old = self.by_name[name]
        self.stop(name, gracefully=gracefully)
        router = self.start(name, edge=old.edge)
        for key, info in old.keys.items():
            router.set_key(key, info.targets, info.cost)
        for link in self.links.values():
            if name in link.ends:
                self._announce(link, not_before=self.now + 0.7)
        return router

    # ---- time --------------------------------------------------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._count), what))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
            if self.on_step is not None:
                self.on_step()
        self.now = until

    def is_quiet(self) -> bool:
        """Nothing under way, nothing due."""
        if any(link.flying[end] for link in self.links.values() for end in link.ends):
            return False
        return all(r.engine.next_message(peer, self.now) is None for r in self.routers.values() for peer in r.engine.peers())

    def settle(self, most: float = 60.0) -> float:
        """Run until nothing is under way. Returns how long that took."""
        began = self.now
        self.run(1.5)  # until every end has seen its links
        while not (self.is_quiet() and self._calm()):
            assert self.now - began < most, "no quiet in time"
            self.run(0.5)
        return self.now - began

    def _calm(self) -> bool:
        """Nothing waits for its turn, which is a second away at most; who asks again ever more rarely for what cannot be had may go on."""
        engines = [router.engine for router in self.routers.values()]
        paced = min(min(engine._pace.deadline, engine._advertiser.deadline) for engine in engines)
        return paced > self.now + 1.1 and all(engine._flooding.deadline - 0.2 > self.now for engine in engines)

    # ---- the plane ---------------------------------------------------------------------------------------------------------------------

    def send(self, router: Router, peer: str, data: bytes) -> bool:
        other = self.routers.get(peer)
        link = self.links.get(frozenset((router.name, other.name))) if other is not None else None
        if other is None or link is None or not link.up:
            return True  # into a link that is gone without our knowing
        flying = link.flying[other.name]
        if len(flying) >= QUEUE:
            return False
        for one in self.intercept(router, peer, data) if self.intercept is not None else [data]:
            self.messages += 1
            self.bytes += len(one)
            when = max(self.now + link.latency, flying[-1][0] if flying else 0.0)
            flying.append((when, router, one))
            self.at(when, lambda generation=link.generation[other.name]: self._arrive(link, other, router, generation))
        return True

    def deliver(self, router: Router, sender: Router, data: bytes) -> None:
        """A message arrives; one that breaks the rules costs the link, which is dialled again later."""
        try:
            router.engine.handle_message_untrusted(sender.id, data, now=self.now)
        except RemoteProtocolError as err:
            link = self.links[frozenset((router.name, sender.name))]
            router.problems.append(Problem("Cut", sender.id, sender.id, str(err)))
            self.cut(link)
            self.at(self.now + 5.0, lambda: self.restore(link) if not link.up else None)
        router.work()

    def _arrive(self, link: Link, router: Router, sender: Router, generation: int) -> None:
        flying = link.flying[router.name]
        if generation != link.generation[router.name] or not flying:
            return
        _, _, data = flying.pop(0)
        if router.alive and link.seen[router.name]:
            self.deliver(router, sender, data)
        if sender.alive and len(flying) == QUEUE - 1:
            sender.work()

    def _disturb(self, link: Link, *, keep: float) -> None:
        """What was under way: kept with this probability, out of order, perhaps twice; otherwise lost."""
        for end in link.ends:
            router = self.by_name.get(end)
            for _, sender, data in link.flying[end]:
                for _ in range(self.rng.choice((1, 1, 2)) if self.rng.random() < keep else 0):
                    if router is not None:
                        when = self.now + self.rng.uniform(0.0, 1.0)
                        self.at(when, lambda r=router, s=sender, d=data: self._late(link, r, s, d))
            link.drop(end)

    def _late(self, link: Link, router: Router, sender: Router, data: bytes) -> None:
        if router.alive and link.seen[router.name]:
            self.deliver(router, sender, data)

    def _reset(self, link: Link, end: str) -> None:
        router, peer = self.by_name.get(end), self.by_name.get(link.other(end))
        if router is not None and peer is not None and link.seen[end]:
            router.engine.handle_messages_reset(peer.id, now=self.now)
            router.work()

    def _announce(self, link: Link, *, not_before: float = 0.0) -> None:
        """Tell both ends, each at its own time. Whatever is true then is what they are told."""
        for end in link.ends:
            when = max(not_before, self.now + self.rng.uniform(0.0, 0.5))
            self.at(when, lambda end=end: self._tell(link, end))

    def _tell(self, link: Link, end: str) -> None:
        router, peer = self.by_name.get(end), self.by_name.get(link.other(end))
        if router is None or peer is None:
            return
        if link.seen[end] and link.cuts_seen[end] != link.cuts:
            link.seen[end] = False  # it was down for a moment, and everyone is told
            self._state(router, peer.id, 0)
        link.cuts_seen[end] = link.cuts
        is_new = link.up and not link.seen[end]
        link.seen[end] = link.up
        self._state(router, peer.id, 1 if link.up else 0, link)
        if is_new and link.seen[peer.name]:  # the other end came first: what it has said was for nobody
            self._reset(link, peer.name)
            self._reset(link, end)

    def _gone(self, link: Link, router: Router, peer: str) -> None:
        link.seen[router.name] = False
        self._state(router, peer, 0)

    def _state(self, router: Router, peer: str, lanes: int, link: Link | None = None) -> None:
        if not router.alive:
            return
        other = self.routers.get(peer)
        state = LinkState(
            router=peer,
            site_name="",
            lanes=lanes,
            lanes_wanted=1,
            suspect=link is not None and link.suspect,
            cost=link.cost if link is not None else 1,
        )
        router.engine.handle_link(state, edge=other is not None and other.edge, now=self.now)
        router.work()
