"""
How a target is checked: the settings in force, and the times that follow from them. Pure data.

``interval`` is a promise, not a pause: a target that dies is out within one interval, whether it refuses or says nothing. The pause
between two checks of a sound target is what is left of it after the checks that confirm a failure:

    died│◀── pause ──▶ check fails (timeout) ◀ recheck ▶ check fails (timeout) ▶ out
        └────────────────────────── at most one interval ──────────────────────────┘
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

if TYPE_CHECKING:  # the command line works without trio
    from vanrouter.plane import Tls

__all__ = ["LONGEST_INTERVAL", "LONGEST_TIMEOUT", "SHORTEST_INTERVAL", "Check", "longest_timeout"]

SHORTEST_INTERVAL: Final = 1.0
LONGEST_INTERVAL: Final = 3600.0
LONGEST_TIMEOUT: Final = 10.0  # seconds: a target that says nothing holds one of the places for checks so long
_RECHECK: Final = 0.25  # seconds between checks that confirm a failure or a return


def _recheck(interval: float) -> float:
    return min(_RECHECK, interval / 20)


def longest_timeout(interval: float, failures: int) -> float:
    """The failing checks take at most half of the interval; the pause before them has the other half."""
    return min(LONGEST_TIMEOUT, (interval / 2 - (failures - 1) * _recheck(interval)) / failures)


class Check(msgspec.Struct, frozen=True, kw_only=True):
    type: Literal["tcp", "http", "none"] = "tcp"
    interval: float = 5.0
    timeout: float = 1.0
    failures: int = 2  # in a row, until it is out
    passes: int = 2  # in a row, until it is back
    port: int = 0  # 0: the target's
    path: str = "/"
    host: str = ""  # what the request names as its host; empty: the target
    tls: Tls | None = None  # it is spoken to in TLS; a check of another port than the target's is not
    statuses: tuple[tuple[int, int], ...] = ((200, 399),)  # first and last of each range that passes

    @property
    def recheck(self) -> float:
        """The pause between checks that confirm a failure or a return."""
        return _recheck(self.interval)

    @property
    def longest_pause(self) -> float:
        """Between two checks of a sound target."""
        return self.interval - self.failures * self.timeout - (self.failures - 1) * self.recheck

    def accepts(self, status: int) -> bool:
        return any(low <= status <= high for low, high in self.statuses)
