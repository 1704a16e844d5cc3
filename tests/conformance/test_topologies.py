"""What happens to streams when a router or lane on their way is lost, leaves, is an edge, or does not know the way."""

from __future__ import annotations

import pytest
import trio
from applications import body, connect, echo, echo_through, is_reset, read_to_end, served, swallow
from network import Diamond, Line
from plane_harness import path
from relay import relayed

from vanrouter.errors import NoSuchKey, StreamRefused
from vanrouter.model import RouterId
from vanrouter.plane import Route, RouteTarget

QUICK = {"refuse_after": 0.6, "listener_linger": 5.0}


async def talking(port: int, count: int) -> list[trio.SocketStream]:
    """Clients of an echo, each of which has had its answer before the next one comes."""
    clients = []
    for _ in range(count):
        client = await connect(port)
        await client.send_all(b"x")
        with trio.fail_after(5):
            assert await client.receive_some() == b"x"
        clients.append(client)
    return clients


# ---- A router or a lane is lost --------------------------------------------------------------------------------------------------


async def test_a_middle_router_that_stops_resets_its_streams_with_class_link_and_new_ones_go_round_it(
    triple: str, nursery: trio.Nursery
) -> None:
    diamond = Diamond(triple, **QUICK)
    await diamond.start(nursery)
    async with served(echo) as target:
        port = await diamond.expose(target.port)
        clients = await talking(port, 10)
        crossing = [router.plane.counters().transit_open for router in (diamond.middle, diamond.other)]
        assert crossing == [5, 5], "of two equally good next hops the one with fewer streams is taken"
        lost = crossing[0]
        with trio.fail_after(5):
            await diamond.middle.stop()
        for router in (diamond.ingress, diamond.egress):
            await router.until(lambda r=router: len(r.ends) == lost)  # type: ignore[misc]
            assert {end.stream_class for end in router.ends} == {"link"}
        await diamond.egress.until(lambda: target.endings == ["reset"] * lost)
        alive = 0
        for client in clients:  # the others did not notice
            try:
                await client.send_all(b"y")
                alive += await client.receive_some() == b"y"
            except trio.BrokenResourceError:
                pass
        assert alive == 10 - lost
        for size in (0, 10, 100_000):
            with trio.fail_after(5):
                await echo_through(port, size)


@pytest.mark.parametrize("which", ["first", "second"])
async def test_a_lane_that_is_cut_in_the_middle_of_bulk_is_a_reset_at_both_ends(triple: str, nursery: trio.Nursery, which: str) -> None:
    line = Line(triple, **QUICK)
    await line.start_routers(nursery)
    near, far = (line.ingress, line.middle) if which == "first" else (line.middle, line.egress)
    async with relayed(line.ports[far.id]) as relay, served(echo) as target:
        await line.link(line.ingress, line.middle, port=relay.port if which == "first" else 0)
        await line.link(line.middle, line.egress, port=relay.port if which == "second" else 0)
        port = await line.expose(target.port)
        client = await connect(port)
        got, resets = 0, 0
        with trio.fail_after(10):
            async with trio.open_nursery() as sending:

                async def pour() -> None:
                    nonlocal resets
                    try:
                        while True:
                            await client.send_all(bytes(1 << 16))
                    except trio.BrokenResourceError:
                        resets += 1

                sending.start_soon(pour)
                try:
                    async for data in client:
                        got += len(data)
                        if got > 2 << 20:
                            relay.cut()
                except trio.BrokenResourceError:
                    resets += 1
        assert resets, "a clean end of a stream that did not end cleanly"  # the kernel tells of a reset once: the writer or the reader
        for router in (line.ingress, line.egress):
            await router.until(lambda r=router: r.ends)  # type: ignore[misc]
            assert router.ends[0].stream_class == "link"
        await line.egress.until(lambda: target.endings == ["reset"])
        await line.nothing_is_left()
        assert near.links[far.id].lanes == 0
        await line.link(near, far)  # and back again: the path is still there
        with trio.fail_after(5):
            await echo_through(port, 50_000)


