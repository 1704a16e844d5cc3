"""What streams that cross a router may make it hold, and that nobody's OPENs keep another's waiting."""

from __future__ import annotations

import os
import struct

import pytest
import scripted_peer as wire
import trio
from applications import connect, echo, read_to_end, served
from crossroads import LINK, POLICY, RESOURCE, Crossroads, crossroads
from network import Network
from plane_harness import path
from scripted_peer import ScriptedPeer, attributes, dialled_in, frame, u32, u64, waiting_for_a_dial
from site_credentials import Site

from vanrouter.plane import Link, Route, RouteTarget

MOST_ATTRIBUTES = 1_024

# ---- Attributes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [False, True])
async def test_attributes_up_to_1024_bytes_are_passed_on(cross: Crossroads, many: bool) -> None:
    whole = attributes(*((kind, b"") for kind in range(256))) if many else attributes((7, os.urandom(MOST_ATTRIBUTES - 4)))
    assert len(whole) == MOST_ATTRIBUTES
    await cross.opener.send(cross.open(1, attributes=whole))
    assert (await cross.next_hop.until_open()).attributes == whole


@pytest.mark.parametrize("where", ["onward", "here"])
async def test_an_open_with_more_attributes_is_refused_and_its_lane_goes_on(cross: Crossroads, where: str) -> None:
    """Also with very many, and with such as are malformed: they are not looked at."""
    onward = await cross.opened(1)
    destination = cross.next_hop.id if where == "onward" else cross.router.id
    tails = [attributes((7, bytes(MOST_ATTRIBUTES - 3))), attributes(*((kind, b"") for kind in range(3_500))), b"\xff" * 1_025]
    early = bytes(1_000)
    for number in range(90):  # their open and early credit comes back
        stream, tail = 3 + 2 * number, tails[number % 3]
        await cross.opener.send(cross.opener.open(stream, "honest", destination=destination, attributes=tail, early=early))
        answer = await cross.opener.until(wire.OPEN_ERR, stream)
        assert answer[0] == POLICY
        assert b"1,024" in answer or b"1024" in answer
    await cross.opener.send(frame(5, wire.EARLY, b"what was under way"), frame(1, wire.DATA, b"the others go on"))
    assert await cross.next_hop.until(wire.DATA, onward) == b"the others go on"
    await cross.opener.send(frame(1, wire.RESET, b"\x01"))
    await cross.is_unharmed()


# ---- A next hop that takes nothing -----------------------------------------------------------------------------------------------


async def test_a_next_hop_that_does_not_read_bounds_what_openers_can_leave_here(kind: str, nursery: trio.Nursery) -> None:
    """It permits much and reads nothing: early data stays on the account of the lane that it came over."""
    generous = {6: u32(65_540, 256, 1 << 24)}
    async with crossroads(kind, nursery, next_hop=generous, dead_after=60.0) as cross:
        opener = cross.opener
        credit = 0
        opens, early, said, stream = 16, 65_536, 0, 3

        async def read_for(seconds: float) -> None:
            nonlocal credit, opens, early
            with trio.move_on_after(seconds):
                while (got := await opener.frame()) is not None:
                    if got[1] == wire.PING:
                        await opener.send(frame(0, wire.PONG, got[2]))
                    if got[1] == wire.CREDIT and got[0] == 1:
                        credit += int.from_bytes(got[2])
                    if got[1] == wire.CREDIT and got[0] == 0:
                        _, more_opens, more_early = struct.unpack(">III", got[2])
                        opens, early = opens + more_opens, early + more_early

        await cross.opened(1, credit=1 << 30)
        credit = cross.granted
        idle = 0
        with trio.fail_after(40):
            while idle < 3:  # fill whatever lies between
                size = min(credit, 16_376)
                idle = 0 if size else idle + 1
                if size:
                    credit -= size
                    await opener.send(frame(1, wire.DATA, bytes(size)))
                await read_for(0.001 if credit else 0.3)
            idle = 0
            while idle < 3:
                size = min(early, 16_000)
                idle = idle + 1 if opens == 0 or size == 0 else 0
                if opens and size:
                    opens, early, said = opens - 1, early - size, said + size
                    await opener.send(cross.open(stream, early=bytes(size)))
                    stream += 2
                await read_for(0.001 if opens and early else 0.3)
        assert 65_536 <= said <= 2 * 65_536, "the early credit of HELLO, and what the kernel may still have taken"
        await opener.hang_up()
        await cross.next_hop.hang_up()
        await cross.is_unharmed()


