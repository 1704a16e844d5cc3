"""What an application may rely on: its bytes, its ends, its resets."""

from __future__ import annotations

import pytest
import trio
from applications import body, connect, echo, echo_through, is_reset, read_to_end, reset, served, swallow
from plane_harness import Pair

SIZES = [0, 1, 16_375, 16_376, 16_377, 65_535, 65_536, 65_537, 500_000]


async def test_what_is_sent_comes_back_whatever_its_size(pair: Pair) -> None:
    async with served(echo) as target:
        port = await pair.expose(target.port)
        for size in SIZES:
            with trio.fail_after(10):
                await echo_through(port, size)
        await pair.nothing_is_left()


async def test_64_mib_come_back_whole(pair: Pair) -> None:
    async with served(echo) as target:
        port = await pair.expose(target.port)
        with trio.fail_after(60):
            await echo_through(port, 64 << 20)
        await pair.nothing_is_left()


@pytest.mark.parametrize("clients", [1, 20, 500])
async def test_many_clients_at_once_each_get_their_own_bytes(pair: Pair, clients: int) -> None:
    async with served(echo) as target:
        port = await pair.expose(target.port)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(clients):
                    nursery.start_soon(echo_through, port, 20_000 + number, number)
        await pair.egress.until(lambda: len(target.endings) == clients)
        assert target.endings == ["end"] * clients
        await pair.nothing_is_left()
        assert pair.ingress.plane.counters().by_listener["l"][:2] == [0, clients]
        assert pair.egress.plane.counters().by_connector["c"][:2] == [0, clients]


@pytest.mark.parametrize("later", [0.0, 2.0])
async def test_a_server_may_answer_long_after_the_client_ended_its_half(pair: Pair, later: float) -> None:
    async def answer_at_the_end(stream: trio.SocketStream) -> None:
        got = await read_to_end(stream)
        await trio.sleep(later)
        await stream.send_all(got)
        await stream.send_eof()

    async with served(answer_at_the_end) as target:
        port = await pair.expose(target.port)
        with trio.fail_after(15):
            async with await connect(port) as client:
                await client.send_all(body(100_000))
                await client.send_eof()
                assert await read_to_end(client) == body(100_000)
        await pair.nothing_is_left()


@pytest.mark.parametrize("later", [0.0, 2.0])
async def test_a_client_may_go_on_long_after_the_server_ended_its_half(pair: Pair, later: float) -> None:
    got = bytearray()

    async def end_at_once(stream: trio.SocketStream) -> None:
        await stream.send_all(b"bye")
        await stream.send_eof()
        got.extend(await read_to_end(stream))

    async with served(end_at_once) as target:
        port = await pair.expose(target.port)
        with trio.fail_after(15):
            async with await connect(port) as client:
                assert await read_to_end(client) == b"bye"
                await trio.sleep(later)
                await client.send_all(body(300_000))
                await client.send_eof()
                await pair.egress.until(lambda: target.endings)
        assert bytes(got) == body(300_000)
        assert target.endings == ["end"]
        await pair.nothing_is_left()


async def test_a_server_may_speak_first(pair: Pair) -> None:
    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 ready\r\n")
        await echo(stream)

    async with served(greet) as target:
        port = await pair.expose(target.port)
        async with await connect(port) as client:
            with trio.fail_after(5):
                assert await client.receive_some() == b"220 ready\r\n"
                await client.send_all(b"hello")
                assert await client.receive_some() == b"hello"
                await client.send_eof()
                assert await client.receive_some() == b""


async def test_a_client_that_says_nothing_and_leaves_ends_cleanly(pair: Pair) -> None:
    async with served(swallow) as target:
        port = await pair.expose(target.port)
        for _ in range(20):
            client = await connect(port)
            await client.aclose()
        await pair.egress.until(lambda: len(target.endings) == 20)
        assert target.endings == ["end"] * 20
        await pair.nothing_is_left()


async def test_an_abort_by_the_client_reaches_the_server_as_a_reset_and_never_as_an_end(pair: Pair) -> None:
    async with served(swallow) as target:
        port = await pair.expose(target.port)
        rounds = 30
        for number in range(rounds):
            client = await connect(port)
            await client.send_all(body(1 + number * 10_000))
            if number % 2:
                await trio.sleep(0.01)
            reset(client)
        await pair.egress.until(lambda: len(target.endings) >= target.accepted and pair.egress.plane.counters().streams_open == 0)
        assert target.accepted > 0
        assert target.endings == ["reset"] * target.accepted
        await pair.nothing_is_left()
        await pair.ingress.until(lambda: len(pair.ingress.ends) == rounds)
        assert {end.stream_class for end in pair.ingress.ends} == {"client"}


