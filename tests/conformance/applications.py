"""What talks through the routers: servers that echo, count, abort or say nothing, and clients that check every byte."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

__all__ = ["Server", "body", "connect", "echo_through", "is_reset", "read_to_end", "reset", "served"]

Handler = Callable[[trio.SocketStream], Awaitable[None]]


def body(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


class Server:
    def __init__(self, port: int) -> None:
        self.port = port
        self.accepted = 0
        self.endings: list[str] = []  # "end" for a clean one, "reset" for the other


@asynccontextmanager
async def served(handler: Handler, *, port: int = 0) -> AsyncIterator[Server]:
    """Serve on loopback until the block ends. What a handler raises because of a reset is noted, nothing else is hidden."""
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    server = Server(listeners[0].socket.getsockname()[1])

    async def handle(stream: trio.SocketStream) -> None:
        server.accepted += 1
        try:
            async with stream:
                await handler(stream)
        except trio.BrokenResourceError:
            server.endings.append("reset")
        else:
            server.endings.append("end")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield server
        nursery.cancel_scope.cancel()


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)
    await stream.send_eof()


async def swallow(stream: trio.SocketStream) -> None:
    async for _ in stream:
        pass
    await stream.send_eof()


_CLIENTS: list[trio.SocketStream] = []


async def connect(port: int) -> trio.SocketStream:
    """A client. Tests may leave it open: it is closed after them."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    _CLIENTS.append(stream)
    return stream


def close_clients() -> None:
    for stream in _CLIENTS:
        fd = stream.socket.detach()
        if fd >= 0:
            os.close(fd)
    _CLIENTS.clear()


def reset(stream: trio.SocketStream) -> None:
    """Abort: the other end sees RST."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def read_to_end(stream: trio.SocketStream) -> bytes:
    """Everything until the clean end. Raises trio.BrokenResourceError for a reset."""
    received = bytearray()
    async for data in stream:
        received += data
    return bytes(received)


async def is_reset(stream: trio.SocketStream, within: float = 5.0) -> bool:
    """True: it ends with RST; what comes before is skipped. False: it ends cleanly."""
    with trio.fail_after(within):
        try:
            async for _ in stream:
                pass
        except trio.BrokenResourceError:
            return True
        return False


async def echo_through(port: int, size: int, seed: int = 0) -> None:
    """Send a body, end, and check that exactly it comes back, and then a clean end."""
    sent = body(size, seed)
    got, length = hashlib.sha256(), 0

    async def send() -> None:
        for at in range(0, size, 1 << 18):
            await stream.send_all(sent[at : at + (1 << 18)])
        await stream.send_eof()

    stream = await connect(port)
    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(send)
        async for data in stream:
            got.update(data)
            length += len(data)
    assert length == size
    assert got.digest() == hashlib.sha256(sent).digest()
