"""
One round of dialling: several endpoints, started one after the other, the first lane that comes up decides.

Refuses to know what happens after the round. A dead endpoint costs the next one `STAGGER`, a refused one nothing.

    t=0      0.25     0.5
    |A.......|........|.....     A is silent: B starts 250 ms later, C 250 ms after B
             |B.......|.....
                      |C ok      C comes up: A and B are cancelled, C goes first the next time
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

__all__ = ["STAGGER", "Endpoint", "Race"]

STAGGER: Final = 0.25


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """Where a link access of the other site answers. ``host`` is an IP literal: names are resolved by the caller."""

    host: str
    port: int
    server_name: str = ""  # for SNI; empty: the data plane's default for a bare address

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        name = f" ({self.server_name})" if self.server_name and self.server_name != self.host else ""
        return f"{host}:{self.port}{name}"


class Race:
    """Which endpoint starts next, and when. The caller dials, and says what came of it."""

    def __init__(self, endpoints: Iterable[Endpoint], *, now: float) -> None:
        self._waiting = deque(endpoints)
        self._next_start = now
        self.running = 0

    @property
    def deadline(self) -> float:
        return self._next_start if self._waiting else math.inf

    @property
    def exhausted(self) -> bool:
        return not self._waiting and self.running == 0

    def start_next(self, now: float) -> Endpoint | None:
        """The endpoint to dial now, or None when none is due."""
        if not self._waiting or now < self._next_start:
            return None
        self._next_start = now + STAGGER
        self.running += 1
        return self._waiting.popleft()

    def failed(self, now: float) -> None:
        """One that was started failed: the next one need not wait."""
        self.running -= 1
        self._next_start = now

    def add(self, endpoint: Endpoint) -> None:
        self._waiting.append(endpoint)

    def discard(self, endpoint: Endpoint) -> None:
        """It is not wanted any more; if it was running, say `failed` too."""
        if endpoint in self._waiting:
            self._waiting.remove(endpoint)
