"""
Who else changes what this controller keeps: put back a few times, then left alone and named until it is quiet. Decides only.

    as it should be ▸ changed by somebody ▸ put back, and said for ten minutes
                                          ▸ for the sixth time within ten minutes: left as it is, and said, until nobody changed it for ten

A change of ours is told from one of somebody else by what was wanted: where that is still the same, the change is not ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from vanrouter.kube.calls import Object
from vanrouter.kube.managers import manager_of

__all__ = ["Rivals", "Rivalry"]

MOST: Final = 5
WITHIN: Final = 600.0


class Rivalry(msgspec.Struct):
    """About one object, ``what``. ``who``: the manager that changed it last, as far as the API server knows."""

    what: str
    wish: Any
    who: str = ""
    seen: str = ""  # the version that was found changed, so that looking twice is one change
    changes: list[float] = []
    is_left: bool = False

    @property
    def until(self) -> float:
        return self.changes[-1] + WITHIN if self.changes else math.inf


class Rivals:
    """Times are monotonic and of whoever calls."""

    def __init__(self) -> None:
        self._known: dict[str, Rivalry] = {}
        self._uids: dict[str, str] = {}

    def may_write(self, what: str, wish: Any, known: Object | None, *, holds: bool, now: float) -> bool:
        """Whether to make ``what`` as wished. ``holds``: ``known``, as it is there (None: it is not), is so already."""
        found = self._known.get(what)
        if found is not None and now >= found.until:
            found.changes, found.is_left = [], False
        if holds:
            if found is None or found.wish != wish:
                self._known[what] = Rivalry(what, wish, changes=found.changes if found else [])
            self._uids[what] = "" if known is None else str(known["metadata"].get("uid"))
            return False
        if found is None or found.wish != wish:
            return True  # we have not made it so yet
        metadata = {} if known is None else known["metadata"]
        version = f"gone {self._uids.get(what)}" if known is None else str(metadata.get("resourceVersion"))
        if version != found.seen:
            found.seen, found.who = version, "" if known is None else manager_of(known)
            found.changes = [at for at in found.changes if at > now - WITHIN] + [now]
        found.is_left = found.is_left or len(found.changes) > MOST
        return not found.is_left

    def forget(self, wanted: set[str]) -> None:
        """Nobody wants the others any more."""
        for what in self._known.keys() - wanted:
            del self._known[what]
            self._uids.pop(what, None)

    def current(self, now: float) -> Iterator[Rivalry]:
        """What was changed lately, or is left alone."""
        return (found for _, found in sorted(self._known.items()) if found.changes and now < found.until)

    def deadline(self, now: float) -> float:
        """When something is no longer to be said, or to be tried again."""
        return min((found.until for found in self._known.values() if found.until > now), default=math.inf)
