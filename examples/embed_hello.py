"""
A service without a server, and a client without a port: one program serves ``hello`` from inside its process, another one asks it.

    van -p linux init --site-name hub --link-access 127.0.0.1:7001 --no-start     # a site directory; no router runs
    python examples/embed_hello.py serve ~/.local/share/vanrouter/default         # this program is the router of the site
    python examples/embed_hello.py ask ~/.local/share/vanrouter/default           # a site of its own, linked to that one
    python examples/embed_hello.py ask token.yaml                                 # the same from another machine, with a token
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import trio

import vanrouter


async def greet(stream: vanrouter.Stream) -> None:
    """The loop ends when the asking end has sent its last byte; if it breaks off instead, the loop raises and there is no answer."""
    name = b"".join([part async for part in stream]).decode()
    await stream.send_all(f"Hello, {name}!".encode())
    await stream.send_eof()


async def serve(where: str | Path, *, task_status: Any = trio.TASK_STATUS_IGNORED, **options: Any) -> None:
    async with vanrouter.open(where, **options) as van:
        await van.serve("hello", greet, task_status=task_status)


async def ask(where: str | Path, name: str = "van", **options: Any) -> str:
    async with vanrouter.open(where, **options) as van, await van.connect("hello") as stream:
        await stream.send_all(name.encode())
        await stream.send_eof()
        return b"".join([part async for part in stream]).decode()


if __name__ == "__main__":
    role, place = sys.argv[1:]
    if role == "serve":
        trio.run(serve, place)  # or asyncio.run(serve(place)): the same code works in both
    else:
        print(trio.run(ask, place))
