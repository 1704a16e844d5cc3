"""
When the certificate that a site in a namespace shows of itself is late to be renewed, and what to say of it. Pure.

The controller renews it at two thirds of its life; one that passes three quarters was not. Router, controller's document and command line
each say the same of it: whichever of them is there.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import msgspec

from vanrouter.stores.resources import Problem

__all__ = ["LATE", "PATH", "LeafDates", "late", "leaf_dates"]

LATE: Final = 3 / 4
PATH: Final = "Secret/van-router-keys"


class LeafDates(msgspec.Struct, frozen=True):
    """Wall clock."""

    begin: float
    end: float

    @property
    def late_at(self) -> float:
        return self.begin + (self.end - self.begin) * LATE

    def doc(self) -> dict[str, str]:
        """As it stands in the status document."""
        return {"validFrom": _text(self.begin), "validUntil": _text(self.end)}


def leaf_dates(document: Any) -> LeafDates | None:
    """Of ``doc``; None: there is nothing that can be read."""
    try:
        return LeafDates(*(dt.datetime.fromisoformat(document[key]).timestamp() for key in ("validFrom", "validUntil")))
    except (KeyError, TypeError, ValueError):
        return None


def late(dates: LeafDates, now: float) -> Problem | None:
    if now < dates.late_at:
        return None
    if now < dates.end:
        text = (
            f"the certificate that this site shows of itself is valid until {_text(dates.end)}, and was not renewed in time: "
            "after that no new link to it comes up, and routers that start do not link with each other"
        )
    else:
        text = (
            f"the certificate that this site shows of itself was valid until {_text(dates.end)} and was not renewed: "
            "no new link to it comes up; links that are open stay"
        )
    return Problem(PATH, text, "the controller renews it: is it there and well? kubectl logs deployment/van-controller, or van update")


def _text(seconds: float) -> str:
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
