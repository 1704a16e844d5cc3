"""
An interior advertises what its edges serve as its own, so streams for that come to it: it hands them on.

    client ──▶ [ingress] ══▶ [interior] ══▶ [edge] ──▶ target
"""

from __future__ import annotations

import pytest
import trio
from applications import echo, echo_through, served
from network import Network
from plane_harness import Router, path

from vanrouter.plane import Route, RouteTarget


class WithEdge(Network):
    """``kinds``: ingress-interior-edge. The key "k" leads from the ingress to the interior, and there to its edge."""

    async def start(self, nursery: trio.Nursery, kinds: str) -> None:
        first, second, third = kinds.split("-")
        self.ingress = await self.add(nursery, first, "ingress")
        self.interior = await self.add(nursery, second, "interior")
        self.edge = await self.add(nursery, third, "edge", edge=True)
        self.ingress.put(path(self.interior.id), Route(name="k", targets=[RouteTarget(self.interior.id)]))
        self.interior.put(path(self.edge.id), path(self.ingress.id), Route(name="k", targets=[RouteTarget(self.edge.id)]))
        await self.link(self.ingress, self.interior)
        await self.link(self.edge, self.interior)


@pytest.fixture
async def network(triple: str, nursery: trio.Nursery) -> WithEdge:
    found = WithEdge(refuse_after=0.6, listener_linger=0.5)
    await found.start(nursery, triple)
    return found


def numbers(router: Router) -> tuple[int, int]:
    counters = router.plane.counters()
    return counters.transit_total, counters.streams_total


async def test_what_is_sent_to_the_interior_is_handed_on_to_its_edge(network: WithEdge) -> None:
    async with served(echo) as target:
        network.edge.add_connector(target.port, "k")
        port = await network.ingress.add_listener("k")
        for size in (0, 1, 100_000):
            with trio.fail_after(10):
                await echo_through(port, size)
        await network.nothing_is_left()
        assert numbers(network.interior) == (3, 0)
        assert network.edge.plane.counters().streams_total == 3


async def test_a_target_of_the_interior_itself_comes_first(network: WithEdge) -> None:
    async with served(echo) as near, served(echo) as far:
        network.edge.add_connector(far.port, "k")
        network.interior.add_connector(near.port, "k")
        port = await network.ingress.add_listener("k")
        with trio.fail_after(10):
            await echo_through(port, 1_000)
        await network.nothing_is_left()
        assert numbers(network.interior) == (0, 1)
