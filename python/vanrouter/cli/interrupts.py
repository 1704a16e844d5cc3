"""
Ctrl-C while the program is still being loaded: it ends at once and quietly, with exit code 130. Nothing was begun that has to be undone.

Importing this arms it where nobody else has (a program that embeds the commands keeps its own handler); `loaded` disarms it. After that
``Root.main`` and the commands see to it themselves.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Final

__all__ = ["loaded"]

INTERRUPTED: Final = 130


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _is_ours(handler: object) -> bool:
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is handler


if _is_ours(signal.default_int_handler):
    signal.signal(signal.SIGINT, _end)


def loaded() -> None:
    """From here on an interrupt is a KeyboardInterrupt again."""
    if _is_ours(_end):
        signal.signal(signal.SIGINT, signal.default_int_handler)
