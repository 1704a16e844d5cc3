"""A TCP relay that can be told to go silent, to slow down, or to cut: the network between two routers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from applications import reset

__all__ = ["Relay", "relayed"]


class Relay:
    def __init__(self, target_port: int) -> None:
        self.port = 0
        self._target_port = target_port
        self._flows = trio.Event()
        self._flows.set()
        self._streams: list[trio.SocketStream] = []
        self.piece = 65_536
        self.pause = 0.0  # after each piece

    def go_silent(self) -> None:
        """Nothing passes, and nobody is told: a black hole."""
        self._flows = trio.Event()

    def speak_again(self) -> None:
        self._flows.set()

    def cut(self) -> None:
        """Both ends see a reset."""
        for stream in self._streams:
            if stream.socket.fileno() >= 0:
                reset(stream)
        self._streams.clear()

    async def handle(self, near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream("127.0.0.1", self._target_port)
        self._streams += [near, far]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_on, near, far)
            nursery.start_soon(self._pass_on, far, near)

    async def _pass_on(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            while data := await source.receive_some(self.piece):
                await self._flows.wait()
                await sink.send_all(data)
                if self.pause:
                    await trio.sleep(self.pause)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            for stream in (source, sink):
                if stream.socket.fileno() >= 0:
                    reset(stream)


@asynccontextmanager
async def relayed(target_port: int) -> AsyncIterator[Relay]:
    relay = Relay(target_port)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    relay.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay.handle, listeners)
        try:
            yield relay
        finally:  # also when the test fails: a socket that nobody closes would be the next test's failure
            nursery.cancel_scope.cancel()
            relay.cut()
