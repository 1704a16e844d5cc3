"""
Which of several controllers acts: the one whose name stands in a Lease. Pure: time is an argument, the API server is somebody else's.

Clocks of machines are not compared. A Lease that did not change for ``DURATION`` *as we saw it* may be taken, under its version, by one.
Whoever holds it stops acting ``GIVE_UP`` after the beginning of the last write that was answered, which is earlier than any other may take
it, by more than a call may last.

        WAITING ──free, or unchanged for DURATION: written under its version──▶ LEADING ──not renewed for GIVE_UP──▶ WAITING
"""

from __future__ import annotations

import datetime as dt
import math
import random
from typing import Any, Final

from vanrouter.kube.calls import Object
from vanrouter.kube.names import CONTROLLER_LABELS

__all__ = ["DURATION", "GIVE_UP", "LEASE", "Leadership"]

LEASE: Final = "van-controller"
DURATION: Final = 15.0
GIVE_UP: Final = 9.0
RENEW: Final = 3.0
LOOK: Final = 2.0
AGAIN: Final = 1.0


class Leadership:
    """Of one controller, called ``name``: no other process may have that name. ``at``: when to look, or to renew, next."""

    def __init__(self, name: str, *, rng: random.Random) -> None:
        self.name = name
        self.at = 0.0
        self._rng = rng
        self._known: Object | None = None
        self._seen_at = -math.inf  # when it was first seen as it is
        self._leads_until = -math.inf

    def leads(self, now: float) -> bool:
        return now < self._leads_until

    @property
    def leads_until(self) -> float:
        """As of what is known now; in the past: it does not lead."""
        return self._leads_until

    @property
    def holder(self) -> str:
        """Who holds it, as it was seen last; empty: nobody."""
        return str(((self._known or {}).get("spec") or {}).get("holderIdentity") or "")

    def handle_seen(self, value: Object | None, now: float) -> None:
        """What stands there; None: there is none."""
        if value is None or self._known is None or _version(value) != _version(self._known):
            self._seen_at = now
        self._known = value
        if self.holder != self.name:  # whatever our clock says: one that stood still hides how long it was
            self._leads_until = -math.inf
        self.at = now + LOOK * self._rng.uniform(0.8, 1.2)

    def wish(self, now: float, wall: float) -> Object | None:
        """What to write, as one under the version that was seen; None: another one leads."""
        spec: dict[str, Any] = (self._known or {}).get("spec") or {}
        is_free = not self.holder or self.holder == self.name or now >= self._seen_at + DURATION
        if self._known is not None and not is_free:
            return None
        date = dt.datetime.fromtimestamp(wall, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        stays = self.holder == self.name
        changes = int(spec.get("leaseTransitions") or 0) + (self._known is not None and not stays)
        wanted = {
            "holderIdentity": self.name,
            "leaseDurationSeconds": int(DURATION),
            "acquireTime": spec.get("acquireTime") if stays and spec.get("acquireTime") else date,
            "renewTime": date,
            "leaseTransitions": changes,
        }
        return self._object(wanted)

    def handle_written(self, value: Object, *, began: float, now: float) -> None:
        """The server took our wish; ``began``: when we asked."""
        self._known, self._seen_at = value, now
        self._leads_until = began + GIVE_UP
        self.at = began + RENEW * self._rng.uniform(0.8, 1.2)

    def handle_failed(self, now: float) -> None:
        """Somebody else was quicker, or the server did not answer. What leads goes on until ``leads_until``."""
        self.at = now + AGAIN * self._rng.uniform(0.8, 1.2)

    def handle_ended(self) -> Object | None:
        """We stop acting. What to write so that another need not wait."""
        led, self._leads_until = self._leads_until > -math.inf and self.holder == self.name, -math.inf
        if not led or self._known is None:
            return None
        return self._object({**self._known["spec"], "holderIdentity": ""})

    def _object(self, spec: Object) -> Object:
        metadata: Object = {"name": LEASE, "labels": dict(CONTROLLER_LABELS)}
        if self._known is not None:
            metadata = {**self._known["metadata"]}
        return {"metadata": metadata, "spec": spec}


def _version(value: Object) -> tuple[Any, Any]:
    return (value["metadata"].get("uid"), value["metadata"].get("resourceVersion"))
