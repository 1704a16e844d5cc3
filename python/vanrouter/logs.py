"""
Log lines: a constant message, then its fields as ``key=value``.

Formats and picks levels; opens nothing. Whoever runs in a process of its own calls ``set_up`` once; an embedding program keeps its own.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Final, TextIO

__all__ = ["FieldFormatter", "set_up"]

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


def set_up(*, level: int | None = None, stream: TextIO | None = None) -> None:
    """Log to ``stream`` (stderr), from ``VAN_LOG_LEVEL`` (info) on. Only the loggers of this package are touched."""
    if level is None:
        level = logging.getLevelNamesMapping().get(os.environ.get("VAN_LOG_LEVEL", "info").upper(), logging.INFO)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(FieldFormatter())
    logger = logging.getLogger("vanrouter")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
