"""
A copy of the objects of one kind in one namespace, kept in step by one list and a watch after it.

Sans-IO: the driver asks ``next_step``, does it, and reports; time and chance are arguments. The rules that it keeps:

* Nothing is removed from the copy because of an error or a list that is not complete: only a DELETED event, or the absence from a complete
  list, removes. So an outage, however long, shows no deletions.
* A watch goes on from the last version heard of. When the server no longer keeps that (410), everything is listed again while the copy
  stays; what differs then comes out as changes.
* Versions are opaque: kept and compared for equality, never ordered. An event that is heard twice changes nothing.
* A watch in which nothing was heard for ``IDLE``, not even a bookmark, is taken for dead and opened again.
* Failures are spaced by a back-off with jitter, at most ``CAP``, and by what a busy server asks for.

        LISTING ──complete──▶ WATCHING ──ended, broken, silent──▶ WATCHING again, from the last version
           ▲                     │
           └──────── 410 ────────┘
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from vanrouter.kube.calls import PAGE, Object
from vanrouter.kube.errors import Gone, KubeError, ServerFailed, Throttled

__all__ = ["CAP", "FIRST_DELAY", "IDLE", "LIST_AGAIN", "WATCH_SECONDS", "Changed", "ListPage", "ListWatch", "OpenWatch", "Removed", "Step"]

FIRST_DELAY: Final = 0.2
CAP: Final = 5.0
"""So that the copy is right within 10 s of the server's return."""

SETTLED: Final = 5.0
"""A watch that lived so long, or brought an event, was a good one: what follows starts its back-off anew."""

WATCH_SECONDS: Final = 270
"""The server ends a watch after this (and up to a tenth less): connections do not live for ever behind load balancers."""

IDLE: Final = 150.0
"""The server sends a bookmark about each minute. Two that are missing, and some: the connection is half open."""

LIST_AGAIN: Final = 3600.0
"""A list from time to time, against events that were lost for reasons that nobody thought of. Shows only what differs."""

MAX_OBJECTS: Final = 50_000
"""Of one namespace."""

MAX_OF_ALL: Final = 1_000_000
"""Of all namespaces: one of them must not be enough to end the copy of the others."""


class ListPage(msgspec.Struct, frozen=True):
    """Ask for a page. ``limit`` 0: everything at once."""

    continue_token: str
    limit: int


class OpenWatch(msgspec.Struct, frozen=True):
    resource_version: str
    timeout_seconds: int
    idle: float


class Step(msgspec.Struct, frozen=True):
    """What to do next, and not before ``at``."""

    at: float
    do: ListPage | OpenWatch


class Changed(msgspec.Struct, frozen=True):
    """New, or different from before. ``key`` is (namespace, name)."""

    key: tuple[str, str]
    object: Any


class Removed(msgspec.Struct, frozen=True):
    key: tuple[str, str]


Change = Changed | Removed


