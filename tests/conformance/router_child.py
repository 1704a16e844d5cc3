"""
A plane in a process of its own, driven over stdin and stdout by JSON lines: for what needs many file descriptors, a clean
memory picture, or a signal.

    in   {"snapshot": ...}   {"dial": ...}   {"stats": true}   {"stop": true}
    out  {"event": ...}      {"stats": {...}}
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import Any

import msgspec
import trio
from plane_harness import make_plane

from vanrouter.plane import Dial, Event, PlaneConfig, Snapshot


class Command(msgspec.Struct):
    snapshot: Snapshot | None = None
    dial: Dial | None = None
    stats: bool = False
    stop: bool = False


def say(what: str, value: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode({what: value}) + b"\n")
    sys.stdout.buffer.flush()


def stats(plane: Any) -> dict[str, Any]:
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    counters = plane.counters()
    return {
        "rss": pages * os.sysconf("SC_PAGE_SIZE"),
        "fds": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "cpu": sum(os.times()[:2]),
        "open": counters.streams_open,
        "total": counters.streams_total,
        "refused": counters.streams_refused,
        "reset": counters.streams_reset,
        "granted": counters.bytes_granted,
    }


async def read_events(plane: Any) -> None:
    while True:
        for event in await plane.next_events():
            if isinstance(event, Event) and type(event).__name__ != "StreamEnd":
                say("event", event)


async def main(kind: str) -> None:
    commands = trio.lowlevel.FdStream(os.dup(0))
    buffer = bytearray()

    async def line() -> bytes:
        while b"\n" not in buffer:
            data = await commands.receive_some()
            if not data:
                return b""
            buffer.extend(data)
        at = buffer.index(b"\n")
        found = bytes(buffer[:at])
        del buffer[: at + 1]
        return found

    plane = make_plane(kind, msgspec.json.decode(await line(), type=PlaneConfig))
    async with trio.open_nursery() as nursery:
        await nursery.start(plane.run)
        nursery.start_soon(read_events, plane)
        while raw := await line():
            command = msgspec.json.decode(raw, type=Command)
            if command.snapshot is not None:
                plane.apply(command.snapshot)
            if command.dial is not None:
                plane.dial(command.dial)
            if command.stats:
                say("stats", stats(plane))
            if command.stop:
                break
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
