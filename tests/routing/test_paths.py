"""Paths kept up to date edge by edge are those computed from nothing; and they cost no more than what changed."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vanrouter.routing.paths import MAX_NEXT_HOPS, Paths
from vanrouter.routing.topology import DRAIN_PENALTY, Topology

NODES = [f"r{n}" for n in range(7)]


class Graph:
    """Two-way links, as both ends would report them."""

    def __init__(self) -> None:
        self.topology = Topology(NODES[0])
        self.paths = Paths(NODES[0], self.topology.edges)
        self.links: dict[str, dict[str, int]] = {}

    def set(self, a: str, b: str, cost: int | None) -> None:
        for u, v in ((a, b), (b, a)):
            row = self.links.setdefault(u, {})
            if cost is None:
                row.pop(v, None)
            else:
                row[v] = cost
            self.topology.report(u, row)

    def update(self) -> set[str]:
        return self.paths.update(self.topology.take())


def bellman_ford(links: dict[str, dict[str, int]], root: str) -> dict[str, float]:
    cost = {root: 0.0}
    for _ in range(len(links) + 1):
        for u, v in itertools.product(links, links):
            if v in links[u] and u in cost:
                cost[v] = min(cost.get(v, math.inf), cost[u] + links[u][v])
    return cost


def by_hand(links: dict[str, dict[str, int]], root: str, end: str) -> tuple[int, tuple[str, ...]] | None:
    """Next hops are the neighbours from which the rest of the way is as much cheaper as the link costs."""
    best = bellman_ford(links, root).get(end)
    if best is None or end == root:
        return None
    hops = [hop for hop, price in links.get(root, {}).items() if price + bellman_ford(links, hop).get(end, math.inf) == best]
    return int(best), tuple(sorted(hops)[:MAX_NEXT_HOPS])


def most_links(links: dict[str, dict[str, int]], root: str) -> int:
    """Of all cheapest paths, the one with the most links."""
    cost = bellman_ford(links, root)
    count = {root: 0}
    for node in sorted(cost, key=cost.__getitem__):
        before = [count[peer] for peer, price in links.get(node, {}).items() if cost[peer] + price == cost[node]]
        count[node] = max((n + 1 for n in before), default=0)
    return max(count.values())


def test_a_router_behind_a_lost_one_is_lost_also_when_the_link_between_them_gets_cheaper_at_the_same_time() -> None:
    # r0 ── r2 ── r1, and r0 ── r3 ── r1 at a higher price
    graph = Graph()
    for a, b, cost in (("r0", "r2", 1), ("r2", "r1", 3), ("r0", "r3", 5), ("r3", "r1", 5)):
        graph.set(a, b, cost)
    graph.update()
    graph.set("r0", "r2", None)
    graph.set("r2", "r1", 1)
    graph.update()
    assert graph.paths.path("r1") == (10, ("r3",))
    assert graph.paths.path("r2") == (11, ("r3",))


class PathsByEdges(RuleBasedStateMachine):
    """Any links change in any order, one or several between two computations."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph()
        self.before: dict[str, object] = {}
        self.clean = True

    @rule(a=st.sampled_from(NODES), b=st.sampled_from(NODES), cost=st.one_of(st.none(), st.integers(1, 4)))
    def change(self, a: str, b: str, cost: int | None) -> None:
        if a != b:
            self.graph.set(a, b, cost)
            self.clean = False

    @rule()
    def compute(self) -> None:
        changed = self.graph.update()
        after: dict[str, object] = {node: self.graph.paths.path(node) for node in NODES}
        different = {node for node in NODES if after[node] != self.before.get(node)}
        assert different == changed - {NODES[0]}, "says exactly what changed"
        self.before, self.clean = after, True

    @invariant()
    def equals_what_is_computed_from_nothing(self) -> None:
        if self.clean:
            for node in NODES:
                assert self.graph.paths.path(node) == by_hand(self.graph.links, NODES[0], node)
            assert self.graph.paths.depth() == most_links(self.graph.links, NODES[0])


