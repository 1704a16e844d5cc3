"""
Sites that are kept out: north refuses guest, by the id in its Site.

    guest ── north ── west ┄┄ guest comes back over west, which does not refuse it
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
from site_world import World, free_port, resource

from vanrouter.errors import TokenError
from vanrouter.sites.site import RunningSite
from vanrouter.stores import SiteHome


class Guests:
    north: SiteHome
    guest: SiteHome
    west: SiteHome
    running: dict[str, RunningSite]

    async def start(self, world: World) -> None:
        self.access = f"127.0.0.1:{free_port()}"
        self.north = world.home("north", serviceAddress="127.0.0.1", linkAccess=self.access)
        self.guest = world.home("guest", serviceAddress="127.0.0.2")
        self.west_access = f"127.0.0.1:{free_port()}"
        self.west = world.home("west", serviceAddress="127.0.0.3", linkAccess=self.west_access)
        self.running = {home.directory.name: await world.start(home) for home in (self.north, self.guest, self.west)}
        await world.link(self.north, self.guest)
        await world.link(self.north, self.west)
        self.id = str(self.running["guest"].context.keys.site_id)
        self.router = str(self.running["guest"].context.own)

    async def refuse(self, world: World, *sites: str) -> Any:
        self.north.resources.put(resource("Site", "north", serviceAddress="127.0.0.1", linkAccess=self.access, refusedSites=list(sites)))
        return await world.call(self.north, "reconcile")

    @property
    def is_linked(self) -> bool:
        return self.router in self.running["north"].links.states


@pytest.fixture
async def guests(world: World) -> Guests:
    found = Guests()
    await found.start(world)
    return found


async def test_a_refused_site_loses_its_link_at_once_is_kept_out_and_may_come_back(world: World, guests: Guests, backend: int) -> None:
    port = free_port()
    await world.expose(guests.guest, "hello", backend, port, at=(guests.north,))
    assert await world.get(port) == b'{"message":"Hello"}'
    token = (await world.call(guests.north, "token.issue", name="second"))["yaml"]
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(b"GET / HTTP/1.1\r\n")  # half a request: the stream stays

    assert (await guests.refuse(world, guests.id))["problems"] == []
    with trio.fail_after(5.0):
        async with stream:
            with pytest.raises(trio.BrokenResourceError):  # it does not end cleanly
                await stream.receive_some()

    async def gone() -> bool:
        return not guests.is_linked and guests.router not in guests.running["north"].services.engine.peers()

    await world.until("its link is gone", gone)
    for _ in range(60):  # it dials again and again
        await trio.sleep(0.05)
        assert not guests.running["north"].services.engine.path(guests.router)
        assert guests.router not in guests.running["north"].services.engine.peers()
    status = await world.status(guests.north)
    assert status["site"]["refusedSites"] == [guests.id]
    assert not guests.is_linked
    assert [link["remoteSiteName"] for link in status["links"]] == ["west"]

    async def told() -> bool:
        (there,) = (await world.status(guests.guest))["links"]
        return "refuse" in str(there["endpoints"]) + str(there["conditions"])

    await world.until("the guest says that it is refused", told)

    with pytest.raises(TokenError, match="refuses"):
        await world.call(guests.guest, "token.redeem", token=token)
    assert [g["used"] for g in (await world.status(guests.north))["grants"] if g["name"] == "second"] == [0]

    guests.running["north"] = await world.start(guests.north)  # a successor refuses it from its start
    for _ in range(20):
        await trio.sleep(0.05)
        assert guests.router not in guests.running["north"].services.engine.peers()
    await guests.refuse(world)

    async def back() -> Any:
        return guests.is_linked

    await world.until("it is linked again", back, seconds=40)


async def test_what_a_refused_site_advertises_by_way_of_another_one_is_not_taken_and_named(
    world: World, guests: Guests, backend: int
) -> None:
    await guests.refuse(world, guests.id)
    await world.link(guests.west, guests.guest)
    port = free_port()
    await world.expose(guests.guest, "hello", backend, port)

    async def has(home: SiteHome) -> bool:
        return any(s["address"] == "hello" and s["targets"] for s in (await world.status(home))["services"])

    await world.until("west has it", lambda: has(guests.west))

    async def named() -> Any:
        return [p for p in (await world.status(guests.north))["problems"] if "RefusedSite" in p["path"]]

    (problem,) = await world.until("north names it", named)
    assert guests.id in problem["message"]
    assert "refusedSites" in problem["hint"]
    assert not await has(guests.north)
    await guests.refuse(world)
    assert await named() == []
    await world.until("north takes it when it is not refused any more", lambda: has(guests.north), seconds=20)


async def test_both_ends_of_a_link_with_a_refused_site_say_why_it_does_not_come_up(world: World, guests: Guests) -> None:
    async def operational(home: SiteHome) -> Any:
        (link,) = (await world.status(home))["links"]
        return next(c for c in link["conditions"] if c["type"] == "Operational")

    await guests.refuse(world, guests.id)

    async def named() -> Any:
        said = await operational(guests.guest)
        return said["reason"] == "ClosedAtOnce" and said

    said = await world.until("guest does not promise that it comes back", named, seconds=20)
    assert "refused" in said["message"]
    assert "may refuse this one" in said["next"]

    north = str(guests.running["north"].context.keys.site_id)
    guests.west.resources.put(resource("Site", "west", serviceAddress="127.0.0.3", linkAccess=guests.west_access, refusedSites=[north]))
    await world.call(guests.west, "reconcile")
    said = await operational(guests.west)
    assert (said["reason"], north in said["message"], "refusedSites" in said["next"]) == ("SiteRefused", True, True)


async def test_a_list_with_ones_own_id_or_with_nonsense_is_named(world: World, guests: Guests) -> None:
    own = str(guests.running["north"].context.keys.site_id)
    (problem,) = (await guests.refuse(world, own))["problems"]
    assert "very site" in problem["message"]
    assert (await world.status(guests.north))["site"]["refusedSites"] == []
    (guests.north.resources.directory / "Site-north.yaml").write_text(
        "apiVersion: vanrouter.io/v1alpha1\nkind: Site\nmetadata: {name: north}\nspec: {refusedSites: [guest]}\n"
    )
    problems = (await world.call(guests.north, "reconcile"))["problems"]
    assert any("refusedSites[0]" in p["path"] + p["message"] for p in problems)
