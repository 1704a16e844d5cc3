"""Over which link and lane a stream that crosses goes on, and to which edge, when some are better than others.

opener (by hand) ══▶ [router] ══▶ next hop (by hand), and others that dialled in
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import scripted_peer as wire
import trio
from crossroads import EDGE, POLICY, REFUSED, Crossroads, crossroads
from plane_harness import path
from scripted_peer import ScriptedPeer, frame, u32
from site_credentials import Site

from vanrouter.plane import Ref, Route, RouteTarget

FAR = f"{Site('far').id}/{7:016x}"
CREDIT = 65_536


# ---- Lanes -----------------------------------------------------------------------------------------------------------------------


async def test_a_lane_that_permits_an_open_is_preferred_to_one_that_does_not(kind: str, nursery: trio.Nursery) -> None:
    """Though the other one has no stream at all."""
    async with crossroads(kind, nursery, next_hop={6: u32(65_540, 0, 65_536)}) as cross:
        lane = await cross.another_lane_ahead()
        for stream in range(1, 21, 2):
            await cross.opener.send(cross.open(stream))
            onward = (await lane.until_open()).stream
            await lane.send(frame(onward, wire.OPEN_OK, u32(CREDIT)), frame(0, wire.CREDIT, u32(0, 1, 0)))
            await cross.opener.until(wire.OPEN_OK, stream)
        for stream in range(1, 21, 2):
            await cross.opener.send(frame(stream, wire.RESET, b"\x01"))
        await cross.is_unharmed()


async def test_a_lane_whose_permission_comes_back_is_used_again(kind: str, nursery: trio.Nursery) -> None:
    async with crossroads(kind, nursery, next_hop={6: u32(65_540, 0, 65_536)}) as cross:
        lane = await cross.another_lane_ahead()
        await cross.opener.send(*(cross.open(stream) for stream in range(1, 17, 2)))
        for _ in range(8):
            await lane.until_open()
        await cross.next_hop.send(frame(0, wire.CREDIT, u32(0, 16, 0)))
        await cross.next_hop.is_alive()
        await cross.opener.send(cross.open(17))
        await cross.next_hop.until_open()  # it has fewer streams


# ---- Next hops -------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def answering(peer: ScriptedPeer) -> AsyncIterator[list[wire.OpenFrame]]:
    """It answers OPENs with OPEN_OK, and PINGs; the OPENs that it got."""
    got: list[wire.OpenFrame] = []

    async def answer() -> None:
        while (one := await peer.frame()) is not None:
            if one[1] == wire.PING:
                await peer.send(frame(0, wire.PONG, one[2]))
            if one[1] == wire.OPEN:
                got.append(wire.taken_apart(one[0], one[2]))
                await peer.send(frame(one[0], wire.OPEN_OK, u32(CREDIT)), frame(0, wire.CREDIT, u32(0, 1, 0)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        yield got
        nursery.cancel_scope.cancel()


async def test_a_next_hop_that_drains_is_preferred_to_one_that_is_silent_and_a_sound_one_to_both(kind: str, nursery: trio.Nursery) -> None:
    async with crossroads(kind, nursery, suspect_after=0.5) as cross, cross.neighbour("silent") as silent:
        draining = cross.next_hop
        await draining.send(frame(0, wire.GOAWAY, b"\0leaving"))
        await cross.router.until(lambda: cross.router.links[draining.id].draining)
        async with answering(draining) as got:
            await cross.opener.send(*(cross.open(stream) for stream in (1, 3, 5)))  # more streams than the silent one has
            for stream in (1, 3, 5):
                await cross.opener.until(wire.OPEN_OK, stream)
            cross.router.put(path(FAR, over=[draining.id, silent.id], cost=2))
            await cross.settled()
            await cross.opener.send(cross.opener.open(7, destination=silent.id, early=b"x"))  # something is outstanding
            await cross.router.until(lambda: cross.router.links[silent.id].suspect)
            await cross.opener.send(cross.opener.open(9, destination=FAR))
            await cross.opener.until(wire.OPEN_OK, 9)
            assert len(got) == 4
            async with cross.neighbour("sound") as sound, answering(sound) as better:
                cross.router.put(path(FAR, over=[draining.id, silent.id, sound.id], cost=2))
                await cross.settled()
                await cross.opener.send(*(cross.opener.open(stream, destination=FAR) for stream in range(11, 21, 2)))
                for stream in range(11, 21, 2):
                    await cross.opener.until(wire.OPEN_OK, stream)
                assert (len(got), len(better)) == (4, 5)


# ---- Edges -----------------------------------------------------------------------------------------------------------------------


async def _ask(cross: Crossroads, streams: range) -> None:
    """So many streams to the router itself, whose targets are at its edges; they stay."""
    for stream in streams:
        await cross.opener.send(cross.opener.open(stream, destination=cross.router.id))
        await cross.opener.until(wire.OPEN_OK, stream)


async def test_streams_to_us_for_a_key_of_edges_go_to_the_best_of_them(kind: str, nursery: trio.Nursery) -> None:
    async with crossroads(kind, nursery, next_hop=EDGE) as cross, cross.neighbour("dear", EDGE) as dear:
        cheap = cross.next_hop
        targets = [RouteTarget(cheap.id), RouteTarget(dear.id)]
        cross.router.put(path(cheap.id), path(dear.id, cost=5), Route(name="k", targets=targets))
        await cross.settled()
        async with answering(cheap) as at_cheap, answering(dear) as at_dear:
            await _ask(cross, range(1, 21, 2))  # cost and streams on the link: 1 + 7, 5 + 3
            assert (len(at_cheap), len(at_dear)) == (7, 3)
            await cheap.send(frame(0, wire.GOAWAY, b"\0leaving"))
            await cross.router.until(lambda: cross.router.links[cheap.id].draining)
            await _ask(cross, range(21, 31, 2))
            assert (len(at_cheap), len(at_dear)) == (7, 8), "one that leaves comes last"
            cross.router.drop(Ref("path", dear.id))
            await cross.settled()
            await _ask(cross, range(31, 35, 2))
            assert (len(at_cheap), len(at_dear)) == (9, 8), "nothing is sent where no path leads"
            cross.router.drop(Ref("path", cheap.id))
            await cross.settled()
            await cross.opener.send(cross.opener.open(35, destination=cross.router.id))
            assert (await cross.opener.until(wire.OPEN_ERR, 35))[0] == REFUSED, "there is none"


async def test_edges_that_cost_the_same_share_streams_that_are_short(kind: str, nursery: trio.Nursery) -> None:
    async with crossroads(kind, nursery, next_hop=EDGE) as cross, cross.neighbour("other", EDGE) as other:
        targets = [RouteTarget(cross.next_hop.id), RouteTarget(other.id)]
        cross.router.put(Route(name="k", targets=targets))
        await cross.settled()
        async with answering(cross.next_hop) as one, answering(other) as two:
            for stream in range(1, 21, 2):
                await _ask(cross, range(stream, stream + 1))
                await cross.opener.send(frame(stream, wire.RESET, b"\x01"))
                await cross.router.until(lambda: cross.router.plane.counters().transit_open == 0)
            assert (len(one), len(two)) == (5, 5)


@pytest.mark.parametrize("was_edge", [False, True])
async def test_what_a_neighbour_is_follows_its_latest_hello(kind: str, nursery: trio.Nursery, was_edge: bool) -> None:
    roles: list[dict[int, bytes | None]] = [{}, EDGE]  # type: ignore[list-item]

    async with crossroads(kind, nursery, opener=roles[was_edge]) as cross:
        opener = cross.opener
        assert cross.router.links[opener.id].edge is was_edge
        stream = 1
        for is_edge in (was_edge, not was_edge, was_edge):
            async with cross.another_lane_behind(roles[is_edge]) as lane:
                await cross.router.until(lambda is_edge=is_edge: cross.router.links[opener.id].edge is is_edge)
                for lane_of_it, number in ((opener, stream), (lane, 1)):
                    await lane_of_it.send(cross.open(number, source=os.urandom(32)))
                    if is_edge:
                        assert (await lane_of_it.until(wire.OPEN_ERR, number))[0] == POLICY
                    else:
                        await cross.next_hop.until_open()
                stream += 2
                await lane.hang_up()
                await cross.router.until(lambda: cross.router.links[opener.id].lanes == 1)
                assert cross.router.links[opener.id].edge is is_edge, "the last word stands"