PathsByEdges.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestPathsByEdges = PathsByEdges.TestCase


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 5)), max_size=20))
@settings(max_examples=100, deadline=None)
def test_the_order_in_which_links_come_does_not_matter(links: list[tuple[int, int, int]]) -> None:
    once = {(min(a, b), max(a, b)): cost for a, b, cost in links if a != b}
    outcomes = []
    for order in (list(once.items()), list(once.items())[::-1]):
        graph = Graph()
        for (a, b), cost in order:
            graph.set(NODES[a], NODES[b], cost)
            graph.update()
        outcomes.append([graph.paths.path(node) for node in NODES])
    assert outcomes[0] == outcomes[1]


def test_of_equal_paths_all_next_hops_are_kept_lower_ids_first() -> None:
    #        r1
    #      1/  \1
    #    r0      r3
    #      1\  /1
    #        r2
    graph = Graph()
    for a, b in (("r0", "r2"), ("r2", "r3"), ("r0", "r1"), ("r1", "r3")):
        graph.set(a, b, 1)
    assert graph.update() == {"r1", "r2", "r3"}
    assert graph.paths.path("r3") == (2, ("r1", "r2"))
    graph.set("r0", "r1", None)
    assert graph.update() == {"r1", "r3"}
    assert graph.paths.path("r1") == (3, ("r2",))


def test_a_link_that_no_cheapest_path_uses_costs_next_to_nothing() -> None:
    # r0 ─1─ r1 ─1─ r2 ─1─ r3 ... and a detour of 100 between r0 and r2
    graph = Graph()
    for a, b in itertools.pairwise(NODES):
        graph.set(a, b, 1)
    graph.update()
    before = graph.paths.visited
    graph.set("r0", "r2", 100)
    assert graph.update() == set()
    assert graph.paths.visited - before <= 2


def test_the_depth_is_that_of_the_longest_cheapest_path() -> None:
    # r0 ─1─ r1 ─1─ r2 ─1─ r3, and r0 ─3─ r3: equal, and the longer one counts
    graph = Graph()
    assert graph.paths.depth() == 0
    for a, b, cost in (("r0", "r1", 1), ("r1", "r2", 1), ("r2", "r3", 1), ("r0", "r3", 3)):
        graph.set(a, b, cost)
    graph.update()
    assert graph.paths.depth() == 3
    graph.set("r0", "r3", 1)
    graph.update()
    assert graph.paths.depth() == 2


def test_a_link_counts_when_both_ends_report_it_at_the_larger_price() -> None:
    topology = Topology("a")
    topology.report("a", {"b": 3})
    assert topology.take() == []
    topology.report("b", {"a": 5})
    assert topology.take() == [("a", "b", None, 5)]
    topology.report("b", {})
    assert topology.take() == [("a", "b", 5, None)]


def test_the_links_of_a_draining_router_are_a_last_resort_and_both_ends_draining_a_worse_one() -> None:
    topology = Topology("a")
    topology.report("a", {"b": 1})
    topology.report("b", {"a": 1})
    topology.set_draining("b", True)
    assert topology.take() == [("a", "b", None, 1 + DRAIN_PENALTY)]
    topology.set_draining("a", True)
    assert topology.take() == [("a", "b", 1 + DRAIN_PENALTY, 1 + 2 * DRAIN_PENALTY)]


def test_an_edge_routers_own_links_count_by_its_own_word_and_nobody_elses() -> None:
    topology = Topology("edge", own_word_suffices=True)
    topology.report("edge", {"up": 2})
    topology.report("x", {"up": 1})
    assert topology.take() == [("edge", "up", None, 2)]


def test_no_router_has_more_than_1024_links() -> None:
    topology = Topology("a")
    topology.report("x", {f"p{n:05}": 1 for n in range(3_000)})
    assert len(topology.reported_by("x")) == 1024


def test_a_link_to_itself_is_none() -> None:
    topology = Topology("a")
    topology.report("a", {"a": 1})
    assert topology.take() == []
