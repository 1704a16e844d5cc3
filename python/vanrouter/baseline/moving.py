"""Streams between two lanes of a link: who waits, who comes for them, and what happens when nobody does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from vanrouter.baseline.moves import PARKED_FOR
from vanrouter.model import StreamClass

if TYPE_CHECKING:
    from vanrouter.baseline.lane import Lane
    from vanrouter.baseline.plane import BaselinePlane
    from vanrouter.baseline.stream import Stream
    from vanrouter.baseline.trunk import Trunk

__all__ = ["end_parked", "leave_asked"]


def leave_asked(plane: BaselinePlane, trunk: Trunk, lane: Lane, stream: Stream, name: int) -> None:
    """Let it go where it may, else say no."""
    may_go = not stream.early_stored and plane.is_running and trunk.parking.has_room(name)
    if may_go:
        lane.mux.let_go(stream, name)
        trunk.parking.put(name, stream, lane)
        plane.spawn(_give_up, trunk, stream, name)
    else:
        lane.mux.keep(stream)
    lane.kick()


async def _give_up(trunk: Trunk, stream: Stream, name: int) -> None:
    await trio.sleep(PARKED_FOR)
    if trunk.parking.take_if_same(name, stream):
        end_parked(stream, StreamClass.LINK, "the other end did not go on with its move")


def end_parked(stream: Stream, stream_class: StreamClass, reason: str) -> None:
    """It comes to no lane any more. (If its own application has ended it already, nothing is left to do.)"""
    if not stream.is_gone:
        stream.is_gone = True
        stream.window.close()
        stream.queue.clear()
        stream.queued = 0
        stream.owner.owner.was_reset(stream_class, reason)
