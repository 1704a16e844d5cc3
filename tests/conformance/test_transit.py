"""What an application may rely on when its stream crosses another router: the same as without one."""

from __future__ import annotations

import pytest
import trio
from applications import body, connect, echo, echo_through, is_reset, read_to_end, reset, served, swallow
from network import Line
from plane_harness import free_port
from test_streams import SIZES

from vanrouter.plane import Connector, Ref


async def test_what_is_sent_over_a_middle_router_comes_back_whatever_its_size(line: Line) -> None:
    async with served(echo) as target:
        port = await line.expose(target.port)
        for size in SIZES:
            with trio.fail_after(10):
                await echo_through(port, size)
        await line.nothing_is_left()
        for router in (line.ingress, line.egress):
            await router.until(lambda r=router: len(r.ends) == len(SIZES))  # type: ignore[misc]
        counters = line.middle.plane.counters()
        assert (counters.transit_total, counters.streams_total) == (len(SIZES), 0)
        assert not line.middle.ends, "the access log is written where a stream enters and where it leaves"
        for router, other in ((line.ingress, line.egress), (line.egress, line.ingress)):
            await router.until(lambda r=router: len(r.ends) == len(SIZES))  # type: ignore[misc]
            assert {end.router for end in router.ends} == {other.id}


async def test_16_mib_come_back_whole_over_a_middle_router(line: Line) -> None:
    async with served(echo) as target:
        port = await line.expose(target.port)
        with trio.fail_after(60):
            await echo_through(port, 16 << 20)
        await line.nothing_is_left()


async def test_200_clients_at_once_each_get_their_own_bytes_over_a_middle_router(line: Line) -> None:
    async with served(echo) as target:
        port = await line.expose(target.port)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(200):
                    nursery.start_soon(echo_through, port, 20_000 + number, number)
        await line.egress.until(lambda: len(target.endings) == 200)
        assert target.endings == ["end"] * 200
        await line.nothing_is_left()
        assert line.middle.plane.counters().transit_total == 200


async def test_streams_that_cross_are_counted_while_they_live(line: Line) -> None:
    async with served(echo) as target:
        port = await line.expose(target.port)
        clients = [await connect(port) for _ in range(5)]
        for client in clients:
            await client.send_all(b"x")
            assert await client.receive_some() == b"x"
        counters = line.middle.plane.counters()
        assert (counters.transit_open, counters.transit_total) == (5, 5)
        assert (counters.streams_open, counters.streams_total) == (0, 0)
        for neighbour in (line.ingress, line.egress):
            assert counters.by_link[neighbour.id][0] == 5
        for client in clients:
            await client.aclose()
        await line.nothing_is_left()


@pytest.mark.parametrize("later", [0.0, 1.0])
async def test_a_server_may_answer_long_after_the_client_ended_its_half(line: Line, later: float) -> None:
    async def answer_at_the_end(stream: trio.SocketStream) -> None:
        got = await read_to_end(stream)
        await trio.sleep(later)
        await stream.send_all(got)
        await stream.send_eof()

    async with served(answer_at_the_end) as target:
        port = await line.expose(target.port)
        for size in (10, 100_000):
            with trio.fail_after(15):
                async with await connect(port) as client:
                    await client.send_all(body(size))
                    await client.send_eof()
                    assert await read_to_end(client) == body(size)
        await line.nothing_is_left()


@pytest.mark.parametrize("later", [0.0, 1.0])
async def test_a_client_may_go_on_long_after_the_server_ended_its_half(line: Line, later: float) -> None:
    got = bytearray()

    async def end_at_once(stream: trio.SocketStream) -> None:
        await stream.send_all(b"bye")
        await stream.send_eof()
        got.extend(await read_to_end(stream))

    async with served(end_at_once) as target:
        port = await line.expose(target.port)
        with trio.fail_after(15):
            async with await connect(port) as client:
                assert await read_to_end(client) == b"bye"
                await trio.sleep(later)
                await client.send_all(body(300_000))
                await client.send_eof()
                await line.egress.until(lambda: target.endings)
        assert bytes(got) == body(300_000)
        assert target.endings == ["end"]
        await line.nothing_is_left()


