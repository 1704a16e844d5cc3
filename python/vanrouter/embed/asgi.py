"""
An ASGI application as a service of the network: hypercorn serves it on a unix socket that nobody else can reach, streams lead there.

    await asgi.serve(van, "hello", app)

Needs hypercorn: ``pip install vanrouter[asgi]``.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.abc
import hypercorn
import hypercorn.config
import sniffio
import trio

from vanrouter.embed.stream import Stream
from vanrouter.embed.van import TaskStatus, Van

__all__ = ["serve"]

START_WAIT: Final = 10.0
LOOK_EVERY: Final = 0.01
LAST_WORDS: Final = 0.1  # after a client's end the server has so long to say something


async def serve(
    van: Van,
    key: str,
    app: Any,
    *,
    config: hypercorn.config.Config | None = None,
    task_status: TaskStatus = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the application until it is cancelled, or until the van's block ends. It starts when the linked sites have the key.

    Args:
      van: of this loop; the application runs in it too, be it trio's or asyncio's.
      key: the routing key.
      app: an ASGI application (or a WSGI one, as hypercorn has them).
      config: of hypercorn; its ``bind`` is not looked at, its loggers and limits are.

    What the application sees as the client is a unix socket: who asks is the peer site, not an address.
    """
    config = config or hypercorn.config.Config()
    with tempfile.TemporaryDirectory(prefix="van-asgi-") as place:  # mode 0700
        path = Path(place) / "socket"
        config.bind = [f"unix:{path}"]
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_run, app, config, stop.wait, tasks.cancel_scope)
            try:
                with anyio.fail_after(START_WAIT):
                    await _until_it_listens(path)

                async def relay(stream: Stream) -> None:
                    await _relay(stream, path)

                await van.serve(key, relay, task_status=task_status)
            finally:
                stop.set()


async def _run(app: Any, config: hypercorn.config.Config, stopped: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
    """Until it is told to stop: then it lets its requests end, within its own ``graceful_timeout``."""
    with anyio.CancelScope(shield=True):
        if sniffio.current_async_library() == "trio":
            import hypercorn.trio

            await hypercorn.trio.serve(app, config, shutdown_trigger=stopped)
        else:
            import hypercorn.asyncio

            await hypercorn.asyncio.serve(app, config, shutdown_trigger=stopped)
    scope.cancel()


async def _until_it_listens(path: Path) -> None:
    while True:
        with contextlib.suppress(OSError):
            await (await anyio.connect_unix(path)).aclose()
            return
        await anyio.sleep(LOOK_EVERY)


async def _relay(stream: Stream, path: Path) -> None:
    """What breaks at one end raises, and with it the stream is reset: a broken answer is not taken for a whole one.

    For hypercorn a client's end is that it has gone: there is no answer any more, but the connection stays until it is idle for long.
    """
    async with await anyio.connect_unix(path) as near, anyio.create_task_group() as both:

        async def answers() -> None:
            await _pump(near, stream)
            both.cancel_scope.cancel()  # the server has closed: it takes nothing any more

        both.start_soon(answers)
        await _pump(stream, near)
        await anyio.sleep(LAST_WORDS)
        both.cancel_scope.cancel()
    await stream.send_eof()


async def _pump(source: anyio.abc.ByteReceiveStream, sink: anyio.abc.ByteStream) -> None:
    async for data in source:
        await sink.send(data)
    await sink.send_eof()
