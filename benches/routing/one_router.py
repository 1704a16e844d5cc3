"""
One real engine in a large network: what a change costs *it*, and how much memory it needs to know all of the network.

All other routers are only their signed records, which arrive over each of its links, as flooding brings them: the first copy is verified
and taken, the others are recognised.
"""

from __future__ import annotations

import random
import statistics
import time
import tracemalloc

from benches.routing.network import admissions, leaf, make_engine, random_links, sign, site
from vanrouter.messages import Fragment, KeyInfo, Neighbour, encode_signed
from vanrouter.model import RouterId
from vanrouter.plane import LinkState
from vanrouter.routing import Limits
from vanrouter.routing.wire import encode_relayed

__all__ = ["OneRouter"]


class OneRouter:
    def __init__(self, interiors: int, edges: int, *, degree: int = 6, seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.now, self.size, self.edges = 10.0, interiors, edges
        self.links = random_links(self.rng, interiors, degree)
        self.routers = [str(RouterId(site(index), 1)) for index in range(interiors)]
        self.near: list[set[int]] = [set() for _ in range(interiors)]
        for a, b in self.links:
            self.near[a].add(b)
            self.near[b].add(a)
        self.extra: dict[int, int] = dict.fromkeys(range(interiors), 0)
        self.sequence = [1] * interiors
        # The engine is router 0, which admitted everybody.
        self.engine = make_engine(0, Limits(sites_per_admitter=interiors), self.now)

    def bring_up(self) -> tuple[float, int, int]:
        """All links, then everybody's records. (CPU seconds, bytes of memory, bytes of records)"""
        wires = [wire for index in range(1, self.size) for wire in (self.record(index), self.leaves(index))]
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for peer in sorted(self.near[0]):
            self.engine.handle_link(LinkState(router=self.routers[peer], site_name="", lanes=1, lanes_wanted=1), now=self.now)
        for start in range(0, len(wires), 64):  # as many as a plane hands over at once
            self.feed(wires[start : start + 64])
        memory = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        other = OneRouter(self.size, self.edges)
        for peer in sorted(other.near[0]):
            other.engine.handle_link(LinkState(router=other.routers[peer], site_name="", lanes=1, lanes_wanted=1), now=other.now)
        cpu = sum(other.feed(wires[start : start + 64]) for start in range(0, len(wires), 64))
        assert len(self.engine.routes()) >= (self.size - 1) * self.edges
        return cpu, memory, self.engine.database.size()[1]

    def record(self, index: int) -> bytes:
        keys = [KeyInfo(key=f"edge-{index}-{edge}", targets=1) for edge in range(self.edges + self.extra[index])]
        content = Fragment(
            origin=self.routers[index],
            number=0,
            sequence=self.sequence[index],
            keys=keys,
            neighbours=[Neighbour(router=self.routers[peer]) for peer in sorted(self.near[index])],
        )
        return self._sealed(index, content)

    def leaves(self, index: int) -> bytes:
        """Its edges, for people: a fragment that changes with them only."""
        edges = [leaf(index, edge) for edge in range(self.edges)]
        return self._sealed(index, Fragment(origin=self.routers[index], number=1, sequence=1, edges=edges))

    def _sealed(self, index: int, content: Fragment) -> bytes:
        name = b"%d" % index
        return encode_signed(content, identity=name, sign=sign(name), admissions=admissions(index))

    def feed(self, wires: list[bytes]) -> float:
        """Every record once over each link, and what follows from it. Seconds of CPU."""
        messages = [encode_relayed(wire, 0) for wire in wires]
        copies = [(peer, bytes(bytearray(message))) for message in messages for peer in self.engine.peers()]
        began = time.process_time()
        for peer, message in copies:
            self.engine.handle_message_untrusted(peer, message, now=self.now)
        self.engine.take_actions(self.now)
        for peer in self.engine.peers():
            while (send := self.engine.next_message(peer, self.now)) is not None:
                self.engine.sent(send)
        return time.process_time() - began

    def change(self, *indices: int) -> float:
        for index in indices:
            self.sequence[index] += 1
        self.now += 5.0
        return self.feed([self.record(index) for index in indices])

    def one_address(self) -> float:
        index = self.rng.randrange(1, self.size)
        self.extra[index] += 1
        return self.change(index)

    def one_link(self) -> tuple[float, float]:
        """Lost, and found again."""
        a, b = self.rng.choice([pair for pair in sorted(self.links) if 0 not in pair])
        self.near[a].discard(b)
        self.near[b].discard(a)
        lost = self.change(a, b)
        self.near[a].add(b)
        self.near[b].add(a)
        return lost, self.change(a, b)

    def median_ms(self, rounds: int) -> dict[str, tuple[float, float, float, float]]:
        """change -> (median, least and most ms, routers looked at by the median one)"""
        figures: dict[str, list[tuple[float, float]]] = {}
        for _ in range(rounds):
            for what in ("one address more", "one link lost and found"):
                before = self.engine.paths.visited
                spent = self.one_address() if what == "one address more" else sum(self.one_link()) / 2
                figures.setdefault(what, []).append((spent * 1000, self.engine.paths.visited - before))
        return {
            what: (
                statistics.median(ms for ms, _ in found),
                min(ms for ms, _ in found),
                max(ms for ms, _ in found),
                statistics.median(looked_at for _, looked_at in found),
            )
            for what, found in figures.items()
        }
