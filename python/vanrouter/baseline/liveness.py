"""
Is the other end of a lane still there (``docs/wire-protocol.md`` section 9)? Sans-IO: monotonic ``now`` in, verdict out.

    heard lately ──silence, something outstanding──▶ suspect ──more silence──▶ dead
         ▲──────────────── any byte ─────────────────────┘
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

__all__ = ["Health", "Liveness"]

IDLE_PROBE_AFTER: Final = 2.0
BUSY_PROBE_AFTER: Final = 0.4
MEASURE_EVERY: Final = 5.0  # a busy lane is never silent, yet windows are tuned by its round trip
RECENT: Final = 8  # round trips looked at for the smallest recent one


class Health(enum.Enum):
    ALIVE = enum.auto()
    SUSPECT = enum.auto()
    DEAD = enum.auto()


class Liveness:
    def __init__(self, *, suspect_after: float, dead_after: float, now: float) -> None:
        self._suspect_after = suspect_after
        self._dead_after = dead_after
        self._heard = now
        self._ping_sent: float | None = None  # of the ping that is not answered yet
        self._outstanding_since: float | None = None
        self._pings = 0
        self._measured = -MEASURE_EVERY
        self._round_trips: deque[float] = deque(maxlen=RECENT)
        self.health = Health.ALIVE

    @property
    def round_trip(self) -> float:
        """The smallest recent one; 0 while none is known."""
        return min(self._round_trips, default=0.0)

    def heard(self, now: float) -> None:
        self._heard = now
        if self.health is Health.SUSPECT:
            self.health = Health.ALIVE

    def ping(self, now: float) -> bytes:
        """The 8 bytes of a new PING."""
        self._pings += 1
        self._ping_sent = self._measured = now
        return self._pings.to_bytes(8, "big")

    def pong_untrusted(self, payload: bytes, now: float) -> bool:
        """False: it answers no PING of ours that is still open."""
        if self._ping_sent is None or int.from_bytes(payload, "big") != self._pings:
            return False
        self._round_trips.append(now - self._ping_sent)
        self._ping_sent = None
        return True

    def tick(self, now: float, *, outstanding: bool) -> bool:
        """``outstanding``: unanswered OPENs, or bytes that the kernel still holds. True: send a PING now. Sets ``health``."""
        silence = now - self._heard
        outstanding = outstanding or self._ping_sent is not None
        if not outstanding:
            self._outstanding_since = None
        elif self._outstanding_since is None:
            self._outstanding_since = now
        if silence >= self._dead_after:
            self.health = Health.DEAD
            return False
        if self._outstanding_since is not None:
            # Silence counts against the peer only while it owed us something.
            owed = now - max(self._heard, self._outstanding_since)
            if owed >= self._suspect_after:
                self.health = Health.SUSPECT
        probe_after = BUSY_PROBE_AFTER if outstanding else IDLE_PROBE_AFTER
        last = self._heard if self._ping_sent is None else max(self._heard, self._ping_sent)
        return now - last >= probe_after or now - self._measured >= MEASURE_EVERY
