"""
The state machine of one lane (``docs/wire-protocol.md`` sections 3 to 9): bytes and the time in, events and bytes out.

Sans-IO: it opens no socket, starts no task and reads no clock. A driver (``lane.py``)

* feeds what arrives to ``receive_untrusted`` and acts on the events;
* says what applications did: ``open``, ``accept``, ``refuse``, ``send``, ``send_eof``, ``reset``, ``consumed``;
* takes what is to be written from ``data_to_send`` until there is nothing;
* calls ``tick`` now and then, and closes the lane when ``health`` says dead or ``receive_untrusted`` raises.

Invariants:

* Everything that the peer may send was reserved in the budget before it was granted; so reading never has to stop.
* What the peer can provoke is a field of a stream or of the lane, never a queue.
* ``RemoteProtocolError`` is the peer's fault and ends the lane; any other exception is a bug here.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from vanrouter.baseline.books import MAX_EARLY, MAX_MESSAGE
from vanrouter.baseline.credit import FLOOR, ReceiveWindow
from vanrouter.baseline.frame import FrameType, GoAwayCode, Open
from vanrouter.baseline.inbound import Inbound
from vanrouter.baseline.liveness import Health, Others
from vanrouter.baseline.outbox import LAST_ID, MOST_OPENS, Chunks
from vanrouter.baseline.stream import Stream
from vanrouter.model import StreamClass

__all__ = ["Mux"]

IDLE_RETURN_AFTER: Final = 5.0
SWEEP_EVERY: Final = 1.0
OPEN_PATIENCE: Final = 3.0


class Mux(Inbound):
    # ---- Looking at it ------------------------------------------------------------------------------------------------

    @property
    def streams(self) -> list[Stream]:
        """Every stream that still has an owner."""
        return [*self._streams.values(), *self._unopened]

    @property
    def stream_count(self) -> int:
        """Against the cap: also those whose RESET is not written yet."""
        return len(self._streams) + len(self._unopened) + self._resetting

    @property
    def health(self) -> Health:
        return self._liveness.health

    @property
    def is_silent(self) -> bool:
        return self._liveness.is_silent

    @property
    def round_trip(self) -> float:
        return self._liveness.round_trip

    @property
    def may_open(self) -> bool:
        return self._outbox.next_id < LAST_ID

    @property
    def has_open_credit(self) -> bool:
        return self._outbox.permits > len(self._unopened)

    def is_crowded(self, origin: str) -> bool:
        """Whether as many OPENs of a neighbour wait here as one lane of its may leave unanswered."""
        return sum(stream.origin == origin for stream in self._unopened) >= MOST_OPENS

    def overdue(self, now: float) -> list[Stream]:
        """Ours that have waited too long for open credit."""
        return [stream for stream in self._outbox.waiting if now - stream.last_sent > OPEN_PATIENCE]

    @property
    def has_data_to_send(self) -> bool:
        return not self._outbox.is_empty

    @property
    def queued_messages(self) -> int:
        return len(self._outbox.messages)

    # ---- What applications do ------------------------------------------------------------------------------------------

    def open(self, open_: Open, owner: Any, early: bytes, now: float, *, origin: str = "") -> Stream | None:
        """
        Open a stream. ``early`` is sent with it as far as the early credit permits, else after the answer.

        None: not even the floor fits into the budget (class resource). ``open_.credit`` is filled in here. Those that wait for open
        credit get it in turn by their ``origin``.
        """
        if not self._budget.take_floor():
            return None
        window = ReceiveWindow(self._budget, now)
        open_ = msgspec.structs.replace(open_, credit=window.outstanding)
        stream = Stream(0, open_, window, ours=True, credit=0, owner=owner, now=now, origin=origin)
        self._unopened[stream] = None
        self._unanswered += 1
        if early:
            self.send(stream, early)
        self._outbox.schedule(stream)
        return stream

    def accept(self, stream: Stream) -> None:
        """Answer OPEN_OK."""
        assert not stream.ours
        assert not stream.answered
        if stream.is_gone:
            return
        stream.answered = stream.due_answer = True
        self._outbox.urgent[stream] = None
        self._give_back_open()

    def refuse(self, stream: Stream, stream_class: StreamClass, reason: str) -> None:
        """Answer OPEN_ERR: the target saw nothing."""
        assert not stream.ours
        assert not stream.answered
        self.reset(stream, stream_class, reason, kind=FrameType.OPEN_ERR)

    def room(self, stream: Stream) -> int:
        """How many bytes the stream may take now. Before the answer it is early data."""
        if stream.answered:
            return stream.credit - stream.queued
        if not stream.ours or stream.queued > stream.early_left:
            return 0
        return min(MAX_EARLY - stream.early_sent - stream.early_left, self._outbox.early)

    def send(self, stream: Stream, data: bytes | memoryview) -> None:
        """Queue bytes. Callers keep to ``room``, but for early data of an earlier attempt."""
        assert not stream.fin_wanted
        if stream.is_gone:
            return
        if self.is_unanswered(stream):
            early = max(0, min(len(data), self.room(stream)))
            stream.early_left += early
            self._outbox.early -= early
        stream.queue.append(memoryview(data))
        stream.queued += len(data)
        if stream.open_sent and (stream.credit if stream.answered else stream.early_left):
            self._outbox.schedule(stream)

    def send_eof(self, stream: Stream) -> None:
        """End our direction cleanly, after what is queued."""
        if not stream.fin_wanted and not stream.is_gone:
            stream.fin_wanted = True
            if stream.queued == 0 or not stream.open_sent:
                self._outbox.schedule(stream)

    def consumed(self, stream: Stream, size: int, now: float) -> None:
        """The owner has passed on ``size`` bytes of what came as ``Data``."""
        if stream.is_gone:
            return
        early = min(size, stream.early_stored)
        if early:
            stream.early_stored -= early
            self._give_back_early(early)
        if size > early:
            grant = stream.window.consumed(size - early, now, self._liveness.round_trip)
            if grant and not stream.fin_received:
                stream.due_credit += grant
                if not stream.is_away:
                    self._outbox.urgent[stream] = None
        if stream.is_finished:
            self._forget(stream)

    def send_message(self, data: bytes) -> None:
        """A control message, on stream 0."""
        assert len(data) <= MAX_MESSAGE
        self._outbox.messages.append(memoryview(len(data).to_bytes(4, "big") + data))

    def message_taken(self, size: int) -> None:
        """The control plane has taken a message of ``size`` bytes: the peer may send as many again."""
        self._their_control += size + 4
        self._outbox.due_control += size + 4

    def go_away(self, code: GoAwayCode, reason: str) -> None:
        self._outbox.goaway = (code, reason)

    # ---- What the network does -------------------------------------------------------------------------------------------

    def tick(self, now: float, *, kernel_holds: bool, others: Others = Others.WELL) -> None:
        """Liveness, idle credit and glitches. ``kernel_holds``: written bytes that the peer has not acknowledged."""
        if not self._hello_received:
            return
        if self._liveness.tick(now, outstanding=kernel_holds or self._unanswered > 0, others=others):
            self._outbox.ping = self._liveness.ping(now)
        if self._slow_opens:
            self._their_opens += self._slow_opens
            self._outbox.due_opens += self._slow_opens
            self._slow_opens = 0
        if now - self._swept >= SWEEP_EVERY:
            self._swept = now
            self._return_idle_credit(now)

    def data_to_send(self, limit: int, now: float) -> Chunks:
        """The next frames, in order, about ``limit`` bytes; empty: nothing to send."""
        outbox = self._outbox
        out = outbox.build(limit, now)
        if outbox.opened:
            for stream in outbox.opened:
                del self._unopened[stream]
                self._streams[stream.id] = stream
            outbox.opened.clear()
        if outbox.written_resets:
            self._resetting -= len(outbox.written_resets)
            outbox.written_resets.clear()
        for chunk in out:
            self.bytes_sent += len(chunk)
        return out

    def progressed(self) -> list[Stream]:
        """The streams that sent something since the last call: their owners may queue more, or have ended."""
        streams = self._outbox.progressed
        self._outbox.progressed = []
        for stream in streams:
            if stream.is_finished and not stream.is_gone:
                self._forget(stream)
        return streams

    def close(self) -> list[Stream]:
        """The lane is over. Gives back everything; returns the streams whose owners have to hear about it."""
        lost = self.streams
        for stream in lost:
            self._forget(stream)
        self._budget.give(self._reserved)
        self._reserved = 0
        return lost

    def _return_idle_credit(self, now: float) -> None:
        for stream in self._streams.values():
            above = stream.credit - stream.queued - FLOOR
            if above > 0 and stream.answered and not stream.fin_wanted and now - stream.last_sent >= IDLE_RETURN_AFTER:
                stream.credit -= above
                stream.due_return += above
                self._outbox.urgent[stream] = None
