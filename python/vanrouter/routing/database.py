"""
What every router said last: signed records as they came, by origin (one start of one router) and number of the fragment.

Refuses to verify, to decide who belongs to the network, and to send. Newer is decided by sequence, within an origin only; a withdrawal
is newest of all and leaves a tombstone. Everything has an end: 900 s after its origin made it, wherever it was meanwhile, since a record
travels with its age. Only bounded state: see `Limits`.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from vanrouter.routing.wire import WITHDRAWN, Head, origin_key

__all__ = ["MAX_AGE", "MAX_JUMP", "Database", "Limits", "Origin", "Record"]

MAX_AGE: Final = 900.0
MAX_JUMP: Final = 1 << 32  # a sequence that runs ahead further than this is a lie


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What members may make us keep."""

    interiors: int = 2_048  # origins; what cannot be reached makes room for newcomers
    routers_per_site: int = 64  # the same, by boot number
    fragments_per_site: int = 1_024
    bytes_per_site: int = 4 << 20  # of signed messages
    bytes: int = 256 << 20
    sites_per_admitter: int = 512
    tombstones: int = 4_096


class Record(msgspec.Struct):
    """A signed message. ``wire`` is what its origin signed, unknown fields included."""

    wire: bytes
    sequence: int
    born: float  # when its origin made it, by our clock and its travelling age
    neighbours: dict[str, int] = {}
    peer: str = ""  # who sent it


class Origin(msgspec.Struct):
    router: str
    site: str
    key: bytes
    fragments: dict[int, Record] = {}
    attached: bool = False  # an edge router of ours: not in anybody's database
    own: bool = False
    draining: bool = False
    neighbours: dict[str, int] = {}

    def cost_to(self, router: str) -> int | None:
        """What it says that its link with this router costs. None: it says nothing of one."""
        return max((record.neighbours[router] for record in self.fragments.values() if router in record.neighbours), default=None)


class _Site(msgspec.Struct):
    routers: list[str] = []
    fragments: int = 0
    bytes: int = 0


