"""What is counted: one ``StreamRecord`` per stream that passes this router, and the totals that ``Counters`` reports."""

from __future__ import annotations

import time
from collections.abc import Callable

from vanrouter.model import StreamClass
from vanrouter.plane import Counters, StreamEnd

__all__ = ["StreamRecord", "Totals"]


class Totals:
    """Entries keep their numbers while they exist; who drops an entry drops its numbers."""

    def __init__(self) -> None:
        self.counters = Counters(by_listener={}, by_connector={}, by_link={})

    def of_listener(self, name: str) -> list[int]:
        return self.counters.by_listener.setdefault(name, [0, 0, 0, 0])

    def of_connector(self, name: str) -> list[int]:
        return self.counters.by_connector.setdefault(name, [0, 0, 0, 0])

    def of_link(self, router: str) -> list[int]:
        return self.counters.by_link.setdefault(router, [0, 0, 0])


class StreamRecord:
    """From the accept (or the OPEN) to the end of one stream."""

    __slots__ = (
        "_began",
        "_emit",
        "_totals",
        "_when_over",
        "bytes_in",
        "bytes_out",
        "connector",
        "is_open",
        "key",
        "listener",
        "router",
        "uuid",
    )

    def __init__(self, totals: Totals, emit: Callable[[StreamEnd], None], *, uuid: bytes, key: str, listener: str = "") -> None:
        self._totals = totals
        self._emit = emit
        self._began = time.monotonic()
        self.uuid = uuid
        self.key = key
        self.listener = listener
        self.connector = ""
        self.router = ""
        self.bytes_in = 0
        self.bytes_out = 0
        self.is_open = True
        self._when_over: list[Callable[[], None]] = []
        totals.counters.streams_open += 1
        totals.counters.streams_total += 1
        if listener:
            row = totals.of_listener(listener)
            row[0] += 1
            row[1] += 1

    def reached(self, *, connector: str = "", router: str = "") -> None:
        """The stream has found its target, or where it came from."""
        self.router = router
        if connector and self.is_open:
            self.connector = connector
            row = self._totals.of_connector(connector)
            row[0] += 1
            row[1] += 1

    def when_over(self, done: Callable[[], None]) -> None:
        if self.is_open:
            self._when_over.append(done)
        else:
            done()

    def end(self, stream_class: StreamClass | None, reason: str = "") -> None:
        """``None``: both directions ended cleanly. Only the first call counts."""
        if not self.is_open:
            return
        self.is_open = False
        counters = self._totals.counters
        counters.streams_open -= 1
        if stream_class is StreamClass.REFUSED:
            counters.streams_refused += 1
        elif stream_class is not None:
            counters.streams_reset += 1
        for rows, name in ((counters.by_listener, self.listener), (counters.by_connector, self.connector)):
            row = rows.get(name)
            if row is not None:
                row[0] -= 1
                row[2] += self.bytes_in
                row[3] += self.bytes_out
        for done in self._when_over:
            done()
        self._emit(
            StreamEnd(
                uuid=self.uuid,
                routing_key=self.key,
                listener=self.listener,
                connector=self.connector,
                router=self.router,
                stream_class="" if stream_class is None else stream_class.word,
                reason=reason,
                bytes_in=self.bytes_in,
                bytes_out=self.bytes_out,
                duration=time.monotonic() - self._began,
            )
        )
