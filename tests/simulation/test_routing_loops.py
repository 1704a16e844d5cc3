"""
No loop is left when a network is quiet (`test_random_networks` says so for every case). Here: how many there are on the way, for how
long, and what becomes of the OPENs that meet one.
"""

from __future__ import annotations

import collections
import os

from loop_watch import LoopWatch, Open, Opens
from random_networks import build, disturb
from routing_oracle import loops
from simulated_network import Network

CASES = int(os.environ.get("VAN_SIMULATION_CASES", "2000")) // 25


def disturbed(seed: int, every: float) -> tuple[Network, LoopWatch, Opens]:
    """Three rounds of faults, each followed until it is quiet, watched all the time."""
    network = build(seed)
    network.settle()
    watch, opens = LoopWatch(network), Opens(network, every=every)
    network.on_step = watch.look
    for _ in range(3):
        for _ in range(network.rng.randint(1, 6)):
            disturb(network)
            network.run(network.rng.choice((0.0, 0.05, 0.3, 2.0)))
        network.settle()
        watch.look()
        assert not watch.since, "a quiet network has a loop"
    opens.stopped = True
    network.run(5.0)
    assert not loops(network)
    return network, watch, opens


def test_loops_while_converging_are_few_short_and_no_open_stays_in_one() -> None:
    """
    A loop is there while two routers have heard different news: at most until it has crossed the network. Here each end of a link notices
    within 0.5 s, and news crosses at most 12 routers at 0.1 s each.
    """
    ends: collections.Counter[str] = collections.Counter()
    longest, seen, twice, furthest, slowest = 0.0, 0, 0, 0, 0.0
    for seed in range(10_000, 10_000 + max(20, CASES)):
        _, watch, opens = disturbed(seed, every=0.02)
        longest, seen = max(longest, watch.longest), seen + watch.seen
        ends += opens.ends
        twice, furthest, slowest = twice + opens.twice, max(furthest, opens.longest), max(slowest, opens.slowest)
    total = ends.total()
    print(f"{seen} loops, the longest for {longest:.3f} s; {total} OPENs: {dict(ends)};")
    print(f"{twice} came by a router twice, the longest way had {furthest} hops, the slowest took {slowest:.2f} s")
    assert longest < 2.0
    assert ends["arrived"] > 0.85 * total
    assert ends["back"] + ends["hop limit"] < 0.01 * total
    assert ends["hop limit"] <= ends["back"], "the rule against going back catches what the hop limit would"
    assert furthest <= 24, "twice the longest way there is"


def test_an_open_between_two_routers_that_each_think_the_other_is_nearer_is_refused_where_it_would_turn_round() -> None:
    # a ── b ── c, and a has not heard yet that b lost c, while b already has the way over a
    #  └─────── 10 ────┘
    network = Network(3, latency=(0.1, 0.1))
    for name in "abc":
        network.admitted_by[name] = [] if name == "a" else ["a"]
        network.start(name)
    for a, b, cost in (("a", "b", 1), ("b", "c", 1), ("a", "c", 10)):
        network.link(a, b, costs=(cost, cost))
    network.settle()
    a, b, c = (network.by_name[name] for name in "abc")
    link = network.links[frozenset("bc")]
    link.up = False
    network._tell(link, "b")
    assert b.engine.path(c.id) == (11, (a.id,))
    assert a.engine.path(c.id) == (2, (b.id,)), "each thinks that the other is nearer"
    assert loops(network)
    opens, opened = Opens(network), Open(c.id, network.now, a.engine.hop_limit())
    opens.send(a, opened)
    network.run(0.15)
    assert opens.ends == {"back": 1}, "refused where it would turn round"
    assert opened.visited == [a.id, b.id]
    opens.send(a, again := Open(c.id, network.now, a.engine.hop_limit()))
    network.run(0.15)
    assert opens.ends["arrived"] == 1, "opened again, it takes the way that a knows by now"
    assert again.visited == [a.id, c.id]
