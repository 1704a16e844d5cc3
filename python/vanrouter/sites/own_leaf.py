"""
Watches the dates of what a router in a pod shows of its site, and says when nobody renewed it: in the log, and in the status.

The controller renews. While there is none, or while it cannot write, everything goes on for weeks: this is who notices.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

from vanrouter.errors import ConfigError, StoreError
from vanrouter.kube.leaf_dates import LeafDates, late
from vanrouter.pki import load_certificates
from vanrouter.sites.leaves import Leaves
from vanrouter.stores.resources import Problem

__all__ = ["OwnLeaf"]

log: Final = logging.getLogger("vanrouter.sites")

LOOK_EVERY: Final = 60.0
SAY_AGAIN: Final = 12 * 3600.0


class OwnLeaf:
    """``problem`` is as of the last look; ``changed`` is called when it is another one."""

    def __init__(self, leaves: Leaves, *, wall: Callable[[], float], changed: Callable[[], None]) -> None:
        self._leaves, self._wall, self._changed = leaves, wall, changed
        self._read: tuple[bytes, LeafDates] | None = None
        self.problem: Problem | None = None

    async def run(self) -> None:
        """Until cancelled."""
        said_at = -SAY_AGAIN
        while True:
            before = self.problem
            self.look()
            if self.problem is not None and (before is None or trio.current_time() >= said_at + SAY_AGAIN):
                said_at = trio.current_time()
                log.warning("certificate not renewed", extra={"reason": self.problem.message, "hint": self.problem.hint})
            await trio.sleep(LOOK_EVERY)

    def look(self) -> None:
        dates, before = self._dates(), self.problem
        self.problem = late(dates, self._wall()) if dates is not None else None
        if self.problem != before:
            self._changed()

    def _dates(self) -> LeafDates | None:
        """Of the leaf of the two that ends first. What is not there, or not readable, others name."""
        try:
            shown = self._leaves.server((), now=0.0, lifetime=0.0, jitter=0.0), self._leaves.client(now=0.0, lifetime=0.0, jitter=0.0)
            pem = b"".join(one.certificate for one in shown)
            if self._read is None or self._read[0] != pem:
                leaves = load_certificates(pem, "own.json")
                each = [LeafDates(x.not_valid_before_utc.timestamp(), x.not_valid_after_utc.timestamp()) for x in leaves]
                self._read = pem, min(each, key=lambda dates: dates.end)
        except (ConfigError, StoreError):
            return None
        return self._read[1]
