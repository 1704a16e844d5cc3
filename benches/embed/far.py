"""The other site, a process of its own: ``python -m benches.embed.far DIRECTORY``. It runs until its standard input ends."""

from __future__ import annotations

import sys

import trio

import vanrouter
from benches.embed.loads import sink, source


async def main(directory: str) -> None:
    async with vanrouter.open(directory, drain=0.5) as van, trio.open_nursery() as nursery:
        for key, load in (("sink", sink), ("source", source)):
            await nursery.start(van.serve, key, load)
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, load, listeners)
            await nursery.start(_expose, van, f"{key}-port", listeners[0].socket.getsockname()[1])
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


async def _expose(van: vanrouter.Van, key: str, port: int, *, task_status: trio.TaskStatus[None]) -> None:
    async with van.expose(key, port):
        task_status.started()
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
