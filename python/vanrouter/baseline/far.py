"""
A stream as whoever holds one end of it sees it: ``Far`` is the other end, ``Owner`` is told what comes from there.

``LaneFar`` is a stream on a lane, ``LocalFar`` is an owner in this router. Owners (a socket's pump, an embedded stream)
do not know the difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from vanrouter.baseline.books import MAX_EARLY
from vanrouter.baseline.credit import Budget, ReceiveWindow
from vanrouter.model import StreamClass

if TYPE_CHECKING:
    from vanrouter.baseline.lane import Lane
    from vanrouter.baseline.stream import Stream

__all__ = ["Answer", "Answering", "Far", "LaneFar", "LocalFar", "Owner", "Parked", "join_locally"]


class Owner(Protocol):
    """Told what the far end does. Nothing here may wait or raise."""

    def data(self, data: memoryview) -> None:
        """Bytes came. ``flush`` follows soon; ``Far.consumed`` when they are passed on."""

    def flush(self) -> None:
        """No more bytes for now: pass on what came."""

    def finished(self) -> None:
        """The far end's direction ended cleanly."""

    def was_reset(self, stream_class: StreamClass, reason: str) -> None:
        """Both directions are over."""

    def writable(self) -> None:
        """``Far.room`` may have grown, or everything was sent."""


class Far(Protocol):
    """The other end. Nothing here waits."""

    @property
    def is_gone(self) -> bool:
        """Both directions have ended, and nothing is left to be sent."""

    def room(self) -> int:
        """How many bytes may be sent now."""

    def send(self, data: bytes) -> None: ...

    def send_eof(self) -> None: ...

    def reset(self, stream_class: StreamClass, reason: str) -> None: ...

    def consumed(self, size: int) -> None: ...


class Parked:
    """No far end yet, or none between two attempts: what the application says meanwhile is kept, up to one frame."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.is_gone = False

    def room(self) -> int:
        return MAX_EARLY - len(self.data)

    def send(self, data: bytes) -> None:
        self.data += data

    def send_eof(self) -> None:
        self.ended = True

    def reset(self, stream_class: StreamClass, reason: str) -> None: ...

    def consumed(self, size: int) -> None: ...


class LaneFar:
    """A stream of a lane. Everything it is told to do is written by the lane's own task, soon."""

    __slots__ = ("_lane", "_stream", "answer", "ended", "kept", "owner")

    MOST_QUEUED = 256 * 1024  # per stream, ahead of the lane's writer: one batch

    def __init__(self, lane: Lane, stream: Stream, owner: Owner) -> None:
        self._lane = lane
        self._stream = stream
        self.owner = owner
        self.answer: Answering | None = None  # of a stream that we opened, until it is answered
        self.kept: bytearray | None = None  # early data, until the answer, if it may have to be sent elsewhere
        self.ended = False

    @property
    def is_gone(self) -> bool:
        return self._stream.is_gone

    @property
    def has_sent_early(self) -> bool:
        return self._stream.early_sent > 0

    @property
    def is_opened(self) -> bool:
        """Its OPEN was written."""
        return self._stream.open_sent

    def go_on(self, lane: Lane) -> None:
        """The stream is on this lane now."""
        self._lane = lane
        lane.kick()

    @property
    def queued(self) -> int:
        """Bytes that the lane has not written yet."""
        return self._stream.queued

    def room(self) -> int:
        if self._stream.is_gone:
            return 0
        return min(self._lane.mux.room(self._stream), self.MOST_QUEUED - self._stream.queued)

    def send(self, data: bytes | memoryview) -> None:
        if self.kept is not None:
            self.kept += data
        self._lane.mux.send(self._stream, data)
        self._lane.kick()

    def send_eof(self) -> None:
        self.ended = True
        self._lane.mux.send_eof(self._stream)
        self._lane.kick()

    def accept(self) -> None:
        self._lane.mux.accept(self._stream)
        self._lane.kick()

    def refuse(self, stream_class: StreamClass, reason: str) -> None:
        if not self._stream.is_gone:
            self._lane.mux.refuse(self._stream, stream_class, reason)
            self._lane.kick()

    def reset(self, stream_class: StreamClass, reason: str) -> None:
        self._lane.mux.reset(self._stream, stream_class, reason)
        self._lane.kick()
        if self.answer is not None:
            self.answer.refuse(stream_class, reason)

    def consumed(self, size: int) -> None:
        mux = self._lane.mux
        mux.consumed(self._stream, size, trio.current_time())
        if mux.has_data_to_send:
            self._lane.kick()


