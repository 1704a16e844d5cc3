"""
Ctrl-C while the program is still being loaded: it ends at once and quietly, with exit code 130. Nothing was begun that has to be undone.

Importing this arms it where nobody else has (a program that embeds the commands keeps its own handler); `loaded` disarms it. After that
``Root.main`` and the commands see to it themselves. It loads as little as it can: until then an interrupt is a traceback.
"""

from __future__ import annotations

import os
import signal

__all__ = ["loaded"]

INTERRUPTED = 130


def _end(_number: int, _frame: object) -> None:
    os._exit(INTERRUPTED)


def _replace(handler: object, by: signal._HANDLER) -> None:
    if signal.getsignal(signal.SIGINT) is handler:
        try:
            signal.signal(signal.SIGINT, by)
        except ValueError:
            return  # not the main thread, which is the one that would be interrupted


def loaded() -> None:
    """From here on an interrupt is a KeyboardInterrupt again."""
    _replace(_end, signal.default_int_handler)


_replace(signal.default_int_handler, _end)