class ListWatch:
    """See the module. ``keep`` is what is stored of an object: the less, the less memory."""

    def __init__(self, rng: random.Random, *, keep: Callable[[Object], Any] = lambda value: value, most: int = MAX_OBJECTS) -> None:
        self._most = most
        self.objects: dict[tuple[str, str], Any] = {}
        self.synced = False  # whether there was a complete list ever
        self.problem: KubeError | None = None  # why the copy may be behind; None: it is not, as far as we know
        self.problem_since: float | None = None
        self._keep, self._rng = keep, rng
        self._stamps: dict[tuple[str, str], tuple[str, str]] = {}  # uid and version of what is kept
        self._version = ""  # to watch from; empty: list
        self._listed: dict[tuple[str, str], Object] = {}  # of a list that is not complete
        self._token = ""
        self._paged = True
        self._at = 0.0
        self._failures = 0
        self._watch_began: float | None = None
        self._list_at = float("inf")

    @property
    def current(self) -> bool:
        """Whether a watch is open and nothing is known to be wrong. A deletion of ours needs this: absence is proof only then."""
        return self.synced and self._watch_began is not None and self.problem is None

    def next_step(self, now: float) -> Step:
        if now >= self._list_at:
            self._list_at, self._version = float("inf"), ""
        if not self._version:
            return Step(self._at, ListPage(self._token, PAGE if self._paged else 0))
        return Step(self._at, OpenWatch(self._version, WATCH_SECONDS - self._rng.randrange(WATCH_SECONDS // 10), IDLE))

    # ---- Lists ---------------------------------------------------------------------------------------------------------------------------

    def handle_page_untrusted(self, page: Object, now: float) -> Sequence[Change]:
        """A page came. Changes come out when it was the last one."""
        metadata, items = page.get("metadata"), page.get("items")
        if not isinstance(metadata, dict) or not isinstance(metadata.get("resourceVersion"), str) or not metadata["resourceVersion"]:
            return self.handle_failed(ServerFailed("the cluster answered with a list that has no version"), now)
        for item in items if isinstance(items, list) else []:
            if (key := _key(item)) is not None:
                self._listed[key] = item
        if len(self._listed) > self._most:
            return self.handle_failed(ServerFailed(f"the list has more than {self._most} objects"), now)
        self._token = str(metadata.get("continue") or "")
        if self._token:
            return ()
        listed, self._listed = self._listed, {}
        self._version, self._paged, self.synced = metadata["resourceVersion"], True, True
        self._list_at = now + LIST_AGAIN * self._rng.uniform(0.9, 1.1)
        self.problem, self.problem_since = None, None
        changes: list[Change] = [self._remove(key) for key in [k for k in self.objects if k not in listed]]
        return changes + [change for key, item in listed.items() for change in self._put(key, item)]

    # ---- Watches -------------------------------------------------------------------------------------------------------------------------

    def handle_opened(self, now: float) -> None:
        """The server took the watch: whatever happens from its version on will come."""
        self._watch_began = now
        self.problem, self.problem_since = None, None

    def handle_event_untrusted(self, event: Object) -> Sequence[Change]:
        """One event of the open watch. Raises ServerFailed for what is none; report that as a failure."""
        kind, value = event.get("type"), event.get("object")
        metadata = value.get("metadata") if isinstance(value, dict) else None
        version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
        if not isinstance(version, str) or not version or not isinstance(value, dict):
            raise ServerFailed(f"the watch brought an event without a version (type {str(kind)[:40]!r})")
        key = _key(value)
        if kind != "BOOKMARK" and (kind not in ("ADDED", "MODIFIED", "DELETED") or key is None):
            raise ServerFailed(f"the watch brought an event of an unknown type {str(kind)[:40]!r}, or without a name")
        self._version, self._failures = version, 0
        if kind == "BOOKMARK" or key is None:
            return ()
        if kind == "DELETED":
            return [self._remove(key)] if key in self.objects else ()
        return self._put(key, value)

    def handle_ended(self, now: float) -> Sequence[Change]:
        """The server ended the watch as agreed, or closed the connection. At once again, unless it has just been opened."""
        began, self._watch_began = self._watch_began, None
        if began is not None and now - began >= SETTLED:
            self._failures, self._at = 0, now
        else:
            self._later(now)
        return ()

    def handle_failed(self, error: KubeError, now: float) -> Sequence[Change]:
        """A list or a watch failed, or the watch was silent for too long. Changes nothing in the copy."""
        began, self._watch_began = self._watch_began, None
        lived = began is not None and now - began >= SETTLED
        if lived:
            self._failures = 0
        self._listed, self._token = {}, ""
        if isinstance(error, Gone):
            if not self._version:  # the token of a list that took too long: not page by page then
                self._paged = False
            self._version = ""
            if not self._failures:
                self._failures, self._at = 1, now
                return ()
        elif lived:  # most likely the server restarts: look at once
            self._failures, self._at = 1, now
            self._trouble(error, now)
            return ()
        self._trouble(error, now)
        self._later(now, error.retry_after if isinstance(error, Throttled) else 0.0)
        return ()

    # ---- Inside --------------------------------------------------------------------------------------------------------------------------

    def _put(self, key: tuple[str, str], value: Object) -> Sequence[Change]:
        metadata = value["metadata"]
        stamp = (str(metadata.get("uid", "")), str(metadata.get("resourceVersion", "")))
        if self._stamps.get(key) == stamp and key in self.objects:
            return ()
        self._stamps[key] = stamp
        self.objects[key] = self._keep(value)
        return [Changed(key, self.objects[key])]

    def _remove(self, key: tuple[str, str]) -> Removed:
        del self.objects[key]
        self._stamps.pop(key, None)
        return Removed(key)

    def _trouble(self, error: KubeError, now: float) -> None:
        if self.problem is None:
            self.problem_since = now
        self.problem = error

    def _later(self, now: float, at_least: float = 0.0) -> None:
        delay = min(CAP, FIRST_DELAY * 2.0 ** min(self._failures, 16)) * self._rng.uniform(0.5, 1.0)
        self._failures += 1
        self._at = now + max(delay, at_least)


def _key(item: Mapping[str, Any] | Any) -> tuple[str, str] | None:
    metadata = item.get("metadata") if isinstance(item, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not isinstance(metadata, dict):
        return None
    namespace = metadata.get("namespace")
    return (namespace if isinstance(namespace, str) else "", name)