async def test_one_lane_of_a_trunk_takes_its_own_streams_along_only(triple: str, nursery: trio.Nursery) -> None:
    line = Line(triple, workers=2, **QUICK)
    await line.start_routers(nursery)
    async with relayed(line.ports[line.egress.id]) as relay, served(echo) as target:
        for port in (0, relay.port):  # two on the first hop, too: a router may keep a stream on the thread where it came
            await line.link(line.ingress, line.middle)
            await line.link(line.middle, line.egress, port=port)
        port = await line.expose(target.port)
        clients = await talking(port, 10)
        relay.cut()
        await line.ingress.until(lambda: line.ingress.ends)
        lost = len(line.ingress.ends)
        assert 1 <= lost <= 9
        assert {end.stream_class for end in line.ingress.ends} == {"link"}
        alive = 0
        for client in clients:
            try:
                await client.send_all(b"y")
                alive += await client.receive_some() == b"y"
            except trio.BrokenResourceError:
                pass
        assert alive == 10 - lost
        with trio.fail_after(5):
            await echo_through(port, 50_000)


async def test_a_middle_router_that_lost_its_way_is_gone_round(triple: str, nursery: trio.Nursery) -> None:
    """It answers OPEN with class link, and soonest of all; streams that live elsewhere must not make it the emptier way for ever."""
    diamond = Diamond(triple, **QUICK)
    await diamond.start(nursery)
    async with served(echo) as target:
        port = await diamond.expose(target.port)
        await talking(port, 6)
        diamond.middle.plane.cut(diamond.egress.id, "a test")
        await diamond.middle.until(lambda: diamond.middle.links[diamond.egress.id].lanes == 0)
        for size in (0, 10, 16_377, 100_000):
            with trio.fail_after(5):
                await echo_through(port, size)
        await talking(port, 5)


async def test_a_stream_that_said_nothing_yet_goes_round_a_hop_that_does_not_answer(triple: str, nursery: trio.Nursery) -> None:
    """A black hole between the middle router and the egress: once it is suspect, OPENs without data are opened elsewhere."""

    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"welcome")
        await trio.sleep_forever()

    diamond = Diamond(triple, suspect_after=0.4, dead_after=30.0, refuse_after=3.0)
    await diamond.start_routers(nursery)
    async with relayed(diamond.ports[diamond.egress.id]) as relay, served(greet) as target:
        await diamond.link(diamond.ingress, diamond.middle)
        await diamond.link(diamond.middle, diamond.egress, port=relay.port)
        await diamond.add_other(nursery)
        port = await diamond.expose(target.port)
        relay.go_silent()
        for _ in range(4):
            client = await connect(port)
            with trio.fail_after(6):
                assert await client.receive_some() == b"welcome"
        assert diamond.other.plane.counters().transit_open == 4
        relay.speak_again()


# ---- A router leaves -------------------------------------------------------------------------------------------------------------


async def test_a_middle_router_drains_under_load_and_nothing_is_lost(triple: str, nursery: trio.Nursery) -> None:
    """Streams under way arrive whole; new ones are served in the grace, and go round it from then on."""
    diamond = Diamond(triple, **QUICK)
    await diamond.start(nursery)
    async with served(echo) as target:
        port = await diamond.expose(target.port)
        with trio.fail_after(60):
            async with trio.open_nursery() as clients:
                for number in range(12):
                    clients.start_soon(echo_through, port, 3 << 20, number)
                await diamond.egress.until(lambda: target.accepted == 12)
                diamond.middle.plane.leave()
                for number in range(10):
                    clients.start_soon(echo_through, port, 5_000, number)
                await diamond.ingress.until(lambda: diamond.ingress.links[diamond.middle.id].draining)
                crossed = diamond.middle.plane.counters().transit_total
                diamond.middle.plane.refuse()
                for number in range(10):
                    clients.start_soon(echo_through, port, 5_000, number)
        assert diamond.middle.plane.counters().transit_total <= crossed + 10, "a router that drains is gone round"
        await diamond.nothing_is_left()
        assert target.endings == ["end"] * 32
        with trio.fail_after(5):
            await diamond.middle.stop()


async def test_without_another_way_the_grace_is_served_and_what_comes_after_is_refused(line: Line) -> None:
    async with served(echo) as target:
        port = await line.expose(target.port)
        clients = await talking(port, 3)
        line.middle.plane.leave()
        await line.ingress.until(lambda: line.ingress.links[line.middle.id].draining)
        clients += await talking(port, 3)
        line.middle.plane.refuse()
        await trio.sleep(0.3)
        try:
            refused = await is_reset(await connect(port))
        except OSError:
            refused = True
        assert refused
        for client in clients:
            await client.send_all(b"z")
            assert await client.receive_some() == b"z"
            await client.send_eof()
            assert await client.receive_some() == b""
        await line.nothing_is_left()


# ---- Loops -----------------------------------------------------------------------------------------------------------------------

