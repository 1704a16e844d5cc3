"""
Log lines: a constant message, then its fields as ``key=value``. A closed stream is one line on ``vanrouter.access``.

Formats and picks levels; opens nothing. Whoever runs a site in a process of its own calls ``set_up`` once; an embedding program keeps
its own.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Final, TextIO

from vanrouter.plane import StreamEnd

__all__ = ["LINES_PER_SECOND", "AccessLog", "FieldFormatter", "set_up"]

access = logging.getLogger("vanrouter.access")

LINES_PER_SECOND: Final = 500  # about 2 % of a core

_STANDARD: Final = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/@+,")


class FieldFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.123Z info sites: link up site=north address=127.0.0.1:7001``"""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        stamp = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z"
        name = record.name.removeprefix("vanrouter.")
        fields = "".join(f" {key}={_value(value)}" for key, value in vars(record).items() if key not in _STANDARD and value != "")
        line = f"{stamp} {record.levelname.lower()} {name}: {record.getMessage()}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _value(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    if text and set(text) <= _PLAIN:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


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


def set_up(*, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Log to ``stream`` (stderr). Only the loggers of this package are touched."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(FieldFormatter())
    logger = logging.getLogger("vanrouter")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
