"""Who gets a new stream: the rule of ``plane.Listener``, counted.

              ╔══ cost ══▶ [one] ──▶ target
client ──▶ [ingress] ──▶ target here
              ╚══ cost ══▶ [two] ──▶ target
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from applications import Server, connect, echo, echo_through, is_reset, read_to_end, served
from network import Network
from plane_harness import Router, free_port, path
from relay import relayed

from vanrouter.errors import NoSuchKey
from vanrouter.plane import BindStatus, Connector, KeyWeight, Listener, Ref, Route, RouteTarget, Strategy

HERE, ONE, TWO = "here", "one", "two"


class Star(Network):
    """An ingress with two neighbours, and an echo at each of the three; none has a connector yet."""

    def __init__(self, kinds: str, here: Server, one: Server, two: Server) -> None:
        super().__init__(refuse_after=0.6, listener_linger=0.5)
        self._kinds = kinds.split("-")
        self.servers = {HERE: here, ONE: one, TWO: two}
        self.ingress: Router
        self.one: Router
        self.two: Router

    async def start(self, nursery: trio.Nursery) -> None:
        near, far = self._kinds
        self.ingress = await self.add(nursery, near, "ingress")
        self.one = await self.add(nursery, far, ONE)
        self.two = await self.add(nursery, far, TWO)
        await self.link(self.ingress, self.one)
        await self.link(self.two, self.ingress)

    def serve(self, key: str = "k", *, here: bool = False, one: int = 0, two: int = 0) -> None:
        """Targets for a key: here, and at neighbours at these costs of their paths."""
        targets = []
        if here:
            self.ingress.put(self.connector(HERE, key))
        for cost, router, name in ((one, self.one, ONE), (two, self.two, TWO)):
            if cost:
                router.put(self.connector(name, key))
                self.ingress.put(path(router.id, cost=cost))
                targets.append(RouteTarget(router.id))
        if targets:
            self.ingress.put(Route(name=key, targets=targets))

    def connector(self, name: str, key: str, *, port: int = 0) -> Connector:
        return Connector(name=f"{key}-at-{name}", routing_key=key, host="127.0.0.1", port=port or self.servers[name].port)

    async def listen(
        self, key: str = "", *keys: KeyWeight, strategy: Strategy = "balanced", name: str = "l", status: BindStatus = BindStatus.LISTENING
    ) -> int:
        port = free_port()
        self.ingress.put(Listener(name=name, host="127.0.0.1", port=port, routing_key=key, strategy=strategy, keys=list(keys)))
        await self.ingress.until(lambda: name in self.ingress.listeners and self.ingress.listeners[name].status is status)
        return port

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[dict[str, int]]:
        """What each server accepts meanwhile."""
        counts: dict[str, int] = {}
        before = {name: server.accepted for name, server in self.servers.items()}
        yield counts
        counts.update({name: server.accepted - before[name] for name, server in self.servers.items()})


@pytest.fixture
async def star(kinds: str, nursery: trio.Nursery) -> AsyncIterator[Star]:
    async with served(echo) as here, served(echo) as one, served(echo) as two:
        star = Star(kinds, here, one, two)
        await star.start(nursery)
        yield star


async def hold(port: int, count: int) -> list[trio.SocketStream]:
    """Connections that have had an answer and stay open."""
    clients = [await connect(port) for _ in range(count)]
    for client in clients:
        await client.send_all(b"x")
    with trio.fail_after(20):
        for client in clients:
            assert await client.receive_some() == b"x"
    return clients


def by_the_rule(count: int, costs: dict[str, int]) -> dict[str, int]:
    """Each new stream goes to the least of cost and outstanding streams. (Ties do not matter: the sums differ by one at most.)"""
    outstanding = dict.fromkeys(costs, 0)
    for _ in range(count):
        outstanding[min(costs, key=lambda name: costs[name] + outstanding[name])] += 1
    return outstanding


def assert_within(got: dict[str, int], expected: dict[str, int], part: float) -> None:
    for name, number in expected.items():
        assert abs(got[name] - number) <= max(1, part * number), (got, expected)


# ---- Balanced --------------------------------------------------------------------------------------------------------------------


async def test_500_held_connections_over_costs_0_and_50_split_by_the_rule(star: Star) -> None:
    star.serve(here=True, one=50)
    port = await star.listen("k")
    async with star.counting() as got:
        await hold(port, 500)
    assert_within(got, by_the_rule(500, {HERE: 0, ONE: 50}), 0.05)
    assert by_the_rule(500, {HERE: 0, ONE: 50}) == {HERE: 275, ONE: 225}


async def test_held_connections_over_three_costs_split_by_the_rule_and_starve_nobody(star: Star) -> None:
    star.serve(here=True, one=5, two=60)
    port = await star.listen("k")
    async with star.counting() as got:
        await hold(port, 200)
    expected = by_the_rule(200, {HERE: 0, ONE: 5, TWO: 60})
    assert all(expected.values())
    assert_within(got, expected, 0.05)


async def test_targets_of_equal_cost_share_held_connections(star: Star) -> None:
    star.serve(one=7, two=7)
    port = await star.listen("k")
    async with star.counting() as got:
        await hold(port, 200)
    assert_within(got, {ONE: 100, TWO: 100}, 0.1)


async def test_targets_of_equal_cost_share_short_connections_too(star: Star) -> None:
    """Nothing is outstanding when the next one comes: the one that was chosen longest ago is next."""
    star.serve(one=7, two=7)
    port = await star.listen("k")
    async with star.counting() as got:
        for number in range(60):
            await echo_through(port, 10, number)
            await star.nothing_is_left()
    assert_within(got, {ONE: 30, TWO: 30}, 0.1)


async def test_ten_connectors_of_one_key_share_and_none_is_starved(star: Star) -> None:
    accepted = []
    for number in range(10):
        star.ingress.put(Connector(name=f"c{number}", routing_key="k", host="127.0.0.1", port=star.servers[HERE].port))
    port = await star.listen("k")
    await hold(port, 100)
    rows = star.ingress.plane.counters().by_connector
    accepted = [rows[f"c{number}"][1] for number in range(10)]
    assert sum(accepted) == 100
    assert all(9 <= share <= 11 for share in accepted), accepted


async def test_the_cost_of_a_target_is_added_to_that_of_its_path(star: Star) -> None:
    star.serve(one=1, two=20)
    star.ingress.put(Route(name="k", targets=[RouteTarget(star.one.id, 40), RouteTarget(star.two.id)]))
    port = await star.listen("k")
    async with star.counting() as got:
        await hold(port, 100)
    assert_within(got, by_the_rule(100, {ONE: 41, TWO: 20}), 0.05)


async def test_streams_of_one_key_are_no_load_for_another(star: Star) -> None:
    star.serve("busy", one=1)
    star.serve("k", one=1, two=5)
    busy = await star.listen("busy", name="busy")
    await hold(busy, 30)
    port = await star.listen("k")
    async with star.counting() as got:
        await hold(port, 4)
    assert got == {HERE: 0, ONE: 4, TWO: 0}


async def test_streams_that_end_make_room_again(star: Star) -> None:
    star.serve(here=True, one=10)
    port = await star.listen("k")
    for _ in range(2):
        async with star.counting() as got:
            clients = await hold(port, 60)
        assert_within(got, by_the_rule(60, {HERE: 0, ONE: 10}), 0.05)
        for client in clients:
            await client.aclose()
        await star.nothing_is_left()


async def test_a_target_that_refused_comes_last_from_then_on(star: Star) -> None:
    star.ingress.put(
        Connector(name="dead", routing_key="k", host="127.0.0.1", port=free_port()),
        Connector(name="live", routing_key="k", host="127.0.0.1", port=star.servers[HERE].port),
    )
    port = await star.listen("k")
    await hold(port, 20)
    assert star.ingress.connectors["dead"].failures == 1, "it was tried once, and not again while there is another"
    assert star.ingress.plane.counters().by_connector["live"][1] == 20


# ---- Links ----------------------------------------------------------------------------------------------------------------------


async def test_a_draining_link_comes_last(star: Star) -> None:
    star.serve(one=1, two=100)
    port = await star.listen("k")
    star.one.plane.leave()
    await star.ingress.until(lambda: star.ingress.links[star.one.id].draining)
    async with star.counting() as got:
        await hold(port, 10)
    assert got == {HERE: 0, ONE: 0, TWO: 10}
    star.ingress.drop(Ref("path", star.two.id))
    async with star.counting() as got:
        await hold(port, 10)
    assert got == {HERE: 0, ONE: 10, TWO: 0}, "it serves on while there is no other"


async def test_a_suspect_link_comes_last(kinds: str, nursery: trio.Nursery) -> None:
    async with served(echo) as here, served(echo) as one, served(echo) as two:
        star = Star(kinds, here, one, two)
        star.config.update(suspect_after=0.4, dead_after=30.0)
        near, far = kinds.split("-")
        star.ingress, star.one, star.two = [
            await star.add(nursery, kind, name) for kind, name in ((near, "ingress"), (far, ONE), (far, TWO))
        ]
        async with relayed(star.ports[star.one.id]) as relay:
            await star.link(star.ingress, star.one, port=relay.port)
            await star.link(star.ingress, star.two)
            star.serve(one=1, two=100)
            port = await star.listen("k")
            relay.go_silent()
            silent = await connect(port)  # something is outstanding now
            await silent.send_all(b"x")
            await star.ingress.until(lambda: star.ingress.links[star.one.id].suspect)
            async with star.counting() as got:
                await hold(port, 10)
            assert got[TWO] >= 10
            assert got[ONE] == 0
            relay.speak_again()


async def test_a_next_hop_without_a_lane_is_passed_over(star: Star) -> None:
    star.serve(one=1)
    star.ingress.put(path(star.one.id, over=[star.two.id, star.one.id]))  # "two" leads there as well, it is said
    port = await star.listen("k")
    star.ingress.plane.cut(star.two.id, "a test")
    await star.ingress.until(lambda: star.ingress.links[star.two.id].lanes == 0)
    await hold(port, 10)


async def test_a_route_counts_while_there_is_a_path_with_a_lane(star: Star) -> None:
    star.serve(one=1)
    port = await star.listen("k")
    star.ingress.drop(Ref("path", star.one.id))
    await star.ingress.until(lambda: star.ingress.listeners["l"].status is BindStatus.BOUND)
    star.ingress.put(path(star.one.id, over=[star.two.id]))  # it will be refused over there, but there is a lane
    await star.ingress.until(lambda: star.ingress.listeners["l"].status is BindStatus.LISTENING)
    assert await is_reset(await connect(port))
    star.ingress.put(path(star.one.id))
    await hold(port, 3)


# ---- Closest ---------------------------------------------------------------------------------------------------------------------


async def test_closest_stays_with_the_least_cost_whatever_is_outstanding(star: Star) -> None:
    star.serve(here=True, one=1, two=2)
    port = await star.listen("k", strategy="closest")
    async with star.counting() as got:
        await hold(port, 60)
    assert got == {HERE: 60, ONE: 0, TWO: 0}
    star.ingress.drop(Ref("connector", "k-at-here"))
    async with star.counting() as got:
        await hold(port, 20)
    assert got == {HERE: 0, ONE: 20, TWO: 0}


async def test_closest_shares_among_those_that_cost_the_same(star: Star) -> None:
    star.serve(one=3, two=3)
    port = await star.listen("k", strategy="closest")
    async with star.counting() as got:
        await hold(port, 60)
    assert_within(got, {ONE: 30, TWO: 30}, 0.1)


async def test_closest_goes_further_when_the_closest_refuses(star: Star) -> None:
    star.serve(one=2)
    star.ingress.put(Connector(name="dead", routing_key="k", host="127.0.0.1", port=free_port()))
    port = await star.listen("k", strategy="closest")
    async with star.counting() as got:
        await hold(port, 10)
    assert got[ONE] == 10


# ---- Several keys ----------------------------------------------------------------------------------------------------------------


async def test_priority_stays_with_the_first_key_that_has_a_target(star: Star) -> None:
    star.serve("first", one=50)
    star.serve("second", here=True)
    port = await star.listen("", KeyWeight("first"), KeyWeight("second"), strategy="priority")
    async with star.counting() as got:
        await hold(port, 30)
    assert got == {HERE: 0, ONE: 30, TWO: 0}
    star.ingress.drop(Ref("route", "first"))
    async with star.counting() as got:
        await hold(port, 10)
    assert got == {HERE: 10, ONE: 0, TWO: 0}
    star.serve("first", one=50)
    async with star.counting() as got:
        await hold(port, 10)
    assert got == {HERE: 0, ONE: 10, TWO: 0}


async def test_priority_goes_on_with_the_next_key_when_the_targets_of_the_first_refuse(star: Star) -> None:
    """Two dead targets here, one over there, and then the other key: the client notices nothing, and its first words arrive once."""
    star.ingress.put(
        Connector(name="dead-1", routing_key="first", host="127.0.0.1", port=free_port()),
        Connector(name="dead-2", routing_key="first", host="127.0.0.1", port=free_port()),
    )
    star.one.put(Connector(name="dead-3", routing_key="first", host="127.0.0.1", port=free_port()))
    star.ingress.put(path(star.one.id, cost=3), Route(name="first", targets=[RouteTarget(star.one.id)]))
    star.serve("second", two=1)
    port = await star.listen("", KeyWeight("first"), KeyWeight("second"), strategy="priority")
    async with star.counting() as got:
        for size in (0, 10, 16_376, 50_000):
            with trio.fail_after(5):
                await echo_through(port, size)
    assert got == {HERE: 0, ONE: 0, TWO: 4}
    await star.ingress.until(lambda: len(star.ingress.ends) == 4)
    assert {end.routing_key for end in star.ingress.ends} == {"second"}, "the key that was used"
    await star.ingress.until(lambda: star.ingress.connectors["dead-2"].failures > 0)
    assert star.ingress.connectors["dead-1"].failures > 0
    assert star.one.connectors["dead-3"].failures > 0


async def test_within_a_key_it_is_balanced(star: Star) -> None:
    star.serve("first", here=True, one=10)
    star.serve("second", two=1)
    port = await star.listen("", KeyWeight("first"), KeyWeight("second"), strategy="priority")
    async with star.counting() as got:
        await hold(port, 60)
    assert_within(got, by_the_rule(60, {HERE: 0, ONE: 10}), 0.05)
    assert got[TWO] == 0


async def test_weighted_splits_by_the_weights(star: Star) -> None:
    star.serve("a", one=50)
    star.serve("b", here=True)
    port = await star.listen("", KeyWeight("a", 3), KeyWeight("b", 1), strategy="weighted")
    async with star.counting() as got:
        await hold(port, 400)
    # What a target or its router refuses, or has not answered when its link is suspect, goes on with the other key: none did.
    for router in star.routers:
        assert router.plane.counters().streams_refused == 0
        assert not any(link.suspect for link in router.links.values()), router.links
    assert sum(got.values()) == 400, got
    assert 250 <= got[ONE] <= 350, got  # 300 by the weights, 8.7 is one standard deviation


async def test_weighted_goes_on_with_another_key_when_the_targets_of_one_refuse(star: Star) -> None:
    star.ingress.put(Connector(name="dead", routing_key="a", host="127.0.0.1", port=free_port()))
    star.serve("b", one=1)
    port = await star.listen("", KeyWeight("a", 10_000), KeyWeight("b", 1), strategy="weighted")
    async with star.counting() as got:
        for size in (0, 10, 16_376):
            with trio.fail_after(5):
                await echo_through(port, size)
        await hold(port, 20)
    assert got == {HERE: 0, ONE: 23, TWO: 0}


async def test_weights_count_among_keys_that_have_a_target(star: Star) -> None:
    star.serve("b", one=1)
    port = await star.listen("", KeyWeight("nobody", 10_000), KeyWeight("b", 1), strategy="weighted")
    await hold(port, 10)


async def test_a_listener_is_matched_while_one_of_its_keys_is(star: Star) -> None:
    port = await star.listen("", KeyWeight("first"), KeyWeight("second"), strategy="priority", status=BindStatus.BOUND)
    with pytest.raises(OSError, match="failed"):
        await connect(port)
    star.serve("second", one=1)
    await star.ingress.until(lambda: star.ingress.listeners["l"].status is BindStatus.LISTENING)
    await hold(port, 1)
    star.ingress.drop(Ref("route", "second"))
    await star.ingress.until(lambda: star.ingress.listeners["l"].status is BindStatus.BOUND)
    star.serve("first", here=True)
    await star.ingress.until(lambda: star.ingress.listeners["l"].status is BindStatus.LISTENING)
    await hold(port, 1)


async def test_a_listener_with_keys_refuses_when_all_targets_of_all_keys_do(star: Star) -> None:
    for key in ("a", "b"):
        star.ingress.put(Connector(name=key, routing_key=key, host="127.0.0.1", port=free_port()))
    port = await star.listen("", KeyWeight("a"), KeyWeight("b"), strategy="priority")
    assert await is_reset(await connect(port))
    await star.ingress.until(lambda: star.ingress.ends)
    assert star.ingress.ends[0].stream_class == "refused"
    await star.nothing_is_left()


# ---- Under live streams ----------------------------------------------------------------------------------------------------------


async def test_changes_of_costs_routes_strategies_and_keys_leave_live_streams_alone(star: Star) -> None:
    star.serve(here=True, one=1, two=1)
    port = await star.listen("k")
    clients = await hold(port, 30)
    star.ingress.put(path(star.one.id, cost=1_000))
    star.ingress.put(Listener(name="l", host="127.0.0.1", port=port, strategy="priority", keys=[KeyWeight("x"), KeyWeight("k")]))
    star.ingress.put(Route(name="k", targets=[RouteTarget(star.two.id, 7)]))
    star.ingress.drop(Ref("connector", "k-at-here"))
    async with star.counting() as got:
        clients += await hold(port, 10)
    assert got == {HERE: 0, ONE: 0, TWO: 10}
    star.ingress.drop(Ref("route", "k"), Ref("path", star.one.id), Ref("path", star.two.id))
    await star.ingress.until(lambda: star.ingress.in_force == star.ingress.generation)
    for client in clients:
        await client.send_all(b"still here")
        await client.send_eof()
        with trio.fail_after(5):
            assert await read_to_end(client) == b"still here"
    await star.nothing_is_left()
    with pytest.raises(NoSuchKey):
        await star.ingress.plane.connect("k")