GHOST = str(RouterId.parse("a" * 52 + "/0000000000000007"))


async def test_two_routers_that_think_the_other_is_nearer_give_up_at_once(triple: str, nursery: trio.Nursery) -> None:
    line = Line(triple, **QUICK)
    await line.start(nursery)
    line.ingress.put(path(GHOST, over=[line.middle.id], cost=2), Route(name="ghost", targets=[RouteTarget(GHOST)]))
    line.middle.put(path(GHOST, over=[line.ingress.id], cost=2))
    port = await line.ingress.add_listener("ghost", name="ghost")
    assert await is_reset(await connect(port))
    await line.ingress.until(lambda: line.ingress.ends)
    assert line.ingress.ends[0].stream_class in ("link", "refused")
    for router in (line.ingress, line.middle):
        assert router.plane.counters().transit_total == 0, "an OPEN never goes back where it came from"
    await line.nothing_is_left()


@pytest.mark.parametrize("limit", [1, 5, 12])
async def test_a_ring_of_routers_that_point_at_each_other_is_left_after_the_hop_limit(
    triple: str, nursery: trio.Nursery, limit: int
) -> None:
    line = Line(triple, **QUICK)
    await line.start(nursery)
    await line.link(line.egress, line.ingress)
    ring = [line.ingress, line.middle, line.egress]
    for router, following in zip(ring, [*ring[1:], ring[0]], strict=True):
        router.put(path(GHOST, over=[following.id], cost=9))
        router.plane.set_hop_limit(limit)
    line.ingress.put(Route(name="ghost", targets=[RouteTarget(GHOST)]))
    port = await line.ingress.add_listener("ghost", name="ghost")
    client = await connect(port)
    await client.send_all(b"hello?")
    assert await is_reset(client)
    await line.ingress.until(lambda: line.ingress.ends)
    crossed = sum(router.plane.counters().transit_total for router in ring)
    assert crossed > 0
    assert crossed % limit == 0, "every attempt was carried on exactly as often as the limit says"
    await line.nothing_is_left()


async def test_the_hop_limit_lets_a_stream_as_far_as_it_says(triple: str, nursery: trio.Nursery) -> None:
    """ingress - middle - egress - beyond: two routers carry it on."""
    line = Line(triple, **QUICK)
    await line.start(nursery)
    beyond = await line.add(nursery, line.kinds[0], "beyond")
    await line.link(line.egress, beyond)
    line.ingress.put(path(beyond.id, over=[line.middle.id], cost=3), Route(name="far", targets=[RouteTarget(beyond.id)]))
    line.middle.put(path(beyond.id, over=[line.egress.id], cost=2))
    line.egress.put(path(beyond.id))
    async with served(echo) as target:
        beyond.add_connector(target.port, "far")
        port = await line.ingress.add_listener("far", name="far")
        with trio.fail_after(10):
            await echo_through(port, 300_000)
        line.ingress.plane.set_hop_limit(2)
        with trio.fail_after(5):
            await echo_through(port, 10)
        line.ingress.plane.set_hop_limit(1)
        assert await is_reset(await connect(port))
        line.ingress.plane.set_hop_limit(255)
        with trio.fail_after(5):
            await echo_through(port, 10)
        await line.nothing_is_left()


# ---- Edges -----------------------------------------------------------------------------------------------------------------------


async def _line_with_edge(triple: str, nursery: trio.Nursery, edge: str) -> Line:
    line = Line(triple, **QUICK)
    roles = {"edge": True}
    names = ("ingress", "middle", "egress")
    line.ingress, line.middle, line.egress = [
        await line.add(nursery, kind, name, **(roles if name == edge else {})) for kind, name in zip(line.kinds, names, strict=True)
    ]
    await line.link(line.ingress, line.middle)
    await line.link(line.middle, line.egress)
    line.ingress.put(path(line.middle.id), path(line.egress.id, over=[line.middle.id], cost=2), line.route("k"))
    line.middle.put(path(line.ingress.id), path(line.egress.id))
    return line


@pytest.mark.parametrize("edge", ["ingress", "egress"])
async def test_an_edge_opens_and_gets_streams_over_an_interior(triple: str, nursery: trio.Nursery, edge: str) -> None:
    line = await _line_with_edge(triple, nursery, edge)
    async with served(echo) as target:
        port = await line.expose(target.port)
        with trio.fail_after(10):
            await echo_through(port, 200_000)
        await line.nothing_is_left()


