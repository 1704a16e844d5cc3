"""Streams that move between two lanes of a link: what a router answers to a peer that moves them, and a core that leads."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import scripted_peer as wire
import trio
from applications import body, connect, echo, is_reset, served
from crossroads import LINK, Crossroads, collected
from plane_harness import Pair
from scripted_peer import ScriptedPeer, dialled_in, frame, u32, u64
from site_credentials import Site

CLIENT = 1
KNOWS_MOVE: dict[int, bytes | None] = {11: u64(1)}


def move(stream: int, name: int, total: int) -> bytes:
    return frame(stream, wire.MOVE, u64(name) + u64(total))


@dataclass
class Scene:
    """A peer by hand with two lanes, and a stream of its to an application that the test plays."""

    pair: Pair
    old: ScriptedPeer
    new: ScriptedPeer
    applications: trio.MemoryReceiveChannel[trio.SocketStream]

    async def opened(self, stream: int = 1) -> trio.SocketStream:
        await self.old.send(self.old.open(stream))
        await self.old.until(wire.OPEN_OK, stream)
        with trio.fail_after(5):
            return await self.applications.receive()

    async def left(self, stream: int, name: int, sent: int, received: int) -> None:
        """Ask for a stream of which so many bytes were sent and received, and get it."""
        await self.old.send(move(stream, name, sent))
        assert await self.old.until(wire.MOVE, stream) == u64(name) + u64(received)


@asynccontextmanager
async def scene(kind: str, nursery: trio.Nursery, *, features: int = 1) -> AsyncIterator[Scene]:
    pair = Pair(f"{kind}-{kind}", refuse_after=0.6)
    await pair.start(nursery)
    send, applications = trio.open_memory_channel[trio.SocketStream](8)

    async def play(application: trio.SocketStream) -> None:
        await send.send(application)
        await trio.sleep_forever()

    mover = Site("mover")
    credential = mover.credential(pair.authority)
    async with (
        served(play) as target,
        dialled_in(pair.access_port, mover, credential) as old,
        dialled_in(pair.access_port, mover, credential) as new,
    ):
        await pair.expose(target.port)
        new.boot = old.boot
        for lane in (old, new):
            await lane.greet({11: u64(features)})
        yield Scene(pair, old, new, applications)


@pytest.fixture
async def moving(kind: str, nursery: trio.Nursery) -> AsyncIterator[Scene]:
    async with scene(kind, nursery) as made:
        yield made


async def test_a_stream_goes_on_under_its_new_number_with_all_that_it_had(moving: Scene) -> None:
    application = await moving.opened()
    await moving.old.send(frame(1, wire.DATA, b"here "))
    await application.send_all(b"answer ")
    assert await collected(moving.old, 1, 7) == b"answer "
    await moving.left(1, name=77, sent=5, received=7)
    await application.send_all(b"which waits")
    await moving.new.send(move(1, 77, 5), frame(1, wire.DATA, b"and there"), frame(1, wire.FIN, u64(14)))
    assert await collected(moving.new, 1, 11) == b"which waits"
    got = b""
    with trio.fail_after(5):
        while chunk := await application.receive_some():
            got += chunk
    assert got == b"here and there"
    await application.send_eof()
    assert await moving.new.until(wire.FIN, 1) == u64(18), "the totals count on"
    await moving.pair.nothing_is_left()
    await moving.old.is_alive()


async def test_a_stream_that_moves_to_and_fro_keeps_its_credit(moving: Scene) -> None:
    """It is granted 64 KiB for 2 MiB of data, over eight moves."""
    application = await moving.opened()
    lanes, ids, sent = [moving.old, moving.new], [1, 1], 0
    credit = 65_536
    content = body(2 << 20)
    got = bytearray()

    async def read() -> None:
        while len(got) < len(content):
            got.extend(await application.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for turn in range(8):
            lane, id_ = lanes[turn % 2], ids[turn % 2]
            until = len(content) * (turn + 1) // 8
            while sent < until:
                size = min(credit, until - sent, 16_000)
                if size == 0:
                    credit += struct.unpack(">I", await lane.until(wire.CREDIT, id_))[0]
                    continue
                await lane.send(frame(id_, wire.DATA, content[sent : sent + size]))
                sent += size
                credit -= size
            await lane.send(move(id_, 100 + turn, sent))
            with trio.fail_after(5):
                while (got_frame := await lane.frame()) is not None and got_frame[1] != wire.MOVE:
                    if got_frame[:2] == (id_, wire.CREDIT):
                        credit += struct.unpack(">I", got_frame[2])[0]
            ids[turn % 2] += 2
            other = lanes[(turn + 1) % 2]
            await other.send(move(ids[(turn + 1) % 2], 100 + turn, sent))
    assert got == content
    await moving.new.is_alive()


@pytest.mark.parametrize("lane", ["old", "new", "back on the old"])
async def test_a_reset_of_a_stream_that_moves_resets_the_application(moving: Scene, lane: str) -> None:
    application = await moving.opened()
    await moving.left(1, name=5, sent=0, received=0)
    reset = frame(1, wire.RESET, bytes([CLIENT]) + b"enough")
    if lane == "old":
        await moving.old.send(reset)
        assert await is_reset(application)
        await moving.new.send(move(1, 5, 0))
        assert (await moving.new.until(wire.RESET, 1))[0] == LINK, "there is nothing to go on with"
    elif lane == "new":
        await moving.new.send(move(1, 5, 0), reset)
        assert await is_reset(application)
    else:  # the new lane was lost before this router had read anything there
        await moving.old.send(move(3, 5, 0), frame(3, wire.RESET, bytes([LINK]) + b"its lane was lost"))
        assert await is_reset(application)
    await moving.pair.nothing_is_left()
    await moving.new.is_alive()


async def test_a_move_that_nobody_knows_is_reset_and_the_lane_lives(moving: Scene) -> None:
    await moving.new.send(move(1, 99, 0), frame(1, wire.DATA, b"lost"))
    assert (await moving.new.until(wire.RESET, 1))[0] == LINK
    await moving.new.is_alive()


async def test_a_move_that_is_asked_for_after_it_was_taken_back_gets_a_no(moving: Scene) -> None:
    """The lane where it was asked for is lost at the other end, and read here last: nobody would come for the stream."""
    application = await moving.opened()
    await moving.new.send(move(1, 5, 0), frame(1, wire.RESET, bytes([LINK]) + b"its lane was lost"))
    await moving.new.until(wire.RESET, 1)
    await moving.old.send(move(1, 5, 0))
    assert await moving.old.until(wire.MOVE, 1) == bytes(16)
    await moving.old.hang_up()
    assert await is_reset(application)
    await moving.pair.nothing_is_left()


async def test_a_stream_between_lanes_is_reset_when_the_last_lane_is_lost(moving: Scene) -> None:
    application = await moving.opened()
    await moving.left(1, name=5, sent=0, received=0)
    await moving.old.hang_up()
    await moving.new.is_alive()
    await moving.new.hang_up()
    assert await is_reset(application)
    await moving.pair.nothing_is_left()


async def test_a_move_after_both_ends_is_void(moving: Scene) -> None:
    application = await moving.opened()
    await moving.old.send(frame(1, wire.FIN, u64(0)))
    await application.send_eof()
    await moving.old.until(wire.FIN, 1)
    await moving.old.send(move(1, 5, 0))
    await moving.old.is_alive()
    await moving.pair.nothing_is_left()


async def test_a_second_move_behind_the_first_is_that_of_a_stream_that_is_over(moving: Scene) -> None:
    """Both are read at once: the stream has left when the second is looked at."""
    await moving.opened()
    await moving.old.send(move(1, 5, 0), move(1, 6, 0))
    assert await moving.old.until(wire.MOVE, 1) == u64(5) + u64(0)
    await moving.old.is_alive()
    await moving.new.send(move(1, 5, 0), frame(1, wire.RESET, bytes([CLIENT]) + b"enough"))
    await moving.new.is_alive()
    await moving.pair.nothing_is_left()


BREACHES: dict[str, Callable[[int], bytes]] = {
    "bytes that were not sent": lambda _: move(1, 5, 3),
    "a no that nobody waits for": lambda _: move(1, 0, 0),
    "a new stream without a name": lambda _: move(3, 0, 0),
    "a number of the other end": lambda _: move(2, 5, 0),
    "too short": lambda _: frame(1, wire.MOVE, u64(5)),
    "no stream at all": lambda _: move(0, 5, 0),
}


@pytest.mark.parametrize("breach", BREACHES)
async def test_what_is_no_move_closes_the_lane(moving: Scene, breach: str) -> None:
    application = await moving.opened()
    await moving.old.send(BREACHES[breach](0))
    assert (await moving.old.the_end())[0] == wire.PROTOCOL
    assert await is_reset(application)
    await moving.new.is_alive()


async def test_a_stream_that_comes_with_other_bytes_than_left_closes_the_lane(moving: Scene) -> None:
    application = await moving.opened()
    await moving.left(1, name=5, sent=0, received=0)
    await moving.new.send(move(1, 5, 1))
    assert (await moving.new.the_end())[0] == wire.PROTOCOL
    assert await is_reset(application)


async def test_without_an_agreement_a_move_closes_the_lane(kind: str, nursery: trio.Nursery) -> None:
    async with scene(kind, nursery, features=2) as strange:
        await strange.opened()
        await strange.old.send(move(1, 5, 0))
        assert (await strange.old.the_end())[0] == wire.PROTOCOL


@asynccontextmanager
async def two_lanes_behind(cross: Crossroads, *, credit: int = 65_536) -> AsyncIterator[tuple[ScriptedPeer, ScriptedPeer, int]]:
    """Two lanes of the opener that know MOVE, and a stream on the first that crosses; its number ahead, where it has so much credit."""
    async with cross.another_lane_behind(KNOWS_MOVE) as old, cross.another_lane_behind(KNOWS_MOVE) as new:
        await old.send(cross.open(1))
        ahead = await cross.next_hop.until_open()
        await cross.next_hop.send(frame(ahead.stream, wire.OPEN_OK, u32(credit)))
        await old.until(wire.OPEN_OK, 1)
        yield old, new, ahead.stream


async def test_a_stream_that_crosses_goes_on_with_all_that_it_had_on_the_side_that_moves(cross: Crossroads) -> None:
    async with two_lanes_behind(cross) as (old, new, ahead):
        await old.send(frame(1, wire.DATA, b"here "))
        assert await collected(cross.next_hop, ahead, 5) == b"here "
        await old.send(move(1, 5, 5))
        assert await old.until(wire.MOVE, 1) == u64(5) + u64(0)
        await cross.next_hop.send(frame(ahead, wire.DATA, b"said meanwhile"))
        await new.send(move(1, 5, 5), frame(1, wire.DATA, b"and there"), frame(1, wire.FIN, u64(14)))
        assert await collected(new, 1, 14) == b"said meanwhile"
        assert await collected(cross.next_hop, ahead, 9) == b"and there"
        assert await cross.next_hop.until(wire.FIN, ahead) == u64(14)
        await cross.next_hop.send(frame(ahead, wire.FIN, u64(14)))
        assert await new.until(wire.FIN, 1) == u64(14)
        await cross.is_unharmed()
        await old.is_alive()


@pytest.mark.parametrize("lane", ["old", "new", "ahead"])
async def test_a_stream_that_crosses_is_reset_on_both_sides_when_it_is_reset_while_it_moves(cross: Crossroads, lane: str) -> None:
    async with two_lanes_behind(cross) as (old, new, ahead):
        await old.send(move(1, 5, 0))
        await old.until(wire.MOVE, 1)
        if lane == "old":
            await old.send(frame(1, wire.RESET, bytes([CLIENT]) + b"enough"))
            assert (await cross.next_hop.until(wire.RESET, ahead))[0] == CLIENT
        elif lane == "new":
            await new.send(move(1, 5, 0), frame(1, wire.RESET, bytes([CLIENT]) + b"enough"))
            assert (await cross.next_hop.until(wire.RESET, ahead))[0] == CLIENT
        else:
            await cross.next_hop.send(frame(ahead, wire.RESET, bytes([CLIENT]) + b"enough"))
            await new.send(move(1, 5, 0))
            assert (await new.until(wire.RESET, 1))[0] == CLIENT
        await cross.is_unharmed()
        await new.is_alive()


async def test_what_came_over_the_old_lane_and_waits_for_the_next_hop_is_given_back_on_the_new_one(cross: Crossroads) -> None:
    async with two_lanes_behind(cross, credit=10_000) as (old, new, ahead):
        content = body(60_000)
        for at in range(0, len(content), 15_000):
            await old.send(frame(1, wire.DATA, content[at : at + 15_000]))
        await old.send(move(1, 5, len(content)))
        assert await old.until(wire.MOVE, 1) == u64(5) + u64(0)
        await new.send(move(1, 5, len(content)))
        assert await collected(cross.next_hop, ahead, 10_000) == content[:10_000]
        await cross.next_hop.send(frame(ahead, wire.CREDIT, u32(50_000)))
        assert await collected(cross.next_hop, ahead, 50_000) == content[10_000:]
        credit = 0
        with trio.fail_after(5):
            while credit < len(content) // 2:
                credit += struct.unpack(">I", await new.until(wire.CREDIT, 1))[0]
        await new.is_alive()


@pytest.mark.parametrize("kinds", ["core-core", "baseline-core"])
async def test_a_core_that_leads_takes_bulk_away_from_a_dialogue_and_not_a_byte_is_lost(kinds: str, nursery: trio.Nursery) -> None:
    pair = Pair(kinds, workers=2)
    await pair.start(nursery, lanes=2)
    content = body(24 << 20)

    async def serve(stream: trio.SocketStream) -> None:
        word = await stream.receive_some(4)
        if word != b"bulk":
            await stream.send_all(word)
            await echo(stream)
            return
        for at in range(0, len(content), 1 << 18):
            await stream.send_all(content[at : at + (1 << 18)])
            await trio.sleep(0.02)  # it takes two seconds: long enough to be noticed beside the dialogue

    async def download(port: int) -> None:
        async with await connect(port) as client:
            await client.send_all(b"bulk")
            got = bytearray()
            while chunk := await client.receive_some():
                got += chunk
        assert got == content

    async with served(serve) as target:
        port = await pair.expose(target.port)
        async with await connect(port) as client, trio.open_nursery() as bulk:
            for _ in range(3):
                bulk.start_soon(download, port)
            with trio.fail_after(30):
                while pair.egress.plane.counters().streams_moved == 0:
                    await client.send_all(b"word")
                    assert await client.receive_some(4) == b"word"
                    await trio.sleep(0.02)
        assert pair.ingress.plane.counters().streams_moved == 0, "one end leads"
    await pair.nothing_is_left()
