"""Streams whose ends are in this process: what a program that embeds a router relies on."""

from __future__ import annotations

import pytest
import trio
from applications import body, connect, echo, is_reset, read_to_end, reset, served, swallow
from plane_harness import Pair, Router

from vanrouter.errors import NoSuchKey, StreamRefused, StreamReset
from vanrouter.plane import Connector, Incoming, PlaneStream


async def _serve_echo(router: Router, endings: list[str]) -> None:
    """Answer every incoming stream of the router with what it says."""

    async def answer(incoming: Incoming) -> None:
        try:
            async with incoming.stream as stream:
                async for data in stream:
                    await stream.send_all(data)
                await stream.send_eof()
        except trio.BrokenResourceError:
            endings.append("reset")
        else:
            endings.append("end")

    async with trio.open_nursery() as nursery:
        while True:
            await router.until(lambda: router.incoming, within=60)
            for incoming in router.incoming:
                nursery.start_soon(answer, incoming)
            router.incoming.clear()


def _embedded(name: str = "e") -> Connector:
    return Connector(name=name, routing_key="k", embedded=True)


async def _round_trip(stream: PlaneStream, size: int) -> None:
    sent = body(size)

    async def send() -> None:
        await stream.send_all(sent)
        await stream.send_eof()

    got = bytearray()
    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(send)
        async for data in stream:
            got += data
    assert bytes(got) == sent


@pytest.mark.parametrize("size", [0, 1, 16_377, 65_537, 4 << 20])
async def test_connect_reaches_a_server_across_a_link(pair: Pair, size: int) -> None:
    async with served(echo) as target:
        pair.egress.add_connector(target.port)
        with trio.fail_after(15):
            await _round_trip(await pair.ingress.plane.connect("k"), size)
        await pair.nothing_is_left()


@pytest.mark.parametrize("size", [0, 1, 16_377, 65_537, 4 << 20])
async def test_a_program_serves_a_client_across_a_link(pair: Pair, nursery: trio.Nursery, size: int) -> None:
    from applications import echo_through

    endings: list[str] = []
    pair.egress.put(_embedded())
    nursery.start_soon(_serve_echo, pair.egress, endings)
    port = await pair.ingress.add_listener()
    with trio.fail_after(15):
        await echo_through(port, size)
    await pair.nothing_is_left()
    assert endings == ["end"]


async def test_two_programs_talk_across_a_link(pair: Pair, nursery: trio.Nursery) -> None:
    endings: list[str] = []
    pair.egress.put(_embedded())
    nursery.start_soon(_serve_echo, pair.egress, endings)
    with trio.fail_after(15):
        async with trio.open_nursery() as clients:
            for number in range(20):
                clients.start_soon(_round_trip, await pair.ingress.plane.connect("k"), 100_000 + number)
    await pair.nothing_is_left()
    assert endings == ["end"] * 20


async def test_the_incoming_stream_says_where_it_comes_from(pair: Pair) -> None:
    pair.egress.put(_embedded())
    async with await pair.ingress.plane.connect("k") as stream:
        assert (stream.routing_key, stream.source) == ("k", "")
        await pair.egress.until(lambda: pair.egress.incoming)
        incoming = pair.egress.incoming[0]
        assert incoming.connector == "e"
        assert (incoming.stream.routing_key, incoming.stream.source) == ("k", pair.ingress.id)
        await incoming.stream.aclose()


async def test_programs_talk_within_one_router(router: Router, nursery: trio.Nursery) -> None:
    endings: list[str] = []
    router.put(_embedded())
    nursery.start_soon(_serve_echo, router, endings)
    with trio.fail_after(10):
        for size in (0, 1, 65_537, 1 << 20):
            await _round_trip(await router.plane.connect("k"), size)
    await router.until(lambda: endings == ["end"] * 4)
    await router.until(lambda: router.plane.counters().streams_open == 0)


async def test_a_program_reaches_a_server_and_a_client_a_program_within_one_router(router: Router, nursery: trio.Nursery) -> None:
    from applications import echo_through

    endings: list[str] = []
    async with served(echo) as target:
        router.add_connector(target.port, "tcp", name="tcp")
        router.put(_embedded())
        nursery.start_soon(_serve_echo, router, endings)
        port = await router.add_listener()
        with trio.fail_after(10):
            await _round_trip(await router.plane.connect("tcp"), 300_000)
            await echo_through(port, 300_000)


async def test_a_key_nobody_serves_is_no_such_key(router: Router) -> None:
    with trio.fail_after(5), pytest.raises(NoSuchKey):
        await router.plane.connect("nobody")


async def test_a_target_that_refuses_is_stream_refused(pair: Pair) -> None:
    from plane_harness import free_port

    pair.egress.add_connector(free_port())
    with trio.fail_after(5), pytest.raises(StreamRefused):
        await pair.ingress.plane.connect("k")


