"""Lanes over an address that is about to go: new streams use others; those that are there stay to their end, or a core moves them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import scripted_peer as wire
import trio
from applications import body, connect, echo, echo_through, served
from network import TRIPLES, Line
from plane_harness import Pair, Router, free_port
from scripted_peer import frame, u64, waiting_for_a_dial
from site_credentials import Authority, Site

from vanrouter.plane import Access, BindStatus, Link

SHUTDOWN = 5


async def all_comes_back(echoing: trio.SocketStream, meanwhile: Callable[[], None]) -> None:
    """4 MiB that take a third of a second and more, and what happens when the first of it is back."""
    content, got = body(4 << 20), bytearray()

    async def send() -> None:
        for at in range(0, len(content), 1 << 16):
            await echoing.send_all(content[at : at + (1 << 16)])
            await trio.sleep(0.005)
        await echoing.send_eof()

    with trio.fail_after(20):
        async with trio.open_nursery() as carrying:
            carrying.start_soon(send)
            got += await echoing.receive_some()
            meanwhile()
            async for data in echoing:
                got += data
    assert got == content


async def until_lanes(near: Router, far: Router, count: int) -> None:
    await near.until(lambda: near.links[far.id].lanes == count)
    await far.until(lambda: far.links[near.id].lanes == count)


async def test_streams_of_a_retired_lane_end_by_themselves_and_new_ones_take_another(pair: Pair) -> None:
    ingress, egress = pair.ingress, pair.egress
    async with served(echo) as target:
        port = await pair.expose(target.port)
        old = await connect(port)
        await old.send_all(b"before")
        with trio.fail_after(5):
            assert await old.receive_some() == b"before"
        egress.put(Access(name="second", host="127.0.0.1", port=free_port(), credential="main"))
        await egress.until(lambda: "second" in egress.accesses and egress.accesses["second"].status is BindStatus.LISTENING)
        await pair.link(egress.accesses["second"].port)
        await ingress.until(lambda: ingress.links[egress.id].lanes == 2)
        wanted = ingress.links[egress.id].lanes_wanted
        ingress.plane.retire("link", "127.0.0.1", pair.access_port)
        await ingress.until(lambda: ingress.links[egress.id].lanes_wanted == wanted + 1)
        ingress.plane.retire("link", "127.0.0.1", pair.access_port)  # again: nothing new
        for number in range(5):
            with trio.fail_after(10):
                await echo_through(port, 50_000, number)
        await old.send_all(body(100_000))
        await old.send_eof()
        got = bytearray()
        with trio.fail_after(10):
            async for data in old:
                got += data
        assert got == body(100_000)
        await ingress.until(lambda: ingress.links[egress.id].lanes == 1)
        await egress.until(lambda: egress.links[ingress.id].lanes == 1)
        assert ingress.links[egress.id].lanes_wanted == wanted
        assert ingress.links[egress.id].address.endswith(f":{egress.accesses['second'].port}")
        assert not ingress.links[egress.id].draining
        with trio.fail_after(10):
            await echo_through(port, 50_000)
        await pair.nothing_is_left()


@pytest.mark.parametrize("kinds", ["core-core", "core-baseline"])
async def test_a_core_moves_the_streams_of_a_retired_lane_and_it_closes_while_they_live(kinds: str, nursery: trio.Nursery) -> None:
    """The address may go then: nothing is over it any more."""
    pair = Pair(kinds)
    await pair.start(nursery)
    ingress, egress = pair.ingress, pair.egress
    async with served(echo) as target:
        port = await pair.expose(target.port)
        busy, silent = [await connect(port) for _ in range(2)]
        await silent.send_all(b"before")
        with trio.fail_after(5):
            assert await silent.receive_some() == b"before"
        egress.put(Access(name="second", host="127.0.0.1", port=free_port(), credential="main"))
        await egress.until(lambda: "second" in egress.accesses and egress.accesses["second"].status is BindStatus.LISTENING)
        await pair.link(egress.accesses["second"].port)
        await ingress.until(lambda: ingress.links[egress.id].lanes == 2)
        await all_comes_back(busy, lambda: ingress.plane.retire("link", "127.0.0.1", pair.access_port))
        await until_lanes(ingress, egress, 1)
        await silent.send_all(b"after")
        with trio.fail_after(5):
            assert await silent.receive_some() == b"after"
        await silent.send_eof()
        await pair.nothing_is_left()
    moved = [router.plane.counters().streams_moved for router in (ingress, egress)]
    assert sum(moved) >= 2, moved


async def test_a_retired_lane_closes_behind_the_answer_to_the_move_of_its_last_stream(kind: str, nursery: trio.Nursery) -> None:
    """Else the other end takes the stream for lost with the lane."""
    authority, mover = Authority("one"), Site("mover")
    router = Router(kind, Site("north"))
    await router.start(nursery)
    router.put(router.site.credential(authority), Link(name="link", credential="main"))
    async with served(echo) as target, waiting_for_a_dial(mover, authority) as (port, peers):
        router.add_connector(target.port)
        with trio.fail_after(5):
            async with trio.open_nursery() as dialling:
                dialling.start_soon(router.dial, port)
                peer = await peers.receive()
                await peer.greet({11: u64(1)})
        await peer.send(peer.open(2))
        await peer.until(wire.OPEN_OK, 2)
        router.plane.retire("link", "127.0.0.1", port)
        await peer.until(wire.GOAWAY)
        await peer.send(frame(2, wire.MOVE, u64(5) + u64(0)))
        code, frames = await peer.the_end(within=5)
        assert code == SHUTDOWN
        said = [(stream, kind_) for stream, kind_, _ in frames if kind_ in (wire.MOVE, wire.GOAWAY)]
        assert said == [(2, wire.MOVE), (0, wire.GOAWAY)]


@pytest.mark.parametrize("kinds", [kinds for kinds in TRIPLES if "core" in kinds.split("-")[:2]])
async def test_streams_that_cross_a_router_leave_retired_lanes_on_both_of_its_sides_at_once(kinds: str, nursery: trio.Nursery) -> None:
    """Each lane that a core dialled; a baseline only answers."""
    line = Line(kinds)
    await line.start(nursery)
    async with served(echo) as target:
        port = await line.expose(target.port)
        busy, silent = [await connect(port) for _ in range(2)]
        await silent.send_all(b"before")
        with trio.fail_after(5):
            assert await silent.receive_some() == b"before"
        hops = [(line.ingress, line.middle), (line.middle, line.egress)]
        leading = [(near, far) for (near, far), kind in zip(hops, line.kinds, strict=False) if kind == "core"]
        for near, far in leading:
            await line.link(near, far, port=await far.add_access(name="second"))

        def retire() -> None:
            for near, far in leading:
                near.plane.retire(f"to-{far.site.name}", "127.0.0.1", line.ports[far.id])

        await all_comes_back(busy, retire)
        for near, far in leading:
            await until_lanes(near, far, 1)
        await silent.send_all(b"after")
        with trio.fail_after(5):
            assert await silent.receive_some() == b"after"
        await silent.send_eof()
        await line.nothing_is_left()


async def test_of_another_link_or_address_nothing_is_retired(pair: Pair) -> None:
    before = pair.ingress.links[pair.egress.id]
    pair.ingress.plane.retire("another", "127.0.0.1", pair.access_port)
    pair.ingress.plane.retire("link", "127.0.0.2", pair.access_port)
    async with served(echo) as target:
        port = await pair.expose(target.port)
        with trio.fail_after(5):
            await echo_through(port, 1_000)
    await trio.sleep(0.3)
    after = pair.ingress.links[pair.egress.id]
    assert (after.lanes, after.lanes_wanted) == (before.lanes, before.lanes_wanted)
