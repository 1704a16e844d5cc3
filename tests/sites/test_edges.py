"""
Edge sites: leaves that link to others, with one uplink in use and the others standing by.

    leaf ══ north ── middle ── south
      ╚ ─ ─ ─ ─ ─ ─ ─ ─╝              standby
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from site_world import World, condition, free_port, resource

from vanrouter.errors import ConfigError
from vanrouter.sites.site import RunningSite
from vanrouter.stores import SiteHome


class Edge:
    """north and middle, linked; leaf dials both, north is cheaper."""

    north: SiteHome
    middle: SiteHome
    leaf: SiteHome
    running: dict[str, RunningSite]

    async def start(self, world: World) -> None:
        self.north = world.home("north", serviceAddress="127.0.0.1", linkAccess=f"127.0.0.1:{free_port()}")
        self.middle = world.home("middle", serviceAddress="127.0.0.2", linkAccess=f"127.0.0.1:{free_port()}")
        self.leaf = world.home("leaf", serviceAddress="127.0.0.9", edge=True)
        self.running = {home.directory.name: await world.start(home) for home in (self.north, self.middle, self.leaf)}
        await world.link(self.middle, self.north)
        for name, issuer, cost in (("first", self.north, 1), ("second", self.middle, 2)):
            token = (await world.call(issuer, "token.issue"))["yaml"]
            await world.call(self.leaf, "token.redeem", token=token, name=name, cost=cost)
        await world.until("the first uplink is in use, and the second one stands by", lambda: self.is_in_use(world, "first"))

    async def links(self, world: World) -> dict[str, Any]:
        return {link["name"]: link for link in (await world.status(self.leaf))["links"]}

    async def is_in_use(self, world: World, name: str) -> Any:
        links = await self.links(world)
        return len(links) == 2 and [n for n, link in links.items() if link["active"]] == [name]


@pytest.fixture
async def edge(world: World) -> Edge:
    found = Edge()
    await found.start(world)
    return found


async def test_services_of_an_edge_answer_everywhere_and_those_of_others_at_the_edge(world: World, edge: Edge, backend: int) -> None:
    south = world.home("south", serviceAddress="127.0.0.3")
    await world.start(south)
    await world.link(edge.middle, south)
    near, far = free_port(), free_port()
    await world.expose(edge.leaf, "near", backend, near, at=(edge.north, edge.leaf))
    await world.expose(south, "far", backend, far, at=(edge.middle, south))

    async def everywhere() -> Any:
        for home in (edge.north, edge.middle, edge.leaf, south):
            if {x["name"] for x in (await world.status(home))["listeners"] if x["matched"]} != {f"near:{near}", f"far:{far}"}:
                return False
        return True

    await world.until("both services are at all four sites", everywhere)
    assert await world.get(far, "127.0.0.9") == b'{"message":"Hello"}'
    for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.9"):
        assert await world.get(near, host) == b'{"message":"Hello"}', host


async def test_the_second_uplink_stands_by_and_takes_over_and_stands_by_again(world: World, edge: Edge, backend: int) -> None:
    links = await edge.links(world)
    assert links["second"]["standby"]
    assert condition(links["second"], "Ready")["status"] == "True"
    assert condition(links["second"], "Operational")["reason"] == "Standby"
    port = free_port()
    await world.expose(edge.middle, "hello", backend, port, at=(edge.middle, edge.north))

    async def answers() -> Any:
        try:
            return await world.get(port, "127.0.0.9") == b'{"message":"Hello"}'
        except OSError:
            return False

    await world.until("the service answers at the edge", answers)
    edge.running["north"].stop(grace=0.0, drain=0.0)
    await world.until("the second uplink is in use", lambda: edge.is_in_use(world, "second"))
    await world.until("the service answers over it", answers)
    edge.running["north"] = await world.start(edge.north)

    async def both() -> Any:
        return [link["active"] for link in (await edge.links(world)).values()] == [True, True]

    await world.until("the first one is back", both, seconds=20)
    await world.until("the second one stands by again", lambda: edge.is_in_use(world, "first"), seconds=30)
    assert await answers()


async def test_a_changed_cost_of_an_edges_link_counts_at_both_ends_at_once_and_needs_no_new_lane(world: World, edge: Edge) -> None:
    leaf, north = edge.running["leaf"], edge.running["north"]
    link = edge.leaf.resources.get("Link", "first")
    assert link is not None
    dialled = north.links.states[str(leaf.context.own)].address  # of the first lane; a new one has another port
    for cost in (2, 1):  # the other one costs 2 too, and its name comes later: this one stays in use
        spec = msgspec.structs.replace(link.spec, cost=cost)  # type: ignore[attr-defined]
        edge.leaf.resources.put(msgspec.structs.replace(link, spec=spec))  # type: ignore[call-arg]
        await world.call(edge.leaf, "reconcile")

        async def counts(cost: int = cost) -> Any:
            path = north.context.forwarding.entry("path", str(leaf.context.own))
            (shown,) = [x for x in (await world.status(edge.north))["links"] if x["remoteSiteName"] == "leaf"]
            back = leaf.context.forwarding.entry("path", str(north.context.own))
            return (path.cost, shown["cost"], back.cost) == (cost, cost, cost)  # type: ignore[union-attr]

        await world.until(f"it costs {cost} at both ends", counts, seconds=3)
        links = (await world.call(edge.middle, "network"))["links"]
        assert [x["cost"] for x in links if x.get("edge") and "north" in (x["from"], x["to"])] == [cost]
    assert north.links.states[str(leaf.context.own)].address == dialled


async def test_an_uplink_that_is_deleted_is_replaced_by_the_one_that_stands_by(world: World, edge: Edge) -> None:
    await world.call(edge.leaf, "link.delete", name="first")

    async def second() -> Any:
        return [(n, link["active"]) for n, link in (await edge.links(world)).items()] == [("second", True)]

    await world.until("the second one is in use", second)


async def test_nobody_links_to_an_edge_and_it_says_why(world: World) -> None:
    port = free_port()
    leaf = world.home("leaf", edge=True, linkAccess=f"127.0.0.1:{port}")
    leaf.resources.put(resource("RouterAccess", "more", roles=[{"name": "inter-router", "port": free_port()}], bindHost="127.0.0.1"))
    await world.start(leaf)
    with pytest.raises(ConfigError, match="edge site") as refused:
        await world.call(leaf, "token.issue")
    assert "spec.edge" in refused.value.hint
    problems = {p["path"]: p for p in (await world.status(leaf))["problems"]}
    assert set(problems) == {"Site: spec.linkAccess", "Site: RouterAccess more"}
    assert all("edge site" in p["message"] for p in problems.values())
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.1", port)


async def test_a_site_stays_what_it_was_started_as_and_says_so(world: World) -> None:
    home = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    await world.start(home)
    home.resources.put(resource("Site", "north", edge=True, linkAccess=f"127.0.0.1:{free_port()}"))
    (problem,) = (await world.call(home, "reconcile"))["problems"]
    assert "interior" in problem["message"]
    assert "restart" in problem["hint"]
    assert not (await world.status(home))["site"]["edge"]
    assert (await world.status(home))["site"]["endpoints"]
