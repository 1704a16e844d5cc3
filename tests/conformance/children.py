"""Routers in processes of their own (``router_child.py``), as the tests see them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
from plane_harness import free_port, path
from site_credentials import Authority, Site

from vanrouter.model import RouterId
from vanrouter.plane import Access, AnyEntry, Connector, Dial, Link, Listener, Route, RouteTarget, Snapshot


class Child:
    def __init__(self, kind: str, site: Site, **config: Any) -> None:
        self.kind = kind
        self.site = site
        self.config = site.config(**config)
        self.id = str(RouterId(site.id, self.config.boot))
        self.events: list[dict[str, Any]] = []
        self._stats: list[dict[str, Any]] = []
        self._something = trio.Event()

    async def start(self, nursery: trio.Nursery, entries: list[AnyEntry]) -> None:
        here = Path(__file__)
        self.process = await trio.lowlevel.open_process(
            [sys.executable, str(here.with_name("router_child.py")), self.kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(here.parent.parent)},
        )
        nursery.start_soon(self._read)
        await self._say(self.config)
        await self._say({"snapshot": Snapshot(generation=1, entries=entries)})
        await self.until("in_force")

    async def _say(self, what: object) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(msgspec.json.encode(what) + b"\n")

    async def _read(self) -> None:
        buffer = bytearray()
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            buffer += data
            while (at := buffer.find(b"\n")) >= 0:
                said = json.loads(buffer[:at])
                del buffer[: at + 1]
                if "stats" in said:
                    self._stats.append(said["stats"])
                else:
                    self.events.append(said["event"])
            something, self._something = self._something, trio.Event()
            something.set()

    async def until(self, kind: str, condition: Callable[[dict[str, Any]], bool] = lambda _: True, within: float = 10.0) -> dict[str, Any]:
        with trio.fail_after(within):
            while True:
                for event in reversed(self.events):
                    if event["kind"] == kind and condition(event):
                        return event
                await self._something.wait()

    async def dial(self, port: int) -> None:
        await self._say({"dial": Dial(id=1, link="link", host="127.0.0.1", port=port, server_name="unknown.van")})
        assert (await self.until("dial"))["router"]

    async def stats(self) -> dict[str, Any]:
        self._stats.clear()
        await self._say({"stats": True})
        with trio.fail_after(20):
            while not self._stats:
                await self._something.wait()
        return self._stats[0]

    async def stop(self) -> None:
        await self._say({"stop": True})
        with trio.fail_after(10):
            await self.process.wait()


class ChildPair:
    """Two linked routers, each a process: clients come to ``port``."""

    def __init__(self, kinds: str, **config: Any) -> None:
        self.authority = Authority()
        ingress, egress = kinds.split("-")
        self.ingress = Child(ingress, Site("north"), **config)
        self.egress = Child(egress, Site("south"), **config)
        self.port = free_port()

    async def start(self, nursery: trio.Nursery, target_port: int) -> None:
        ingress, egress = self.ingress, self.egress
        await egress.start(
            nursery,
            [
                egress.site.credential(self.authority),
                Access(name="access", host="127.0.0.1", port=0, credential="main"),
                Connector(name="c", routing_key="k", host="127.0.0.1", port=target_port),
            ],
        )
        access = await egress.until("access", lambda event: event["status"] == "listening")
        await ingress.start(
            nursery,
            [
                ingress.site.credential(self.authority),
                Link(name="link", credential="main", expected_site=egress.site.id),
                path(egress.id),
                Route(name="k", targets=[RouteTarget(egress.id)]),
                Listener(name="l", host="127.0.0.1", port=self.port, routing_key="k"),
            ],
        )
        await ingress.dial(access["port"])
        await ingress.until("listener", lambda event: event["status"] == "listening")


@asynccontextmanager
async def child_pair(kinds: str, target_port: int, **config: Any) -> AsyncIterator[ChildPair]:
    pair = ChildPair(kinds, **config)
    async with trio.open_nursery() as nursery:
        try:
            await pair.start(nursery, target_port)
            yield pair
        finally:
            with trio.CancelScope(shield=True):
                for child in (pair.ingress, pair.egress):
                    if getattr(child, "process", None) is not None and child.process.poll() is None:
                        child.process.kill()
                        await child.process.wait()
        nursery.cancel_scope.cancel()
