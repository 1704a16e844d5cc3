"""Two lane machines joined by memory: what one sends, the other receives, in pieces of any size, at a time that the test sets."""

from __future__ import annotations

from collections.abc import Iterator

from vanrouter.baseline.credit import Budget
from vanrouter.baseline.frame import Open
from vanrouter.baseline.handshake import Credits, Hello
from vanrouter.baseline.mux import Mux
from vanrouter.baseline.mux_events import Data, Event, Opened
from vanrouter.baseline.stream import Stream

CREDITS = Credits(control=65_540, opens=16, early=65_536)


def hello(features: int = 0) -> Hello:
    return Hello(identity_key=b"", statement=b"", boot=1, site_name="x", lanes_wanted=1, credits=CREDITS, features=features)


def open_(key: str = "k") -> Open:
    return Open(routing_key=key, source_site=bytes(32), source_boot=1, uuid=bytes(16), credit=0)


class MuxPair:
    def __init__(self, *, budget: int = 64 << 20, features: int = 0) -> None:
        self.now = 0.0
        self.budgets = (Budget(budget), Budget(budget))
        self.dialler, self.acceptor = (
            Mux(dialler=side == 0, hello=b"", check_hello_untrusted=lambda _: hello(features), budget=self.budgets[side], now=self.now)
            for side in (0, 1)
        )
        self.exchange()

    def exchange(self, cuts: Iterator[int] | None = None) -> tuple[list[Event], list[Event]]:
        """Until neither has anything to say. Returns what the dialler and the acceptor learned."""
        learned: tuple[list[Event], list[Event]] = ([], [])
        muxes = (self.dialler, self.acceptor)
        progress = True
        while progress:
            progress = False
            for side in (0, 1):
                wire = b"".join(muxes[side].data_to_send(64 << 10, self.now))
                muxes[side].progressed()
                progress = progress or bool(wire)
                for piece in _cut(wire, cuts):
                    learned[1 - side].extend(muxes[1 - side].receive_untrusted([piece], self.now))
        return learned

    def established(self) -> tuple[Stream, Stream]:
        """A stream that was opened by the dialler and accepted: how each end sees it."""
        mine = self.dialler.open(open_(), None, b"", self.now)
        assert mine is not None
        _, events = self.exchange()
        (theirs,) = [event.stream for event in events if isinstance(event, Opened)]
        self.acceptor.accept(theirs)
        self.exchange()
        return mine, theirs


def received(events: list[Event], stream: Stream) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Data) and event.stream is stream)


def _cut(wire: bytes, cuts: Iterator[int] | None) -> Iterator[bytes]:
    at = 0
    while at < len(wire):
        size = len(wire) if cuts is None else max(1, next(cuts, len(wire)))
        yield wire[at : at + size]
        at += size