class Answering(Protocol):
    """Who waits for the answer to an OPEN."""

    def accept(self) -> None: ...

    def refuse(self, stream_class: StreamClass, reason: str, *, lost: bool = False) -> None:
        """OPEN_ERR, or none will come: the stream was reset, or the lane was lost."""

    def waited_too_long(self) -> None:
        """The OPEN was not even sent yet: there is no open credit."""


class Answer:
    """The answer to an OPEN, when it comes."""

    __slots__ = ("_event", "accepted", "reason", "stream_class", "was_lost")

    def __init__(self) -> None:
        self._event = trio.Event()
        self.accepted = False
        self.was_lost = False  # the lane went before the answer came
        self.stream_class = StreamClass.LINK
        self.reason = ""

    def accept(self) -> None:
        self.accepted = True
        self._event.set()

    def refuse(self, stream_class: StreamClass, reason: str, *, lost: bool = False) -> None:
        self.stream_class, self.reason, self.was_lost = stream_class, reason, lost
        self._event.set()

    def waited_too_long(self) -> None:
        """Who waits here waits on."""

    async def wait(self) -> None:
        await self._event.wait()


class LocalFar:
    """An owner in this router, as the other owner sees it."""

    __slots__ = ("_finished", "_twin", "is_gone", "owner", "window")

    def __init__(self, owner: Owner, window: ReceiveWindow) -> None:
        self.owner = owner  # the one at the far end
        self.window = window  # of what goes to that owner
        self._twin: LocalFar | None = None  # how that owner sees us
        self._finished = False
        self.is_gone = False

    @property
    def twin(self) -> LocalFar:
        assert self._twin is not None
        return self._twin

    def pair_with(self, twin: LocalFar) -> None:
        self._twin, twin._twin = twin, self

    def room(self) -> int:
        return self.window.outstanding

    def send(self, data: bytes) -> None:
        if not self.is_gone:
            self.window.received_untrusted(len(data))
            self.owner.data(memoryview(data))
            self.owner.flush()

    def send_eof(self) -> None:
        if not self.is_gone:
            self._finished = True
            self.owner.finished()
            self._end_if_finished()

    def reset(self, stream_class: StreamClass, reason: str) -> None:
        if not self.is_gone:
            self._end()
            self.owner.was_reset(stream_class, reason)

    def consumed(self, size: int) -> None:
        # The owner at our end consumed what came to it, which is charged to the twin's window.
        twin = self.twin
        if twin.is_gone:
            return
        if twin.window.consumed(size, trio.current_time(), 0.0):
            self.owner.writable()
        self._end_if_finished()

    def _end_if_finished(self) -> None:
        twin = self.twin
        if not self.is_gone and self._finished and twin._finished and not self.window.stored and not twin.window.stored:
            self._end()
            self.owner.writable()
            twin.owner.writable()

    def _end(self) -> None:
        for half in (self, self.twin):
            half.is_gone = True
            half.window.close()


def join_locally(near: Owner, far: Owner, budget: Budget) -> tuple[LocalFar, LocalFar] | None:
    """What ``near`` sees and what ``far`` sees. None: their floors do not fit into the budget."""
    if not budget.take_floor():
        return None
    if not budget.take_floor():
        budget.give_floor()
        return None
    now = trio.current_time()
    seen_by_near, seen_by_far = LocalFar(far, ReceiveWindow(budget, now)), LocalFar(near, ReceiveWindow(budget, now))
    seen_by_near.pair_with(seen_by_far)
    return seen_by_near, seen_by_far
