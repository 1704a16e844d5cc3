"""
A network of engines whose links lose nothing and take 5 ms. Edge routers are there as the keys that their interiors advertise.

``full`` says which routers do everything; the others are `Relay`s, which flood by the engine's own code and look at nothing else, so that
1,000 routers fit into one process and messages and times are those of 1,000 routers.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
import time
import tracemalloc
from collections.abc import Callable

from vanrouter.messages import KeyInfo, Leaf, Sealed
from vanrouter.model import RouterId, SiteId, site_id_of_key
from vanrouter.plane import LinkState
from vanrouter.routing import Engine, Limits, PathChanged
from vanrouter.routing.database import Record
from vanrouter.routing.peers import Peer
from vanrouter.routing.wire import Head, encode_relayed, head_untrusted

LATENCY = 0.005
NONE: dict[str, int] = {}


def sign(name: bytes) -> Callable[[bytes], bytes]:
    return lambda message: hashlib.blake2b(name + message, digest_size=32).digest()


def verify(identity: bytes, message: bytes, signature: bytes) -> bool:
    return signature == hashlib.blake2b(identity + message, digest_size=32).digest()


def issuers(sealed: Sealed) -> list[tuple[str, str]]:
    """An admission is the issuer's key and the subject's site id."""
    return [(str(site_id_of_key(raw[:-52])), raw[-52:].decode()) for raw in sealed.admissions]


def site(index: int) -> SiteId:
    return site_id_of_key(b"%d" % index)


class Relay(Engine):
    """Takes every newer record unread and passes it on. ``shared``: the bytes of each record once for all relays."""

    shared: dict[tuple[str, int], bytes]

    def _consider(self, peer: Peer, wire: bytes, age: float, now: float) -> None:
        head = head_untrusted(wire)
        slot = (head.origin, head.number)
        if not self.database.is_newer(head):
            if self.database.sequence(head) == head.sequence:
                peer.due.pop(slot, None)
            return
        self.keep(wire, head, now - age, peer.router)
        self._flooding.flood(slot, head.sequence, apart_from=peer.router)

    def keep(self, wire: bytes, head: Head, born: float, peer: str = "") -> None:
        slot = (head.origin, head.number)
        known = self.shared.get(slot)
        if known != wire:
            known = self.shared[slot] = wire
        self.database.put(head, Record(known, head.sequence, born, NONE, peer))


def make_engine(index: int, limits: Limits, now: float, kind: type[Engine] = Engine) -> Engine:
    """The router of site ``index``. Site 0 admitted all others."""
    name = b"%d" % index
    return kind(
        RouterId(site(index), 1),
        identity=name,
        sign=sign(name),
        verify=verify,
        issuers=issuers,
        issuers_of_own=[str(site(0))] if index else [],
        admissions=admissions(index),
        limits=limits,
        now=now,
    )


def leaf(index: int, edge: int) -> Leaf:
    return Leaf(router=str(RouterId(site_id_of_key(b"edge %d %d" % (index, edge)), 1)), name=f"edge-{index}-{edge}")


def admissions(index: int) -> list[bytes]:
    return [b"0" + site(index).encode()] if index else []


def random_links(rng: random.Random, size: int, degree: int) -> set[tuple[int, int]]:
    """A ring, so that all are joined, and chords at random."""
    links = {_pair(index, (index + 1) % size) for index in range(size)}
    while len(links) < size * degree // 2:
        a, b = rng.randrange(size), rng.randrange(size)
        if a != b:
            links.add(_pair(a, b))
    return links


class Network:
    """``degree`` links per interior on average. ``full``: how many routers do everything; None: all."""

    def __init__(self, interiors: int, *, degree: int = 6, seed: int = 1, full: int | None = None) -> None:
        self.now = 10.0
        self.rng = random.Random(seed)
        self.engines: list[Engine] = []
        self.index: dict[str, int] = {}
        self.messages = 0
        self.bytes = 0
        self.cpu: list[float] = [0.0] * interiors
        self.reached: dict[int, float] = {}
        self.watch: Callable[[int], bool] | None = None
        self._events: list[tuple[float, int, int, int, bytes]] = []
        self._count = itertools.count()
        limits = Limits(sites_per_admitter=interiors)
        self.links = random_links(self.rng, interiors, degree)
        self.full = sorted(random.Random(seed).sample(range(interiors), full) if full is not None else range(interiors))
        shared: dict[tuple[str, int], bytes] = {}
        for index in range(interiors):
            engine = make_engine(index, limits, self.now, Engine if index in self.full else Relay)
            if isinstance(engine, Relay):
                engine.shared = shared
            self.engines.append(engine)
            self.index[engine.own] = index

    def set_link(self, a: int, b: int, lanes: int) -> None:
        for u, v in ((a, b), (b, a)):
            state = LinkState(router=self.engines[v].own, site_name="", lanes=lanes, lanes_wanted=1)
            began = time.process_time()
            self.engines[u].handle_link(state, now=self.now)
            self.cpu[u] += time.process_time() - began
            self.work(u)

    def _link_all(self) -> None:
        for a, b in sorted(self.links):
            for u, v in ((a, b), (b, a)):
                state = LinkState(router=self.engines[v].own, site_name="", lanes=1, lanes_wanted=1)
                self.engines[u].handle_link(state, now=self.now)

    def preload(self) -> list[int]:
        """All links are up and everybody knows everything, without a message. Bytes of memory that it took each full router."""
        self._link_all()
        wires: list[bytes] = []
        for engine in self.engines:
            engine.take_actions(self.now)
            wires += [record.wire for record in engine.database.origins[engine.own].fragments.values()]
        heads = [head_untrusted(wire) for wire in wires]
        memory = []
        for engine in self.engines:
            others = [(wire, head) for wire, head in zip(wires, heads, strict=True) if head.origin != engine.own]
            if isinstance(engine, Relay):
                for wire, head in others:
                    engine.keep(wire, head, self.now)
            else:
                memory.append(self._learn(engine, [wire for wire, _ in others]))
            for peer in engine._peers.values():
                peer.due.clear()
                peer.summary_from = None
        known = self.engines[0].database.sequences()
        assert all(engine.database.sequences() == known for engine in self.engines)
        return memory

    def _learn(self, engine: Engine, wires: list[bytes]) -> int:
        peer = engine.peers()[0]
        tracemalloc.start()
        for start in range(0, len(wires), 64):  # as many as a plane hands over at once
            for wire in wires[start : start + 64]:
                engine.handle_message_untrusted(peer, encode_relayed(wire, 0), now=self.now)
            engine.take_actions(self.now)
        memory = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return memory

    def connect(self) -> None:
        """All links at once: every router has all of its own before it says so."""
        self._link_all()
        for index in range(len(self.engines)):
            self.work(index)
        self.settle()

    def add_edge(self, index: int, edge: int) -> None:
        """An edge router with a key, as its interior advertises it."""
        key = f"edge-{index}-{edge}"
        self.engines[index].set_local(key, KeyInfo(key=key, targets=1), now=self.now)
        item = leaf(index, edge)
        self.engines[index]._advertiser.set_edge(item.router, item, now=self.now)

    def set_key(self, index: int, key: str, targets: int = 1) -> None:
        began = time.process_time()
        self.engines[index].set_local(key, KeyInfo(key=key, targets=targets) if targets else None, now=self.now)
        self.cpu[index] += time.process_time() - began
        self.work(index)

    def work(self, index: int) -> None:
        engine = self.engines[index]
        began = time.process_time()
        if any(isinstance(action, PathChanged) for action in engine.take_actions(self.now)):
            engine.hop_limit()  # what the plane is told then
        out = []
        for peer in engine.peers():
            while (send := engine.next_message(peer, self.now)) is not None:
                engine.sent(send)
                out.append((self.index[peer], send.data))
        self.cpu[index] += time.process_time() - began
        if self.watch is not None and index not in self.reached and self.watch(index):
            self.reached[index] = self.now
        for target, data in out:
            self.messages += 1
            self.bytes += len(data)
            heapq.heappush(self._events, (self.now + LATENCY, next(self._count), target, index, data))

    def settle(self, idle: float = 3.0) -> None:
        """Until nothing is under way and nothing waits for its turn."""
        while True:
            while self._events:
                self.now = self._events[0][0]
                touched = set()
                while self._events and self._events[0][0] == self.now:
                    _, _, target, sender, data = heapq.heappop(self._events)
                    began = time.process_time()
                    self.engines[target].handle_message_untrusted(self.engines[sender].own, data, now=self.now)
                    self.cpu[target] += time.process_time() - began
                    touched.add(target)
                for index in sorted(touched):
                    self.work(index)
            deadlines = [(engine.deadline, index) for index, engine in enumerate(self.engines)]
            first = min(deadlines)[0]
            if first > self.now + idle:
                return
            self.now = max(self.now, first)
            for deadline, index in deadlines:
                if deadline <= self.now:
                    self.work(index)

    def start_measuring(self, watch: Callable[[int], bool] | None = None) -> float:
        self.messages = self.bytes = 0
        self.cpu = [0.0] * len(self.engines)
        self.reached, self.watch = {}, watch
        return self.now


def _pair(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)
