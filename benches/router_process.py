"""
One router of a pair as a process: a data plane driven by the smallest control plane there is.

It reads one file (`Orders`), applies its snapshot, dials until the trunk is whole, routes the keys to whoever it is linked with, prints
`ready`, and goes on until it is ended. No site, no CLI, no resources: what is measured is the plane.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Literal

import msgspec
import trio

from vanrouter import plane as contract
from vanrouter.plane import (
    AccessState,
    AnyEvent,
    BindStatus,
    Changes,
    DataPlane,
    Dial,
    DialResult,
    LinkState,
    ListenerState,
    PlaneConfig,
    Route,
    RouteTarget,
    Snapshot,
)

__all__ = ["Orders", "PlaneName", "main"]

PlaneName = Literal["core", "baseline"]
_REDIAL_AFTER = 0.2


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is told, in the words of the plane's contract."""

    plane: PlaneName
    config: PlaneConfig
    snapshot: Snapshot
    dial: Dial | None = None  # of the first lane; further lanes repeat it under other ids
    routing_keys: list[str] = []  # to route to the dialled router, or to
    target: str = ""  # this one, behind it


class Driver:
    """Answers the plane's events. Ready when every access, every listener and the whole trunk are up."""

    def __init__(self, orders: Orders, plane: DataPlane, nursery: trio.Nursery) -> None:
        self._orders, self._plane, self._nursery = orders, plane, nursery
        self._generation = orders.snapshot.generation
        self._ids = itertools.count(1)
        self._dialling = 0
        self._routed = ""
        self._trunk_whole = orders.dial is None
        kinds = [type(entry).__name__ for entry in orders.snapshot.entries]
        self._waiting_for = kinds.count("Access") + kinds.count("Listener")
        self._up: set[tuple[str, str]] = set()
        self._announced = False

    async def run(self) -> None:
        self._plane.apply(self._orders.snapshot)
        self._dial()
        while True:
            for event in await self._plane.next_events():
                self._handle(event)
            if not self._announced and self._trunk_whole and len(self._up) == self._waiting_for:
                self._announced = True
                print("ready", flush=True)

    def _handle(self, event: AnyEvent) -> None:
        match event:
            case AccessState(name=name, status=BindStatus.BOUND | BindStatus.LISTENING):
                self._up.add(("access", name))
            case ListenerState(name=name, status=BindStatus.LISTENING):
                self._up.add(("listener", name))
            case AccessState() | ListenerState() if event.error:
                print(event, flush=True)
            case LinkState():
                self._handle_link(event)
            case DialResult():
                self._dialling -= 1
                if not event.router:
                    print(event, flush=True)
                    self._nursery.start_soon(self._redial)
            case _:
                pass

    def _handle_link(self, link: LinkState) -> None:
        if self._orders.dial is not None and link.lanes and not link.dialled:
            return  # who dialled us routes to us; we do not route back
        if link.lanes and link.router != self._routed:
            self._route_to(link.router)
        if not link.lanes:
            print(link, flush=True)
        if self._orders.dial is not None:
            self._trunk_whole = link.lanes >= link.lanes_wanted
            for _ in range(link.lanes_wanted - link.lanes - self._dialling):
                self._dial()

    def _route_to(self, router: str) -> None:
        self._routed = router
        base, self._generation = self._generation, self._generation + 1
        target = self._orders.target or router
        paths = [contract.Path(name=name, next_hops=[router], cost=1) for name in dict.fromkeys((router, target))]
        routes = [Route(name=key, targets=[RouteTarget(router=target)]) for key in self._orders.routing_keys]
        self._plane.apply(Changes(base=base, generation=self._generation, put=[*paths, *routes]))

    def _dial(self) -> None:
        if self._orders.dial is not None:
            self._dialling += 1
            self._plane.dial(msgspec.structs.replace(self._orders.dial, id=next(self._ids)))

    async def _redial(self) -> None:
        await trio.sleep(_REDIAL_AFTER)
        self._dial()


def make_plane(name: PlaneName, config: PlaneConfig) -> DataPlane:
    if name == "core":
        from vanrouter.native import NativePlane

        return NativePlane(config)
    from vanrouter.baseline import BaselinePlane

    return BaselinePlane(config)


async def serve(orders: Orders) -> None:
    plane = make_plane(orders.plane, orders.config)
    async with trio.open_nursery() as nursery:
        await nursery.start(plane.run)
        await Driver(orders, plane, nursery).run()


def main() -> None:
    trio.run(serve, msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Orders))


if __name__ == "__main__":
    main()