async def test_an_edge_carries_nothing_for_others(triple: str, nursery: trio.Nursery) -> None:
    """The control plane made a mistake: neither end of the link with the edge goes along with it."""
    line = await _line_with_edge(triple, nursery, "middle")
    async with served(echo) as target:
        line.egress.add_connector(target.port)
        with pytest.raises((NoSuchKey, StreamRefused)):
            await line.ingress.plane.connect("k")
        assert target.accepted == 0
        assert line.middle.plane.counters().transit_total == 0


# ---- Early data ------------------------------------------------------------------------------------------------------------------


async def test_more_early_data_than_the_lanes_permit_arrives_whole(line: Line) -> None:
    """60 clients say 16 KiB each at once: the lanes' early credit (64 KiB at first) is not enough for all, on either hop."""
    async with served(echo) as target:
        port = await line.expose(target.port)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for number in range(60):
                    nursery.start_soon(echo_through, port, 16_000 + 10 * number, number)
        await line.nothing_is_left()
        assert target.endings == ["end"] * 60


async def test_what_was_said_before_a_slow_target_answers_arrives_whole_with_its_end(line: Line) -> None:
    got: list[bytes] = []

    async def keep(stream: trio.SocketStream) -> None:
        got.append(await read_to_end(stream))
        await stream.send_all(b"thanks")
        await stream.send_eof()

    async with served(keep) as target:
        port = await line.expose(target.port)
        for size in (1, 16_376, 40_000):
            async with await connect(port) as client:
                with trio.fail_after(5):
                    await client.send_all(body(size))
                    await client.send_eof()
                    assert await read_to_end(client) == b"thanks"
        assert got == [body(size) for size in (1, 16_376, 40_000)]
        await line.nothing_is_left()


# ---- Memory ----------------------------------------------------------------------------------------------------------------------


async def test_a_middle_router_without_memory_refuses_streams_and_harms_none(triple: str, nursery: trio.Nursery) -> None:
    """Half of its budget is for floors: 2 KiB per hop and stream, so 1 MiB carries 128 streams. All that were admitted move."""
    line = Line(triple, **QUICK)
    names, budgets = ("ingress", "middle", "egress"), ({}, {"memory_budget": 1 << 20}, {})
    line.ingress, line.middle, line.egress = [
        await line.add(nursery, kind, name, **budget) for kind, name, budget in zip(line.kinds, names, budgets, strict=True)
    ]
    await line.link(line.ingress, line.middle)
    await line.link(line.middle, line.egress)
    line.ingress.put(path(line.middle.id), path(line.egress.id, over=[line.middle.id], cost=2), line.route("k"))
    line.middle.put(path(line.ingress.id), path(line.egress.id))
    async with served(echo) as target:
        port = await line.expose(target.port)
        clients, refused = [await connect(port) for _ in range(160)], 0
        for client in clients:
            await client.send_all(b"x")
        with trio.fail_after(20):
            for client in clients:
                try:
                    assert await client.receive_some() == b"x"
                except trio.BrokenResourceError:
                    refused += 1
        assert 160 - 128 <= refused < 160 - 64
        assert line.middle.plane.counters().transit_open == 160 - refused
        with trio.fail_after(30):
            for client in clients[:3]:
                await client.send_all(body(100_000))
                got = b""
                while len(got) < 100_000:
                    got += await client.receive_some()
                assert got == body(100_000)
        for client in clients:
            await client.aclose()
        await line.nothing_is_left()


# ---- Two ways of one length ------------------------------------------------------------------------------------------------------


async def test_equally_good_next_hops_share_the_streams(triple: str, nursery: trio.Nursery) -> None:
    diamond = Diamond(triple, **QUICK)
    await diamond.start(nursery)
    async with served(swallow) as target:
        port = await diamond.expose(target.port)
        for _ in range(60):
            await connect(port)
        await diamond.egress.until(lambda: target.accepted == 60)
        shares = [router.plane.counters().transit_total for router in (diamond.middle, diamond.other)]
        assert sum(shares) == 60
        assert all(27 <= share <= 33 for share in shares), shares


async def test_equally_good_next_hops_take_turns_when_nothing_is_outstanding(triple: str, nursery: trio.Nursery) -> None:
    diamond = Diamond(triple, **QUICK)
    await diamond.start(nursery)
    async with served(echo) as target:
        port = await diamond.expose(target.port)
        for number in range(20):
            await echo_through(port, 10, number)
            await diamond.nothing_is_left()
        assert [router.plane.counters().transit_total for router in (diamond.middle, diamond.other)] == [10, 10]
