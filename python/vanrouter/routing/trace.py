"""
Where a stream would go, hop by hop: a trace runs from control plane to control plane as an OPEN would run, and every hop answers.

Refuses to send, to look at a clock, to wait, and to keep much: what a peer asks for is at most `RATE` per second (a burst of `BURST`), at
most `MAX_PER_PEER` under way, each for `KEPT` seconds, one answer per hop. An answer is taken only from where the trace went
to, and goes back only to where it came from. What is too much is dropped: the asker sees where the answers end, which is what it is for.

    trace ──▶ own path ──▶ trace to the next hop          hop ──▶ known, from the right side, the first of its index? ──▶ back
         └──▶ hop, back to where it came from
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from vanrouter.addresses.fragments import Bucket
from vanrouter.plane import LinkState
from vanrouter.routing.engine import Engine
from vanrouter.routing.prices import price_in_force
from vanrouter.routing.trace_wire import MAX_HOPS, Hop, Trace, encode_hop, encode_trace, read_untrusted

__all__ = ["BURST", "KEPT", "MAX_PER_PEER", "RATE", "Run", "SeenHop", "Tracer"]

RATE: Final = 5.0  # traces per second that one neighbour may ask for or pass on
BURST: Final = 20
MAX_PER_PEER: Final = 64  # under way at once
MAX_RUNS: Final = 32  # of our own
KEPT: Final = 5.0  # seconds: as long as anybody waits for an answer


class SeenHop(msgspec.Struct, frozen=True):
    """What a hop said, and when it was here. ``at``: seconds since the trace was sent."""

    hop: Hop
    at: float


class Run:
    """A trace of our own, under way."""

    def __init__(self, destination: str, next_hop: str, began: float) -> None:
        self.destination, self.next_hop, self.began = destination, next_hop, began
        self.hops: dict[int, SeenHop] = {}

    @property
    def path(self) -> list[SeenHop]:
        """The answers without a gap from here on."""
        out: list[SeenHop] = []
        while (seen := self.hops.get(len(out) + 1)) is not None:
            out.append(seen)
        return out

    @property
    def done(self) -> bool:
        """Whether the last hop has answered, and all before it."""
        path = self.path
        return bool(path) and not path[-1].hop.next


class _Passing(msgspec.Struct):
    came_from: str  # "" for our own
    sent_to: str  # "" when it ended here
    index: int
    until: float
    seen: int = 0  # a bit for each index that was answered


class Tracer:
    """``links``: the latest state of every link, kept by whoever drives this. Messages are taken out by `take`."""

    def __init__(self, engine: Engine, site: str, links: Mapping[str, LinkState]) -> None:
        self._engine, self._site, self._links = engine, site, links
        self._passing: dict[bytes, _Passing] = {}  # in the order in which they end
        self._runs: dict[bytes, Run] = {}
        self._buckets: dict[str, Bucket] = {}
        self._out: list[tuple[str, bytes]] = []
        self.dropped = 0

    def start(self, destination: str, key: str, *, id: bytes, now: float) -> Run | None:
        """Send a trace to another router. ``id``: 16 random bytes. None: there is no path, or too many are under way."""
        self._forget(now)
        hops = self._hops(destination, "")
        if not hops or len(self._runs) >= MAX_RUNS:
            return None
        run = self._runs[id] = Run(destination, hops[0], now)
        self._passing[id] = _Passing("", hops[0], 0, now + KEPT)
        left = min(MAX_HOPS - 1, self._engine.hop_limit() - 1)
        self._out.append((hops[0], encode_trace(Trace(id=id, destination=destination, key=key, left=left, index=1))))
        return run

    def handle_message_untrusted(self, peer: str, data: bytes, *, now: float) -> bool:
        """One message of a neighbour. False: it is none of a trace's. Raises RemoteProtocolError and nothing else."""
        message = read_untrusted(data)
        if message is None:
            return False
        self._forget(now)
        if isinstance(message, Trace):
            self._handle_trace(peer, message, now)
        else:
            self._handle_hop(peer, message, now)
        return True

    def take(self) -> list[tuple[str, bytes]]:
        """(router, message) to send now; what the plane does not take is lost, and the asker sees where."""
        out, self._out = self._out, []
        return out

    # ---- inside ------------------------------------------------------------------------------------------------------------------------

    def _handle_trace(self, peer: str, trace: Trace, now: float) -> None:
        bucket = self._buckets.get(peer)
        if bucket is None:
            self._buckets = {router: kept for router, kept in self._buckets.items() if router in self._links}
            bucket = self._buckets[peer] = Bucket(RATE, BURST, now=now)
        if bucket.ready_at(now) > now or sum(p.came_from == peer for p in self._passing.values()) >= MAX_PER_PEER:
            self.dropped += 1
            return
        bucket.take(now)
        destination, following, end, targets = self._decide(peer, trace)
        link = self._links.get(peer)
        hop = Hop(
            id=trace.id,
            index=trace.index,
            router=self._engine.own,
            site=self._site,
            cost=price_in_force(self._engine, peer, link.cost) if link is not None else 0,
            rtt_us=min(1 << 32, int(link.rtt * 1e6)) if link is not None and math.isfinite(link.rtt) else 0,
            suspect=link is not None and link.suspect,
            next=following,
            end=end,
            targets=targets,
        )
        self._out.append((peer, encode_hop(hop)))
        if following:
            onward = Trace(id=trace.id, destination=destination, key=trace.key, left=trace.left - 1, index=trace.index + 1)
            self._passing[trace.id] = _Passing(peer, following, trace.index, now + KEPT)
            self._out.append((following, encode_trace(onward)))

    def _decide(self, peer: str, trace: Trace) -> tuple[str, str, str, int]:
        """(destination from here on, next hop or empty, why it ends here, targets of the key here)."""
        engine = self._engine
        destination = trace.destination
        if trace.id in self._passing:
            return destination, "", "loop", 0
        if destination == engine.own:
            own = engine.own_keys(merged=False).get(trace.key)
            leaf = next((t.router for t in engine.routes().get(trace.key, []) if t.router in {p.router for p in engine.attached()}), "")
            if own is not None and own.targets:
                return destination, "", "arrived", own.targets
            if not leaf or leaf == peer:
                return destination, "", "arrived", 0
            destination = leaf
        if engine.edge:
            return destination, "", "edge", 0
        if trace.left == 0 or trace.index >= MAX_HOPS:
            return destination, "", "hop-limit", 0
        if engine.path(destination) is None:
            return destination, "", "no-path", 0
        hops = self._hops(destination, peer)
        return destination, hops[0] if hops else "", "" if hops else "back", 0

    def _hops(self, destination: str, came_from: str) -> list[str]:
        """Next hops that an OPEN might take now, those first whose link is neither suspect nor draining, then draining ones."""
        path = self._engine.path(destination)
        hops = [hop for hop in path[1] if hop != came_from and hop in self._links] if path is not None else []
        return sorted(hops, key=lambda hop: (self._links[hop].suspect, self._links[hop].draining, hop))

    def _handle_hop(self, peer: str, hop: Hop, now: float) -> None:
        passing = self._passing.get(hop.id)
        if passing is None or passing.sent_to != peer or hop.index <= passing.index or passing.seen >> hop.index & 1:
            self.dropped += 1
            return
        passing.seen |= 1 << hop.index
        if passing.came_from:
            self._out.append((passing.came_from, encode_hop(hop)))
        elif (run := self._runs.get(hop.id)) is not None:
            run.hops[hop.index] = SeenHop(hop, now - run.began)

    def _forget(self, now: float) -> None:
        while self._passing:
            id, first = next(iter(self._passing.items()))
            if first.until > now:
                return
            del self._passing[id]
            self._runs.pop(id, None)
