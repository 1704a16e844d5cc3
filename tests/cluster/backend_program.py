"""
The server of the load in a pod: load_server.py of the fault tests on port 8080; on port 8081, to whoever says something, what it saw, as
JSON.

SIGTERM: refuses new connections at once, gives those that are open 3 s, resets what is left. Harder than most programs: nothing waits
until everybody knows that this pod goes.
"""

from __future__ import annotations

import contextlib
import json
import signal

import load_server
import trio

PATIENCE = 3.0


async def report(stream: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):  # the kubelet's probe says nothing and goes
        async with stream:
            if not await stream.receive_some(1):
                return
            await stream.send_all(json.dumps({"streams": load_server.streams, "serving": len(load_server.serving)}).encode())


async def main() -> None:
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            doors = trio.CancelScope()

            async def serve() -> None:
                with doors:
                    await trio.serve_tcp(load_server.serve, 8080, handler_nursery=nursery)

            nursery.start_soon(serve)
            nursery.start_soon(trio.serve_tcp, report, 8081)
            async for _ in signals:
                break
        doors.cancel()
        with trio.move_on_after(PATIENCE):
            while load_server.serving:  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