# ---- An end and nothing else -----------------------------------------------------------------------------------------------------


async def test_an_open_with_an_end_and_no_data_may_be_opened_elsewhere_when_its_lane_is_lost(cross: Crossroads) -> None:
    await cross.opener.send(cross.open(1) + frame(1, wire.FIN, u64(0)))
    onward = (await cross.next_hop.until_open()).stream
    assert await cross.next_hop.until(wire.FIN, onward) == u64(0)
    await cross.next_hop.hang_up()
    assert (await cross.opener.until(wire.OPEN_ERR, 1))[0] == LINK
    await cross.opener.is_alive()
    await cross.is_unharmed()


async def test_a_client_that_ended_at_once_is_served_elsewhere_when_the_lane_is_lost(kind: str, nursery: trio.Nursery) -> None:
    network, lost = Network(refuse_after=3.0), Site("lost")
    ingress = await network.add(nursery, kind, "ingress")
    egress = await network.add(nursery, kind, "egress")
    await network.link(ingress, egress)

    async def greet(stream: trio.SocketStream) -> None:
        await read_to_end(stream)
        await stream.send_all(b"served")

    async with (
        served(greet) as target,
        waiting_for_a_dial(lost, network.authority) as (port, peers),
        trio.open_nursery() as helpers,
    ):
        egress.add_connector(target.port)
        ingress.put(Link(name="lost", credential="main"))
        helpers.start_soon(lambda: ingress.dial(port, link="lost"))
        peer = await peers.receive()
        await peer.greet()
        await ingress.until(lambda: peer.id in ingress.links)
        targets = [RouteTarget(peer.id), RouteTarget(egress.id)]
        ingress.put(path(peer.id), path(egress.id, cost=1_000), Route(name="k", targets=targets))
        async with await connect(await ingress.add_listener()) as client:
            await client.send_eof()
            onward = (await peer.until_open()).stream
            assert await peer.until(wire.FIN, onward) == u64(0)
            await peer.hang_up()
            with trio.fail_after(5):
                assert await read_to_end(client) == b"served"
        helpers.cancel_scope.cancel()


# ---- Fairness --------------------------------------------------------------------------------------------------------------------


async def _asked(peer: ScriptedPeer, count: int) -> list[bytes]:
    """The sources of the next OPENs."""
    return [(await peer.until_open()).source[:32] for _ in range(count)]


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_flood_of_opens_from_one_neighbour_keeps_those_of_another_waiting_for_its_turn_only(
    kind: str, nursery: trio.Nursery, at_once: bool
) -> None:
    async with crossroads(kind, nursery, next_hop={6: u32(65_540, 0, 65_536)}) as cross, cross.neighbour("other") as other:
        next_hop = cross.next_hop
        await cross.opener.send(*(cross.open(stream, early=b"x") for stream in range(1, 33, 2)))
        await cross.opener.is_alive()  # they were taken, and wait
        await other.send(*(other.open(stream, destination=next_hop.id) for stream in (1, 3)))
        await other.is_alive()
        if at_once:
            await next_hop.send(frame(0, wire.CREDIT, u32(0, 4, 0)))
            got = await _asked(next_hop, 4)
        else:
            got = []
            for _ in range(4):
                await next_hop.send(frame(0, wire.CREDIT, u32(0, 1, 0)))
                got += await _asked(next_hop, 1)
        (its,) = {source for source in got if got.count(source) == 2} - {got[0]}
        assert got.count(its) == 2, "two each"
        assert got[0] != got[1]
        assert got[2] != got[3]
        await next_hop.send(frame(0, wire.CREDIT, u32(0, 14, 0)))
        assert len(set(await _asked(next_hop, 14))) == 1, "the rest are the flood's"