async def test_an_abort_by_the_server_reaches_the_client_as_a_reset_and_never_as_an_end(pair: Pair) -> None:
    async def abort_in_the_middle(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        await stream.send_all(body(50_000))
        reset(stream)

    async with served(abort_in_the_middle) as target:
        port = await pair.expose(target.port)
        for _ in range(30):
            async with await connect(port) as client:
                await client.send_all(b"go")
                assert await is_reset(client)
        await pair.nothing_is_left()
        for router in (pair.ingress, pair.egress):
            await router.until(lambda r=router: len(r.ends) == 30)
            assert {end.stream_class for end in router.ends} == {"target"}


async def test_an_abort_while_the_other_end_reads_nothing_is_noticed(pair: Pair) -> None:
    """There is no credit left to read with, so the router has to look for the reset on purpose."""

    async def read_late(stream: trio.SocketStream) -> None:
        await noticed.wait()
        await read_to_end(stream)

    noticed = trio.Event()
    async with served(read_late) as target:
        port = await pair.expose(target.port)
        client = await connect(port)
        with trio.move_on_after(0.5):
            while True:
                await client.send_all(bytes(1 << 16))
        reset(client)
        for router in (pair.ingress, pair.egress):
            await router.until(lambda r=router: r.ends, within=3)
            assert router.ends[0].stream_class == "client"
        noticed.set()
        await pair.egress.until(lambda: target.endings == ["reset"])
        await pair.nothing_is_left()


async def test_a_client_that_aborts_after_it_ended_its_half_is_noticed(pair: Pair) -> None:
    async def wait_then_speak(stream: trio.SocketStream) -> None:
        await read_to_end(stream)
        await noticed.wait()
        await stream.send_all(b"anybody?")

    noticed = trio.Event()
    async with served(wait_then_speak) as target:
        port = await pair.expose(target.port)
        client = await connect(port)
        await client.send_eof()
        await trio.sleep(0.2)
        reset(client)
        for router in (pair.ingress, pair.egress):
            await router.until(lambda r=router: r.ends, within=3)
            assert router.ends[0].stream_class == "client"
        noticed.set()
        await pair.egress.until(lambda: target.endings == ["reset"])
        await pair.nothing_is_left()


async def test_a_slow_reader_slows_the_writer_and_loses_nothing(pair: Pair) -> None:
    sent = 0

    async def pour(stream: trio.SocketStream) -> None:
        nonlocal sent
        while sent < 64 << 20:
            await stream.send_all(bytes(1 << 16))
            sent += 1 << 16
        await stream.send_eof()

    async with served(pour) as target:
        port = await pair.expose(target.port)
        async with await connect(port) as client:
            await trio.sleep(1)
            held = sent
            # What the routers may hold is bounded by their windows (8 MiB each at most); the rest is in four kernel buffers.
            assert held < 40 << 20
            assert pair.ingress.plane.counters().bytes_granted <= 10 << 20
            await trio.sleep(0.5)
            assert sent <= held + (1 << 20), "the writer should have come to a stop"
            with trio.fail_after(30):
                assert len(await read_to_end(client)) == 64 << 20
        await pair.nothing_is_left()


async def test_a_stalled_stream_does_not_slow_the_others(pair: Pair) -> None:
    async with served(echo) as target:
        port = await pair.expose(target.port)
        async with await connect(port) as stalled:
            with trio.move_on_after(0.5):
                while True:
                    await stalled.send_all(bytes(1 << 16))  # and never reads what comes back
            with trio.fail_after(10):
                await echo_through(port, 4 << 20)


async def test_every_stream_leaves_a_record_with_its_bytes(pair: Pair) -> None:
    async with served(echo) as target:
        port = await pair.expose(target.port)
        await echo_through(port, 70_000)
        for router in (pair.ingress, pair.egress):
            await router.until(lambda r=router: r.ends)
            (end,) = router.ends
            assert (end.routing_key, end.stream_class) == ("k", "")
            assert (end.bytes_in, end.bytes_out) == (70_000, 70_000)
        assert pair.ingress.ends[0].uuid == pair.egress.ends[0].uuid
        assert pair.ingress.ends[0].listener == "l"
        assert pair.egress.ends[0].connector == "c"
        assert pair.ingress.ends[0].router == pair.egress.id
        assert pair.egress.ends[0].router == pair.ingress.id
