"""
Several routers of one site: one identity, two router ids, each linked with the hub and with the other.

    hub ── pair/1 ┐
     └──── pair/2 ┘     hello is offered by both
"""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from site_world import World, free_port, resource

from vanrouter.sites.site import RunningSite
from vanrouter.stores import SiteHome


class Siblings:
    hub: SiteHome
    homes: list[SiteHome]
    running: list[RunningSite]

    async def start(self, world: World) -> None:
        """The second one is a copy of the first one's directory, as a second machine or pod would have it."""
        self.hub = world.home("hub", serviceAddress="127.0.0.1", linkAccess=f"127.0.0.1:{free_port()}")
        await world.start(self.hub)
        first = world.home("pair", serviceAddress="127.0.0.2", linkAccess=f"127.0.0.1:{free_port()}")
        running = await world.start(first)
        await world.link(self.hub, first)
        ports = [running.accesses.endpoints()[0].port, free_port()]
        endpoints = [{"host": "127.0.0.1", "port": port} for port in ports]
        first.resources.put(resource("Link", "siblings", endpoints=endpoints, siteId=str(running.context.keys.site_id)))
        await world.call(first, "reconcile")
        second = SiteHome(world.root / "copy")
        shutil.copytree(first.directory, second.directory, ignore=shutil.ignore_patterns("run"))
        second.create()
        second.resources.put(resource("Site", "pair", serviceAddress="127.0.0.3", linkAccess=f"127.0.0.1:{ports[1]}"))
        self.homes, self.running = [first, second], [running, await world.start(second)]


@pytest.fixture
async def siblings(world: World) -> Siblings:
    found = Siblings()
    await found.start(world)
    return found


async def test_routers_of_one_site_find_each_other_link_directly_and_tell_the_others(world: World, siblings: Siblings) -> None:
    ids = [str(site.context.own) for site in siblings.running]
    assert len(set(ids)) == 2
    assert len({router.partition("/")[0] for router in ids}) == 1

    async def linked() -> Any:
        return all(ids[1 - n] in site.links.states for n, site in enumerate(siblings.running))

    await world.until("they are linked directly", linked)

    async def told() -> Any:
        return all(site.services.engine.siblings() == [ids[1 - n]] for n, site in enumerate(siblings.running))

    await world.until("they know each other", told)
    for home in siblings.homes:
        status = await world.status(home)
        assert status["problems"] == []
        assert {c["type"]: c["status"] for c in status["site"]["conditions"]}.get("UniqueName", "True") == "True"

        async def dialled(home: SiteHome = home) -> Any:
            return all(link["active"] for link in (await world.status(home))["links"] if link["direction"] == "outgoing")

        await world.until("each has dialled the other", dialled)
        (link,) = [x for x in (await world.status(home))["links"] if x["name"] == "siblings"]
        assert "SelfLink" not in {x["reason"] for x in link["endpoints"]}, "its own is left out once it has answered"


async def test_two_routers_of_a_site_share_its_services_and_one_goes_on_when_the_other_is_gone(
    world: World, siblings: Siblings, backend: int
) -> None:
    port = free_port()
    for home in siblings.homes:
        home.resources.put(
            resource("Connector", "hello", routingKey="hello", host="127.0.0.1", port=backend, expose={"port": port, "address": "hello"})
        )
        await world.call(home, "reconcile")

    async def both() -> Any:
        offers = [s for s in (await world.status(siblings.hub))["services"] if s["address"] == "hello"]
        return offers and len(offers[0]["targets"]) == 2

    await world.until("the hub sees two targets", both)
    for _ in range(20):
        assert await world.get(port) == b'{"message":"Hello"}'
    taken = [site.context.plane.counters().by_connector["hello"][1] for site in siblings.running]
    assert sum(taken) == 20
    assert min(taken) >= 5, taken
    siblings.running[0].stop(grace=0.0, drain=0.0)

    async def one() -> Any:
        offers = [s for s in (await world.status(siblings.hub))["services"] if s["address"] == "hello"]
        return offers and len(offers[0]["targets"]) == 1

    await world.until("the hub sees one", one)
    for _ in range(5):
        assert await world.get(port) == b'{"message":"Hello"}'