async def test_a_newcomer_does_not_overtake_its_neighbours_opens_that_wait(kind: str, nursery: trio.Nursery) -> None:
    async with crossroads(kind, nursery, next_hop={6: u32(65_540, 0, 65_536)}) as cross:
        await cross.opener.send(*(cross.open(stream, key=f"key-{stream}") for stream in range(1, 17, 2)))
        await cross.opener.is_alive()
        await cross.next_hop.send(frame(0, wire.CREDIT, u32(0, 10, 0)))
        keys = [(await cross.next_hop.until_open()).key for _ in range(8)]
        assert keys == [b"key-%d" % stream for stream in range(1, 17, 2)]


async def test_a_client_here_keeps_its_turn_when_a_neighbour_opens_in_the_same_moment(kind: str, nursery: trio.Nursery) -> None:
    async with crossroads(kind, nursery, next_hop={6: u32(65_540, 0, 65_536)}) as cross:
        opener, next_hop = cross.opener, cross.next_hop
        cross.router.put(Route(name="here", targets=[RouteTarget(next_hop.id)]))
        await cross.settled()
        port = await cross.router.add_listener("here")
        for first in range(1, 241, 8):
            await opener.send(*(cross.open(first + n) for n in (0, 2)))
            await opener.is_alive()
            async with await connect(port):
                await trio.sleep(0.1)  # all three wait
                opened = []
                for stream in (first + 4, first + 6):
                    async with trio.open_nursery() as at_once:
                        at_once.start_soon(next_hop.send, frame(0, wire.CREDIT, u32(0, 1, 0)))
                        at_once.start_soon(opener.send, cross.open(stream))
                    opened.append(await next_hop.until_open())
                assert sorted(one.key for one in opened) == [b"here", b"k"], "one each"
                await next_hop.send(frame(0, wire.CREDIT, u32(0, 3, 0)))
                opened += [await next_hop.until_open() for _ in range(3)]
                for one in opened:  # each is over, and none is opened again
                    refusal = frame(one.stream, wire.OPEN_ERR, bytes((RESOURCE,)))
                    broken = frame(one.stream, wire.OPEN_OK, u32(1_000)) + frame(one.stream, wire.RESET, bytes((LINK,)))
                    await next_hop.send(broken if one.key == b"here" else refusal)
                for _ in range(4):
                    await opener.until(wire.OPEN_ERR)


# ---- Lanes that join -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
async def test_lanes_that_join_under_a_load_of_opens_refuse_none(kinds: str, nursery: trio.Nursery, workers: int) -> None:
    network, site = Network(workers=workers, refuse_after=0.6), Site("opener")
    near, far = kinds.split("-")
    middle = await network.add(nursery, near, "middle")
    egress = await network.add(nursery, far, "egress")
    await network.link(egress, middle)
    refusals: list[bytes] = []
    served_ = 0
    async with (
        served(echo) as target,
        dialled_in(network.ports[middle.id], site, site.credential(network.authority)) as opener,
        trio.open_nursery() as load,
    ):
        egress.add_connector(target.port)
        await opener.greet()
        await middle.until(lambda: opener.id in middle.links)
        middle.put(path(egress.id), path(opener.id))
        await middle.until(lambda: middle.in_force == middle.generation)

        async def open_and_open() -> None:
            nonlocal served_
            credit, stream = 16, 1
            while True:
                if credit:
                    await opener.send(*(opener.open(stream + 2 * n, destination=egress.id) for n in range(credit)))
                    stream, credit = stream + 2 * credit, 0
                got = await opener.frame()
                assert got is not None
                if got[1] == wire.OPEN_OK:
                    served_ += 1
                    await opener.send(frame(got[0], wire.RESET, b"\x01"))
                elif got[1] in (wire.OPEN_ERR, wire.RESET):
                    refusals.append(got[2])
                elif got[1] == wire.CREDIT and got[0] == 0:
                    credit += struct.unpack(">III", got[2])[1]
                elif got[1] == wire.PING:
                    await opener.send(frame(0, wire.PONG, got[2]))

        load.start_soon(open_and_open)
        with trio.fail_after(30):
            for _ in range(15):
                await network.link(egress, middle)
            before = served_
            await middle.until(lambda: served_ > before + 50, within=10)
        load.cancel_scope.cancel()
    assert not refusals
