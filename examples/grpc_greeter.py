"""
gRPC between sites, by local ports at both ends: the server exposes its port under a routing key, the client gets a port that leads there.

    python examples/grpc_greeter.py serve ~/.local/share/vanrouter/default
    python examples/grpc_greeter.py ask token.yaml
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio

import vanrouter

KEY = "greeter"


async def greet(request: bytes, context: Any) -> bytes:  # noqa: ARG001 - gRPC's
    return b"Hello, " + request + b"!"


async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:  # noqa: ARG001
    for number in range(int(request)):
        yield str(number).encode()


def server() -> grpc.aio.Server:
    """Bytes as messages, so that the example needs no compiled protocol; with one, add its servicer here as always."""
    made = grpc.aio.server()
    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Greet": grpc.unary_unary_rpc_method_handler(greet),
        "Count": grpc.unary_stream_rpc_method_handler(count),
    }
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("example.Greeter", methods),))
    return made


async def serve(where: str | Path, started: asyncio.Event | None = None, **options: Any) -> None:
    made = server()
    port = made.add_insecure_port("127.0.0.1:0")
    await made.start()
    try:
        async with vanrouter.open(where, **options) as van, van.expose(KEY, port):
            if started is not None:
                started.set()
            await made.wait_for_termination()
    finally:
        await made.stop(grace=1)


async def ask(where: str | Path, name: str = "van", **options: Any) -> tuple[str, list[int]]:
    async with (
        vanrouter.open(where, **options) as van,
        van.local_port(KEY) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        hello: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/example.Greeter/Greet")
        number: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream("/example.Greeter/Count")
        return (await hello(name.encode())).decode(), [int(part) async for part in number(b"3")]


if __name__ == "__main__":
    role, place = sys.argv[1:]
    if role == "serve":
        asyncio.run(serve(place))
    else:
        print(asyncio.run(ask(place)))