async def test_a_server_may_speak_first_over_a_middle_router(line: Line) -> None:
    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 ready\r\n")
        await echo(stream)

    async with served(greet) as target:
        port = await line.expose(target.port)
        with trio.fail_after(5):
            async with await connect(port) as client:
                assert await client.receive_some() == b"220 ready\r\n"
                await client.send_all(b"hello")
                assert await client.receive_some() == b"hello"
                await client.send_eof()
                assert await client.receive_some() == b""
        await line.nothing_is_left()


async def test_an_abort_by_the_client_crosses_as_a_reset_and_never_as_an_end(line: Line) -> None:
    async with served(swallow) as target:
        port = await line.expose(target.port)
        rounds = 30
        for number in range(rounds):
            client = await connect(port)
            await client.send_all(body(1 + number * 10_000))
            if number % 2:
                await trio.sleep(0.01)
            reset(client)
        await line.nothing_is_left()
        await line.egress.until(lambda: len(target.endings) >= target.accepted)
        assert target.accepted > 0
        assert target.endings == ["reset"] * target.accepted
        await line.ingress.until(lambda: len(line.ingress.ends) == rounds)
        assert {end.stream_class for router in (line.ingress, line.egress) for end in router.ends} == {"client"}


async def test_an_abort_by_the_server_crosses_as_a_reset_and_never_as_an_end(line: Line) -> None:
    async def abort_in_the_middle(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        await stream.send_all(body(50_000))
        reset(stream)

    async with served(abort_in_the_middle) as target:
        port = await line.expose(target.port)
        for _ in range(30):
            async with await connect(port) as client:
                await client.send_all(b"go")
                assert await is_reset(client)
        await line.nothing_is_left()
        for router in (line.ingress, line.egress):
            await router.until(lambda r=router: len(r.ends) == 30)  # type: ignore[misc]
            assert {end.stream_class for end in router.ends} == {"target"}


async def test_an_abort_is_noticed_beyond_a_middle_router_while_nothing_is_read(line: Line) -> None:
    """All credit of both hops is used up: the reset passes what waits for it."""

    async def read_late(stream: trio.SocketStream) -> None:
        await noticed.wait()
        await read_to_end(stream)

    noticed = trio.Event()
    async with served(read_late) as target:
        port = await line.expose(target.port)
        client = await connect(port)
        with trio.move_on_after(0.5):
            while True:
                await client.send_all(bytes(1 << 16))
        reset(client)
        for router in (line.ingress, line.egress):
            await router.until(lambda r=router: r.ends, within=3)  # type: ignore[misc]
            assert router.ends[0].stream_class == "client"
        noticed.set()
        await line.egress.until(lambda: target.endings == ["reset"])
        await line.nothing_is_left()


async def test_a_slow_reader_beyond_a_middle_router_slows_its_writer_only_and_loses_nothing(line: Line) -> None:
    sent = 0

    async def pour(stream: trio.SocketStream) -> None:
        nonlocal sent
        while sent < 48 << 20:
            await stream.send_all(bytes(1 << 16))
            sent += 1 << 16
        await stream.send_eof()

    async with served(pour) as target, served(echo) as fast:
        port = await line.expose(target.port)
        line.egress.put(Connector(name="fast", routing_key="fast", host="127.0.0.1", port=fast.port))
        line.ingress.put(line.route("fast"))
        beside = await line.ingress.add_listener("fast", name="fast")
        async with await connect(port) as slow:
            await trio.sleep(1)
            with trio.fail_after(20):
                await echo_through(beside, 2 << 20)
            held = sent
            # Three windows of at most 8 MiB (one per hop, and there are two, and one for good measure), and four kernel buffers.
            assert held < 44 << 20
            assert line.middle.plane.counters().bytes_granted <= 20 << 20
            await trio.sleep(0.5)
            assert sent <= held + (1 << 20), "the writer should have come to a stop"
            with trio.fail_after(40):
                assert len(await read_to_end(slow)) == 48 << 20
        await line.nothing_is_left()


async def test_a_refusal_beyond_a_middle_router_sends_the_stream_elsewhere_with_all_it_said(line: Line) -> None:
    """The target at the egress refuses; one at the middle router takes what the client has said by then, once and in order."""
    from vanrouter.plane import Route, RouteTarget

    async with served(echo) as target:
        line.egress.add_connector(free_port())
        line.middle.add_connector(target.port)
        # The far one is asked first: the near one costs more.
        line.ingress.put(Route(name="k", targets=[RouteTarget(line.egress.id), RouteTarget(line.middle.id, 1_000)]))
        port = await line.ingress.add_listener()
        for number, size in enumerate((0, 1, 4_096, 16_375, 16_376, 16_377, 100_000)):
            with trio.fail_after(5):
                await echo_through(port, size, seed=size)
            assert line.middle.plane.counters().transit_total == number + 1, "it was asked over there first"
        await line.nothing_is_left()


async def test_a_key_nobody_serves_beyond_a_middle_router_is_refused(line: Line) -> None:
    port = await line.ingress.add_listener()
    assert await is_reset(await connect(port))
    await line.ingress.until(lambda: line.ingress.ends)
    assert line.ingress.ends[0].stream_class == "refused"
    await line.nothing_is_left()


async def test_2000_streams_later_everything_is_back_where_it_was(line: Line) -> None:
    async with served(echo) as target:
        port = await line.expose(target.port)
        for size in (10, 30_000):  # whatever is made once is made
            await echo_through(port, size)
        await line.nothing_is_left()
        before = [router.plane.counters().bytes_granted for router in line.routers]
        tasks = trio.lowlevel.current_statistics().tasks_living

        async def one_after_the_other(count: int, seed: int) -> None:
            for number in range(count):
                if number % 5 == 4:
                    client = await connect(port)
                    await client.send_all(body(5_000, seed))
                    reset(client)
                else:
                    await echo_through(port, 100 + number, seed)

        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                for seed in range(20):
                    nursery.start_soon(one_after_the_other, 100, seed)
        await line.nothing_is_left()
        after = [router.plane.counters().bytes_granted for router in line.routers]
        # Lanes that were busy may be allowed more OPENs at once from then on: at most 240 more, 4 KiB of early data each, per lane.
        for was, now, lanes in zip(before, after, (1, 2, 1), strict=True):
            assert now - was <= lanes * 240 * 4_096
            assert (now - was) % 4_096 == 0, "of streams nothing is left"
        await line.ingress.until(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks)


async def test_changes_of_paths_and_routes_leave_live_streams_alone(line: Line) -> None:
    async with served(echo) as target:
        port = await line.expose(target.port)
        async with await connect(port) as client:
            await client.send_all(b"before")
            assert await client.receive_some() == b"before"
            line.ingress.drop(Ref("path", line.egress.id), Ref("path", line.middle.id), Ref("route", "k"))
            line.middle.drop(Ref("path", line.egress.id), Ref("path", line.ingress.id))
            await line.middle.until(lambda: line.middle.in_force == line.middle.generation)
            await client.send_all(b"after")
            assert await client.receive_some() == b"after"
            await client.send_all(body(200_000))
            await client.send_eof()
            assert await read_to_end(client) == body(200_000)
        await line.nothing_is_left()


async def test_programs_talk_over_a_middle_router(line: Line) -> None:
    line.egress.put(Connector(name="program", routing_key="p", embedded=True))
    line.ingress.put(line.route("p"))
    with trio.fail_after(10):
        near = await line.ingress.plane.connect("p")
        await line.egress.until(lambda: line.egress.incoming)
        far = line.egress.incoming[0].stream
        assert far.source == line.ingress.id
        async with near, far:
            await near.send_all(b"there")
            assert await far.receive_some() == b"there"
            await far.send_all(b"and back")
            await far.send_eof()
            assert await near.receive_some() == b"and back"
            assert await near.receive_some() == b""
            await near.send_eof()
            assert await far.receive_some() == b""
    await line.nothing_is_left()
