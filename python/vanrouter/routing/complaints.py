"""
What members did that was not taken, for people: bounded, one per minute and subject. Refuses to judge.
"""

from __future__ import annotations

from typing import Final

from vanrouter.routing.actions import Problem
from vanrouter.routing.database import MAX_AGE

__all__ = ["Complaints"]

EVERY: Final = 60.0
MAX_KEPT: Final = 1_024


class Complaints:
    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[float, Problem]] = {}

    def add(self, problem: Problem, now: float) -> bool:
        """Whether it is worth saying: not if the same was said within the last minute."""
        slot = (problem.reason, problem.subject)
        last = self._kept.get(slot)
        if last is not None and now - last[0] < EVERY:
            return False
        self._kept.pop(slot, None)
        while len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[slot] = (now, problem)
        return True

    def forget(self, reason: str, subject: str) -> None:
        """It is no complaint any more."""
        self._kept.pop((reason, subject), None)

    def recent(self, now: float) -> list[Problem]:
        """Those of the last quarter of an hour."""
        return [problem for at, problem in self._kept.values() if now - at < MAX_AGE]
