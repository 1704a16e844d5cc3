"""
Streams that cross this router: what comes over one lane goes out on another (``docs/wire-protocol.md`` section 5, Transit).

    opener ══lane══▶ [near] ──bytes, end, reset──▶ [onward] ══lane══▶ next hop
           ◀════════        ◀──answer, the same──           ◀════════

There is no task: everything happens when one of the two lanes calls. What came over a hop stays charged to that hop's credit until
the other lane has written it, so neither hop can make this router store more than it granted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from vanrouter.baseline.far import LaneFar
from vanrouter.baseline.frame import Open
from vanrouter.baseline.lane import Lane
from vanrouter.model import StreamClass

if TYPE_CHECKING:
    from vanrouter.baseline.plane import BaselinePlane
    from vanrouter.plane import Counters

__all__ = ["forward"]

SMALL: Final = 4_096  # a smaller piece is copied and sent with others: it would hold its whole TLS record


def forward(plane: BaselinePlane, lane: Lane, near: LaneFar, open_: Open) -> tuple[StreamClass, str] | None:
    """Open the stream again toward its destination. None: that is under way; otherwise why it cannot be."""
    if plane.config.edge:
        return StreamClass.LINK, "this router is an edge and carries nothing for others"
    if open_.hop_limit == 0:
        return StreamClass.LINK, "the hop limit is used up: do the routers on the way disagree about it?"
    destination = str(open_.destination)
    trunk = plane.targets.next_hop(destination, {(destination, str(lane.router))})
    onward_lane = trunk.best_lane() if trunk is not None else None
    if trunk is None or onward_lane is None:
        return StreamClass.LINK, f"router {plane.router} has no way to {destination}"
    if trunk.stream_count >= plane.config.max_streams_per_link:
        return StreamClass.RESOURCE, f"more than {plane.config.max_streams_per_link} streams on the link with {trunk.text}"
    origin = str(lane.router)
    if onward_lane.mux.is_crowded(origin):
        return StreamClass.RESOURCE, "too many OPENs of this neighbour wait for the next router"
    sides = _Side(), _Side()
    onward = onward_lane.open(msgspec.structs.replace(open_, hop_limit=open_.hop_limit - 1), sides[1], b"", origin=origin)
    if onward is None:
        return StreamClass.RESOURCE, "the router's memory budget is used up"
    plane.targets.began_over(trunk)
    near.owner = sides[0]
    onward.answer = Crossing(plane.totals.counters, sides[0], sides[1], near, onward)
    return None


class Crossing:
    """One such stream. It is also who waits for the answer of the next hop."""

    def __init__(self, counters: Counters, near_side: _Side, onward_side: _Side, near: LaneFar, onward: LaneFar) -> None:
        self._counters = counters
        self._near, self._onward = near, onward
        self.is_over = False
        self._is_counted = False
        near_side.join(self, near, onward)
        onward_side.join(self, onward, near)
        near_side.other, onward_side.other = onward_side, near_side
        counters.transit_open += 1

    def went_on(self) -> None:
        """Something was written to the next hop; first of all its OPEN."""
        if self._onward.is_opened and not self._is_counted:
            self._is_counted = True
            self._counters.transit_total += 1

    def accept(self) -> None:
        self._near.accept()

    def refuse(self, stream_class: StreamClass, reason: str, *, lost: bool = False) -> None:
        """The answer is no, or will not come. Only if nothing was said to the lost hop may the opener try another way."""
        if self.is_over:
            return
        self._end()
        self._onward.answer = None
        self._onward.reset(stream_class, reason)
        if lost and self._onward.has_sent_early:
            self._near.reset(stream_class, reason)
        else:
            self._near.refuse(stream_class, reason)

    def waited_too_long(self) -> None:
        """It holds open credit of the lane before: in a ring of busy lanes, each could wait for the next one for ever."""
        self.refuse(StreamClass.RESOURCE, "the next link permits no more streams to be opened")

    def was_reset(self, other_end: LaneFar, stream_class: StreamClass, reason: str) -> None:
        if not self.is_over:
            self._end()
            self._onward.answer = None
            other_end.reset(stream_class, reason)

    def end_if_finished(self) -> None:
        if not self.is_over and self._near.is_gone and self._onward.is_gone:
            self._end()

    def _end(self) -> None:
        self.went_on()
        self.is_over = True
        self._counters.transit_open -= 1


class _Side:
    """The ``Owner`` of one hop's stream: passes on what comes over it."""

    __slots__ = ("_crossing", "_ended", "_from", "_going_out", "_stored", "_to", "other")

    other: _Side

    def join(self, crossing: Crossing, from_: LaneFar, to: LaneFar) -> None:
        self._crossing = crossing
        self._from, self._to = from_, to
        self._stored = bytearray()  # there was no room for it yet: at most the window of the hop that it came over
        self._going_out = 0  # bytes in the queue of the other lane
        self._ended = False

    # ---- Owner -------------------------------------------------------------------------------------------------------------------

    def data(self, data: memoryview) -> None:
        if self._stored or len(data) < SMALL or self._to.room() < len(data):
            self._stored += data
        else:
            self._send(data)

    def flush(self) -> None:
        to, stored = self._to, self._stored
        while stored and (len(stored) >= SMALL or not to.queued) and (room := to.room()) > 0:
            with memoryview(stored) as view:
                piece = bytes(view[:room])
            del stored[: len(piece)]
            self._send(piece)
        if self._ended and not stored:
            to.send_eof()
        self._crossing.end_if_finished()

    def finished(self) -> None:
        self._ended = True
        self.flush()

    def was_reset(self, stream_class: StreamClass, reason: str) -> None:
        self._crossing.was_reset(self._to, stream_class, reason)

    def writable(self) -> None:
        self.other.went_out()

    # ---- To the other lane -------------------------------------------------------------------------------------------------------

    def _send(self, data: bytes | memoryview) -> None:
        self._going_out += len(data)
        self._to.send(data)

    def went_out(self) -> None:
        """The other lane has written some of it, or may write more."""
        self._crossing.went_on()
        written = self._going_out - self._to.queued
        if written:
            self._going_out -= written
            self._from.consumed(written)
        self.flush()
