"""
How long threads that were ready waited for a processor: time that others on this machine took, not the program under test.

A thread of its own reads ``/proc/PID/task/TID/schedstat`` (its second field: nanoseconds ready and not running) every 20 ms, so that the
wait of any stretch can be told afterwards. Of many threads the longest wait of one counts, never the sum: no more is taken off than one of
them was held up. Timers are not held up by a busy machine, so a late timer stays late.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

EVERY = 0.02


def ready_not_running(pid: int) -> dict[tuple[int, int], float]:
    """Seconds by (process, thread). Empty when it is gone."""
    found: dict[tuple[int, int], float] = {}
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                found[pid, int(thread)] = int(file.read().split()[1]) / 1e9
    return found


class Waits:
    """``pids``: whom to look at, asked each time, for routers that are started again."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._seen: list[tuple[float, dict[tuple[int, int], float]]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.is_set():
            waits: dict[tuple[int, int], float] = {}
            for pid in list(self._pids()):
                waits |= ready_not_running(pid)
            self._seen.append((time.monotonic(), waits))
            self._ended.wait(EVERY)

    def longest(self, since: float, until: float) -> float:
        """Of one thread, between two moments. A thread that began in between has waited since its beginning."""
        began: dict[tuple[int, int], float] = {}
        last: dict[tuple[int, int], float] = {}
        known = False
        for at, waits in self._seen:
            if at <= since:
                began, known = waits, True
            elif at <= until:
                last |= waits
        if not known:
            return 0.0
        return max((wait - began.get(thread, 0.0) for thread, wait in last.items()), default=0.0)
