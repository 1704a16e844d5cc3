"""What a lane's state machine tells its driver."""

from __future__ import annotations

import msgspec

from vanrouter.baseline.frame import GoAwayCode, Open
from vanrouter.baseline.handshake import Hello
from vanrouter.baseline.stream import Stream
from vanrouter.model import StreamClass

__all__ = [
    "Accepted",
    "CameOver",
    "Data",
    "Event",
    "Finished",
    "GoneAway",
    "HelloReceived",
    "LateReset",
    "LeaveAsked",
    "MessageReceived",
    "Opened",
    "Refused",
    "WasReset",
    "Writable",
]


class Event(msgspec.Struct, gc=False):
    pass


class HelloReceived(Event, gc=False):
    hello: Hello


class Opened(Event, gc=False):
    """The peer opened a stream. Answer with ``accept`` or ``refuse``; its early data comes as ``Data``."""

    stream: Stream
    open: Open


class Accepted(Event, gc=False):
    stream: Stream


class Refused(Event, gc=False):
    """OPEN_ERR: the target saw nothing."""

    stream: Stream
    stream_class: StreamClass
    reason: str


class Data(Event, gc=False):
    """Stays charged to the budget until ``consumed``."""

    stream: Stream
    data: memoryview


class Finished(Event, gc=False):
    """The peer's direction ended cleanly; all of its data came before."""

    stream: Stream


class WasReset(Event, gc=False):
    stream: Stream
    stream_class: StreamClass
    reason: str


class Writable(Event, gc=False):
    """There is credit again."""

    stream: Stream


class LeaveAsked(Event, gc=False):
    """The peer wants to move the stream to another lane: ``let_go`` or ``keep``."""

    stream: Stream
    name: int


class CameOver(Event, gc=False):
    """A stream that was let go on another lane is on this one now."""

    stream: Stream


class LateReset(Event, gc=False):
    """RESET for a stream that is not here any more. If it left and has not come to its new lane, it is over."""

    id: int
    stream_class: StreamClass
    reason: str


class MessageReceived(Event, gc=False):
    data: bytes


class GoneAway(Event, gc=False):
    code: GoAwayCode
    reason: str
