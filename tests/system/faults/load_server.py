"""
The far end of the load: a server in a process of its own that checks each stream and answers it. ``load_server.py HOST PORT``.

It says its port, then obeys lines of JSON on stdin until stdin ends. ``{"do": "report", "within": s}`` is answered with all streams that
ended since the last one, as [id, seed, class, detail], once none is open or the time is up. ``{"do": "abort"}`` resets all that are open.
``{"do": "manner", ...}`` changes what it does with new connections:

    serve     answer: at the speed of the request, or at its own (EAGER); the checksum only after the whole request (but for FIRST);
              `late`: begin that many seconds after the end of the request
    reset     accept and reset
    hang      accept, read nothing, say nothing
    greet     say something at once, and end when the other end does
    sink      never read past the header, answer nothing (what a stuck server does)

An answer ends cleanly only when the request was there as a whole (but for FIRST). What it saw of a stream is

    whole       both ends ended cleanly
    answered    everything went both ways, and it was reset before the client's own end arrived: nobody on the way can promise that
    reset       earlier
    TRUNCATED   a clean end that came too early
    DAMAGED
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys

import trio
from bodies import EAGER, FIRST, Damaged, Receiving, Sending
from files import allow_many_files

PIECE = 1 << 16
manner = "serve"
late = 0.0
streams: list[tuple[int, int, str, str]] = []
changed = trio.Event()  # the manner; then what hung is reset
connections = 0
serving: set[trio.SocketStream] = set()


def abort(stream: trio.SocketStream, on: bool = True) -> None:
    """Closing is a reset."""
    with contextlib.suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", on, 0))


class Serving:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._receiving = Receiving()
        self._more = trio.Event()  # something came, or the request is over
        self._has_answered = False

    async def run(self) -> None:
        kind, detail = "reset", ""
        async with self._stream:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._answer)
                    await self._read()
                    self._tell()
                kind = "whole"
            except* Damaged as group:
                kind, detail = "DAMAGED", str(group.exceptions[0])
            except* EOFError:
                kind = "TRUNCATED" if self._receiving.got else ""
                detail = f"a clean end after {self._receiving.got} bytes"
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as group:
                if kind != "DAMAGED":  # told to the writer, the kernel does not tell the reader, who then sees an end
                    kind = "answered" if self._has_answered and self._receiving.whole else "reset"
                    detail = repr(group.exceptions[0])
            if kind == "whole":
                abort(self._stream, False)
        header = self._receiving.header
        if header is not None or kind in ("DAMAGED", "TRUNCATED"):
            streams.append((header.id, header.seed, kind, detail) if header else (0, 0, kind, detail))

    def _tell(self) -> None:
        self._more.set()
        self._more = trio.Event()

    async def _read(self) -> None:
        while True:
            data = await self._stream.receive_some(PIECE)
            if not data:
                break
            self._receiving.feed(data)
            self._tell()
            if manner == "sink" and self._receiving.header is not None:
                await trio.sleep_forever()
        if not self._receiving.whole:
            raise EOFError

    def _keeps_up(self, said: int) -> bool:
        """Whether the answer is not ahead of the request."""
        header = self._receiving.header
        assert header is not None
        return self._receiving.whole or said * header.total <= self._receiving.got * header.reply().total

    async def _answer(self) -> None:
        while self._receiving.header is None:
            await self._more.wait()
        header = self._receiving.header
        sending = Sending(header.reply())
        said = 0
        while late and not self._receiving.whole:
            await self._more.wait()
        await trio.sleep(late)
        for part in sending:
            while not (header.flags & (EAGER | FIRST) or self._keeps_up(said)):
                await self._more.wait()
            await self._stream.send_all(part)
            said += len(part)
        while not (header.flags & FIRST or self._receiving.whole):
            await self._more.wait()
        await self._stream.send_all(sending.trailer())
        await self._stream.send_eof()
        self._has_answered = True


async def serve(stream: trio.SocketStream) -> None:
    global connections
    connections += 1
    abort(stream)  # however this ends, with the process too: not cleanly, but for what has ended whole
    match manner:
        case "reset":
            await stream.aclose()
        case "hang":
            await changed.wait()
            await stream.aclose()
        case "greet":
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(b"welcome")
                await stream.receive_some(1)
            abort(stream, False)
            await stream.aclose()
        case _:
            serving.add(stream)
            try:
                await Serving(stream).run()
            finally:
                serving.discard(stream)


async def obey() -> None:
    global changed, manner, late
    lines = trio.wrap_file(sys.stdin)
    async for line in lines:
        order = json.loads(line)
        match order["do"]:
            case "report":
                with trio.move_on_after(order["within"]):
                    while serving:  # noqa: ASYNC110 - a client may know of its end a little earlier than its server
                        await trio.sleep(0.002)
                print(json.dumps({"streams": streams, "connections": connections, "serving": len(serving)}), flush=True)
                streams.clear()
            case "abort":
                print(json.dumps({"aborted": len(serving)}), flush=True)
                for stream in list(serving):
                    await trio.aclose_forcefully(stream)
            case "manner":
                manner, late = order["manner"], order.get("late", 0.0)
                changed.set()
                changed = trio.Event()
                print("{}", flush=True)


async def main(host: str, port: int) -> None:
    allow_many_files()
    listeners = await trio.open_tcp_listeners(port, host=host, backlog=4_096)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        print(json.dumps({"port": listeners[0].socket.getsockname()[1]}), flush=True)
        await obey()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
