"""What happens by the clock: certificates renew themselves, a leaving router drains until its deadline."""

from __future__ import annotations

import contextlib
import functools
import time
from typing import Any

import pytest
import trio
from cryptography import x509
from site_world import FAST, World, condition, free_port, resource

from vanrouter.settings import Timing
from vanrouter.sites import run_site
from vanrouter.sites.site import RunningSite
from vanrouter.stores import SiteHome

SHORT = Timing(poll_resources=0.2, leaf_lifetime=200.0, renew_retry=0.2, drain=5.0)


class Wall:
    """A wall clock that a test moves."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def leaf(home: SiteHome, name: str) -> x509.Certificate:
    files = home.state.read_credential(name)
    assert files is not None
    return x509.load_pem_x509_certificates(files["tls.crt"])[0]


async def test_certificates_renew_at_two_thirds_and_no_link_is_lost(world: World) -> None:
    wall = Wall()
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south")
    issuing = await world.start(north, timing=SHORT, wall=wall)
    redeeming = await world.start(south, timing=SHORT, wall=wall)
    name = await world.link(north, south)
    before = leaf(south, name)
    access = issuing.context.forwarding.entry("credential", "access:default")
    router = (await world.status(south))["links"][0]["routers"]
    # A leaf begins five minutes in the past and ends in 200 s: two thirds of that are 33 s from now, with jitter up to 58 s.
    wall.ahead = 20.0
    for site in (issuing, redeeming):
        site.context.timers.wake()
        site.joining._renewals.wake()
    await trio.sleep(0.3)
    assert leaf(south, name) == before
    wall.ahead = 60.0
    for site in (issuing, redeeming):
        site.context.timers.wake()
        site.joining._renewals.wake()

    async def renewed() -> bool:
        return leaf(south, name).serial_number != before.serial_number

    await world.until("the client certificate is another one", renewed)
    await world.until("the server certificate is another one", lambda: _is_other(issuing, access))
    after = leaf(south, name)
    assert after.public_key() != before.public_key()
    assert after.not_valid_after_utc > before.not_valid_after_utc
    found = (await world.status(south))["links"][0]
    assert found["active"]
    assert found["routers"] == router
    # New lanes use the new ones.
    await world.call(south, "stop")
    await trio.sleep(0.5)
    await world.start(south, timing=SHORT, wall=wall)
    await world.until_linked(north, south)


async def _is_other(site: RunningSite, access: Any) -> bool:
    return site.context.forwarding.entry("credential", "access:default") != access


async def test_a_renewal_that_fails_is_told_and_tried_again(world: World) -> None:
    wall = Wall()
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south")
    await world.start(north, timing=SHORT, wall=wall)
    redeeming = await world.start(south, timing=SHORT, wall=wall)
    name = await world.link(north, south)
    before = leaf(south, name)
    await world.call(north, "stop")
    await trio.sleep(0.5)
    wall.ahead = 60.0
    redeeming.joining._renewals.wake()

    async def told() -> Any:
        configured = condition((await world.status(south))["links"][0], "Configured")
        return configured if configured["reason"] == "RenewalFails" else None

    configured = await world.until("the link says that its certificate was not renewed", told)
    assert "valid until" in configured["message"]
    assert configured["next"]
    await world.start(north, timing=SHORT, wall=wall)

    async def renewed() -> bool:
        return leaf(south, name).serial_number != before.serial_number

    await world.until("it is renewed once the issuer is back", renewed)
    await world.until_linked(north, south)


async def _echo_site(world: World, results: list[bool]) -> tuple[RunningSite, int]:
    async def echo(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for part in stream:
                await stream.send_all(part)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    world.nursery.start_soon(trio.serve_listeners, echo, listeners)
    home, port = world.home("north"), free_port()
    home.resources.put(resource("Listener", "echo", routingKey="echo", host="127.0.0.1", port=port))
    target = listeners[0].socket.getsockname()[1]
    home.resources.put(resource("Connector", "echo", routingKey="echo", host="127.0.0.1", port=target))

    async def run(*, task_status: trio.TaskStatus[RunningSite]) -> None:
        results.append(await run_site(home.directory, plane=world.plane, timing=FAST, task_status=task_status))  # type: ignore[arg-type]

    site: RunningSite = await world.nursery.start(functools.partial(run))

    async def listens() -> bool:
        return bool((await world.status(home))["listeners"][0]["matched"])

    await world.until("echo is matched", listens)
    return site, port


async def test_a_leaving_router_lets_streams_end_and_takes_no_new_ones(world: World) -> None:
    results: list[bool] = []
    site, port = await _echo_site(world, results)
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"a")
        assert await stream.receive_some(10) == b"a"
        site.stop(drain=10.0)
        await trio.sleep(0.3)
        with pytest.raises(OSError, match="failed"):
            await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(b"b")
        assert await stream.receive_some(10) == b"b"
        assert results == []
    with trio.fail_after(5):
        while not results:  # noqa: ASYNC110
            await trio.sleep(0.02)
    assert results == [True]


async def test_a_stream_that_does_not_end_is_reset_at_the_deadline(world: World) -> None:
    results: list[bool] = []
    site, port = await _echo_site(world, results)
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"a")
        assert await stream.receive_some(10) == b"a"
        start = trio.current_time()
        site.stop(drain=0.5)
        with pytest.raises(trio.BrokenResourceError):  # never a clean end
            await stream.receive_some(10)
        assert 0.4 < trio.current_time() - start < 3
    with trio.fail_after(5):
        while not results:  # noqa: ASYNC110
            await trio.sleep(0.02)
    assert results == [False]
