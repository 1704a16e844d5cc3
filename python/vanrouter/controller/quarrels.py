"""
Objects that somebody else changes back as often as we write them, or that the server refuses. Decides how soon the same is written again;
time is an argument.

The first ``FREE`` times within a minute cost nothing: a person edits, a tool applies. After that we wait, each time twice as long, and say
so. Whoever wants something else, or deletes what he wrote, begins anew.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["Quarrels"]

FREE: Final = 10  # more than `rivals` puts up with: what it watches over is its own
WITHIN: Final = 60.0
FIRST: Final = 5.0
CAP: Final = 300.0
REFUSED_CAP: Final = 20.0  # somebody may raise the quota


class _Tries(msgspec.Struct):
    wish: int
    times: list[float]
    waits: float = 0.0  # how long, since the last try


class Quarrels:
    """``name`` is an object's, such as ``services/hello``; ``wish`` stands for what it is to be."""

    def __init__(self) -> None:
        self._tries: dict[str, _Tries] = {}

    def again_at(self, name: str, wish: int) -> float:
        """When this may be written; a time that is over: now."""
        tries = self._tries.get(name)
        return tries.times[-1] + tries.waits if tries is not None and tries.wish == wish else 0.0

    def tried(self, name: str, wish: int, now: float) -> None:
        """It was written, or somebody was quicker."""
        self._forget(now)
        tries = self._tries.get(name)
        if tries is None or tries.wish != wish or self._is_over(tries, now):
            self._tries[name] = _Tries(wish, [now])
            return
        tries.times = [*(at for at in tries.times if now < at + WITHIN), now]
        if tries.waits or len(tries.times) >= FREE:
            tries.waits = min(CAP, max(FIRST, tries.waits * 2))

    def refused(self, name: str, wish: int, now: float) -> None:
        """The server will not have it as it is: a quota, an admission rule, its own rules."""
        tries = self._tries.get(name)
        waits = tries.waits if tries is not None and tries.wish == wish else 0.0
        self._tries[name] = _Tries(wish, [now], min(REFUSED_CAP, max(FIRST, waits * 2)))

    def settled(self, name: str) -> None:
        """It is no longer ours to write."""
        self._tries.pop(name, None)

    def waiting(self, now: float) -> dict[str, float]:
        """What is not written now, and when it will be."""
        found = {name: tries.times[-1] + tries.waits for name, tries in self._tries.items() if tries.waits}
        return {name: at for name, at in found.items() if now < at}

    def _forget(self, now: float) -> None:
        if len(self._tries) > 100 and any(self._is_over(tries, now) for tries in self._tries.values()):
            self._tries = {name: tries for name, tries in self._tries.items() if not self._is_over(tries, now)}

    @staticmethod
    def _is_over(tries: _Tries, now: float) -> bool:
        return now >= tries.times[-1] + tries.waits + WITHIN
