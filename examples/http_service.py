"""
A web application without a port, and a client of it that knows only its name: hypercorn at one end, httpx at the other.

    van -p linux init --site-name hub --link-access 127.0.0.1:7001 --no-start
    python examples/http_service.py serve ~/.local/share/vanrouter/default        # runs in trio
    python examples/http_service.py ask ~/.local/share/vanrouter/default          # runs in asyncio; either could be the other
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx
import trio

import vanrouter
from vanrouter.embed import asgi
from vanrouter.embed.http import Transport


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Any ASGI application: this one says what was asked, and returns what was sent."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    text = f"{scope['method']} {scope['path']}: ".encode() + body
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text})


async def serve(where: str | Path, *, task_status: Any = trio.TASK_STATUS_IGNORED, **options: Any) -> None:
    async with vanrouter.open(where, **options) as van:
        await asgi.serve(van, "web", app, task_status=task_status)


async def ask(where: str | Path, **options: Any) -> str:
    async with vanrouter.open(where, **options) as van, httpx.AsyncClient(transport=Transport(van)) as client:
        answer = await client.post("http://web/echo", content=b"hello")
        return answer.raise_for_status().text


if __name__ == "__main__":
    role, place = sys.argv[1:]
    if role == "serve":
        trio.run(serve, place)
    else:
        print(asyncio.run(ask(place)))
