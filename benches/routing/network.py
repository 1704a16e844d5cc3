"""A network of engines whose links lose nothing and take 5 ms. Edge routers are there as the keys that their interiors advertise."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
import time
from collections.abc import Callable

from vanrouter.messages import KeyInfo, Sealed
from vanrouter.model import RouterId, SiteId, site_id_of_key
from vanrouter.plane import LinkState
from vanrouter.routing import Engine, Limits

LATENCY = 0.005


def sign(name: bytes) -> Callable[[bytes], bytes]:
    return lambda message: hashlib.blake2b(name + message, digest_size=32).digest()


def verify(identity: bytes, message: bytes, signature: bytes) -> bool:
    return signature == hashlib.blake2b(identity + message, digest_size=32).digest()


def issuers(sealed: Sealed) -> list[tuple[str, str]]:
    """An admission is the issuer's key and the subject's site id."""
    return [(str(site_id_of_key(raw[:-52])), raw[-52:].decode()) for raw in sealed.admissions]


def site(index: int) -> SiteId:
    return site_id_of_key(b"%d" % index)


def make_engine(index: int, limits: Limits, now: float) -> Engine:
    """The router of site ``index``. Site 0 admitted all others."""
    name = b"%d" % index
    return Engine(
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
    """``degree`` links per interior on average."""

    def __init__(self, interiors: int, *, degree: int = 6, seed: int = 1) -> None:
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
        for index in range(interiors):
            self._add(index, limits)
        self.links = random_links(self.rng, interiors, degree)

    def _add(self, index: int, limits: Limits) -> None:
        engine = make_engine(index, limits, self.now)
        self.engines.append(engine)
        self.index[engine.own] = index

    def set_link(self, a: int, b: int, lanes: int) -> None:
        for u, v in ((a, b), (b, a)):
            state = LinkState(router=self.engines[v].own, site_name="", lanes=lanes, lanes_wanted=1)
            began = time.process_time()
            self.engines[u].handle_link(state, now=self.now)
            self.cpu[u] += time.process_time() - began
            self.work(u)

    def connect(self) -> None:
        """All links at once: every router has all of its own before it says so."""
        for a, b in sorted(self.links):
            for u, v in ((a, b), (b, a)):
                state = LinkState(router=self.engines[v].own, site_name="", lanes=1, lanes_wanted=1)
                self.engines[u].handle_link(state, now=self.now)
        for index in range(len(self.engines)):
            self.work(index)
        self.settle()

    def set_key(self, index: int, key: str, targets: int = 1) -> None:
        began = time.process_time()
        self.engines[index].set_local(key, KeyInfo(key=key, targets=targets) if targets else None, now=self.now)
        self.cpu[index] += time.process_time() - began
        self.work(index)

    def work(self, index: int) -> None:
        engine = self.engines[index]
        began = time.process_time()
        engine.take_actions(self.now)
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
