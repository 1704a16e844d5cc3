"""
Streams that leave a lane at the peer's wish and go on on another (``docs/wire-protocol.md`` section 5, Moving a stream). Sans-IO.

This plane has one thread, so it gains nothing by asking: it only answers.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from vanrouter.baseline.books import Books
from vanrouter.baseline.frame import FrameType, encode, encode_class_and_reason
from vanrouter.errors import RemoteProtocolError
from vanrouter.model import StreamClass

if TYPE_CHECKING:
    from vanrouter.baseline.stream import Stream

__all__ = ["FEATURE_MOVE", "MOST_PARKED", "PARKED_FOR", "Moves", "Parking", "decode_move_untrusted"]

FEATURE_MOVE: Final = 1  # of HELLO's features
MOST_PARKED: Final = 1_024
PARKED_FOR: Final = 10.0
MOST_STRAYS: Final = 256

_MOVE: Final = struct.Struct(">QQ")


def decode_move_untrusted(payload: memoryview) -> tuple[int, int]:
    """The move's name (0: no) and the bytes sent in this direction."""
    if len(payload) != _MOVE.size:
        raise RemoteProtocolError(f"MOVE has {len(payload)} bytes; it must have {_MOVE.size}")
    name, total = _MOVE.unpack(payload)
    return name, total


class Moves(Books):
    """What a lane does with a stream that moves."""

    def let_go(self, stream: Stream, name: int) -> None:
        """Answer: from now on nothing of the stream goes on this lane. What is queued stays queued."""
        assert not stream.is_gone
        del self._streams[stream.id]
        self._outbox.release(stream)
        stream.is_away = True
        self._outbox.partings.append(encode(stream.id, FrameType.MOVE, _MOVE.pack(name, stream.sent)))

    def keep(self, stream: Stream) -> None:
        """Answer: the stream stays here."""
        stream.due_no = True
        self._outbox.urgent[stream] = None

    def adopt(self, id_: int, stream: Stream) -> None:
        """A stream that left another lane goes on here."""
        stream.id = id_
        stream.is_away = False
        if stream.is_gone:  # it was reset on its way
            assert stream.due_reset is not None
            self._resetting += 1
            self._outbox.urgent[stream] = None
            return
        self._streams[id_] = stream
        if stream.due_credit or stream.due_return:
            self._outbox.urgent[stream] = None
        if (stream.queued and stream.credit) or stream.fin_wanted:
            self._outbox.schedule(stream)

    def refuse_moved(self, id_: int) -> None:
        """There is no stream of that name."""
        if len(self._outbox.strays) >= MOST_STRAYS:
            raise RemoteProtocolError(f"more than {MOST_STRAYS} moves of streams that nobody knows")
        reason = "this end has given up its move"
        self._outbox.strays.append(encode(id_, FrameType.RESET, encode_class_and_reason(StreamClass.LINK, reason)))


class Parking:
    """Streams of one link that are between two of its lanes, by the name of their move."""

    def __init__(self) -> None:
        self._streams: dict[int, tuple[Stream, object]] = {}
        self._taken_back: dict[int, float] = {}  # moves that were taken back before they were asked for here, until when; oldest first

    def has_room(self, name: int) -> bool:
        return len(self._streams) < MOST_PARKED and name not in self._streams and name not in self._taken_back

    def take_back(self, name: int, now: float) -> None:
        """Nobody of that name was here when it was come for: nobody will come again."""
        for old in [old for old, until in self._taken_back.items() if until <= now]:
            del self._taken_back[old]
        if len(self._taken_back) < MOST_PARKED:
            self._taken_back[name] = now + PARKED_FOR

    def put(self, name: int, stream: Stream, lane: object) -> None:
        self._streams[name] = (stream, lane)

    def take(self, name: int) -> Stream | None:
        stream, _ = self._streams.pop(name, (None, None))
        return stream

    def take_if_same(self, name: int, stream: Stream) -> bool:
        return self._streams.get(name, (None, None))[0] is stream and self.take(name) is stream

    def take_from(self, lane: object, id_: int) -> Stream | None:
        """The stream that was there."""
        for name, (stream, was) in self._streams.items():
            if was is lane and stream.id == id_:
                return self.take(name)
        return None

    def take_all(self) -> list[Stream]:
        streams = [stream for stream, _ in self._streams.values()]
        self._streams.clear()
        return streams
