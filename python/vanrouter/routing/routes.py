"""
Routing key -> the routers that have targets of it, from what routers advertise.

Refuses to know how a router is reached: a changed path is no changed route, and a router without a path stays a target that does not count.
Computes only keys that something touched, and says only what differs from what it said before. An interior's keys include those of its
edges: targets are interiors, and edges of our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from vanrouter.addresses import Remote
from vanrouter.messages import MAX_SERVICES_PER_KEY, KeyInfo
from vanrouter.plane import RouteTarget
from vanrouter.routing.actions import RouteChanged

__all__ = ["Routes", "merged"]

MAX_COST: Final = 1_000_000
MAX_COUNT: Final = 1_000_000


class Routes:
    """``counts_ours``: whether what a router advertises includes our own targets."""

    def __init__(self, remote: Remote, counts_ours: Callable[[str], bool]) -> None:
        self._remote, self._counts_ours = remote, counts_ours
        self._own: dict[str, KeyInfo] = {}
        self._said: dict[str, list[RouteTarget]] = {}
        self._dirty: dict[str, None] = {}

    def mark(self, keys: Iterable[str]) -> None:
        self._dirty.update(dict.fromkeys(keys))

    def set_own(self, key: str, info: KeyInfo | None) -> None:
        """What we advertise of a key ourselves."""
        if info is None:
            self._own.pop(key, None)
        else:
            self._own[key] = info
        self._dirty[key] = None

    def take(self) -> list[RouteChanged]:
        out = []
        for key in self._dirty:
            targets = self.targets(key)
            if targets != self._said.get(key, []):
                out.append(RouteChanged(key, targets))
                if targets:
                    self._said[key] = targets
                else:
                    del self._said[key]
        self._dirty.clear()
        return out

    def said(self) -> dict[str, list[RouteTarget]]:
        """Everything in force, for a snapshot."""
        return dict(self._said)

    def targets(self, key: str) -> list[RouteTarget]:
        """Cheapest first, then lower ids first."""
        own = self._own.get(key)
        out = []
        for router, info in self._remote.key(key).items():
            targets = info.targets
            if own is not None and self._counts_ours(router):
                targets -= own.targets
            if targets > 0:
                out.append(RouteTarget(router, info.cost))
        return sorted(out, key=lambda target: (target.cost, target.router))


def merged(own: KeyInfo | None, edges: list[tuple[int, KeyInfo]]) -> KeyInfo | None:
    """What an interior advertises of a key: its own, and what its edges (price of the link, what they say) have. None: nothing."""
    if not edges:
        return own
    infos = ([(0, own)] if own is not None else []) + edges
    with_targets = [(price + info.cost, info) for price, info in infos if info.targets]
    services = dict.fromkeys(service for _, info in infos for service in info.services)
    return KeyInfo(
        key=infos[0][1].key,
        targets=min(MAX_COUNT, sum(info.targets for _, info in infos)),
        listeners=min(MAX_COUNT, sum(info.listeners for _, info in infos)),
        cost=min(MAX_COST, min((cost for cost, _ in with_targets), default=0)),
        services=list(services)[:MAX_SERVICES_PER_KEY],
        strategy=infos[0][1].strategy,
        down=min(MAX_COUNT, sum(info.down for _, info in infos)),
    )
