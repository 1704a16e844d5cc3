"""
A stream as programs see it: trio's ``HalfCloseableStream`` and anyio's ``ByteStream`` in one, and what it raises, which is of both too.

It adds words and checks to a `PlaneStream`; bytes pass through it as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
import anyio.abc
import trio

from vanrouter.errors import StreamReset, UsageError
from vanrouter.plane import PlaneStream

if TYPE_CHECKING:
    from vanrouter.embed.homes import Home

__all__ = ["Stream", "StreamBroken", "StreamBusy", "StreamClosed"]

_MAX_RECEIVE: Final = 65_536


class StreamBroken(StreamReset, trio.BrokenResourceError, anyio.BrokenResourceError):
    """The stream was reset; ``stream_class`` says by whom or what.

    ``client``, ``target`` (the end that opened, or served, it), ``link``, ``policy``, ``idle``, ``drain``, ``refused``, ``resource``.
    """


class StreamClosed(UsageError, trio.ClosedResourceError, anyio.ClosedResourceError):
    """This end closed the stream, or ended its direction, and then used it."""


class StreamBusy(UsageError, trio.BusyResourceError, anyio.BusyResourceError):
    """Two tasks sent, or received, on one stream at the same time."""


_TRIO: Final = (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)


def _ours(error: Exception) -> Exception:
    """What the plane's stream raised, as ours."""
    if isinstance(error, trio.ClosedResourceError):
        return StreamClosed(str(error))
    if isinstance(error, trio.BusyResourceError):
        return StreamBusy(str(error))
    cause = error.__cause__
    broken = StreamBroken(str(error), stream_class=cause.stream_class if isinstance(cause, StreamReset) else "link")
    broken.__cause__ = cause
    return broken


class Stream(trio.abc.HalfCloseableStream, anyio.abc.ByteStream):
    """One stream of the network whose end is in this process. One task may send while another one receives.

    It has the methods of trio's ``HalfCloseableStream`` and those of anyio's ``ByteStream``; both work under trio and under asyncio.
    """

    routing_key: str
    """The routing key that it was opened with."""
    source: str
    """The router id, as text, of where it was opened; empty for one that was opened here."""

    def __init__(self, inner: PlaneStream, home: Home) -> None:
        self.routing_key, self.source = inner.routing_key, inner.source
        self._inner, self._home = inner, home

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it. Waits while the other end does not read (backpressure). Cancelled, some of it may have been sent.

        Raises StreamBroken, StreamClosed, StreamBusy.
        """
        self._home.check()
        try:
            await self._inner.send_all(data)
        except _TRIO as error:
            raise _ours(error) from error.__cause__

    async def wait_send_all_might_not_block(self) -> None:
        """Until there is room to send something."""
        self._home.check()
        try:
            await self._inner.wait_send_all_might_not_block()
        except _TRIO as error:
            raise _ours(error) from error.__cause__

    async def send_eof(self) -> None:
        """End this direction: the other end reads what was sent and then the end. Receiving goes on. Said again, nothing happens."""
        self._home.check()
        try:
            await self._inner.send_eof()
        except _TRIO as error:
            raise _ours(error) from error.__cause__

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes, at least one; ``b""`` only after the other end's ``send_eof``. Cancelled, nothing is lost.

        Raises StreamBroken, StreamClosed, StreamBusy.
        """
        self._home.check()
        try:
            return await self._inner.receive_some(max_bytes)
        except _TRIO as error:
            raise _ours(error) from error.__cause__

    async def send(self, item: bytes) -> None:
        """`send_all`, as anyio calls it."""
        await self.send_all(item)

    async def receive(self, max_bytes: int = _MAX_RECEIVE) -> bytes:
        """`receive_some`, as anyio calls it: the end raises ``anyio.EndOfStream``."""
        data = await self.receive_some(max_bytes)
        if not data:
            raise anyio.EndOfStream
        return data

    async def aclose(self) -> None:
        """Close both directions. One that was not ended before with `send_eof` is reset: the other end sees no clean end."""
        await self._inner.aclose()

    def is_readable(self) -> bool:
        """Whether `receive_some` has something to say now: bytes, the end, or that it broke."""
        return self._inner.is_readable()

    def reset(self, reason: str = "") -> None:
        """End both directions at once, and without waiting. The other end sees a reset of class client (we opened it) or target."""
        self._inner.reset(reason)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        data = await self.receive_some()
        if not data:
            raise StopAsyncIteration
        return data

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._inner.__aexit__(kind, error, trace)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """None: there is no socket that means anything to a program."""
        return {}

    def __repr__(self) -> str:
        return f"<Stream of {self.routing_key!r}{' from ' + self.source if self.source else ''}>"
