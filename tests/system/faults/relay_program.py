"""
A relay between two sockets that misbehaves on command: ``relay_program.py HOST PORT TO-HOST TO-PORT SEED``.

It knows nothing of what it carries. It says its port, then obeys lines of JSON on stdin (until stdin ends), and answers each with the
monotonic time at which it was done:

    {"do": "delay", "seconds": 0.05, "jitter": 0.01}    from now on; order is kept
    {"do": "stall"}, {"do": "flow"}                     pass nothing; pass it all
    {"do": "cut", "how": "reset" | "end" | "half"}      all connections: RST to both sides; a clean end; the end of one direction
    {"do": "cut-after", "bytes": 1000, "how": ...}      each connection that has this many bytes more behind it (both directions together)
    {"do": "flip"}                                      one bit of the next bytes that pass, which one is the seed's choice
    {"do": "trickle", "on": true}                       one byte at a time
    {"do": "refuse"}, {"do": "accept"}                  new connections: RST at once; relayed again
    {"do": "count"}                                     {"open": connections, "passed": bytes, "flipped": bits}
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import socket
import struct
import sys
import time
from typing import Any

import trio
from files import allow_many_files

PIECE = 1 << 14
WAITING = 1_024  # pieces under way in each direction: 16 MiB, more than a delay of 0.2 s needs


def abort(stream: trio.SocketStream) -> None:
    with contextlib.suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Connection:
    def __init__(self, relay: Relay, near: trio.SocketStream, far: trio.SocketStream) -> None:
        self._relay, self._near, self._far = relay, near, far
        self.left = math.inf  # bytes until it is cut
        self.how = "reset"
        self.cut_now = trio.Event()

    async def run(self) -> None:
        async with self._near, self._far:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._both, nursery.cancel_scope)
                await self.cut_now.wait()
                nursery.cancel_scope.cancel()
            if not self.cut_now.is_set():
                return
            if self.how == "reset":
                abort(self._near)
                abort(self._far)
            elif self.how == "half":  # towards the near side; the far side's bytes are taken and thrown away
                with contextlib.suppress(trio.BrokenResourceError):
                    await self._near.send_eof()
                    while await self._near.receive_some(PIECE):
                        pass

    async def _both(self, scope: trio.CancelScope) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._direction, self._near, self._far)
                nursery.start_soon(self._direction, self._far, self._near)
        except* (trio.BrokenResourceError, OSError):
            abort(self._near)
            abort(self._far)
        scope.cancel()

    async def _direction(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        send, receive = trio.open_memory_channel[tuple[float, bytes]](WAITING)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, receive, sink)
            async with send:
                while data := await source.receive_some(PIECE):
                    await send.send((trio.current_time() + self._relay.lateness(), bytes(data)))

    async def _write(self, waiting: trio.MemoryReceiveChannel[tuple[float, bytes]], sink: trio.SocketStream) -> None:
        async for due, data in waiting:
            await trio.sleep_until(due)
            await self._relay.flowing.wait()
            part = self._relay.flipped(data)[: int(min(self.left, len(data)))]
            for at in range(0, len(part), 1 if self._relay.trickle else PIECE):
                await sink.send_all(part[at : at + (1 if self._relay.trickle else PIECE)])
            self._relay.passed += len(part)
            self.left -= len(part)
            if self.left <= 0:
                self.cut_now.set()
                await trio.sleep_forever()
        await sink.send_eof()


class Relay:
    def __init__(self, to: tuple[str, int], seed: int) -> None:
        self._to = to
        self._rng = random.Random(seed)
        self._connections: set[Connection] = set()
        self.flowing = trio.Event()
        self.flowing.set()
        self._delay = self._jitter = 0.0
        self._flips = 0
        self._flipped = 0
        self._refusing = False
        self.trickle = False
        self.passed = 0

    def lateness(self) -> float:
        return self._delay + self._rng.uniform(-self._jitter, self._jitter) if self._delay else 0.0

    def flipped(self, data: bytes) -> bytes:
        if not self._flips:
            return data
        self._flips -= 1
        self._flipped += 1
        changed = bytearray(data)
        changed[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
        return bytes(changed)

    async def serve(self, near: trio.SocketStream) -> None:
        if self._refusing:
            abort(near)
            await near.aclose()
            return
        try:
            far = await trio.open_tcp_stream(*self._to)
        except OSError:
            abort(near)
            await near.aclose()
            return
        connection = Connection(self, near, far)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        match order["do"]:
            case "delay":
                self._delay, self._jitter = order["seconds"], order.get("jitter", 0.0)
            case "stall":
                self.flowing = trio.Event()
            case "flow":
                self.flowing.set()
            case "cut":
                for connection in list(self._connections):
                    connection.how = order.get("how", "reset")
                    connection.cut_now.set()
            case "cut-after":
                for connection in self._connections:
                    connection.left, connection.how = order["bytes"], order.get("how", "reset")
            case "flip":
                self._flips += 1
            case "trickle":
                self.trickle = order["on"]
            case "refuse":
                self._refusing = True
            case "accept":
                self._refusing = False
            case "count":
                return {"open": len(self._connections), "passed": self.passed, "flipped": self._flipped}
            case other:
                raise ValueError(other)
        return {"at": time.monotonic()}


async def main(host: str, port: int, to: tuple[str, int], seed: int) -> None:
    allow_many_files()
    relay = Relay(to, seed)
    listeners = await trio.open_tcp_listeners(port, host=host, backlog=1_024)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay.serve, listeners)
        print(json.dumps({"port": listeners[0].socket.getsockname()[1]}), flush=True)
        async for line in trio.wrap_file(sys.stdin):
            answer = relay.obey(json.loads(line))
            await trio.lowlevel.checkpoint()  # what was cut, is cut before the answer
            print(json.dumps(answer), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), (sys.argv[3], int(sys.argv[4])), int(sys.argv[5]))
