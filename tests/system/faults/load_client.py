"""
The near end of the load: clients in a process of their own. ``load_client.py``; then lines of JSON on stdin, answers on stdout.

    {"do": "streams", "count": 64, ...}   open streams (Streams has the fields); answered when each has moved its first piece or ended
    {"do": "go"}                          they go on at full speed
    {"do": "ends"}                        answered when all of them have ended: [id, seed, class, began, ended, detail] each
    {"do": "abort", "every": 3}           reset every third stream from this side; their class is `aborted`
    {"do": "knock", "count": 9, "how": "end" | "reset" | "listen"}   connections that say nothing and go; `listen`: once the server spoke
    {"do": "probe", "every": 0.01, ...}   a new connection each 10 ms with one request and its answer, until
    {"do": "quiet"}                       no more of them; answered when all have ended, like `ends`

Classes, as seen from here: whole; reset (an error); refused (an error at connect); TRUNCATED (a clean end that came too early); DAMAGED;
HUNG (no end within ``limit`` seconds). A reset of a stream that the server never saw is a refusal: `verdicts.py` knows both sides. Times
are monotonic.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import trio
from bodies import Damaged, Header, Receiving, Sending
from files import allow_many_files

Row = tuple[int, int, str, float, float, str]


@dataclass(kw_only=True)
class Streams:
    """A load. Sizes in bytes, times in seconds."""

    host: str
    port: int
    seed: int
    count: int = 1
    at_once: int = 1_000_000
    body: int = 64
    answer: int = 64
    flags: int = 0
    piece: int = 1 << 16  # sent at once
    pace: float = 0.0  # between two pieces, until `go`; 0: none; negative: nothing after the first piece until `go`
    chop: bool = False  # pieces are sent one by one at full speed too
    read_late: bool = False  # read nothing before `go`
    limit: float = 60.0
    sources: list[str] = field(default_factory=list)  # addresses to connect from, in turn


@dataclass
class Stream:
    load: Streams
    header: Header
    go: trio.Event
    moved: trio.Event = field(default_factory=trio.Event)
    aborted: bool = False
    socket: trio.SocketStream | None = None

    async def run(self) -> Row:
        began = time.monotonic()
        kind, detail, receiving = "HUNG", "", Receiving()
        with trio.move_on_after(self.load.limit):
            kind, detail = await self._run(receiving)
        if kind == "HUNG":
            detail = f"nothing for it within {self.load.limit:g} s; {receiving.got} bytes came"
        if self.aborted and kind in ("reset", "HUNG"):
            kind = "aborted"
        self.moved.set()
        return (self.header.id, self.header.seed, kind, began, time.monotonic(), detail)

    async def _run(self, receiving: Receiving) -> tuple[str, str]:
        try:
            stream = await self._connect()
        except OSError as error:
            return "refused", repr(error)
        self.socket = stream
        ended: tuple[str, str] = ("whole", "")
        async with stream:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, stream)
                    await self._receive(stream, receiving)
            except* Damaged as group:
                ended = ("DAMAGED", str(group.exceptions[0]))
            except* EOFError:
                ended = ("TRUNCATED", f"a clean end after {receiving.got} of {self.header.reply().total} bytes")
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as group:
                if ended[0] != "DAMAGED":  # told to the writer, the kernel does not tell the reader, who then sees an end
                    cause = group.exceptions[0]
                    ended = ("reset", f"after {receiving.got} bytes: {cause.__cause__ or cause!r}")
        return ended

    async def _connect(self) -> trio.SocketStream:
        sock = trio.socket.socket()
        try:
            if self.load.sources:
                sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
                await sock.bind((self.load.sources[self.header.id % len(self.load.sources)], 0))
            await sock.connect((self.load.host, self.load.port))
        except BaseException:
            sock.close()
            raise
        return trio.SocketStream(sock)

    async def _send(self, stream: trio.SocketStream) -> None:
        sending, buffer = Sending(self.header), bytearray()
        for part in sending:
            buffer += part
            while len(buffer) >= self.load.piece and not (self.load.pace == 0 or self.go.is_set()):
                await stream.send_all(buffer[: self.load.piece])
                del buffer[: self.load.piece]
                await self._rest()
            if self.load.chop:
                for at in range(0, len(buffer), self.load.piece):
                    await stream.send_all(buffer[at : at + self.load.piece])
                buffer.clear()
            elif len(buffer) >= self.load.piece:
                await stream.send_all(buffer)
                buffer.clear()
        await stream.send_all(buffer + sending.trailer())
        await stream.send_eof()

    async def _rest(self) -> None:
        if self.load.pace < 0:
            await self.go.wait()
        else:
            with trio.move_on_after(self.load.pace):
                await self.go.wait()

    async def _receive(self, stream: trio.SocketStream, receiving: Receiving) -> None:
        if self.load.read_late:
            self.moved.set()
            await self.go.wait()
        while data := await stream.receive_some(1 << 16):
            receiving.feed(data)
            if receiving.header is not None and (receiving.header.id, receiving.header.seed) != (self.header.id, self.header.reply().seed):
                raise Damaged(f"is the answer of stream {receiving.header.id}")
            self.moved.set()
        if not receiving.whole:
            raise EOFError

    async def abort(self) -> None:
        self.aborted = True
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await trio.aclose_forcefully(self.socket)


async def knock(host: str, port: int, how: str) -> None:
    stream = await trio.open_tcp_stream(host, port)
    if how == "listen":
        with trio.fail_after(10):
            assert await stream.receive_some(100)
    if how == "reset":
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        await stream.send_eof()
    await stream.aclose()


class Client:
    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._ids = iter(range(1, 1 << 62))
        self._running: list[Stream] = []
        self._left = 0
        self._rows: list[Row] = []
        self._all_ended = trio.Event()
        self._go = trio.Event()
        self._probing = trio.CancelScope()
        self._probes = 0
        self._probe_rows: list[Row] = []

    def _header(self, load: Streams, rng: random.Random) -> Header:
        return Header(load.seed * 1_000_000 + next(self._ids), rng.getrandbits(63), load.body, load.answer, load.flags)

    async def obey(self, order: dict[str, Any]) -> Any:
        match order.pop("do"):
            case "streams":
                await self._streams(Streams(**order))
                return {}
            case "go":
                self._go.set()
                return {}
            case "abort":
                chosen = self._running[:: order["every"]]
                for stream in chosen:
                    await stream.abort()
                return {"aborted": len(chosen)}
            case "knock":
                for _ in range(order["count"]):
                    await knock(order["host"], order["port"], order["how"])
                return {}
            case "ends":
                await self._all_ended.wait()
                rows, self._rows = self._rows, []
                return {"rows": rows}
            case "probe":
                every = order.pop("every")
                self._probing = trio.CancelScope()
                await self._nursery.start(self._probe, Streams(**order), every)
                return {"at": time.monotonic()}
            case "quiet":
                self._probing.cancel()
                while self._probes:  # noqa: ASYNC110
                    await trio.sleep(0.005)
                rows, self._probe_rows = self._probe_rows, []
                return {"rows": rows}
            case other:
                raise ValueError(other)

    async def _streams(self, load: Streams) -> None:
        rng = random.Random(load.seed)
        self._go, self._all_ended = trio.Event(), trio.Event()
        streams = [Stream(load, self._header(load, rng), self._go) for _ in range(load.count)]
        self._running, self._left = list(streams), len(streams)
        limit = trio.CapacityLimiter(load.at_once)

        async def one(stream: Stream) -> None:
            async with limit:
                row = await stream.run()
            self._rows.append(row)
            self._left -= 1
            if not self._left:
                self._all_ended.set()

        for stream in streams:
            self._nursery.start_soon(one, stream)
        if load.at_once >= load.count:
            for stream in streams:
                await stream.moved.wait()

    async def _probe(self, load: Streams, every: float, *, task_status: trio.TaskStatus[None]) -> None:
        rng = random.Random(load.seed)

        async def one() -> None:
            self._probe_rows.append(await Stream(load, self._header(load, rng), trio.Event()).run())
            self._probes -= 1

        task_status.started()
        due = trio.current_time()
        with self._probing:
            while True:
                self._probes += 1
                self._nursery.start_soon(one)
                due = max(due + every, trio.current_time())  # what a busy machine could not begin in time is not made up for
                await trio.sleep_until(due)


async def main() -> None:
    allow_many_files()
    async with trio.open_nursery() as nursery:
        client = Client(nursery)
        async for line in trio.wrap_file(sys.stdin):
            print(json.dumps(await client.obey(json.loads(line))), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
