"""
The network inside a program: dial and serve routing keys without a port, a sidecar or another process.

    async with vanrouter.open("token.yaml") as van:
        async with await van.connect("hello") as stream:      # a stream of trio and of anyio, half-closeable
            await stream.send_all(b"GET ...")

`open` runs a router in this process. Given a token it is a site of its own, an edge unless asked otherwise, which lives as long as the
block (or in a directory that is kept, with ``directory=``); given a site directory it is that site, or, where a router runs on it already,
a site of its own that is linked to it. It owns no signal, needs not be on the main thread, logs through ``logging`` only, and there may be
any number of them in one process.

It works under trio, where the router is a task of the program's own loop, and under asyncio (also in a notebook), where the router has a
thread with a loop of its own; the bytes do not go through that thread.

What a stream promises (`Stream`): the end of the bytes is only what the other end ended on purpose; every other end raises `StreamBroken`,
with the class of the reset. Leaving a stream by an exception, by cancellation, or without ``send_eof`` resets it: the other end never takes
it for a clean end.
"""

from __future__ import annotations

from vanrouter.embed.changes import Change, LinkDown, LinkUp, ServiceDown, ServiceUp
from vanrouter.embed.opening import open
from vanrouter.embed.serving import Handler, Serving
from vanrouter.embed.stream import Stream, StreamBroken, StreamBusy, StreamClosed
from vanrouter.embed.van import Van
from vanrouter.embed.views import Listener, Service

__all__ = [
    "Change",
    "Handler",
    "LinkDown",
    "LinkUp",
    "Listener",
    "Service",
    "ServiceDown",
    "ServiceUp",
    "Serving",
    "Stream",
    "StreamBroken",
    "StreamBusy",
    "StreamClosed",
    "Van",
    "open",
]
