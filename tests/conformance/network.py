"""
Several routers, linked as a test draws them, with the paths that a control plane would have computed.

    client ──▶ [ingress] ══▶ [middle] ══▶ [egress] ──▶ target         Line
                   ╚══════▶ [other] ══════════╝                       Diamond: a second way, which costs more
"""

from __future__ import annotations

from typing import Any

import trio
from plane_harness import Router, path
from site_credentials import Authority, Site

from vanrouter.plane import Link, Route, RouteTarget

__all__ = ["TRIPLES", "Diamond", "Line", "Network", "still_counted"]

TRIPLES = [
    "baseline-baseline-baseline",
    "core-core-core",
    "core-baseline-core",
    "baseline-core-baseline",
    "baseline-baseline-core",
    "core-core-baseline",
]  # ingress-middle-egress


class Network:
    def __init__(self, **config: Any) -> None:
        self.authority = Authority()
        # A machine that is busy with other things must not look like a bad link: what happens then is tested where it is wanted.
        self.config: dict[str, Any] = {"suspect_after": 10.0, "dead_after": 30.0, **config}
        self.routers: list[Router] = []
        self.ports: dict[str, int] = {}  # of each router's access

    async def add(self, nursery: trio.Nursery, kind: str, name: str, **config: Any) -> Router:
        router = Router(kind, Site(name), **{**self.config, **config})
        self.routers.append(router)
        await router.start(nursery, [router.site.credential(self.authority)])
        self.ports[router.id] = await router.add_access()
        return router

    async def link(self, near: Router, far: Router, *, port: int = 0) -> None:
        """One lane, dialled by ``near``; ``port``: of a relay that leads there."""
        name = f"to-{far.site.name}"
        if name not in near.dialled:
            near.dialled.add(name)
            near.put(Link(name=name, credential="main", expected_site=far.site.id))
        before = near.links[far.id].lanes if far.id in near.links else 0
        result = await near.dial(port or self.ports[far.id], link=name, expected_site=far.site.id)
        assert result.router == far.id, result
        for one, other in ((near, far), (far, near)):
            await one.until(lambda one=one, other=other: other.id in one.links and one.links[other.id].lanes > before)  # type: ignore[misc]

    async def nothing_is_left(self, within: float = 5.0) -> None:
        """No stream, in no counter of any router."""
        for router in self.routers:
            await router.until(lambda router=router: not still_counted(router), within)  # type: ignore[misc]


class Line(Network):
    """``kinds``: ingress-middle-egress. The key "k" leads from the ingress over the middle to the egress."""

    def __init__(self, kinds: str, **config: Any) -> None:
        super().__init__(**config)
        self.kinds = kinds.split("-")
        self.ingress: Router
        self.middle: Router
        self.egress: Router

    async def start(self, nursery: trio.Nursery, *, lanes: int = 1) -> None:
        await self.start_routers(nursery)
        for _ in range(lanes):
            await self.link(self.ingress, self.middle)
            await self.link(self.middle, self.egress)

    async def start_routers(self, nursery: trio.Nursery) -> None:
        """Without links."""
        names = ("ingress", "middle", "egress")
        self.ingress, self.middle, self.egress = [await self.add(nursery, kind, name) for kind, name in zip(self.kinds, names, strict=True)]
        self.ingress.put(path(self.middle.id), path(self.egress.id, over=[self.middle.id], cost=2), self.route("k"))
        self.middle.put(path(self.ingress.id), path(self.egress.id))

    def route(self, key: str) -> Route:
        return Route(name=key, targets=[RouteTarget(self.egress.id)])

    async def expose(self, target_port: int, key: str = "k") -> int:
        """The port at the ingress that leads to the target at the egress."""
        self.egress.add_connector(target_port, key)
        return await self.ingress.add_listener(key)


class Diamond(Line):
    """A line whose ingress knows a second way, over ``other``, which costs more or the same."""

    def __init__(self, kinds: str, **config: Any) -> None:
        super().__init__(kinds, **config)
        self.other: Router

    async def start(self, nursery: trio.Nursery, *, lanes: int = 1) -> None:
        await super().start(nursery, lanes=lanes)
        await self.add_other(nursery)

    async def add_other(self, nursery: trio.Nursery) -> None:
        """The way over the middle and the one over ``other`` are equally good: both are next hops."""
        self.other = await self.add(nursery, self.kinds[1], "other")
        self.other.put(path(self.egress.id), path(self.ingress.id))
        await self.link(self.ingress, self.other)
        await self.link(self.other, self.egress)
        self.ingress.put(path(self.other.id), path(self.egress.id, over=[self.middle.id, self.other.id], cost=2))


def still_counted(router: Router) -> list[str]:
    """What still counts a stream."""
    counters = router.plane.counters()
    rows = {**counters.by_listener, **counters.by_connector, **counters.by_link}
    left = [name for name, row in rows.items() if row[0]]
    return left + ["streams"] * counters.streams_open + ["transit"] * counters.transit_open
