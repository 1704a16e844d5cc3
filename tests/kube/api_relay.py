"""Between a controller and its API server: a TCP relay that cuts, refuses, or lets what is open fall silent while new ones pass."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class ApiRelay:
    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.refuses = False
        self.connections = 0
        self._target_port = target_port
        self._silent = trio.Event()
        self._open: list[trio.SocketStream] = []

    def silence_what_is_open(self) -> None:
        """Half open: nothing passes any more, and nobody is told. New connections work."""
        self._silent.set()
        self._silent = trio.Event()

    def cut(self) -> None:
        """Both ends see a reset, now."""
        for stream in self._open:
            with contextlib.suppress(OSError):
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                stream.socket.close()
        self._open.clear()

    async def handle(self, near: trio.SocketStream) -> None:
        self.connections += 1
        if self.refuses:
            await near.aclose()
            return
        try:
            far = await trio.open_tcp_stream("127.0.0.1", self._target_port)
        except OSError:
            await near.aclose()
            return
        self._open += [near, far]
        silent = self._silent
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_on, near, far, silent)
            nursery.start_soon(self._pass_on, far, near, silent)

    async def _pass_on(self, source: trio.SocketStream, sink: trio.SocketStream, silent: trio.Event) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            while data := await source.receive_some(65_536):
                if silent.is_set():
                    await trio.sleep_forever()
                await sink.send_all(data)
            if not silent.is_set():
                await sink.send_eof()


@asynccontextmanager
async def api_relay(target_port: int) -> AsyncIterator[ApiRelay]:
    relay = ApiRelay(target_port)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    relay.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay.handle, listeners)
        yield relay
        nursery.cancel_scope.cancel()
