"""A new router takes over from the one that runs: no client is refused, no stream is cut."""

from __future__ import annotations

import os

import pytest
import trio
from site_world import World, free_port

from vanrouter.errors import ConfigError


async def _clients(port: int, results: list[str], stop: trio.Event) -> None:
    """Connect, ask, read the answer, again and again; note what came of each."""
    while not stop.is_set():
        try:
            with trio.fail_after(6):
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                async with stream:
                    await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                    answer = b""
                    while part := await stream.receive_some(4096):
                        answer += part
            results.append("ok" if answer.endswith(b'{"message":"Hello"}') else f"short: {answer!r}")
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as exc:
            results.append(repr(exc))
        await trio.sleep(0.005)


@pytest.mark.parametrize("who", ["north", "south"])
async def test_a_restart_refuses_nobody(world: World, backend: int, who: str) -> None:
    port = free_port()
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south", serviceAddress="127.0.0.2")
    sites = {"north": await world.start(north), "south": await world.start(south)}
    await world.link(north, south)
    await world.expose(south, "hello", backend, port, at=(north,))
    results: list[str] = []
    stop = trio.Event()
    async with trio.open_nursery() as clients:
        for _ in range(3):
            clients.start_soon(_clients, port, results, stop)
        await trio.sleep(0.3)
        home = {"north": north, "south": south}[who]
        successor = await world.start(home)
        assert sites[who].leaving
        await trio.sleep(1.5)
        stop.set()
    assert successor.context.own != sites[who].context.own
    failed = [r for r in results if r != "ok"]
    assert not failed, f"{len(failed)} of {len(results)} failed: {failed[:3]}"
    assert len(results) > 50


async def test_a_stream_of_before_goes_on_in_the_old_router(world: World) -> None:
    port = free_port()
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south", serviceAddress="127.0.0.2")

    async def echo(stream: trio.SocketStream) -> None:
        async for part in stream:
            await stream.send_all(part)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    world.nursery.start_soon(trio.serve_listeners, echo, listeners)
    target = listeners[0].socket.getsockname()[1]
    old = await world.start(north)
    await world.start(south)
    await world.link(north, south)
    await world.expose(south, "echo", target, port, at=(north,))
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"before")
        assert await stream.receive_some(100) == b"before"
        await world.start(north)
        assert old.leaving
        await stream.send_all(b"after")
        assert await stream.receive_some(100) == b"after"
        await stream.send_eof()
        assert await stream.receive_some(100) == b""


async def test_without_the_intention_a_second_router_does_not_start(world: World) -> None:
    home = world.home("north")
    await world.start(home)
    with pytest.raises(ConfigError, match=f"runs on .* already \\(pid {os.getpid()}\\)"):
        await world.start(home, take_over=False)
