"""What trio's tasks need twice: waiting for what deciding code knows, which has no tasks that could tell; errors out of their groups."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

import trio

__all__ = ["LOOK_EVERY", "only_one", "until"]

LOOK_EVERY: Final = 0.02  # a cheap look so often


async def until(check: Callable[[], object]) -> None:
    while not check():  # noqa: ASYNC110
        await trio.sleep(LOOK_EVERY)


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """The one exception of a group, if it is one: callers catch what happened, not how tasks are nested."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None
