"""
Cheapest paths from one router to all others, with all equal next hops, kept up to date edge by edge.

Refuses to look at what a change does not touch: an edge that no cheapest path uses costs nothing, a lost one costs work for the routers
behind it (Ramalingam and Reps). Every price is positive, so that each step of a path is nearer to its end: within one graph there is no
loop. Ties: all next hops of equal price are kept, at most `MAX_NEXT_HOPS`, lower ids first.

      old edges ──▶ who lost its distance? ──▶ who is nearest to those that did not? ──▶ whose next hops differ?
                    (ascending distance)        (Dijkstra among the affected)             (ascending distance)
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final

from vanrouter.routing.topology import EdgeChange

__all__ = ["MAX_NEXT_HOPS", "Paths"]

MAX_NEXT_HOPS: Final = 8
_Heap = list[tuple[int, str]]


class Paths:
    """``edges`` is the graph in force (`Topology.edges`); `update` says what it differs in from when it was last called."""

    def __init__(self, root: str, edges: dict[str, dict[str, int]]) -> None:
        self._root, self._edges = root, edges
        self._cost: dict[str, int] = {root: 0}
        self._hops: dict[str, tuple[str, ...]] = {root: ()}
        self._links: dict[str, int] = {root: 0}  # of the longest of the cheapest paths
        self._with_links: list[int] = [1]  # how many routers have that many
        self.visited = 0
        """Routers looked at so far: what the benchmarks count."""

    def path(self, router: str) -> tuple[int, tuple[str, ...]] | None:
        """(price, next hops) of a router. None: there is none, or it is ourselves."""
        hops = self._hops.get(router)
        return (self._cost[router], hops) if hops else None

    def reaches(self, router: str) -> bool:
        return router in self._cost

    def routers(self) -> Iterable[str]:
        """All that can be reached, ourselves included."""
        return self._cost.keys()

    def depth(self) -> int:
        """The most links on any cheapest path from here."""
        return len(self._with_links) - 1

    def update(self, changes: list[EdgeChange]) -> set[str]:
        """Bring everything up to date. Returns the routers whose price or next hops changed."""
        before: dict[str, int | None] = {}
        self._lengthen(changes, before)
        moved = {router for router, cost in before.items() if self._cost.get(router) != cost}
        return self._next_hops(changes, moved)

    # ---- inside ------------------------------------------------------------------------------------------------------------------------

    def _lengthen(self, changes: list[EdgeChange], before: dict[str, int | None]) -> None:
        cost, edges = self._cost, self._edges
        lost = self._lost(changes)
        heap: _Heap = []
        for router in lost:
            before[router] = cost.pop(router)
        for router in lost:
            near = [cost[peer] + price for peer, price in edges.get(router, {}).items() if peer in cost]
            if near:
                heap.append((min(near), router))
        for a, b, old, new in changes:
            if new is not None and (old is None or new < old):
                heap.extend((cost[u] + new, v) for u, v in ((a, b), (b, a)) if u in cost)
        heapq.heapify(heap)
        while heap:
            distance, router = heapq.heappop(heap)
            known = cost.get(router)
            if known is not None and known <= distance:
                continue
            before.setdefault(router, known)
            cost[router] = distance
            self.visited += 1
            for peer, price in edges.get(router, {}).items():
                other = cost.get(peer)
                if other is None or distance + price < other:
                    heapq.heappush(heap, (distance + price, peer))

    def _lost(self, changes: list[EdgeChange]) -> set[str]:
        """The routers none of whose cheapest paths is left as it was."""
        cost, edges = self._cost, self._edges
        heap: _Heap = []
        was: dict[tuple[str, str], int] = {}  # a path may have come over an edge that is cheaper now, from a router that is lost
        for a, b, old, new in changes:
            if old is not None:
                was[a, b] = was[b, a] = old
            if old is not None and (new is None or new > old):
                for u, v in ((a, b), (b, a)):
                    if u in cost and v in cost and cost[u] + old == cost[v]:
                        heap.append((cost[v], v))
        heapq.heapify(heap)
        lost: set[str] = set()
        while heap:
            distance, router = heapq.heappop(heap)
            if router in lost:
                continue
            self.visited += 1
            around = edges.get(router, {})
            if any(peer not in lost and cost.get(peer, distance) + price == distance for peer, price in around.items()):
                continue
            lost.add(router)
            for peer, price in around.items():
                if (known := cost.get(peer)) is not None and known == distance + was.get((router, peer), price):
                    heapq.heappush(heap, (known, peer))
        return lost

    def _next_hops(self, changes: list[EdgeChange], moved: set[str]) -> set[str]:
        cost, edges, hops, root = self._cost, self._edges, self._hops, self._root
        todo = {end for change in changes for end in change[:2]} | moved
        for router in moved:
            todo.update(edges.get(router, ()))
        changed = set(moved)
        for router in todo:
            if router not in cost and hops.pop(router, None) is not None:
                changed.add(router)
                self._set_links(router, None)
        heap: _Heap = [(cost[router], router) for router in todo if router in cost and router != root]
        heapq.heapify(heap)
        last = ""
        while heap:
            distance, router = heapq.heappop(heap)
            if router == last:
                continue
            last = router
            self.visited += 1
            found: set[str] = set()
            links = 0
            around = edges.get(router, {})
            for peer, price in around.items():
                if cost.get(peer, distance) + price == distance:
                    found.update(hops[peer] if peer != root else (router,))
                    links = max(links, 1 + self._links[peer])
            chosen = tuple(sorted(found)[:MAX_NEXT_HOPS])
            if hops.get(router) != chosen:
                hops[router] = chosen
                changed.add(router)
            elif self._links.get(router) == links:
                continue
            self._set_links(router, links)
            for peer, price in around.items():
                if cost.get(peer) == distance + price:
                    heapq.heappush(heap, (distance + price, peer))
        return changed

    def _set_links(self, router: str, links: int | None) -> None:
        counts, before = self._with_links, self._links.pop(router, None)
        if before is not None:
            counts[before] -= 1
        if links is not None:
            self._links[router] = links
            counts.extend([0] * (links + 1 - len(counts)))
            counts[links] += 1
        while not counts[-1]:
            counts.pop()
