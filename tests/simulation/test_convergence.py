"""How long it takes until everybody knows, exactly: news crosses each link once, and nothing waits that need not."""

from __future__ import annotations

import itertools

import pytest
from routing_oracle import check_databases, check_paths, check_routes, loops
from simulated_network import Link, Network

LATENCY = 0.05


def line(length: int) -> Network:
    """r0 ── r1 ── ... , every link takes 50 ms."""
    network = Network(11, latency=(LATENCY, LATENCY))
    names = [f"r{n}" for n in range(length)]
    for before, name in zip([None, *names], names, strict=False):
        network.admitted_by[name] = [before] if before else []
        network.start(name)
    for a, b in itertools.pairwise(names):
        network.link(a, b)
    network.settle()
    return network


def test_an_address_is_known_at_the_other_end_after_one_crossing_of_each_link() -> None:
    network = line(8)
    network.by_name["r7"].set_key("key", 1)
    network.run(7 * LATENCY - 0.001)
    assert "key" not in network.by_name["r0"].routes
    network.run(0.002)
    assert [target.router for target in network.by_name["r0"].routes["key"]] == [network.by_name["r7"].id]


def test_a_lost_link_is_known_at_the_other_end_after_one_crossing_of_each_link() -> None:
    # r0 ── ... ── r6 ── r7, and r7 ── r0 at a price of 50: the way round
    network = line(8)
    network.link("r7", "r0", costs=(50, 50))
    network.settle()
    link = network.links[frozenset(("r6", "r7"))]
    link.up = False
    for end in link.ends:
        network._tell(link, end)  # both ends see it now
    r0, r7 = network.by_name["r0"], network.by_name["r7"]
    network.run(LATENCY + 0.001)
    assert r0.engine.path(r7.id) == (50, (r7.id,)), "r7 says so itself, over one link"
    network.run(6 * LATENCY)
    check_paths(network)


def test_ten_changes_within_a_second_are_told_at_once_and_a_hundred_are_told_in_the_end() -> None:
    network = line(3)
    before = network.messages
    for n in range(100):
        network.by_name["r0"].set_key("key", n + 1)
        network.run(0.001)
    network.settle()
    assert network.messages - before <= 2 * 12, "a burst of ten, and the last"
    record = network.by_name["r2"].engine.remote.key("key")[network.by_name["r0"].id]
    assert record.targets == 100


def eight() -> tuple[Network, list[Link]]:
    #  a0 ── a1      b0 ── b1
    #  │  ╲  │ ┄┄┄┄┄ │  ╲  │      two bridges between two fours
    #  a2 ── a3 ┄┄┄┄ b2 ── b3
    network = Network(5)
    names = [f"{side}{n}" for side in "ab" for n in range(4)]
    for before, name in zip([None, *names], names, strict=False):
        network.admitted_by[name] = [before] if before else []
        network.start(name)
    for side in "ab":
        for x, y in ((0, 1), (0, 2), (1, 3), (2, 3), (0, 3)):
            network.link(f"{side}{x}", f"{side}{y}")
    bridges = [network.link("a1", "b0"), network.link("a3", "b2")]
    for name in names:
        network.by_name[name].set_key(f"key-{name}", 1)
    network.settle()
    return network, bridges


def test_a_network_of_eight_splits_and_heals_a_hundred_times() -> None:
    network, bridges = eight()
    for _ in range(100):
        for link in bridges:
            network.cut(link)
        network.settle()
        assert network.by_name["a0"].routes.get("key-b3", []) == []
        for link in bridges:
            network.restore(link)
        network.settle()
        assert network.by_name["a0"].routes["key-b3"] != []
    check_paths(network)
    check_databases(network)
    check_routes(network)
    assert not loops(network)


@pytest.mark.parametrize("gracefully", [True, False])
def test_a_restarted_router_serves_again_and_its_old_start_leads_nowhere(gracefully: bool) -> None:
    network, _ = eight()
    old = network.by_name["b0"].id
    new = network.restart("b0", gracefully=gracefully).id
    network.settle()
    for router in network.routers.values():
        assert router.engine.path(old) is None
        if router.id != new:
            assert [target.router for target in router.routes["key-b0"]] in ([new], [new, new])
    known = network.by_name["a0"].engine.database.record(old, 0)
    assert (known is None) == gracefully, "a withdrawal is heard at once; otherwise it ages"


def test_an_hour_without_events_costs_the_refreshes_and_nothing_else() -> None:
    network, _ = eight()
    messages, changes = network.messages, sum(router.changes for router in network.routers.values())
    network.run(3_600.0)
    assert sum(router.changes for router in network.routers.values()) == changes
    most = 16 * 13 * 2 * len(network.links)
    assert network.messages - messages <= most, "16 records (neighbours, keys), every 300 s, at most twice over each link"
    check_paths(network)
    check_databases(network)


def test_a_message_queue_that_is_full_loses_nothing() -> None:
    """Eighty fragments do not fit into the 64 messages that a plane keeps for a link: the rest is kept as state."""
    network = line(2)
    for index in range(80):
        network.start(f"x{index}")
        network.link(f"x{index}", "r0")
    network.settle()
    for n in range(80):
        network.by_name[f"x{n}"].set_key(f"key-{n}", 1)
    network.settle()
    assert len(network.by_name["r1"].routes) == 80
