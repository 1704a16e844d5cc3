"""
Targets that fail and return, over two sites.

    client ▶ north: listener hello ──── link ──── south: connector hello ▶ server
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator
from typing import Any

import trio
from site_world import World, condition, free_port, resource

from vanrouter.stores import SiteHome

QUICK = {"interval": "1s", "timeout": "200ms"}


@contextlib.asynccontextmanager
async def serving(port: int, answer: bytes = b"here", *, status: str = "200 OK") -> AsyncIterator[None]:
    """An HTTP server on this port: what it is asked it answers with ``answer``, and to /healthz with ``status``."""

    async def serve(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            asked = b""
            while b"\r\n\r\n" not in asked and (part := await stream.receive_some()):
                asked += part
            said, body = (status, b"") if asked.startswith(b"GET /healthz") else ("200 OK", answer)
            await stream.send_all(f"HTTP/1.1 {said}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
            await stream.aclose()

    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(trio.serve_tcp, serve, port, host="127.0.0.1"))
        yield
        nursery.cancel_scope.cancel()


async def two_sites(world: World) -> tuple[SiteHome, SiteHome]:
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south", serviceAddress="127.0.0.2")
    await world.start(north)
    await world.start(south)
    await world.link(north, south)
    return north, south


async def reason(world: World, home: SiteHome, kind: str, name: str, type: str) -> str:
    element = next((x for x in (await world.status(home))[kind] if x["name"] == name), None)
    return str(condition(element, type)["reason"]) if element is not None else ""


async def until_reason(world: World, home: SiteHome, kind: str, name: str, type: str, wanted: str) -> Any:
    async def said() -> bool:
        return await reason(world, home, kind, name, type) == wanted

    await world.until(f"{kind}/{name} of {home.directory.name} says {wanted}", said)
    return condition(next(x for x in (await world.status(home))[kind] if x["name"] == name), type)


async def test_a_service_whose_only_server_dies_says_so_at_both_sites_and_returns(world: World) -> None:
    north, south = await two_sites(world)
    server, port = free_port(), free_port()
    spec = {"routingKey": "hello", "host": "127.0.0.1", "port": server, "healthCheck": QUICK, "expose": {"port": port}}
    south.resources.put(resource("Connector", "hello", **spec))
    async with serving(server):
        await world.call(south, "reconcile")
        await until_reason(world, north, "listeners", f"hello:{port}", "Ready", "Ok")
        assert await world.get(port) == b"here"
        await until_reason(world, south, "connectors", "hello", "Healthy", "Ok")
    down = await until_reason(world, south, "connectors", "hello", "Healthy", "TargetDown")
    assert f"127.0.0.1:{server}" in down["message"]
    assert "refused" in down["message"]
    matched = await until_reason(world, north, "listeners", f"hello:{port}", "Matched", "TargetsDown")
    assert "site south" in matched["message"]
    for home in (north, south):
        service = next(s for s in (await world.status(home))["services"] if s["address"] == "hello")
        said = condition(service, "Healthy")
        assert (said["status"], said["reason"]) == ("False", "TargetsDown")
        assert [target["healthy"] for target in service["targets"]] == [False]
    async with serving(server, b"again"):
        await until_reason(world, north, "listeners", f"hello:{port}", "Ready", "Ok")
        assert await world.get(port) == b"again"
        await until_reason(world, south, "connectors", "hello", "Healthy", "Ok")


async def test_streams_go_to_the_other_site_when_the_target_here_is_down(world: World) -> None:
    north, south = await two_sites(world)
    here, there, port = free_port(), free_port(), free_port()
    north.resources.put(resource("Listener", "web", routingKey="hello", host="127.0.0.1", port=port))
    north.resources.put(resource("Connector", "hello", routingKey="hello", host="127.0.0.1", port=here, healthCheck=QUICK))
    south.resources.put(resource("Connector", "hello", routingKey="hello", host="127.0.0.1", port=there, healthCheck=QUICK))
    async with serving(there, b"there"):
        async with serving(here, b"here"):
            for home in (north, south):
                await world.call(home, "reconcile")
                await until_reason(world, home, "connectors", "hello", "Ready", "Ok")
            assert await world.get(port) == b"here"
        await until_reason(world, north, "connectors", "hello", "Healthy", "TargetDown")
        assert await world.get(port) == b"there"
        assert await reason(world, north, "listeners", "web", "Matched") == "Elsewhere"
        async with serving(here, b"here again"):
            await until_reason(world, north, "connectors", "hello", "Healthy", "Ok")
            assert await world.get(port) == b"here again"


async def test_a_server_that_says_it_is_unwell_is_used_only_while_there_is_no_other(world: World) -> None:
    north, south = await two_sites(world)
    unwell, well, port = free_port(), free_port(), free_port()
    http = {**QUICK, "type": "http", "path": "/healthz"}
    north.resources.put(resource("Listener", "web", routingKey="hello", host="127.0.0.1", port=port))
    south.resources.put(resource("Connector", "unwell", routingKey="hello", host="127.0.0.1", port=unwell, healthCheck=http))
    async with serving(unwell, b"unwell", status="503 Busy"):
        await world.call(north, "reconcile")
        await world.call(south, "reconcile")
        down = await until_reason(world, south, "connectors", "unwell", "Healthy", "TargetDown")
        assert "status 503" in down["message"]
        assert "/healthz" in down["next"]
        await until_reason(world, north, "listeners", "web", "Ready", "Ok")
        assert await world.get(port) == b"unwell", "it is the last one, and it does answer"
        async with serving(well, b"well"):
            south.resources.put(resource("Connector", "well", routingKey="hello", host="127.0.0.1", port=well, healthCheck=http))
            await world.call(south, "reconcile")
            await until_reason(world, south, "connectors", "well", "Healthy", "Ok")
            assert [await world.get(port) for _ in range(4)] == [b"well"] * 4
        await until_reason(world, south, "connectors", "well", "Healthy", "TargetDown")
        assert await world.get(port) == b"unwell"


async def test_a_check_that_changes_is_in_force_without_touching_live_streams(world: World) -> None:
    home, server, port = world.home("north"), free_port(), free_port()
    home.resources.put(resource("Listener", "web", routingKey="hello", host="127.0.0.1", port=port))
    home.resources.put(resource("Connector", "hello", routingKey="hello", host="127.0.0.1", port=server, healthCheck=QUICK))
    await world.start(home)

    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(trio.serve_tcp, echo, server, host="127.0.0.1"))
        await until_reason(world, home, "connectors", "hello", "Ready", "Ok")
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            await client.send_all(b"before")
            assert await client.receive_some() == b"before"
            http = {**QUICK, "type": "http"}
            home.resources.put(resource("Connector", "other", routingKey="hello", host="127.0.0.1", port=server, healthCheck=QUICK))
            home.resources.put(resource("Connector", "hello", routingKey="hello", host="127.0.0.1", port=server, healthCheck=http))
            await world.call(home, "reconcile")
            said = await until_reason(world, home, "connectors", "hello", "Healthy", "TargetDown")
            assert "not HTTP" in said["message"]
            assert "no new stream goes there" in said["message"]
            await client.send_all(b"after")
            assert await client.receive_some() == b"after"
            home.resources.put(
                resource("Connector", "hello", routingKey="hello", host="127.0.0.1", port=server, healthCheck={"type": "none"})
            )
            await world.call(home, "reconcile")
            assert await reason(world, home, "connectors", "hello", "Healthy") == "NotChecked"
            await client.send_all(b"and on")
            assert await client.receive_some() == b"and on"
        nursery.cancel_scope.cancel()
