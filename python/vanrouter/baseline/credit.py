"""
Credit: who may send how much, and the memory that stands behind it (``docs/wire-protocol.md`` section 6).

Whatever was granted is reserved in the process-wide ``Budget`` first, so a receiver never has to stop reading. Half of the
budget backs a floor per stream and received direction, half the windows above the floors. Sans-IO; ``now`` is an argument.

Invariant of a ``ReceiveWindow``: ``outstanding + stored <= reserved``, and ``reserved`` is taken in the budget.
"""

from __future__ import annotations

from typing import Final

from vanrouter.errors import RemoteProtocolError

__all__ = ["FLOOR", "INITIAL_WINDOW", "MAX_CREDIT", "MAX_WINDOW", "Budget", "ReceiveWindow", "add_credit_untrusted"]

FLOOR: Final = 2_048
INITIAL_WINDOW: Final = 65_536
MAX_WINDOW: Final = 8 * 1024 * 1024
MAX_CREDIT: Final = 2**31 - 1
SHORTEST_ROUND_TRIP: Final = 0.001  # on faster paths, scheduling decides how soon credit is used, not the network
PRESSURE: Final = 0.85  # windows shrink when more than this part of their half is taken


class Budget:
    """The bytes that may be granted and buffered in this process: half for floors, half for windows."""

    def __init__(self, total: int) -> None:
        self._half = total // 2
        self._floors = 0
        self._windows = 0

    @property
    def granted(self) -> int:
        return self._floors + self._windows

    @property
    def free_for_windows(self) -> int:
        return max(0, self._half - self._windows)

    @property
    def is_tight(self) -> bool:
        return self._windows > PRESSURE * self._half

    def take_floor(self) -> bool:
        if self._floors + FLOOR > self._half:
            return False
        self._floors += FLOOR
        return True

    def take_floor_regardless(self) -> None:
        """For a stream that is about to be refused: it gives the floor back when it is forgotten."""
        self._floors += FLOOR

    def give_floor(self) -> None:
        self._floors -= FLOOR
        assert self._floors >= 0

    def take(self, size: int) -> bool:
        if self._windows + size > self._half:
            return False
        self._windows += size
        return True

    def take_regardless(self, size: int) -> None:
        """For what a lane cannot do without (its early data and control messages): windows yield to it."""
        self._windows += size

    def give(self, size: int) -> None:
        self._windows -= size
        assert self._windows >= 0


class ReceiveWindow:
    """What the other end may still send on one direction of a stream, and what of it waits here."""

    __slots__ = ("_budget", "_granted_at", "outstanding", "reserved", "stored")

    def __init__(self, budget: Budget, now: float) -> None:
        """The caller has taken the floor. Grants the initial credit: ``outstanding``."""
        self._budget = budget
        self._granted_at = now
        self.reserved = FLOOR
        self.stored = 0
        if not budget.is_tight and budget.take(INITIAL_WINDOW - FLOOR):
            self.reserved = INITIAL_WINDOW
        self.outstanding = self.reserved

    def received_untrusted(self, size: int) -> None:
        if size > self.outstanding:
            raise RemoteProtocolError(f"{size} bytes of DATA, but only {self.outstanding} bytes of credit are left")
        self.outstanding -= size
        self.stored += size

    def consumed(self, size: int, now: float, round_trip: float) -> int:
        """Bytes left for the application or the next hop. Returns the credit to grant now, often 0."""
        assert size <= self.stored
        self.stored -= size
        held = self.outstanding + self.stored
        if self.reserved - held < self.reserved // 2:
            return 0
        fast = now - self._granted_at < 2 * max(round_trip, SHORTEST_ROUND_TRIP)
        self._granted_at = now
        if self._budget.is_tight:
            self._shrink_to(max(self.reserved // 2, held))
        elif self.reserved < INITIAL_WINDOW:
            self._grow_to(INITIAL_WINDOW)
        elif fast:
            self._grow_to(min(2 * self.reserved, MAX_WINDOW))
        grant = self.reserved - held
        self.outstanding += grant
        return grant

    def returned_untrusted(self, size: int) -> None:
        if size > self.outstanding:
            raise RemoteProtocolError(f"CREDIT_RETURN of {size} bytes, but only {self.outstanding} are outstanding")
        self.outstanding -= size
        self._shrink_to(self.outstanding + self.stored)

    def close(self) -> None:
        """The stream is gone: everything is given back. Call once."""
        self._budget.give(self.reserved - FLOOR)
        self._budget.give_floor()
        self.reserved = self.outstanding = self.stored = 0

    def _grow_to(self, window: int) -> None:
        more = window - self.reserved
        # Never beyond an eighth of what is free, so that no stream takes what others will need.
        if window <= self._budget.free_for_windows // 8 and self._budget.take(more):
            self.reserved = window

    def _shrink_to(self, window: int) -> None:
        window = max(window, FLOOR)
        if window < self.reserved:
            self._budget.give(self.reserved - window)
            self.reserved = window


def add_credit_untrusted(credit: int, increment: int, what: str) -> int:
    if credit + increment > MAX_CREDIT:
        raise RemoteProtocolError(f"{what}: {credit} and {increment} more exceed {MAX_CREDIT}")
    return credit + increment