class Database:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.origins: dict[str, Origin] = {}
        """In the order in which they came: whoever is in by a chain of admissions comes after its sponsor."""
        self.tombstones: dict[str, Record] = {}
        self.by_key: dict[bytes, str] = {}  # origin key -> router id, of origins and tombstones
        self._keys: list[bytes] = []  # sorted
        self._sites: dict[str, _Site] = {}
        self._bytes = 0
        self._ends: list[tuple[float, str, int]] = []  # a heap; stale entries are put back or dropped when their time comes

    # ---- questions ---------------------------------------------------------------------------------------------------------------------

    def record(self, router: str, number: int) -> Record | None:
        if number == WITHDRAWN:
            return self.tombstones.get(router)
        origin = self.origins.get(router)
        return origin.fragments.get(number) if origin is not None else None

    def routers_of(self, site: str) -> list[str]:
        """All starts of this site that are known."""
        known = self._sites.get(site)
        return list(known.routers) if known is not None else []

    def sequence(self, head: Head) -> int | None:
        """The newest known of what this head names. None: nothing of that can be newer than what we have."""
        if head.origin in self.tombstones:
            return None
        record = self.record(head.origin, head.number) if head.number != WITHDRAWN else None
        return record.sequence if record is not None else 0

    def is_newer(self, head: Head) -> bool:
        known = self.sequence(head)
        return known is not None and (head.number == WITHDRAWN or head.sequence > known)

    def range(self, first: bytes, most: int) -> tuple[list[tuple[bytes, int, int]], bytes | None]:
        """(origin, number, sequence) from ``first`` on, whole origins, and where to go on; None: that was the last."""
        out: list[tuple[bytes, int, int]] = []
        for index in range(bisect.bisect_left(self._keys, first), len(self._keys)):
            key = self._keys[index]
            router = self.by_key[key]
            items = [(key, n, r.sequence) for n, r in self._of(router)]
            if out and len(out) + len(items) > most:
                return out, key
            out += items
        return out, None

    def offers(self) -> Iterator[tuple[str, bytes, int, int]]:
        """(router, its key, number, sequence) of everything that others may have from us, in the order in which it came."""
        for router, origin in self.origins.items():
            if not origin.attached:
                for number, record in origin.fragments.items():
                    yield router, origin.key, number, record.sequence
        for router, record in self.tombstones.items():
            yield router, origin_key(router), WITHDRAWN, record.sequence

    def sequences(self) -> dict[tuple[str, int], int]:
        """Everything as (router, number) -> sequence: what must be the same in every router."""
        return {(router, number): sequence for router, _, number, sequence in self.offers()}

    def size(self) -> tuple[int, int]:
        """Origins and bytes."""
        return len(self.origins), self._bytes

    def room(self, head: Head, size: int, reachable: Callable[[str], bool]) -> tuple[str, str]:
        """Whether there is room for a fragment: (why not, or empty; the origin that must go for it, or empty)."""
        limits, known = self.limits, self.origins.get(head.origin)
        site = self._sites.get(head.origin.partition("/")[0], _Site())
        old = known.fragments.get(head.number) if known is not None else None
        grows = size - (len(old.wire) if old is not None else 0)
        evict = ""
        if known is None and len(site.routers) >= limits.routers_per_site:
            idle = min((r for r in site.routers if not reachable(r) and not self._kept(r)), default="")
            if not idle or idle > head.origin:
                return f"its site advertises as more than {limits.routers_per_site} routers", ""
            evict = idle
        elif known is None and len(self.origins) >= limits.interiors:
            evict = next((r for r in self.origins if not reachable(r) and not self._kept(r)), "")
            if not evict:
                return f"the network has more than {limits.interiors} interior routers", ""
        if not evict:
            if old is None and site.fragments >= limits.fragments_per_site:
                return f"its site advertises in more than {limits.fragments_per_site} fragments", ""
            if grows > 0 and site.bytes + grows > limits.bytes_per_site:
                return f"its site advertises more than {limits.bytes_per_site} bytes", ""
            if grows > 0 and self._bytes + grows > limits.bytes:
                return f"the network advertises more than {limits.bytes} bytes", ""
        return "", evict

    # ---- changes -----------------------------------------------------------------------------------------------------------------------

    def put(self, head: Head, record: Record, *, own: bool = False, attached: bool = False) -> Origin:
        """Take a fragment that is newer, for which there is room."""
        origin = self.origins.get(head.origin)
        if origin is None:
            site_id = head.origin.partition("/")[0]
            origin = Origin(head.origin, site_id, origin_key(head.origin), own=own, attached=attached)
            self.origins[head.origin] = origin
            self._index(origin.key, head.origin)
            self._sites.setdefault(site_id, _Site()).routers.append(head.origin)
        old = origin.fragments.get(head.number)
        origin.fragments[head.number] = record
        if old is None and not own:
            heapq.heappush(self._ends, (record.born + MAX_AGE, head.origin, head.number))
        self._account(origin.site, (old is None), len(record.wire) - (len(old.wire) if old is not None else 0))
        return origin

    def remove(self, router: str) -> Origin | None:
        origin = self.origins.pop(router, None)
        if origin is None:
            return None
        site = self._sites[origin.site]
        site.routers.remove(router)
        for record in origin.fragments.values():
            self._account(origin.site, False, -len(record.wire))
        site.fragments -= len(origin.fragments)
        if not site.routers:
            del self._sites[origin.site]
        if router not in self.tombstones:
            self._unindex(origin.key)
        return origin

    def withdraw(self, router: str, record: Record) -> Origin | None:
        """Forget this origin for good: nothing older may bring it back while it could still be on its way."""
        while len(self.tombstones) >= self.limits.tombstones:
            self._drop_tombstone(next(iter(self.tombstones)))
        origin = self.remove(router)
        self.tombstones[router] = record
        self._index(origin_key(router), router)
        heapq.heappush(self._ends, (record.born + MAX_AGE, router, WITHDRAWN))
        return origin

    @property
    def deadline(self) -> float:
        return self._ends[0][0] if self._ends else math.inf

    def expire(self, now: float) -> list[Origin]:
        """Drop what was not refreshed. Returns the origins that lost something; without fragments they are gone."""
        lost: dict[str, Origin] = {}
        while self._ends and self._ends[0][0] <= now:
            _, router, number = heapq.heappop(self._ends)
            record = self.record(router, number)
            if record is None:
                continue
            if record.born + MAX_AGE > now:
                heapq.heappush(self._ends, (record.born + MAX_AGE, router, number))
            elif number == WITHDRAWN:
                self._drop_tombstone(router)
            else:
                origin = lost[router] = self.origins[router]
                del origin.fragments[number]
                self._sites[origin.site].fragments -= 1
                self._account(origin.site, False, -len(record.wire))
                if not origin.fragments:
                    self.remove(router)
        return list(lost.values())

    # ---- inside ------------------------------------------------------------------------------------------------------------------------

    def _of(self, router: str) -> list[tuple[int, Record]]:
        tombstone = self.tombstones.get(router)
        if tombstone is not None:
            return [(WITHDRAWN, tombstone)]
        origin = self.origins[router]
        return [] if origin.attached else sorted(origin.fragments.items(), key=lambda item: item[0])

    def _kept(self, router: str) -> bool:
        origin = self.origins[router]
        return origin.own or origin.attached

    def _account(self, site: str, is_new: bool, grows: int) -> None:
        known = self._sites[site]
        known.fragments += is_new
        known.bytes += grows
        self._bytes += grows

    def _drop_tombstone(self, router: str) -> None:
        del self.tombstones[router]
        self._unindex(origin_key(router))

    def _index(self, key: bytes, router: str) -> None:
        if key not in self.by_key:
            self.by_key[key] = router
            bisect.insort(self._keys, key)

    def _unindex(self, key: bytes) -> None:
        if self.by_key.pop(key, None) is not None:
            del self._keys[bisect.bisect_left(self._keys, key)]
