"""
What this router itself says: its fragments, sealed when they are due, and at the end its withdrawal.

Refuses to know what a key or a link means: that is told to `advertiser`. Everything that is said goes into the database and to the
neighbours like a record of somebody else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from vanrouter.addresses import Advertiser
from vanrouter.messages import Fragment, Sign, Withdrawal, encode_signed
from vanrouter.model import RouterId
from vanrouter.routing.database import Database, Record
from vanrouter.routing.flooding import Flooding
from vanrouter.routing.wire import WITHDRAWN, Head

__all__ = ["OwnRecords"]

ADMISSIONS_ROOM: Final = 1_700  # bytes of a fragment: as many admissions as a message may carry, of the size that they have
FRAMING: Final = 3  # bytes around each


class OwnRecords:
    """``name``: of our site, and ``version``: of our software, for people."""

    def __init__(
        self,
        own: RouterId,
        database: Database,
        flooding: Flooding,
        *,
        identity: bytes,
        sign: Sign,
        admissions: Sequence[bytes],
        name: str,
        version: str,
        now: float,
    ) -> None:
        self._own, self._database, self._flooding = str(own), database, flooding
        self._identity, self._sign = identity, sign
        self._admissions = list(admissions)
        self._room = max(ADMISSIONS_ROOM, sum(len(admission) + FRAMING for admission in admissions))
        self.advertiser = Advertiser(own, name=name, version=version, admissions_size=self._room, now=now)
        self._left = False

    def set_admissions(self, admissions: Sequence[bytes]) -> bool:
        """What all that we say carries, as far as there is room. Whether that is new: then everything is due."""
        room, fitting = self._room, list[bytes]()
        for admission in admissions:
            room -= len(admission) + FRAMING
            if room >= 0:
                fitting.append(admission)
        if fitting == self._admissions:
            return False
        self._admissions = fitting
        self.advertiser.mark_all()
        return True

    @property
    def deadline(self) -> float:
        """When `say` next has something; ``inf`` means never."""
        return math.inf if self._left else self.advertiser.deadline

    def say(self, now: float) -> None:
        """Everything that is due. Calling early is harmless."""
        for fragment in self.advertiser.due(now) if not self._left else ():
            self._publish(fragment, now)

    def leave(self, now: float) -> None:
        """This router is about to end: the last thing that it says."""
        if not self._left:
            self._left = True
            self._database.withdraw(self._own, Record(self._sealed(Withdrawal(origin=self._own)), 0, now))
            self._flooding.flood((self._own, WITHDRAWN), 0)

    def _publish(self, fragment: Fragment, now: float) -> None:
        head = Head(self._own, fragment.number, fragment.sequence)
        self._database.put(head, Record(self._sealed(fragment), fragment.sequence, now), own=True)
        self._database.origins[self._own].fragments[fragment.number].born = math.inf
        self._flooding.flood((self._own, fragment.number), fragment.sequence)

    def _sealed(self, content: Fragment | Withdrawal) -> bytes:
        return encode_signed(content, identity=self._identity, sign=self._sign, admissions=self._admissions)
