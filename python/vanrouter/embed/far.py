"""Streams of a router in another thread: the socket of the core's is waited for here; the baseline's are called there."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import trio

from vanrouter.errors import UsageError
from vanrouter.plane import HasFileno, PlaneStream

if TYPE_CHECKING:
    from vanrouter.embed.homes import Beside

__all__ = ["AsyncioWaits", "FarStream"]

OTHERS_TURN: Final = 16  # calls that need not wait, after which other tasks have their turn


class AsyncioWaits:
    """`vanrouter.plane.Waits` of one stream, in asyncio."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._calls = 0

    async def before(self) -> None:
        """Before, because a call that is cancelled when it has done its work would lose it."""
        self._calls += 1
        if self._calls % OTHERS_TURN == 0:
            await asyncio.sleep(0)

    async def after(self) -> None:
        """Nothing: see `before`."""

    async def readable(self, sock: HasFileno) -> None:
        fd, ready = sock.fileno(), self._loop.create_future()
        self._loop.add_reader(fd, _set, ready)
        self._reading = ready
        try:
            await ready
        finally:
            if self._reading is ready:  # else it was closed, and the number may be another one's by now
                self._reading = None
                self._loop.remove_reader(fd)

    async def writable(self, sock: HasFileno) -> None:
        fd, ready = sock.fileno(), self._loop.create_future()
        self._loop.add_writer(fd, _set, ready)
        self._writing = ready
        try:
            await ready
        finally:
            if self._writing is ready:
                self._writing = None
                self._loop.remove_writer(fd)

    def closing(self, sock: HasFileno) -> None:
        for ready, remove in ((self._reading, self._loop.remove_reader), (self._writing, self._loop.remove_writer)):
            if ready is not None:
                remove(sock.fileno())
                if not ready.done():
                    ready.set_exception(trio.ClosedResourceError("this stream was closed by another task"))
        self._reading = self._writing = None


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class FarStream(PlaneStream):
    """A stream that only its own loop can call: each call goes there and back. Slow, as the baseline is."""

    def __init__(self, inner: PlaneStream, home: Beside) -> None:
        self.routing_key, self.source = inner.routing_key, inner.source
        self._inner, self._home = inner, home
        self._left = bytearray()  # what came for a call that was cancelled meanwhile
        self._receiving = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._home.run(self._inner.send_all, data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._home.run(self._inner.wait_send_all_might_not_block)

    async def send_eof(self) -> None:
        await self._home.run(self._inner.send_eof)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be >= 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        if self._left:
            data = bytes(self._left[:max_bytes])
            del self._left[: len(data)]
            return data
        self._receiving = True
        try:
            return await self._home.run(self._inner.receive_some, max_bytes, late=self._left.extend)
        finally:
            self._receiving = False

    async def aclose(self) -> None:
        self._left.clear()
        with contextlib.suppress(UsageError):  # its router has ended, and with it this
            await self._home.run(self._inner.aclose)

    def is_readable(self) -> bool:
        with contextlib.suppress(UsageError):
            return bool(self._left) or self._home.call(self._inner.is_readable)
        return True

    def reset(self, reason: str = "") -> None:
        with contextlib.suppress(UsageError):
            self._home.call(self._inner.reset, reason)
