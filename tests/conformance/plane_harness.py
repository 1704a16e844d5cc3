"""
Routers for the tests: planes of either kind, what they said last, and pairs of them that are linked over loopback.

    client ──▶ [ingress] ═══ mutual TLS ═══▶ [egress] ──▶ target
                 dials                         has the access

Nothing here knows which kind of plane it drives.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import trio
from free_ports import free_port
from site_credentials import Authority, Site

from vanrouter.model import RouterId
from vanrouter.plane import (
    Access,
    AccessState,
    AnyEntry,
    AnyEvent,
    BindStatus,
    Changes,
    Connector,
    ConnectorState,
    DataPlane,
    Dial,
    DialResult,
    Incoming,
    InForce,
    Link,
    LinkState,
    Listener,
    ListenerState,
    Message,
    MessagesReset,
    Path,
    PlaneConfig,
    Ref,
    Route,
    RouteTarget,
    Snapshot,
    StreamEnd,
    Visitor,
)

__all__ = ["KINDS", "PAIRS", "Pair", "Router", "free_port", "make_plane", "path"]

KINDS = ["baseline", "core"]
PAIRS = ["baseline-baseline", "core-core", "core-baseline", "baseline-core"]  # ingress-egress
_MODULES = {"baseline": ("vanrouter.baseline", "BaselinePlane"), "core": ("vanrouter.native", "NativePlane")}


def make_plane(kind: str, config: PlaneConfig) -> DataPlane:
    module, name = _MODULES[kind]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} does not exist yet")
    plane: DataPlane = getattr(importlib.import_module(module), name)(config)
    return plane


def path(router: str, *, over: list[str] | None = None, cost: int = 1) -> Path:
    """To a neighbour, or over neighbours to another router."""
    return Path(name=router, next_hops=over or [router], cost=cost)


class Router:
    """A plane, the generation it is at, and the last of each state that it reported."""

    def __init__(self, kind: str, site: Site, **config: Any) -> None:
        self.site = site
        self.config = site.config(**config)
        self.plane = make_plane(kind, self.config)
        self.id = str(RouterId(site.id, self.config.boot))
        self.generation = 0
        self.listeners: dict[str, ListenerState] = {}
        self.accesses: dict[str, AccessState] = {}
        self.connectors: dict[str, ConnectorState] = {}
        self.links: dict[str, LinkState] = {}
        self.dials: dict[int, DialResult] = {}
        self.messages: list[Message] = []
        self.message_resets: list[str] = []
        self.ends: list[StreamEnd] = []
        self.incoming: list[Incoming] = []
        self.visitors: list[Visitor] = []
        self.in_force = -1
        self.dialled: set[str] = set()  # names of links that a network of them put here
        self._something = trio.Event()
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()
        self._ids = itertools.count(1)

    async def start(self, nursery: trio.Nursery, entries: list[AnyEntry] | None = None) -> None:
        await nursery.start(self._run)
        self.apply_snapshot(entries or [])

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.plane.run)
                    nursery.start_soon(self._read_events)
                    task_status.started()
        finally:
            with trio.CancelScope(shield=True):
                for visitor in self.visitors:  # also those whom the test left
                    await trio.aclose_forcefully(visitor.stream)
        self._stopped.set()

    async def stop(self) -> None:
        self._scope.cancel()
        await self._stopped.wait()

    async def _read_events(self) -> None:
        while True:
            for event in await self.plane.next_events():
                self._keep(event)
            something, self._something = self._something, trio.Event()
            something.set()

    def _keep(self, event: AnyEvent) -> None:
        match event:
            case InForce(generation=generation):
                self.in_force = generation
            case ListenerState():
                self.listeners[event.name] = event
            case AccessState():
                self.accesses[event.name] = event
            case ConnectorState():
                self.connectors[event.name] = event
            case LinkState():
                self.links[event.router] = event
            case DialResult():
                self.dials[event.id] = event
            case Message():
                self.messages.append(event)
            case MessagesReset():
                self.message_resets.append(event.router)
            case StreamEnd():
                self.ends.append(event)
            case Incoming():
                self.incoming.append(event)
            case Visitor():
                self.visitors.append(event)

    async def until(self, condition: Callable[[], object], within: float = 5.0) -> None:
        """Until ``condition`` holds after some event (or with time, for what comes without one)."""
        with trio.move_on_after(within):
            while not condition():
                with trio.move_on_after(0.05):
                    await self._something.wait()
        assert condition(), f"{self.site.name}: not within {within} s; {self.listeners} {self.links} {self.dials}"

    # ---- Forwarding state ------------------------------------------------------------------------------------------------------

    def apply_snapshot(self, entries: list[AnyEntry]) -> None:
        self.generation += 1
        self.plane.apply(Snapshot(generation=self.generation, entries=entries))

    def put(self, *entries: AnyEntry) -> None:
        self.generation += 1
        self.plane.apply(Changes(base=self.generation - 1, generation=self.generation, put=list(entries)))

    def drop(self, *refs: Ref) -> None:
        self.generation += 1
        self.plane.apply(Changes(base=self.generation - 1, generation=self.generation, drop=list(refs)))

    async def add_listener(self, key: str = "k", *, name: str = "l", status: BindStatus = BindStatus.LISTENING) -> int:
        self.put(Listener(name=name, host="127.0.0.1", port=free_port(), routing_key=key))
        await self.until(lambda: name in self.listeners and self.listeners[name].status is status)
        return self.listeners[name].port

    async def add_access(self, *, name: str = "access", credential: str = "main") -> int:
        self.put(Access(name=name, host="127.0.0.1", port=0, credential=credential))
        await self.until(lambda: name in self.accesses and self.accesses[name].status is BindStatus.LISTENING)
        return self.accesses[name].port

    def add_connector(self, port: int, key: str = "k", *, name: str = "c") -> None:
        self.put(Connector(name=name, routing_key=key, host="127.0.0.1", port=port))

    async def dial(self, port: int, *, link: str = "link", expected_site: str = "", within: float = 8.0) -> DialResult:
        number = next(self._ids)
        self.plane.dial(Dial(id=number, link=link, host="127.0.0.1", port=port, server_name=f"{expected_site or 'unknown'}.van"))
        await self.until(lambda: number in self.dials, within)
        return self.dials[number]


class Pair:
    """Two linked routers. ``key`` "k" leads from the ingress' listener to targets at the egress."""

    def __init__(self, kinds: str, **config: Any) -> None:
        self.authority = Authority()
        ingress, egress = kinds.split("-")
        self.ingress = Router(ingress, Site("north"), **config)
        self.egress = Router(egress, Site("south"), **config)
        self.access_port = 0

    async def start(self, nursery: trio.Nursery, *, lanes: int = 1) -> None:
        ingress, egress = self.ingress, self.egress
        await egress.start(nursery, [egress.site.credential(self.authority)])
        self.access_port = await egress.add_access()
        await ingress.start(
            nursery,
            [
                ingress.site.credential(self.authority),
                Link(name="link", credential="main", expected_site=egress.site.id),
                path(egress.id),
                self.route("k"),
            ],
        )
        for _ in range(lanes):
            await self.link()

    def route(self, key: str) -> Route:
        return Route(name=key, targets=[RouteTarget(self.egress.id)])

    async def link(self, port: int | None = None) -> None:
        result = await self.ingress.dial(port or self.access_port, expected_site=self.egress.site.id)
        assert result.router == self.egress.id, result
        lanes = self.ingress.links[self.egress.id].lanes if self.egress.id in self.ingress.links else 1
        await self.ingress.until(lambda: self.egress.id in self.ingress.links and self.ingress.links[self.egress.id].lanes >= lanes)
        await self.egress.until(lambda: self.ingress.id in self.egress.links and self.egress.links[self.ingress.id].lanes >= lanes)

    async def expose(self, target_port: int) -> int:
        """The port at the ingress that leads to the target at the egress."""
        self.egress.add_connector(target_port)
        return await self.ingress.add_listener()

    async def nothing_is_left(self, within: float = 5.0) -> None:
        for router in (self.ingress, self.egress):
            await router.until(lambda r=router: not _open_streams(r), within)  # type: ignore[misc]


def _open_streams(router: Router) -> list[str]:
    counters = router.plane.counters()
    rows = {**counters.by_listener, **counters.by_connector, **counters.by_link}
    return [name for name, row in rows.items() if row[0]] + ["all"] * counters.streams_open
