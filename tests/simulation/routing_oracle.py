"""
What must be true of a quiet network, worked out from the truth by other means: all pairs at once (Floyd and Warshall), no increments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from simulated_network import Network, Router

LAST_RESORT = 1_000_000

Edges = dict[tuple[str, str], int]


def interiors(network: Network) -> list[Router]:
    return [router for router in network.routers.values() if not router.edge]


def true_edges(network: Network) -> Edges:
    """Both directions of every link between interiors, at the price that counts."""
    out: Edges = {}
    for link in network.links.values():
        ends = [network.by_name.get(end) for end in link.ends]
        if not link.up or any(end is None or end.edge for end in ends):
            continue
        a, b = ends
        assert a is not None
        assert b is not None
        cost = LAST_RESORT if link.suspect else link.cost
        cost += LAST_RESORT * (a.draining + b.draining)
        out[a.id, b.id] = out[b.id, a.id] = cost
    return out


def all_pairs(nodes: Iterable[str], edges: Edges) -> dict[tuple[str, str], float]:
    nodes = list(nodes)
    cost: dict[tuple[str, str], float] = {(a, b): 0 if a == b else edges.get((a, b), math.inf) for a in nodes for b in nodes}
    for via in nodes:
        for a in nodes:
            first = cost[a, via]
            if first < math.inf:
                for b in nodes:
                    if first + cost[via, b] < cost[a, b]:
                        cost[a, b] = first + cost[via, b]
    return cost


def expected_path(a: str, b: str, cost: dict[tuple[str, str], float], edges: Edges) -> tuple[int, tuple[str, ...]] | None:
    if cost[a, b] == math.inf:
        return None
    hops = sorted(hop for (end, hop), price in edges.items() if end == a and price + cost[hop, b] == cost[a, b])
    return int(cost[a, b]), tuple(hops[:8])


def check_paths(network: Network, *, honest: Iterable[Router] | None = None, edges: Edges | None = None) -> None:
    """Every path of every router equals the oracle's."""
    edges = true_edges(network) if edges is None else edges
    routers = list(honest) if honest is not None else interiors(network)
    nodes = {router.id for router in routers} | {end for pair in edges for end in pair}
    cost = all_pairs(nodes, edges)
    for router in routers:
        for other in nodes:
            if other != router.id:
                assert router.engine.path(other) == expected_path(router.id, other, cost, edges), (router.name, other)


def check_databases(network: Network, *, honest: Iterable[Router] | None = None) -> None:
    """
    All that can reach each other know the same of each other. Of routers that cannot be reached too, unless their time is near, or nothing
    that is left joins their site to the one that does not know them.
    """
    routers = list(honest) if honest is not None else interiors(network)
    known = {router.id: router.engine.database.sequences() for router in routers}
    for router in routers:
        for other in routers:
            if not router.engine.paths.reaches(other.id) or known[router.id] == known[other.id]:
                continue
            for slot, sequence in known[router.id].items():
                if known[other.id].get(slot) != sequence:
                    record = router.engine.database.record(*slot)
                    assert record is not None
                    is_old = network.now - record.born > 870.0
                    is_stranger = slot[0].partition("/")[0] not in other.engine.membership
                    assert not router.engine.paths.reaches(slot[0]), (router.name, other.name, slot)
                    assert is_old or is_stranger, (router.name, other.name, slot)


def check_routes(network: Network) -> None:
    """Every router's routes are what its paths and everybody's keys make of them; targets are only where they are offered."""
    for router in network.routers.values():
        routes = router.routes
        for key in {key for other in network.routers.values() for key in other.keys} | set(router.said):
            expected = sorted(_targets(network, router, key))
            assert sorted(routes.get(key, [])) == expected, (router.name, key)
            assert router.said.get(key, []) == router.engine.routes().get(key, [])


def _targets(network: Network, router: Router, key: str) -> list[tuple[str, str, int]]:
    out = []
    for other in network.routers.values():
        if other is router:
            continue
        if other.edge:
            if not router.edge and _linked(network, router, other) and key in other.keys:
                cost = network.links[frozenset((router.name, other.name))].cost
                out.append((other.id, other.id, cost + other.keys[key].cost))
            continue
        offers = [other.keys[key].cost] if key in other.keys else []
        offers += [
            edge.keys[key].cost + network.links[frozenset((other.name, edge.name))].cost
            for edge in network.routers.values()
            if edge.edge and edge is not router and key in edge.keys and _linked(network, other, edge)
        ]
        path = router.engine.path(other.id)
        if not offers or path is None:
            continue
        price = min(offers)
        if router.edge and key in router.keys and _linked(network, other, router):
            # What our uplink says is the cheapest of all, ours included.
            price = min(price, router.keys[key].cost + network.links[frozenset((other.name, router.name))].cost)
        out += [(other.id, hop, path[0] + price) for hop in path[1]]
    return out


def _linked(network: Network, a: Router, b: Router) -> bool:
    link = network.links.get(frozenset((a.name, b.name)))
    return link is not None and link.up


def loops(network: Network) -> list[tuple[str, str]]:
    """(router, destination) for which following next hops comes by the same router twice: every choice of next hop is followed."""
    out = []
    routers = interiors(network)
    for destination in routers:
        state: dict[str, int] = {}  # 1: on the way, 2: done
        for start in routers:
            if start.id in state:
                continue
            stack = [(start.id, iter(_hops(network, start.id, destination.id)))]
            state[start.id] = 1
            while stack:
                at, hops = stack[-1]
                hop = next(hops, None)
                if hop is None:
                    state[at] = 2
                    stack.pop()
                elif state.get(hop) == 1:
                    out.append((hop, destination.id))
                elif hop not in state:
                    state[hop] = 1
                    stack.append((hop, iter(_hops(network, hop, destination.id))))
    return out


def _hops(network: Network, at: str, destination: str) -> tuple[str, ...]:
    router = network.routers.get(at)
    if router is None or at == destination:
        return ()
    path = router.engine.path(destination)
    return path[1] if path is not None else ()
