"""Waiting for what deciding code knows: it has no tasks that could tell, so it is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

__all__ = ["LOOK_EVERY", "until"]

LOOK_EVERY: Final = 0.02  # a cheap look so often


async def until(check: Callable[[], object]) -> None:
    while not check():  # noqa: ASYNC110
        await trio.sleep(LOOK_EVERY)
