"""
What goes next on a lane (``docs/wire-protocol.md`` section 8). Sans-IO.

    urgent:  HELLO, GOAWAY, PONG, PING, CREDIT, answers, returns, resets   pending state, one of each, never a queue
    fresh:   OPEN, and the first frame of a stream that was idle
    control: messages of stream 0, at most an eighth of a batch while streams want to send
    ring:    the others in turn, ``TURN`` bytes each

A FIN goes when its stream's queue is empty, so it never overtakes its own data.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final

from vanrouter.baseline.frame import MAX_PAYLOAD, FrameType, encode, encode_class_and_reason, encode_open, header
from vanrouter.baseline.stream import Stream
from vanrouter.baseline.waiting import Waiting

__all__ = ["LAST_ID", "MOST_OPENS", "Outbox"]

TURN: Final = 4 * MAX_PAYLOAD  # large enough to batch, small enough that 64 bulk streams pass in 4 MiB
LAST_ID: Final = 2**31 - 1024
CONTROL_SHARE: Final = 8
MOST_OPENS: Final = 256  # unanswered on a lane, in each direction, however many are permitted

Chunks = list[bytes | memoryview]


class Outbox:
    def __init__(self, *, first_id: int) -> None:
        self.next_id = first_id
        self.ready = False  # the peer's HELLO came: others than HELLO may go
        self.hello: bytes | None = None
        self.goaway: tuple[int, str] | None = None
        self.ping: bytes | None = None
        self.pong: bytes | None = None

        self.due_control = 0  # credit to give back on stream 0
        self.due_opens = 0
        self.due_early = 0

        self.opens = 0  # what the peer permits us
        self.asked = 0  # OPENs that are sent and have no answer
        self.early = 0
        self.control = 0

        self.urgent: dict[Stream, None] = {}
        self.fresh: deque[Stream] = deque()
        self.ring: deque[Stream] = deque()
        self.waiting = Waiting()  # ours, for open credit
        self.messages: deque[memoryview] = deque()
        self.partings: list[bytes] = []  # answers to moves, which are the last frame of a stream here
        self.strays: list[bytes] = []  # refusals of streams that came and nobody knew: a peer may make up a few only
        self.written_resets: list[Stream] = []  # since the mux last looked
        self.opened: list[Stream] = []  # got their id since then
        self.progressed: list[Stream] = []  # sent bytes or FIN since then

    def schedule(self, stream: Stream) -> None:
        """The stream has something to send, or may now."""
        if not stream.scheduled and not stream.is_gone and not stream.is_away:
            stream.scheduled = True
            self.fresh.append(stream)

    def release(self, stream: Stream) -> None:
        """It goes to another lane with what it has queued."""
        self.urgent.pop(stream, None)
        for queue in (self.fresh, self.ring):
            if stream in queue:
                queue.remove(stream)
        stream.scheduled = stream.due_no = False

    def forget(self, stream: Stream) -> None:
        stream.queue.clear()
        stream.queued = 0
        stream.open = None
        if not stream.open_sent:
            self.waiting.discard(stream)

    @property
    def permits(self) -> int:
        """OPENs that may be sent now."""
        return min(self.opens, MOST_OPENS - self.asked)

    @property
    def is_empty(self) -> bool:
        return not (
            self.hello
            or self.goaway
            or (
                self.ready
                and (
                    self.urgent
                    or self.partings
                    or self.strays
                    or self.fresh
                    or self.ring
                    or (self.waiting and self.permits)
                    or self.ping
                    or self.pong
                    or self.due_control
                    or self.due_opens
                    or self.due_early
                    or (self.messages and self.control)
                )
            )
        )

    def build(self, limit: int, now: float) -> Chunks:
        """The next frames, about ``limit`` bytes of them; nothing when there is nothing to send."""
        out: Chunks = []
        if self.hello is not None:
            out.append(encode(0, FrameType.HELLO, self.hello))
            self.hello = None
        if self.goaway is not None:
            out.append(encode(0, FrameType.GOAWAY, encode_class_and_reason(*self.goaway)))
            self.goaway = None
        if not self.ready:
            return out
        self._build_urgent(out)
        size = 0
        while self.waiting and self.permits and size < limit:
            size += self._turn(self.waiting.popleft(), MAX_PAYLOAD, out, now, waited=True)
        while self.fresh and size < limit:
            stream = self.fresh.popleft()
            size += self._turn(stream, MAX_PAYLOAD, out, now)
        if self.messages and self.control:
            size += self._build_messages(limit // CONTROL_SHARE if self.ring or self.fresh else limit, out)
        while self.ring and size < limit:
            stream = self.ring.popleft()
            size += self._turn(stream, TURN, out, now)
        return out

    def _build_urgent(self, out: Chunks) -> None:
        if self.pong is not None:
            out.append(encode(0, FrameType.PONG, self.pong))
            self.pong = None
        if self.ping is not None:
            out.append(encode(0, FrameType.PING, self.ping))
            self.ping = None
        if self.due_control or self.due_opens or self.due_early:
            out.append(encode(0, FrameType.CREDIT, struct.pack(">III", self.due_control, self.due_opens, self.due_early)))
            self.due_control = self.due_opens = self.due_early = 0
        out += self.partings
        out += self.strays
        self.partings.clear()
        self.strays.clear()
        if self.urgent:
            for stream in self.urgent:
                self._build_stream_control(stream, out)
            self.urgent.clear()

    def _build_stream_control(self, stream: Stream, out: Chunks) -> None:
        if stream.due_answer:
            out.append(encode(stream.id, FrameType.OPEN_OK, stream.window.outstanding.to_bytes(4, "big")))
            stream.due_answer = False
        if stream.due_reset is not None:
            kind, stream_class, reason = stream.due_reset
            out.append(encode(stream.id, kind, encode_class_and_reason(stream_class, reason)))
            self.written_resets.append(stream)
            return
        if stream.due_credit:
            out.append(encode(stream.id, FrameType.CREDIT, stream.due_credit.to_bytes(4, "big")))
            stream.due_credit = 0
        if stream.due_return:
            out.append(encode(stream.id, FrameType.CREDIT_RETURN, stream.due_return.to_bytes(4, "big")))
            stream.due_return = 0
        if stream.due_no:
            out.append(encode(stream.id, FrameType.MOVE, bytes(16)))
            stream.due_no = False

    def _turn(self, stream: Stream, allowance: int, out: Chunks, now: float, *, waited: bool = False) -> int:
        """Let one stream send up to ``allowance`` bytes; afterwards it is in the ring if it could send more."""
        if stream.is_gone:
            stream.scheduled = False
            return 0
        size = 0
        if not stream.open_sent:
            if self.permits == 0 or (self.waiting and not waited):
                stream.scheduled = False
                self.waiting.append(stream)
                return 0
            stream.scheduled = True
            size += self._open(stream, out)
        early = stream.ours and not stream.answered
        kind = FrameType.EARLY if early else FrameType.DATA
        may_send = min(stream.early_left if early else stream.credit, stream.queued, allowance)
        left = may_send
        while left > 0:
            piece = self._take(stream, min(left, MAX_PAYLOAD))
            out.append(header(stream.id, kind, len(piece)))
            out.append(piece)
            left -= len(piece)
        if may_send:
            self._account(stream, may_send, early=early, now=now)
            size += may_send
        if stream.queued == 0 and stream.fin_wanted and not stream.fin_sent:
            out.append(encode(stream.id, FrameType.FIN, stream.sent.to_bytes(8, "big")))
            stream.fin_sent = True
        self.progressed.append(stream)
        if stream.queued and (stream.early_left if early else stream.credit):
            self.ring.append(stream)
        else:
            stream.scheduled = False
        return size

    def _open(self, stream: Stream, out: Chunks) -> int:
        stream.id = self.next_id
        self.next_id += 2
        self.opens -= 1
        self.asked += 1
        stream.open_sent = True
        self.opened.append(stream)
        assert stream.open is not None
        payload, stream.open = encode_open(stream.open), None
        size = min(stream.early_left, MAX_PAYLOAD - len(payload))
        pieces: Chunks = []
        left = size
        while left > 0:
            piece = self._take(stream, left)
            pieces.append(piece)
            left -= len(piece)
        out.append(header(stream.id, FrameType.OPEN, len(payload) + size))
        out.append(payload)
        out += pieces
        self._account(stream, size, early=True, now=stream.last_sent)
        return size

    @staticmethod
    def _take(stream: Stream, size: int) -> memoryview:
        """At most ``size`` bytes from the front of the queue, not copied."""
        piece = stream.queue[0]
        if len(piece) > size:
            stream.queue[0] = piece[size:]
            piece = piece[:size]
        else:
            stream.queue.popleft()
        stream.queued -= len(piece)
        return piece

    @staticmethod
    def _account(stream: Stream, size: int, *, early: bool, now: float) -> None:
        stream.sent += size
        stream.last_sent = now
        if early:
            stream.early_left -= size
            stream.early_sent += size
        else:
            stream.credit -= size

    def _build_messages(self, limit: int, out: Chunks) -> int:
        size = 0
        while self.messages and self.control and size < limit:
            piece = self.messages[0]
            take = min(len(piece), MAX_PAYLOAD, self.control)
            out.append(header(0, FrameType.DATA, take))
            out.append(piece[:take])
            if take == len(piece):
                self.messages.popleft()
            else:
                self.messages[0] = piece[take:]
            self.control -= take
            size += take
        return size
