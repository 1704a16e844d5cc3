"""
Our own advertisement, cut into fragments: adding a key resends one fragment, and no fragment is sent too often.

Refuses to sign or send. An item (a key, a neighbour) lies in one fragment and stays there; when it outgrows its fragment it moves, and the
fragment that gains it goes first, so that a receiver never misses it in between.

    set("key a"), set(neighbour) ... ──▶ [ 0: neighbours ]  [ 1: a b ]  [ 2: c ]  [ 3: leaves ]   ──▶ due(now): those that changed, paced

Neighbours, keys and leaves lie in fragments of their own, and those of neighbours go first: news of a lost link waits for no key.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from vanrouter.errors import LocalProtocolError
from vanrouter.messages import MAX_FRAGMENT, MAX_FRAGMENTS, Fragment, KeyInfo, Leaf, Neighbour
from vanrouter.model import RouterId

__all__ = ["BURST", "FRAGMENT_RATE", "ORIGIN_RATE", "REFRESH", "Advertiser", "Bucket"]

FRAGMENT_RATE: Final = 1.0  # per second and fragment
ORIGIN_RATE: Final = 20.0  # per second, all fragments together
BURST: Final = 10
REFRESH: Final = 300.0
FIXED: Final = 800  # bytes of a message that are not items or admissions: origin, key, signature, name, version, names of fields
MAX_ENTRIES_PER_FRAGMENT: Final = 1000

Item = KeyInfo | Leaf | Neighbour
_encode = msgspec.msgpack.Encoder().encode


class Bucket:
    """A token bucket. Time is an argument."""

    def __init__(self, rate: float, burst: int, *, now: float) -> None:
        self._rate, self._burst = rate, float(burst)
        self._tokens, self._at = float(burst), now

    def ready_at(self, now: float) -> float:
        """When the next token is there; not after ``now`` when it is already."""
        self._fill(now)
        return now if self._tokens >= 1.0 - 1e-9 else now + (1.0 - self._tokens) / self._rate

    def take(self, now: float) -> None:
        self._fill(now)
        self._tokens -= 1.0

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = max(self._at, now)


class _Frame:
    """One fragment in the making."""

    def __init__(self, number: int, holds: type[Item], *, now: float) -> None:
        self.number, self.holds = number, holds
        self.items: dict[tuple[str, str], Item] = {}
        self.size = 0
        self.sequence = 0
        self.dirty = True
        self.bucket = Bucket(FRAGMENT_RATE, BURST, now=now)
        self.refresh_at = now


class Advertiser:
    """Keep what we advertise; say which fragments to seal and send, and when."""

    def __init__(self, own: RouterId, *, name: str = "", version: str = "", admissions_size: int = 0, now: float) -> None:
        """``name`` and ``version``: of the site and its software, for people."""
        self._own, self._name, self._version = str(own), name[:63], version[:63]
        self._budget = MAX_FRAGMENT - FIXED - admissions_size
        self._frames: list[_Frame] = [_Frame(0, Neighbour, now=now)]
        self._where: dict[tuple[str, str], _Frame] = {}
        self._sizes: dict[tuple[str, str], int] = {}
        self._bucket = Bucket(ORIGIN_RATE, BURST, now=now)
        self._dirty: dict[int, _Frame] = {0: self._frames[0]}  # in the order in which they are to go
        self._draining = False

    def set_key(self, key: str, info: KeyInfo | None, *, now: float) -> None:
        """None, or neither targets nor listeners: it is not advertised."""
        if info is not None and info.is_empty:
            info = None
        self._set(("key", key), info, now)

    def set_neighbour(self, router: str, neighbour: Neighbour | None, *, now: float) -> None:
        self._set(("neighbour", router), neighbour, now)

    def set_edge(self, router: str, leaf: Leaf | None, *, now: float) -> None:
        self._set(("edge", router), leaf, now)

    def set_draining(self, draining: bool) -> None:
        if draining != self._draining:
            self._draining = draining
            self._mark(self._frames[0])

    def keys(self) -> dict[str, KeyInfo]:
        """Every key as it is advertised."""
        items = (item for frame in self._frames for item in frame.items.values())
        return {item.key: item for item in items if isinstance(item, KeyInfo)}

    def mark_all(self) -> None:
        """What every fragment carries besides its items is another now."""
        for frame in self._frames:
            self._mark(frame)

    def position(self, key: str) -> tuple[int, int] | None:
        """(number, sequence) that a peer must have applied to have this key as it is now. None: it is not advertised."""
        frame = self._where.get(("key", key))
        return None if frame is None else self._position(frame)

    def positions(self) -> dict[int, int]:
        """The same for everything that is advertised now."""
        return dict(self._position(frame) for frame in self._frames)

    @property
    def deadline(self) -> float:
        """When `due` next has something; ``inf`` is not possible, since fragments are refreshed."""
        times = [frame.refresh_at for frame in self._frames if not frame.dirty]
        for frame in self._dirty.values():
            at = frame.bucket._at
            times.append(max(frame.bucket.ready_at(at), self._bucket.ready_at(self._bucket._at)))
        return min(times, default=math.inf)

    def due(self, now: float) -> list[Fragment]:
        """The fragments to seal and send now, each with its new sequence. Calling early is harmless."""
        for frame in self._frames:
            if not frame.dirty and now >= frame.refresh_at:
                self._mark(frame)
        out = []
        for frame in sorted(self._dirty.values(), key=lambda frame: frame.holds is not Neighbour):  # stable
            if self._bucket.ready_at(now) > now:
                break
            if frame.bucket.ready_at(now) > now:
                continue
            self._bucket.take(now)
            frame.bucket.take(now)
            frame.sequence += 1
            frame.dirty = False
            frame.refresh_at = now + REFRESH
            del self._dirty[frame.number]
            out.append(self._fragment(frame))
        return out

    # ---- inside ------------------------------------------------------------------------------------------------------------------------

    def _position(self, frame: _Frame) -> tuple[int, int]:
        return frame.number, frame.sequence + (1 if frame.dirty else 0)

    def _set(self, name: tuple[str, str], item: Item | None, now: float) -> None:
        frame = self._where.get(name)
        if item is None:
            if frame is not None:
                self._take_out(name, frame)
                self._mark(frame)
            return
        if frame is not None and frame.items[name] == item:
            return
        size = len(_encode(item))
        if frame is not None and frame.size - self._sizes[name] + size <= self._budget:
            frame.size += size - self._sizes[name]
        else:
            if frame is not None:
                self._take_out(name, frame)
            target = self._with_room(size, type(item), now)
            target.size += size
            self._where[name] = target
            self._mark(target)
            if frame is not None:
                self._mark(frame, last=True)
            frame = target
        self._sizes[name] = size
        frame.items[name] = item
        self._mark(frame)

    def _take_out(self, name: tuple[str, str], frame: _Frame) -> None:
        del frame.items[name], self._where[name]
        frame.size -= self._sizes.pop(name)

    def _with_room(self, size: int, kind: type[Item], now: float) -> _Frame:
        for frame in self._frames:
            if frame.holds is kind and frame.size + size <= self._budget and len(frame.items) < MAX_ENTRIES_PER_FRAGMENT:
                return frame
        if len(self._frames) == MAX_FRAGMENTS:
            raise LocalProtocolError(f"what this site advertises does not fit into {MAX_FRAGMENTS} fragments")
        self._frames.append(_Frame(len(self._frames), kind, now=now))
        return self._frames[-1]

    def _mark(self, frame: _Frame, *, last: bool = False) -> None:
        frame.dirty = True
        if last:
            self._dirty.pop(frame.number, None)
        self._dirty.setdefault(frame.number, frame)

    def _fragment(self, frame: _Frame) -> Fragment:
        return Fragment(
            origin=self._own,
            number=frame.number,
            sequence=frame.sequence,
            keys=[item for item in frame.items.values() if isinstance(item, KeyInfo)],
            neighbours=[item for item in frame.items.values() if isinstance(item, Neighbour)],
            draining=self._draining and frame.number == 0,
            name=self._name if frame.number == 0 else "",
            version=self._version if frame.number == 0 else "",
            edges=[item for item in frame.items.values() if isinstance(item, Leaf)],
        )
