"""The two loads, written once for every kind of stream: an echo of small messages, and bytes in one direction."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import trio

__all__ = ["CHUNK", "MESSAGE", "STREAMS", "Echoes", "Opener", "bulk_in", "bulk_out", "echo", "echoes", "sink", "source"]

STREAMS: Final = 64
MESSAGE: Final = b"x" * 64
CHUNK: Final = bytes(262_144)
Opener = Callable[[], Awaitable[trio.abc.HalfCloseableStream]]


async def echo(stream: trio.abc.HalfCloseableStream) -> None:
    while data := await stream.receive_some(65_536):
        await stream.send_all(data)
    await stream.send_eof()


async def sink(stream: trio.abc.HalfCloseableStream) -> None:
    """Takes everything and says how much it was."""
    count = 0
    while data := await stream.receive_some():
        count += len(data)
    await stream.send_all(str(count).encode())
    await stream.send_eof()


async def source(stream: trio.abc.HalfCloseableStream) -> None:
    """Sends for as many seconds as it is told."""
    seconds = float((await stream.receive_some()).decode())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await stream.send_all(CHUNK)
    await stream.send_eof()
    await stream.receive_some()  # the other end has read it all


class Echoes(NamedTuple):
    """Of all streams together."""

    rate: float  # round trips per second
    thread: float  # CPU microseconds of this thread per round trip, both ends being in it
    process: float  # the same with the threads of the core


async def echoes(opener: Opener, seconds: float) -> Echoes:
    streams = [await opener() for _ in range(STREAMS)]
    total, end = 0, time.monotonic() + seconds

    async def client(stream: trio.abc.HalfCloseableStream) -> None:
        nonlocal total
        while time.monotonic() < end:
            await stream.send_all(MESSAGE)
            left = len(MESSAGE)
            while left:
                left -= len(await stream.receive_some(left))
            total += 1
        await stream.send_eof()
        await stream.receive_some()
        await stream.aclose()

    began, thread, process = time.monotonic(), time.thread_time(), time.process_time()
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(client, stream)
    took, thread, process = time.monotonic() - began, time.thread_time() - thread, time.process_time() - process
    return Echoes(total / took, thread / total * 1e6, process / total * 1e6)


async def bulk_out(opener: Opener, seconds: float) -> float:
    """Gbit/s from here to a `sink`."""
    stream, sent, began = await opener(), 0, time.monotonic()
    async with stream:
        while time.monotonic() < began + seconds:
            await stream.send_all(CHUNK)
            sent += len(CHUNK)
        await stream.send_eof()
        said = b""
        while data := await stream.receive_some():
            said += data
        took = time.monotonic() - began
    assert int(said) == sent
    return sent * 8 / took / 1e9


async def bulk_in(opener: Opener, seconds: float) -> float:
    """Gbit/s from a `source` to here."""
    stream, got, began = await opener(), 0, time.monotonic()
    async with stream:
        await stream.send_all(str(seconds).encode())
        while data := await stream.receive_some():
            got += len(data)
        took = time.monotonic() - began
        await stream.send_eof()
    return got * 8 / took / 1e9
