"""
Is the other end of a lane still there (``docs/wire-protocol.md`` section 9)? Sans-IO: monotonic ``now`` in, verdict out.

    heard lately ──silence, something outstanding──▶ suspect ──more silence──▶ dead
         ▲──────────────── any byte ─────────────────────┘

An idle lane beside a silent one is asked at once and is suspect with it: new streams would go from lane to lane of a link that is cut, and
wait for the suspicion of each.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

__all__ = ["Health", "Liveness", "Others"]

IDLE_PROBE_AFTER: Final = 2.0
BUSY_PROBE_AFTER: Final = 0.4
QUICKER: Final = 4  # a lane beside a suspect one is suspect after this part of the silence
MEASURE_EVERY: Final = 5.0  # a busy lane is never silent, yet windows are tuned by its round trip
RECENT: Final = 8  # round trips looked at for the smallest recent one


class Health(enum.Enum):
    ALIVE = enum.auto()
    SUSPECT = enum.auto()
    DEAD = enum.auto()


class Others(enum.IntEnum):
    """How the other lanes to the same router are: the worst of them."""

    WELL = 0
    SILENT = 1  # one owes us something and is silent
    SUSPECT = 2


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
        self.is_silent = False  # at the last tick it owed us something, and a PING was due for it

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

    def tick(self, now: float, *, outstanding: bool, others: Others = Others.WELL) -> bool:
        """Sets ``health`` and ``is_silent``. True: send a PING now.

        ``outstanding``: unanswered OPENs, or bytes that the kernel still holds. ``others``: how the other lanes of its link are.
        """
        silence = now - self._heard
        outstanding = outstanding or self._ping_sent is not None
        if not outstanding:
            self._outstanding_since = None
        elif self._outstanding_since is None:
            self._outstanding_since = now
        if silence >= self._dead_after:
            self.health = Health.DEAD
            return False
        self.is_silent = False
        if self._outstanding_since is not None:
            # Silence counts against the peer only while it owed us something.
            owed = now - max(self._heard, self._outstanding_since)
            self.is_silent = owed >= BUSY_PROBE_AFTER
            if owed >= self._enough(others):
                self.health = Health.SUSPECT
        probe_after = BUSY_PROBE_AFTER if outstanding or others > Others.WELL else IDLE_PROBE_AFTER
        last = self._heard if self._ping_sent is None else max(self._heard, self._ping_sent)
        return now - last >= probe_after or now - self._measured >= MEASURE_EVERY

    def _enough(self, others: Others) -> float:
        if others is not Others.SUSPECT:
            return self._suspect_after
        return min(self._suspect_after, max(self._suspect_after / QUICKER, 2 * self.round_trip))
