"""What a program serves: the streams of one routing key, as they come, and the handlers that take them."""

from __future__ import annotations

import collections
import contextlib
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

import anyio
import trio

from vanrouter.embed.homes import Home
from vanrouter.embed.looking import until
from vanrouter.embed.stream import Stream
from vanrouter.errors import UsageError
from vanrouter.plane import Incoming
from vanrouter.sites.site import RunningSite

__all__ = ["Handler", "Serving", "handle"]

log = logging.getLogger("vanrouter.embed")

Handler = Callable[[Stream], Awaitable[object]]

READY_WAIT: Final = 10.0


class Serving:
    """The streams of one routing key, as they come. It is served from the moment that this is made until `close`, or until the van ends.

    At most 128 wait to be taken; more are refused.
    """

    def __init__(self, site: RunningSite, home: Home, key: str) -> None:
        self.key = key
        self._site, self._home = site, home
        self._streams: trio.MemoryReceiveChannel[Incoming] = home.call(site.serve, key)
        self._taken: collections.deque[Incoming] = collections.deque()
        self._closed = False

    async def ready(self) -> None:
        """Wait until the linked sites that are up can reach it; one that does not answer is waited for 10 s."""
        self._home.check_open()
        await self._home.run(self._ready)

    async def _ready(self) -> None:
        with trio.move_on_after(READY_WAIT) as scope:
            await until(lambda: self._closed or not self._site.services.exchange.waiting_for(self.key))
        if scope.cancelled_caught:
            late = self._site.services.exchange.waiting_for(self.key)
            log.warning("some sites do not know yet what is served here", extra={"key": self.key, "routers": late})

    def close(self) -> None:
        """Others see that it is not served here any more. Streams that were taken go on; those that were not are reset."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(UsageError):  # the router has ended, and nothing is served
                self._home.call(self._stop)

    def _stop(self) -> None:
        self._site.unserve(self.key)
        while self._taken:
            self._taken.popleft().stream.reset("not served any more")
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                self._streams.receive_nowait().stream.reset("not served any more")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Stream:
        self._home.check()
        if self._closed:
            raise StopAsyncIteration
        if not self._taken:
            try:
                self._taken += await self._home.run(self._take, late=self._taken.extend)
            except (trio.EndOfChannel, trio.ClosedResourceError):
                raise StopAsyncIteration from None
        return Stream(self._home.adopt(self._taken.popleft().stream), self._home)

    async def _take(self) -> list[Incoming]:
        """All that wait, so that a program in another loop asks once."""
        taken = [await self._streams.receive()]
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                taken.append(self._streams.receive_nowait())
        return taken

    async def __aenter__(self) -> Self:
        try:
            await self.ready()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


async def handle(handler: Handler, stream: Stream) -> None:
    """One stream to its end. What the handler raises resets its stream, is logged, and goes no further."""
    told = {"key": stream.routing_key, "source": stream.source}
    try:
        async with stream:
            await handler(stream)
    except Exception as error:
        if _is_broken(error):
            log.info("stream ended early", extra={**told, "reason": str(error)})
        else:
            log.exception("handler failed, its stream was reset", extra=told)


def _is_broken(error: Exception) -> bool:
    """Whether somebody at the other end, or behind the handler, went away: nothing that the program did wrong."""
    if isinstance(error, ExceptionGroup):
        return all(map(_is_broken, error.exceptions))
    return isinstance(error, trio.BrokenResourceError | anyio.BrokenResourceError)
