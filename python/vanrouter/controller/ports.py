"""
Which port of a router's pod each listener has: given once, kept while the listener is wanted, and not given again within a minute.

Decides; time is an argument. A Service points at a number, so a number must never come to mean another listener while somebody may still
have the old Service.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

__all__ = ["FIRST", "LAST", "PodPorts"]

FIRST: Final = 20_000
LAST: Final = 29_999
REST: Final = 60.0


class PodPorts:
    """``given``: what ``van-router`` says, whoever wrote it."""

    def __init__(self, given: Mapping[str, int] | None = None) -> None:
        self.given: dict[str, int] = {slot: port for slot, port in (given or {}).items() if FIRST <= port <= LAST}
        self._resting: dict[int, float] = {}  # until when
        self._next = max(self.given.values(), default=FIRST - 1) + 1

    def adopt(self, given: Mapping[str, int]) -> None:
        """What ``van-router`` says now counts, whoever wrote it: a port that it gives to another listener is not ours to give."""
        theirs = {slot: port for slot, port in given.items() if FIRST <= port <= LAST}
        used = set(theirs.values())
        self.given = {slot: port for slot, port in self.given.items() if port not in used} | theirs

    def want(self, slots: Collection[str], *, now: float) -> list[str]:
        """Give each of these (``HOST:PORT``) a port. Those for which there is none now."""
        self._resting = {port: until for port, until in self._resting.items() if until > now}
        for slot in [s for s in self.given if s not in slots]:
            self._resting[self.given.pop(slot)] = now + REST
        used = set(self.given.values()) | set(self._resting)
        left = []
        for slot in sorted(slots):
            if slot not in self.given:
                port = self._free(used)
                if port:
                    self.given[slot] = port
                    used.add(port)
                else:
                    left.append(slot)
        return left

    def _free(self, used: set[int]) -> int:
        for offset in range(LAST - FIRST + 1):
            port = FIRST + (self._next - FIRST + offset) % (LAST - FIRST + 1)
            if port not in used:
                self._next = port + 1
                return port
        return 0
