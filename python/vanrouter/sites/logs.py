"""
A closed stream is one line on ``vanrouter.access``. How lines look is in ``vanrouter.logs``.
"""

from __future__ import annotations

import logging
from typing import Final

from vanrouter.logs import FieldFormatter, set_up
from vanrouter.plane import StreamEnd

__all__ = ["LINES_PER_SECOND", "AccessLog", "FieldFormatter", "set_up"]

access = logging.getLogger("vanrouter.access")

LINES_PER_SECOND: Final = 500  # about 2 % of a core


class AccessLog:
    """One line per ended stream, at most ``LINES_PER_SECOND``: a flood of connections must not become a flood of log lines. What was left
    out is counted in a line of its own."""

    def __init__(self) -> None:
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def log(self, end: StreamEnd, *, now: float) -> None:
        if not access.isEnabledFor(logging.INFO):
            return
        if int(now) != self._second:
            if self._left_out:
                access.info("streams not logged", extra={"streams": self._left_out, "most_per_second": LINES_PER_SECOND})
            self._second, self._lines, self._left_out = int(now), 0, 0
        if self._lines >= LINES_PER_SECOND:
            self._left_out += 1
            return
        self._lines += 1
        access.info(
            "stream closed",
            extra={
                "key": end.routing_key,
                "listener": end.listener,
                "connector": end.connector,
                "router": end.router,
                "stream": end.uuid.hex(),
                "class": end.stream_class or "clean",
                "reason": end.reason,
                "bytes_in": end.bytes_in,
                "bytes_out": end.bytes_out,
                "seconds": end.duration,
            },
        )
