"""
What a van is in either loop. Under asyncio the router has a thread: nothing of a program's calls may be lost on the way there and back.

    this process:   hub (a site directory) ──── link over loopback ──── leaf (joined with a token)
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import sniffio
import trio

import vanrouter
from vanrouter.embed import LinkUp, ServiceDown, ServiceUp, StreamBroken, StreamBusy, StreamClosed, Van
from vanrouter.errors import ConfigError, NoSuchKey, StreamRefused, StreamReset, UsageError

Run = Callable[[Callable[[], Awaitable[None]]], None]


async def everything(stream: vanrouter.Stream) -> bytes:
    return b"".join([part async for part in stream])


async def echo(stream: vanrouter.Stream) -> None:
    async for part in stream:
        await stream.send(part)
    await stream.send_eof()


def living_tasks(*vans: Van) -> int:
    """Of the program's loop, and of the routers'."""
    if sniffio.current_async_library() == "trio":
        return trio.lowlevel.current_statistics().tasks_living
    routers = sum(van._home.call(trio.lowlevel.current_statistics).tasks_living for van in vans)
    return len(asyncio.all_tasks()) + routers


@contextlib.asynccontextmanager
async def network(directory: Path, plane: Any, **options: Any) -> AsyncIterator[tuple[Van, Van, anyio.abc.TaskGroup]]:
    """hub, leaf, and tasks that end with the block."""
    options = {"plane": plane, "drain": 1.0} | options
    async with (
        vanrouter.open(directory, **options) as hub,
        vanrouter.open(directory, name="leaf", **options) as leaf,
        anyio.create_task_group() as tasks,
    ):
        yield hub, leaf, tasks
        tasks.cancel_scope.cancel()


def test_a_stream_is_one_of_trio_and_one_of_anyio(directory: Path, plane: Any, run: Run) -> None:
    async def main() -> None:
        async with network(directory, plane) as (hub, leaf, tasks):
            await tasks.start(hub.serve, "echo", echo)
            stream = await leaf.connect("echo")
            assert isinstance(stream, trio.abc.HalfCloseableStream)
            assert isinstance(stream, anyio.abc.ByteStream)
            async with stream:
                await stream.send(b"anyio")
                assert await stream.receive(3) + await stream.receive() == b"anyio"
                await stream.send_all(memoryview(b"trio"))
                assert await stream.receive_some() == b"trio"
                await stream.send_eof()
                assert await stream.receive_some() == b""
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
                with pytest.raises(StreamClosed):
                    await stream.send(b"after the end")

    run(main)


def test_large_bodies_and_many_streams_go_whole(directory: Path, plane: Any, run: Run) -> None:
    async def main() -> None:
        async with network(directory, plane) as (hub, leaf, tasks):
            await tasks.start(hub.serve, "echo", echo)
            body = random.Random(7).randbytes(1 << 20)

            async def one(size: int) -> None:
                async with await leaf.connect("echo") as stream, anyio.create_task_group() as both:

                    async def send() -> None:
                        await stream.send(body[:size])
                        await stream.send_eof()

                    both.start_soon(send)
                    assert await everything(stream) == body[:size]

            async with anyio.create_task_group() as streams:
                for size in [0, 1, 65_537, 1 << 20, *range(1, 40)]:
                    streams.start_soon(one, size)

    run(main)


def test_a_reset_is_an_error_of_all_three_and_says_its_class(directory: Path, plane: Any, run: Run) -> None:
    async def refuse(stream: vanrouter.Stream) -> None:
        await stream.receive()
        stream.reset("no")

    async def main() -> None:
        async with network(directory, plane) as (hub, leaf, tasks):
            await tasks.start(hub.serve, "picky", refuse)
            async with await leaf.connect("picky") as stream:
                await stream.send(b"x")
                with pytest.raises(StreamBroken) as broken:
                    await stream.receive()
                assert isinstance(broken.value, trio.BrokenResourceError)
                assert isinstance(broken.value, anyio.BrokenResourceError)
                assert isinstance(broken.value, StreamReset)
                assert broken.value.stream_class == "target"

    run(main)


def test_backpressure_reaches_the_sender(directory: Path, plane: Any, run: Run) -> None:
    async def main() -> None:
        async with network(directory, plane) as (hub, leaf, _), hub.serve("slow") as streams:
            near = await leaf.connect("slow")
            far = await streams.__anext__()
            sent = 0
            with anyio.move_on_after(0.7):
                while True:
                    await near.send(bytes(65_536))
                    sent += 65_536
            assert 0 < sent < 24 << 20
            near.reset()
            await far.aclose()

    run(main)


def test_a_second_task_in_one_direction_is_told(directory: Path, plane: Any, run: Run) -> None:
    async def main() -> None:
        async with network(directory, plane) as (hub, leaf, tasks):
            await tasks.start(hub.serve, "echo", echo)
            async with await leaf.connect("echo") as stream, anyio.create_task_group() as first:
                first.start_soon(stream.receive)
                await anyio.sleep(0.1)
                with pytest.raises(StreamBusy):
                    await stream.receive()
                await stream.send(b"for the first")

    run(main)


def test_closing_by_another_task_ends_a_wait(directory: Path, plane: Any, run: Run) -> None:
    async def main() -> None:
        async with network(directory, plane) as (hub, leaf, tasks):
            await tasks.start(hub.serve, "echo", echo)
            stream = await leaf.connect("echo")

            async def wait() -> None:
                with pytest.raises(StreamClosed):
                    await stream.receive()

            async with anyio.create_task_group() as waiting:
                waiting.start_soon(wait)
                await anyio.sleep(0.1)
                await stream.aclose()

    run(main)


def test_cancelled_receives_lose_no_byte(directory: Path, plane: Any, run: Run) -> None:
    """the far end counts up; the near end is cancelled at random moments, hundreds of times"""
    count = 3_000

    async def numbers(stream: vanrouter.Stream) -> None:
        for number in range(count):
            await stream.send(number.to_bytes(4, "big"))
            if number % 10 == 0:
                await anyio.lowlevel.checkpoint()
        await stream.send_eof()

    async def main() -> None:
        chance = random.Random(11)
        async with network(directory, plane) as (hub, leaf, tasks):
            await tasks.start(hub.serve, "numbers", numbers)
            got, ended, cancelled = bytearray(), False, 0
            async with await leaf.connect("numbers") as stream:
                while not ended:
                    with anyio.move_on_after(chance.random() * 0.002) as scope:
                        while not ended:
                            data = await stream.receive_some(40)
                            got += data
                            ended = not data
                    cancelled += scope.cancelled_caught
            assert bytes(got) == b"".join(n.to_bytes(4, "big") for n in range(count))
            assert cancelled

    run(main)


def test_cancelled_connects_and_accepts_leave_nothing_open(directory: Path, plane: Any, run: Run) -> None:
    async def main() -> None:
        chance = random.Random(13)
        async with network(directory, plane) as (hub, leaf, tasks):
            await tasks.start(hub.serve, "echo", echo)
            before, tasks_before = len(os.listdir("/proc/self/fd")), living_tasks(leaf, hub)
            opened = 0
            for _ in range(150):
                with anyio.move_on_after(chance.random() * 0.006):
                    async with await leaf.connect("echo") as stream:
                        opened += 1
                        await stream.send(b"x")
                        await stream.receive()
            assert opened
            with anyio.fail_after(5):
                while leaf._site.context.plane.counters().streams_open or hub._site.context.plane.counters().streams_open:  # noqa: ASYNC110
                    await anyio.sleep(0.02)
            gc.collect()
            assert len(os.listdir("/proc/self/fd")) <= before + 2
            assert living_tasks(leaf, hub) <= tasks_before + 2

    run(main)


def test_an_accept_that_is_cancelled_keeps_its_stream_for_the_next(directory: Path, plane: Any, run: Run) -> None:
    async def main() -> None:
        async with network(directory, plane) as (hub, leaf, tasks), hub.serve("key") as streams:
            for _ in range(30):
                tasks.start_soon(leaf.connect, "key")
            taken = 0
            with anyio.fail_after(10):
                while taken < 30:
                    with anyio.move_on_after(0.001):
                        while True:
                            stream = await streams.__anext__()
                            taken += 1
                            stream.reset()

    run(main)


def test_a_thousand_streams_are_open_at_once(directory: Path, run: Run) -> None:
    async def main() -> None:
        async with network(directory, "core") as (hub, leaf, tasks):
            await tasks.start(hub.serve, "echo", echo)
            streams: list[vanrouter.Stream] = []
            slots = anyio.Semaphore(100)  # at most 128 may wait to be taken

            async def one(number: int) -> None:
                async with slots:
                    stream = await leaf.connect("echo")
                    streams.append(stream)
                    await stream.send(number.to_bytes(4, "big"))
                    assert await stream.receive() == number.to_bytes(4, "big")

            with anyio.fail_after(60):
                async with anyio.create_task_group() as opening:
                    for number in range(1_000):
                        opening.start_soon(one, number)
                assert leaf._site.context.plane.counters().streams_open == 1_000
                async with anyio.create_task_group() as again:
                    for stream in streams:
                        again.start_soon(stream.send, b"still there")
                for stream in streams:
                    assert await stream.receive() == b"still there"
                    stream.reset()

    run(main)


def test_closing_drains(directory: Path, plane: Any, run: Run) -> None:
    """The block ends; a handler that is in the middle of its answer finishes it, and serve returns."""

    async def main() -> None:
        events: list[str] = []

        async def slow(stream: vanrouter.Stream) -> None:
            await stream.receive()
            events.append("asked")
            await anyio.sleep(0.4)
            await stream.send(b"the whole answer")
            await stream.send_eof()
            await everything(stream)
            events.append("answered")

        async def ask(leaf: Van) -> None:
            async with await leaf.connect("slow") as stream:
                await stream.send(b"?")
                assert await everything(stream) == b"the whole answer"
                await stream.send_eof()

        async with anyio.create_task_group() as tasks, vanrouter.open(directory, plane=plane) as leaf:
            async with vanrouter.open(directory, plane=plane) as hub:
                await tasks.start(hub.serve, "slow", slow)
                tasks.start_soon(ask, leaf)
                while not events:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
            assert events == ["asked", "answered"]

    run(main)


def test_services_listeners_status_and_events_tell_how_it_is(directory: Path, plane: Any, run: Run) -> None:
    async def main() -> None:
        async with network(directory, plane) as (hub, leaf, _):
            events = leaf.events()
            assert await anext(events) == LinkUp("hub", hub.router)
            async with hub.serve("key"):
                assert await anext(events) == ServiceUp("key")
                assert [(s.key, s.sites, s.reachable) for s in leaf.services()] == [("key", ("hub",), True)]
                async with leaf.local_port("key") as port:
                    assert [(x.port, x.matched, x.listening) for x in leaf.listeners] == [(port, True, True)]
                assert leaf.listeners == ()
                assert leaf.status()["site"]["ready"]
            assert await anext(events) == ServiceDown("key")
            assert leaf.services() == ()
            last = anext(events)
        with pytest.raises((StopAsyncIteration, UsageError)):
            await last

    run(main)


def test_a_token_makes_an_edge_unless_it_is_asked_otherwise(directory: Path, plane: Any, run: Run) -> None:
    async def main() -> None:
        async with vanrouter.open(directory, plane=plane), vanrouter.open(directory, plane=plane) as leaf:
            assert leaf.status()["site"]["edge"]
            async with vanrouter.open(directory, edge=False, plane=plane) as full, full.serve("key"):
                assert not full.status()["site"]["edge"]
                await (await leaf.connect("key")).aclose()

    run(main)


def test_a_local_port_leads_to_the_service_until_its_block_ends(directory: Path, plane: Any, run: Run) -> None:
    async def main() -> None:
        async with network(directory, plane) as (hub, leaf, tasks):
            await tasks.start(hub.serve, "echo", echo)
            async with leaf.local_port("echo") as port, leaf.local_port("echo") as other:
                assert port != other
                client = await anyio.connect_tcp("127.0.0.1", port)
                await client.send(b"through a port")
                assert await client.receive() == b"through a port"
                with pytest.raises(ConfigError, match=f":{port}: "):
                    async with leaf.local_port("echo", port=port):
                        pass
            await client.send(b"a connection outlives it")
            assert await client.receive() == b"a connection outlives it"
            await client.aclose()
            await anyio.sleep(0.3)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
            with pytest.raises(NoSuchKey):
                async with leaf.local_port("nobody", wait=0.1):
                    pass

    run(main)


def test_a_server_with_a_port_is_exposed_for_a_block(directory: Path, plane: Any, run: Run) -> None:
    async def answer(client: anyio.abc.SocketStream) -> None:
        async with client:
            await client.send(b"from a port")

    async def main() -> None:
        async with network(directory, plane) as (hub, leaf, _):
            async with await anyio.create_tcp_listener(local_host="127.0.0.1") as server, anyio.create_task_group() as serving:
                serving.start_soon(server.serve, answer)
                port = server.extra(anyio.abc.SocketAttribute.local_port)
                async with hub.expose("port", port), await leaf.connect("port") as stream:
                    assert await stream.receive() == b"from a port"
                serving.cancel_scope.cancel()
            with anyio.fail_after(5):
                while leaf.services():  # noqa: ASYNC110
                    await anyio.sleep(0.02)
            with pytest.raises(ConfigError):
                async with hub.expose("port", 0):
                    pass
            with pytest.raises((NoSuchKey, StreamRefused)):
                await leaf.connect("port", wait=0.1)

    run(main)


def test_opening_under_asyncio_can_be_cancelled_at_any_moment(directory: Path, plane: Any) -> None:
    async def main() -> None:
        for milliseconds in (0, 1, 5, 20, 60, 150, 400):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(milliseconds / 1000), vanrouter.open(directory, plane=plane):
                    await asyncio.sleep(60)
        async with vanrouter.open(directory, plane=plane) as van:
            assert van.status()["site"]["ready"]

    asyncio.run(main())
    assert not [thread for thread in threading.enumerate() if thread.name == "vanrouter"]


def test_a_notebook_opens_in_one_cell_and_uses_it_in_others(directory: Path, plane: Any) -> None:
    """a loop that runs on between cells, each of them a task of its own; a cell that computes for long stops nothing of the router"""
    loop = asyncio.new_event_loop()
    cell = loop.run_until_complete
    stack = contextlib.AsyncExitStack()
    hub = cell(stack.enter_async_context(vanrouter.open(directory, plane=plane)))
    leaf = cell(stack.enter_async_context(vanrouter.open(directory, plane=plane)))
    serving = loop.create_task(hub.serve("echo", echo))
    stream = cell(leaf.connect("echo"))
    time.sleep(1.5)

    async def ask() -> bytes:
        await stream.send(b"asked in another cell")
        return await stream.receive()

    assert cell(ask()) == b"asked in another cell"
    assert leaf.status()["links"][0]["active"]
    cell(stream.aclose())
    serving.cancel()
    cell(stack.aclose())
    loop.close()