async def test_a_reset_by_the_server_breaks_the_stream_with_its_class(pair: Pair) -> None:
    async def abort(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        reset(stream)

    async with served(abort) as target:
        pair.egress.add_connector(target.port)
        async with await pair.ingress.plane.connect("k") as stream:
            await stream.send_all(b"x")
            with trio.fail_after(5), pytest.raises(trio.BrokenResourceError) as caught:
                await stream.receive_some()
            assert isinstance(caught.value.__cause__, StreamReset)
            assert caught.value.__cause__.stream_class == "target"
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(b"y")


async def test_the_loss_of_the_link_breaks_the_stream_with_class_link(pair: Pair) -> None:
    async with served(echo) as target:
        pair.egress.add_connector(target.port)
        async with await pair.ingress.plane.connect("k") as stream:
            pair.ingress.plane.cut(pair.egress.id, "test")
            with trio.fail_after(5), pytest.raises(trio.BrokenResourceError) as caught:
                await stream.receive_some()
            assert isinstance(caught.value.__cause__, StreamReset)
            assert caught.value.__cause__.stream_class == "link"


@pytest.mark.parametrize("how", ["reset", "aclose", "exception", "cancel"])
async def test_leaving_a_stream_without_an_end_is_a_reset_at_the_server(pair: Pair, how: str) -> None:
    async with served(swallow) as target:
        pair.egress.add_connector(target.port)
        stream = await pair.ingress.plane.connect("k")
        await stream.send_all(b"half")
        await pair.egress.until(lambda: target.accepted == 1)
        if how == "reset":
            stream.reset("enough")
        elif how == "aclose":
            await stream.aclose()
        elif how == "exception":
            with pytest.raises(ZeroDivisionError):
                async with stream:
                    raise ZeroDivisionError
        else:
            with trio.move_on_after(0.1):
                async with stream:
                    await trio.sleep_forever()
        await pair.egress.until(lambda: target.endings == ["reset"])
        await stream.aclose()
        await pair.nothing_is_left()


async def test_leaving_by_an_exception_after_the_end_was_sent_is_a_reset_too(pair: Pair) -> None:
    got = bytearray()

    async def answer_for_long(stream: trio.SocketStream) -> None:
        got.extend(await read_to_end(stream))
        for _ in range(200):
            await trio.sleep(0.02)
            await stream.send_all(b"there?")

    async with served(answer_for_long) as target:
        pair.egress.add_connector(target.port)

        async def leave_by_an_exception() -> None:
            async with await pair.ingress.plane.connect("k") as stream:
                await stream.send_all(b"all")
                await stream.send_eof()
                await stream.receive_some()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await leave_by_an_exception()
        await pair.egress.until(lambda: target.endings == ["reset"])
        assert bytes(got) == b"all"


async def test_a_program_that_resets_a_client_is_seen_as_the_target(pair: Pair) -> None:
    pair.egress.put(_embedded())
    port = await pair.ingress.add_listener()
    client = await connect(port)
    await pair.egress.until(lambda: pair.egress.incoming)
    pair.egress.incoming[0].stream.reset("no")
    assert await is_reset(client)
    await pair.ingress.until(lambda: pair.ingress.ends)
    assert pair.ingress.ends[0].stream_class == "target"
    await pair.egress.incoming[0].stream.aclose()


async def test_a_slow_program_slows_its_peer(pair: Pair) -> None:
    pair.egress.put(_embedded())
    stream = await pair.ingress.plane.connect("k")
    sent = 0
    with trio.move_on_after(1):
        while True:
            await stream.send_all(bytes(65_536))
            sent += 65_536
    assert sent < 24 << 20
    await pair.egress.until(lambda: pair.egress.incoming)
    far = pair.egress.incoming[0].stream
    got = 0
    with trio.fail_after(10):
        while got < sent:
            got += len(await far.receive_some())
    stream.reset()
    await far.aclose()


async def test_at_most_128_streams_wait_for_a_program(router: Router) -> None:
    """Nobody reads the events: what waits is bounded, and the rest is refused."""
    router._scope.cancel()  # the harness' reader goes with it
    await router._stopped.wait()
    fresh = Router("core" if router.plane.name == "core" else "baseline", router.site, refuse_after=0.2)
    async with trio.open_nursery() as nursery:
        await nursery.start(fresh.plane.run)
        fresh.apply_snapshot([_embedded()])
        streams: list[PlaneStream] = []
        refused = 0
        for _ in range(130):
            try:
                streams.append(await fresh.plane.connect("k"))
            except StreamRefused:
                refused += 1
        assert (len(streams), refused) == (128, 2)
        for stream in streams:
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_the_misuse_of_a_stream_is_told(pair: Pair) -> None:
    async with served(echo) as target:
        pair.egress.add_connector(target.port)
        stream = await pair.ingress.plane.connect("k")
        await stream.send_eof()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"more")
        await stream.send_eof()
        assert await stream.receive_some() == b""
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
        await stream.aclose()


async def test_a_router_that_refuses_opens_no_streams(pair: Pair) -> None:
    async with served(echo) as target:
        pair.egress.add_connector(target.port)
        await (await pair.ingress.plane.connect("k")).aclose()
        pair.ingress.plane.refuse()
        with pytest.raises(StreamRefused):
            await pair.ingress.plane.connect("k")
