"""
Bulk from a listener to a connector of the same router, which the core moves inside the kernel: nothing is lost or reordered, counters tell
all of it, ends and resets mean what they mean everywhere.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import trio
from applications import body, connect, echo, echo_through, is_reset, read_to_end, reset, served
from plane_harness import Router

MIB = 1 << 20
MUCH = 16 * MIB + 12_345  # beyond what pipes, queues and the kernel's buffers hold together


def pipes() -> int:
    """Of this process, which the plane under test is in."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += os.readlink(entry).startswith("pipe:")
        except FileNotFoundError:
            continue
    return found


async def test_much_passes_both_ways_at_once_and_is_counted_to_the_byte(router: Router) -> None:
    async with served(echo) as target:
        router.add_connector(target.port)
        port = await router.add_listener()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for seed in range(3):
                    nursery.start_soon(echo_through, port, MUCH, seed)
        await router.until(lambda: len(router.ends) == 3)
        assert {(end.stream_class, end.bytes_in, end.bytes_out) for end in router.ends} == {("", MUCH, MUCH)}
        counters = router.plane.counters()
        for counted in (counters.by_listener["l"], counters.by_connector["c"]):
            assert counted[2:] == [3 * MUCH, 3 * MUCH]


async def test_an_answer_may_be_much_after_the_request_ended(router: Router) -> None:
    """Half-close: the request's end passes on at once, and the answer goes on to its own."""
    answer = body(MUCH)

    async def respond(stream: trio.SocketStream) -> None:
        asked = await read_to_end(stream)
        assert len(asked) == 3 * MIB
        await stream.send_all(answer)
        await stream.send_eof()

    async with served(respond) as target:
        router.add_connector(target.port)
        port = await router.add_listener()
        client = await connect(port)
        with trio.fail_after(60):
            await client.send_all(bytes(3 * MIB))
            await client.send_eof()
            got = await read_to_end(client)
        assert hashlib.sha256(got).digest() == hashlib.sha256(answer).digest()
        await router.until(lambda: [(end.bytes_in, end.bytes_out) for end in router.ends] == [(3 * MIB, MUCH)])


async def test_a_reader_that_stops_holds_up_its_sender_and_nobody_else_and_gets_all_of_it(router: Router, kind: str) -> None:
    sent = body(MUCH)
    before = pipes()

    async def give(stream: trio.SocketStream) -> None:
        await stream.send_all(sent)
        await stream.send_eof()

    async with served(give) as target:
        router.add_connector(target.port)
        port = await router.add_listener()
        slow = await connect(port)
        first = await slow.receive_some(2 * MIB)
        while len(first) < 2 * MIB:
            first += await slow.receive_some(2 * MIB)
        await trio.sleep(0.3)  # it is full now
        if kind == "core":
            assert pipes() > before, "the kernel moves it"
        used = time.process_time()
        await trio.sleep(0.3)
        assert time.process_time() - used < 0.25, "waiting costs nothing"
        with trio.fail_after(60):
            other = await connect(port)
            assert hashlib.sha256(await read_to_end(other)).digest() == hashlib.sha256(sent).digest()
            rest = await read_to_end(slow)
        assert hashlib.sha256(first + rest).digest() == hashlib.sha256(sent).digest()


async def test_a_reset_passes_what_is_under_way_whoever_resets(router: Router) -> None:
    """As often as there are pipes for: none of them is lost for good."""

    async def give(stream: trio.SocketStream) -> None:
        if await stream.receive_some(1) == b"r":
            await stream.send_all(bytes(4 * MIB))
            reset(stream)
        else:
            await stream.send_all(bytes(64 * MIB))

    async with served(give) as target:
        router.add_connector(target.port)
        port = await router.add_listener()
        for _ in range(70):
            client = await connect(port)
            await client.send_all(b"g")
            got = 0
            while got < 2 * MIB:
                got += len(await client.receive_some(1 << 18))
            reset(client)
        await router.until(lambda: target.endings.count("reset") == 70, within=20)
        client = await connect(port)
        await client.send_all(b"r")
        assert await is_reset(client)
        await router.until(lambda: len(router.ends) == 71)
        assert {end.stream_class for end in router.ends} == {"client", "target"}
        assert router.plane.counters().streams_open == 0
