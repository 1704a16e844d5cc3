"""
Who reports which links, and which of them count: a link counts when both ends report it, at the larger price.

Refuses to compute paths. It keeps the graph in force and says by which edges it differs from the one before: `take` gives (a, b, old, new),
None for no edge. A draining router's links cost `DRAIN_PENALTY` more, so that what goes through it, or to it, goes elsewhere if it can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["DRAIN_PENALTY", "MAX_NEIGHBOURS", "EdgeChange", "Topology"]

DRAIN_PENALTY: Final = 1_000_000
MAX_NEIGHBOURS: Final = 1024  # links of one router

EdgeChange = tuple[str, str, int | None, int | None]


class Topology:
    """Feed reports in; take edge changes out. ``own_word_suffices``: an edge router's own links count by themselves."""

    def __init__(self, own: str, *, own_word_suffices: bool = False) -> None:
        self._own = own if own_word_suffices else ""
        self._reported: dict[str, dict[str, int]] = {}
        self._draining: set[str] = set()
        self._dirty: dict[tuple[str, str], None] = {}
        self.edges: dict[str, dict[str, int]] = {}
        """The graph in force, symmetric: as of the last `take`."""

    def report(self, router: str, neighbours: Mapping[str, int]) -> None:
        """All links that this router reports now. Costs as much as it has links, and nothing further when they are the same."""
        before = self._reported.get(router, {})
        if len(neighbours) > MAX_NEIGHBOURS:
            neighbours = {peer: neighbours[peer] for peer in sorted(neighbours)[:MAX_NEIGHBOURS]}
        if before == neighbours:
            return
        for peer in before.keys() | neighbours.keys():
            if before.get(peer) != neighbours.get(peer):
                self._mark(router, peer)
        if neighbours:
            self._reported[router] = dict(neighbours)
        else:
            self._reported.pop(router, None)

    def set_draining(self, router: str, draining: bool) -> None:
        if draining == (router in self._draining):
            return
        if draining:
            self._draining.add(router)
        else:
            self._draining.discard(router)
        for peer in self._reported.get(router, ()):
            self._mark(router, peer)

    def is_draining(self, router: str) -> bool:
        return router in self._draining

    def forget(self, router: str) -> None:
        self.report(router, {})
        self._draining.discard(router)

    def reported_by(self, router: str) -> Mapping[str, int]:
        return self._reported.get(router, {})

    def take(self) -> list[EdgeChange]:
        """By which edges the graph in force differs from before; from now on it is in force."""
        out: list[EdgeChange] = []
        for a, b in self._dirty:
            old, new = self.edges.get(a, {}).get(b), self._cost(a, b)
            if old == new:
                continue
            out.append((a, b, old, new))
            for u, v in ((a, b), (b, a)):
                if new is not None:
                    self.edges.setdefault(u, {})[v] = new
                    continue
                del self.edges[u][v]
                if not self.edges[u]:
                    del self.edges[u]
        self._dirty.clear()
        return out

    @property
    def has_changes(self) -> bool:
        return bool(self._dirty)

    def _mark(self, a: str, b: str) -> None:
        if a != b:
            self._dirty[(a, b) if a < b else (b, a)] = None

    def _cost(self, a: str, b: str) -> int | None:
        there, back = self._reported.get(a, {}).get(b), self._reported.get(b, {}).get(a)
        if self._own == a:
            back = there
        elif self._own == b:
            there = back
        if there is None or back is None:
            return None
        return max(there, back) + DRAIN_PENALTY * ((a in self._draining) + (b in self._draining))
