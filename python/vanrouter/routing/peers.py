"""
What is due to each neighbour, and how much we take from it: latest state and budgets, never a queue.

Refuses to read messages or to know the database. A slot is one fragment; a newer one takes its place. What arrives faster than the rates
of `vanrouter.addresses.fragments` allow waits in a slot of its own, unread and unverified, where a newer one replaces it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import Final

import msgspec

from vanrouter.addresses.fragments import BURST, FRAGMENT_RATE, ORIGIN_RATE, Bucket
from vanrouter.routing.adjacency import Adjacency
from vanrouter.routing.wire import FIRST, Head, Summary

__all__ = ["MAX_HELD", "Held", "Pace", "Peer", "Slot"]

VERIFY_RATE: Final = 1_000.0  # signatures per second and link: about a tenth of a core
VERIFY_BURST: Final = 8_192  # a large database in one go
EXCHANGE_RATE: Final = 2.0  # parts of summaries answered, per second
EXCHANGE_BURST: Final = 64
FLOOD: Final = 20  # versions of one fragment that came while one waits for its turn, a second at most
MAX_HELD: Final = 1_024  # slots of one link for what comes too fast
MAX_DEFERRED: Final = 64
RETRY_FIRST: Final = 1.0
RETRY_MOST: Final = 256.0

Slot = tuple[str, int]  # origin, number


class Held(msgspec.Struct):
    """Came too fast; nobody has looked at its signature."""

    wire: bytes
    age: float
    at: float
    sequence: int
    replaced: int = 0  # how many older ones it took the place of


class Peer:
    """One neighbour. ``edge``: a leaf whose addresses are advertised by us."""

    def __init__(self, router: str, *, edge: bool, now: float) -> None:
        self.router, self.edge = router, edge
        self.site = router.partition("/")[0]
        self.name = ""  # of its site
        self.adjacency = Adjacency(router)
        self.due: dict[Slot, int] = {}
        self.summary_from: bytes | None = None  # what remains to be said of what we have
        self.summary_version = 0
        self.deferred: dict[bytes, Summary] = {}
        self.exchange = Bucket(EXCHANGE_RATE, EXCHANGE_BURST, now=now)
        self.verify = Bucket(VERIFY_RATE, VERIFY_BURST, now=now)
        self.held: dict[Slot, Held] = {}
        self.ask_at = math.inf  # when to say again what we have, since something was not taken
        self._retry = RETRY_FIRST

    def everything(self) -> None:
        """Messages may have been lost: say what we have, from the start. What it lacks follows from what it says."""
        self.due.clear()
        self.summary_from = FIRST
        self.summary_version += 1

    def defer(self, summary: Summary) -> None:
        if len(self.deferred) < MAX_DEFERRED or summary.first in self.deferred:
            self.deferred[summary.first] = summary

    def missed(self, now: float) -> None:
        """Something was not taken that might be later: ask again, ever more rarely."""
        if self.ask_at == math.inf:
            self.ask_at = now + self._retry
            self._retry = min(RETRY_MOST, self._retry * 2)

    def hurry(self, now: float) -> None:
        """A site joined: what was refused may now be taken."""
        if self.ask_at < math.inf:
            self.ask_at, self._retry = min(self.ask_at, now + 0.1), RETRY_FIRST

    @property
    def asked_in_vain(self) -> bool:
        """Whether asking several times has not helped."""
        return self._retry >= RETRY_FIRST * 16

    @property
    def deadline(self) -> float:
        at = self.exchange._at
        return min(self.ask_at, self.exchange.ready_at(at) if self.deferred else math.inf)


class Pace:
    """How often a fragment and an origin may change, as seen here; and what waits for its turn."""

    def __init__(self) -> None:
        self._fragments: dict[str, dict[int, Bucket]] = {}
        self._origins: dict[str, Bucket] = {}
        self._waiting: list[tuple[float, str, Slot]] = []

    def ready_at(self, peer: Peer, head: Head, known: bool, now: float) -> float:
        """When this record may be looked at; not after ``now``: now."""
        at = peer.verify.ready_at(now)
        if known:
            for bucket in self._buckets(head, now):
                at = max(at, bucket.ready_at(now))
        return at

    def take(self, peer: Peer, head: Head, known: bool, now: float) -> None:
        peer.verify.take(now)
        if known:
            for bucket in self._buckets(head, now):
                bucket.take(now)

    def hold(self, peer: Peer, head: Head, held: Held, at: float) -> bool:
        """Let it wait. False: there are too many."""
        slot = (head.origin, head.number)
        before = peer.held.get(slot)
        if before is None:
            if len(peer.held) >= MAX_HELD:
                return False
            heapq.heappush(self._waiting, (at, peer.router, slot))
        if before is None or held.sequence > before.sequence:
            held.replaced = before.replaced + 1 if before is not None else 0
            peer.held[slot] = held
        return True

    def is_flood(self, peer: Peer, head: Head) -> bool:
        """Whether so many newer versions have come within one wait that no router which keeps to the rates can have sent them."""
        held = peer.held.get((head.origin, head.number))
        return held is not None and held.replaced >= FLOOD

    @property
    def deadline(self) -> float:
        return self._waiting[0][0] if self._waiting else math.inf

    def due(self, now: float) -> Iterator[tuple[str, Slot]]:
        """(peer, slot) whose turn it is."""
        ready = []
        while self._waiting and self._waiting[0][0] <= now:
            ready.append(heapq.heappop(self._waiting))
        for _, router, slot in ready:
            yield router, slot

    def forget(self, origin: str) -> None:
        self._fragments.pop(origin, None)
        self._origins.pop(origin, None)

    def _buckets(self, head: Head, now: float) -> tuple[Bucket, Bucket]:
        origin = self._origins.get(head.origin)
        if origin is None:
            origin = self._origins[head.origin] = Bucket(ORIGIN_RATE, BURST, now=now)
        fragments = self._fragments.setdefault(head.origin, {})
        fragment = fragments.get(head.number)
        if fragment is None:
            fragment = fragments[head.number] = Bucket(FRAGMENT_RATE, BURST, now=now)
        return fragment, origin
