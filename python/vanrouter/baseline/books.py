"""
The books of one lane: its streams, what each end may still send, and what is reserved for it. Sans-IO.

``inbound.py`` adds what the network may do with them, ``mux.py`` what applications may do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vanrouter.baseline.credit import Budget
from vanrouter.baseline.frame import FrameDecoder, FrameType, GoAwayCode
from vanrouter.baseline.handshake import Credits, Hello
from vanrouter.baseline.liveness import Liveness
from vanrouter.baseline.outbox import MOST_OPENS, Outbox
from vanrouter.baseline.stream import Stream
from vanrouter.errors import RemoteProtocolError
from vanrouter.model import StreamClass

__all__ = ["MAX_EARLY", "MAX_MESSAGE", "OUR_CREDITS", "Books"]

MAX_EARLY: Final = 16_376
MAX_MESSAGE: Final = 65_536
OUR_CREDITS: Final = Credits(control=65_540, opens=16, early=65_536)
EARLY_PER_OPEN: Final = 4_096
GLITCHES: Final = 10_000
GLITCH_SPAN: Final = 10.0


class Books:
    def __init__(
        self,
        *,
        dialler: bool,
        hello: bytes,
        check_hello_untrusted: Callable[[memoryview], Hello],
        budget: Budget,
        suspect_after: float = 1.0,
        dead_after: float = 6.0,
        now: float,
    ) -> None:
        self._budget = budget
        self._decoder = FrameDecoder()
        self._check_hello_untrusted = check_hello_untrusted
        self._hello_received = False
        self._moves = False  # the peer knows MOVE
        self.take_parked: Callable[[int], Stream | None] = lambda _name: None  # by the name of its move
        self._liveness = Liveness(suspect_after=suspect_after, dead_after=dead_after, now=now)
        self._outbox = Outbox(first_id=1 if dialler else 2)
        self._outbox.hello = hello
        self._their_parity = 0 if dialler else 1
        self._highest_of_theirs = 0
        self._streams: dict[int, Stream] = {}  # live, by id
        self._unopened: dict[Stream, None] = {}  # ours, OPEN not written yet
        self._resetting = 0  # their RESET is not written yet
        self._unanswered = 0  # ours

        # What the peer may still send: opens, early bytes, control bytes. All of it is reserved.
        self._their_opens = OUR_CREDITS.opens
        self._their_early = OUR_CREDITS.early
        self._their_control = OUR_CREDITS.control
        self._granted_opens = OUR_CREDITS.opens
        self._reserved = OUR_CREDITS.early + OUR_CREDITS.control
        self._slow_opens = 0  # of streams that were opened and reset at once: given back at the next tick
        budget.take_regardless(self._reserved)

        self._last_goaway: GoAwayCode | None = None
        self._message = bytearray()
        self._glitches = 0
        self._glitch_span_began = now
        self._swept = now
        self.bytes_sent = 0
        self.bytes_received = 0

    @staticmethod
    def is_unanswered(stream: Stream) -> bool:
        return stream.ours and not stream.answered

    def reset(self, stream: Stream, stream_class: StreamClass, reason: str, *, kind: FrameType = FrameType.RESET) -> None:
        """Abandon both directions. Nothing that was queued goes out any more. ``kind``: OPEN_ERR says that the target saw nothing."""
        if stream.is_gone:
            return
        if not stream.ours and not stream.answered:
            self._give_back_open()
        self._forget(stream)
        if stream.open_sent or not stream.ours:
            stream.due_reset = (kind, stream_class, reason)
            if not stream.is_away:  # else it is said where it comes to
                self._resetting += 1
                self._outbox.urgent[stream] = None

    def _forget(self, stream: Stream) -> None:
        """Take it out of the books and give back what was reserved for it. Early credit goes back to whom it belongs."""
        if self.is_unanswered(stream):
            self._unanswered -= 1
            self._outbox.asked -= stream.open_sent
            self._outbox.early += stream.early_left
        stream.is_gone = True
        stream.window.close()
        if stream.early_stored:
            self._give_back_early(stream.early_stored)
            stream.early_stored = 0
        self._outbox.forget(stream)
        if stream.open_sent or not stream.ours:
            self._streams.pop(stream.id, None)
        else:
            self._unopened.pop(stream, None)

    def _take_early_untrusted(self, size: int) -> None:
        if size > self._their_early:
            raise RemoteProtocolError(f"{size} bytes of early data, but only {self._their_early} of early credit are left")
        self._their_early -= size

    def _give_back_early(self, size: int) -> None:
        self._their_early += size
        self._outbox.due_early += size

    def _give_back_open(self) -> None:
        more = 1
        if self._granted_opens < MOST_OPENS and not self._budget.is_tight and self._budget.take(EARLY_PER_OPEN):
            more = 2  # who opens much may open more at once
            self._granted_opens += 1
            self._reserved += EARLY_PER_OPEN
            self._give_back_early(EARLY_PER_OPEN)
        self._their_opens += more
        self._outbox.due_opens += more

    def _glitch(self, now: float) -> None:
        if now - self._glitch_span_began > GLITCH_SPAN:
            self._glitch_span_began, self._glitches = now, 0
        self._glitches += 1
        if self._glitches > GLITCHES:
            raise RemoteProtocolError(f"more than {GLITCHES} useless frames in {GLITCH_SPAN:.0f} s")
