"""
How long to wait before the next dial: at once, then 0.1 s, 0.2 s and 0.25 s during the first seconds (a router that restarts is back within
them), then doubling to 1 s during the first minute, then to 30 s; jittered.

Refuses to know what is dialled or why it failed. The rng is an argument, so that a thousand sites that lost the same hub do not return
in step, and a test can say exactly when.
"""

from __future__ import annotations

import random
from typing import Final

__all__ = ["CAP", "FIRST_DELAY", "FIRST_MINUTE", "FIRST_MINUTE_CAP", "FIRST_SECONDS", "FIRST_SECONDS_CAP", "Backoff"]

FIRST_DELAY: Final = 0.1
FIRST_SECONDS: Final = 5.0
FIRST_SECONDS_CAP: Final = 0.25
FIRST_MINUTE: Final = 60.0
FIRST_MINUTE_CAP: Final = 1.0
CAP: Final = 30.0
JITTER: Final = 0.5  # a delay of d is drawn from [d * JITTER, d]: never longer than what we promise


class Backoff:
    """The delays of one trouble. It starts with the first failure after `reset` and ends with the next `reset`."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._began: float | None = None
        self._delay = 0.0  # the last one, before jitter

    @property
    def began(self) -> float | None:
        """When the present trouble began; None: there is none."""
        return self._began

    def reset(self) -> None:
        self._began, self._delay = None, 0.0

    def restart_minute(self, now: float) -> None:
        """It worked for a moment: the pauses are again those of the first minute, though not those of its first seconds."""
        if self._began is not None:
            self._began = max(self._began, now - FIRST_SECONDS)

    def next_delay(self, now: float) -> float:
        """What to wait from ``now`` on. The first one of a trouble is 0."""
        if self._began is None:
            self._began = now
            return 0.0
        age = now - self._began
        cap = FIRST_SECONDS_CAP if age < FIRST_SECONDS else FIRST_MINUTE_CAP if age < FIRST_MINUTE else CAP
        self._delay = min(max(FIRST_DELAY, self._delay * 2), cap)
        return self._jittered(self._delay)

    def cap_delay(self, now: float) -> float:
        """What to wait when redialling cannot help until somebody changes something."""
        if self._began is None:
            self._began = now
        return self._jittered(CAP)

    def _jittered(self, delay: float) -> float:
        return delay * self._rng.uniform(JITTER, 1.0)
