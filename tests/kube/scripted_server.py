"""An HTTP server that says what it is told, byte by byte: for the answers that a real API server cannot be made to give."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from vanrouter.kube.access import Access

Script = Callable[[trio.SocketStream, bytes], Awaitable[None]]


def answer(status: int, body: str | bytes, *headers: str) -> Script:
    raw = body.encode() if isinstance(body, str) else body
    head = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(raw)}", *headers, "", ""]

    async def say(stream: trio.SocketStream, _: bytes) -> None:
        await stream.send_all("\r\n".join(head).encode() + raw)

    return say


def pieces(*parts: bytes, then: str = "hang") -> Script:
    """A chunked answer, piece by piece; then silence, the proper end, or a cut."""

    async def say(stream: trio.SocketStream, _: bytes) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in parts:
            await stream.send_all(b"%x\r\n%b\r\n" % (len(part), part))
            await trio.sleep(0.01)
        if then == "hang":
            await trio.sleep_forever()
        elif then == "end":
            await stream.send_all(b"0\r\n\r\n")
        else:
            await stream.aclose()

    return say


async def silence(_stream: trio.SocketStream, _request: bytes) -> None:
    await trio.sleep_forever()


async def drip(stream: trio.SocketStream, _: bytes) -> None:
    """A byte now and then: no read ever times out."""
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        await stream.send_all(b" ")
        await trio.sleep(0.1)


class Scripted:
    def __init__(self) -> None:
        self.port = 0
        self.requests: list[bytes] = []
        self.scripts: list[Script] = []  # one for each request; the last one for all that follow

    @property
    def access(self) -> Access:
        return Access(server=f"http://127.0.0.1:{self.port}", source="a script", namespace="north")

    async def handle(self, stream: trio.SocketStream) -> None:
        pending = b""
        try:
            async with stream:
                while data := await stream.receive_some(65_536):
                    pending += data
                    while b"\r\n\r\n" in pending:
                        head, _, pending = pending.partition(b"\r\n\r\n")
                        length = next((int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length:")), 0)
                        while len(pending) < length:
                            pending += await stream.receive_some(65_536)
                        self.requests.append(head + b"\r\n\r\n" + pending[:length])
                        pending = pending[length:]
                        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                        await script(stream, head)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[Scripted]:
    server = Scripted()
    server.scripts = list(scripts)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.handle, listeners)
        yield server
        nursery.cancel_scope.cancel()
