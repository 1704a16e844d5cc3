"""
Clients or a server in a process of its own, so that no process needs more file descriptors than it may have.

    load_child.py serve             echo server; says its port, then answers until stdin ends
    load_child.py churn PORT COUNT  open, send a kilobyte, check that it comes back, close: COUNT times, a few at once
    load_child.py hold PORT COUNT   open COUNT connections, say "held"; at each line of stdin ping all of them and say "ok"
"""

from __future__ import annotations

import resource
import socket
import sys

import trio

AT_ONCE = 16
HOSTS = [f"127.0.0.{n}" for n in range(2, 6)]  # of the clients: there are only so many ports per address


def allow_many_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def echo(stream: trio.SocketStream) -> None:
    try:
        async with stream:
            async for data in stream:
                await stream.send_all(data)
            await stream.send_eof()
    except trio.BrokenResourceError:
        pass


async def serve() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4_096)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, echo, listeners)
        print(listeners[0].socket.getsockname()[1], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


async def connect(port: int, number: int) -> trio.SocketStream:
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await sock.bind((HOSTS[number % len(HOSTS)], 0))
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


async def churn(port: int, count: int) -> None:
    left = count
    failures = 0

    async def worker() -> None:
        nonlocal left, failures
        body = bytes(range(256)) * 4
        while left > 0:
            left -= 1
            try:
                async with await connect(port, left) as stream:
                    await stream.send_all(body)
                    await stream.send_eof()
                    got = bytearray()
                    async for data in stream:
                        got += data
                    failures += got != body
            except (OSError, trio.BrokenResourceError):
                failures += 1

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(worker)
    print(failures, flush=True)


async def hold(port: int, count: int) -> None:
    streams: list[trio.SocketStream] = []
    for number in range(count):
        streams.append(await connect(port, number))
        await streams[-1].send_all(b"x")
        await streams[-1].receive_some()
    print("held", flush=True)
    while await trio.to_thread.run_sync(sys.stdin.readline):
        for stream in streams:
            await stream.send_all(b"ping")
            assert await stream.receive_some() == b"ping"
        print("ok", flush=True)


if __name__ == "__main__":
    allow_many_files()
    match sys.argv[1:]:
        case ["serve"]:
            trio.run(serve)
        case ["churn", port, count]:
            trio.run(churn, int(port), int(count))
        case ["hold", port, count]:
            trio.run(hold, int(port), int(count))
