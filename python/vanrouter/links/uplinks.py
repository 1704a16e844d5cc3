"""
Which links of an edge site are dialled: one is in use, the others stand by.

Refuses to dial, and to know what a link is; it is told which links there are and which are well, and says which may dial. In order of
cost, then name: a link better than the one in use goes on trying, one that is worse stands by. When the one in use is lost or silent, the
next one is dialled at once, and those behind it one after the other.

    a (cost 1)  b (cost 2)  c (cost 3)
    well        standby     standby          only a is dialled
    silent      dialled     standby, dialled 0.5 s later if neither is well by then
    dialled     well        standby          a comes back: b is surplus when a was well for 10 s, and closed when it has no stream
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

__all__ = ["SETTLED", "STAGGER", "Uplinks"]

STAGGER: Final = 0.5
SETTLED: Final = 10.0  # a better link that comes back has to be well for so long before a worse one is given up


class Uplinks:
    """Feed links and their health in; ask for `dialled` and `surplus`, again at `deadline`."""

    def __init__(self, *, now: float) -> None:
        self._order: list[str] = []
        self._well: dict[str, float] = {}  # since when
        self._in_use = ""
        self._since = now  # when the one in use was lost, or there came to be links at all

    def set_links(self, costs: Mapping[str, int], *, now: float) -> None:
        if not self._order:
            self._since = now
        self._order = sorted(costs, key=lambda name: (costs[name], name))
        for name in [name for name in self._well if name not in costs]:
            del self._well[name]
        self._choose(now)

    def set_well(self, name: str, well: bool, *, now: float) -> None:
        """Well: it is up, and neither silent nor leaving."""
        if well == (name in self._well) or name not in self._order:
            return
        if well:
            self._well[name] = now
        else:
            del self._well[name]
        self._choose(now)

    @property
    def in_use(self) -> str:
        """The best link that is well. Empty: none is."""
        return self._in_use if self._in_use in self._well else ""

    def dialled(self, now: float) -> list[str]:
        """The links that may dial now, best first. All others stand by."""
        rank = self._order.index(self._in_use) if self._in_use in self._order else -1
        if self.in_use:
            return self._order[: rank + 1]
        further = int((now - self._since) / STAGGER + 1e-9)
        return self._order[: rank + 2 + further]

    def surplus(self, now: float) -> list[str]:
        """Links that are not needed any more, because a better one has been well for long enough."""
        used = self.in_use
        if not used or now < self._well[used] + SETTLED:
            return []
        return self._order[self._order.index(used) + 1 :]

    def deadline(self, now: float) -> float:
        """When the answers next change by themselves; ``inf`` means never."""
        used = self.in_use
        if used:
            settled = self._well[used] + SETTLED
            return settled if settled > now else math.inf
        if len(self.dialled(now)) >= len(self._order):
            return math.inf
        return self._since + STAGGER * (int((now - self._since) / STAGGER + 1e-9) + 1)

    def _choose(self, now: float) -> None:
        best = next((name for name in self._order if name in self._well), "")
        if best:
            self._in_use = best
        elif self._in_use:
            self._since = max(self._since, now) if self._in_use in self._order else now
            if self._in_use not in self._order:
                self._in_use = ""
