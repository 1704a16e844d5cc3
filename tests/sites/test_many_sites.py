"""
Sites that are not linked with each other reach each other through those that are.

    north ── middle ── south
"""

from __future__ import annotations

from typing import Any

import msgspec
from site_world import World, condition, free_port

from vanrouter.stores import SiteHome


async def line(world: World) -> tuple[SiteHome, SiteHome, SiteHome]:
    homes = (
        world.home("north", serviceAddress="127.0.0.1"),
        world.home("middle", serviceAddress="127.0.0.2", linkAccess=f"127.0.0.1:{free_port()}"),
        world.home("south", serviceAddress="127.0.0.3"),
    )
    for home in homes:
        await world.start(home)
    north, middle, south = homes
    await world.link(middle, north)
    await world.link(middle, south)
    return homes


async def test_a_service_answers_two_hops_away_by_name_and_goes_when_it_is_taken_back(world: World, backend: int) -> None:
    north, middle, south = await line(world)
    port = free_port()
    await world.expose(south, "hello", backend, port, at=(north, middle, south))
    for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
        assert await world.get(port, host) == b'{"message":"Hello"}'
    (listener,) = (await world.status(north))["listeners"]
    assert "site south" in condition(listener, "Matched")["message"]
    (service,) = (await world.status(north))["services"]
    assert [target["site"] for target in service["targets"]] == ["south"]
    south.resources.delete("Connector", "hello")
    await world.call(south, "reconcile")

    async def gone() -> bool:
        return not any([(await world.status(home))["services"] for home in (north, middle)])

    await world.until("north and middle have forgotten hello", gone)


async def test_a_site_that_joins_later_gets_what_is_there_already(world: World, backend: int) -> None:
    north, middle, south = await line(world)
    port = free_port()
    await world.expose(north, "hello", backend, port, at=(north, middle, south))
    late = world.home("late", serviceAddress="127.0.0.4")
    await world.start(late)
    await world.link(middle, late)

    async def there() -> Any:
        return any(x["matched"] for x in (await world.status(late))["listeners"])

    await world.until("the service is at late", there)
    assert await world.get(port, "127.0.0.4") == b'{"message":"Hello"}'


async def test_two_links_between_the_same_two_sites_are_one_for_routing_and_both_are_shown(world: World, backend: int) -> None:
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south", serviceAddress="127.0.0.2")
    await world.start(north)
    await world.start(south)
    port = free_port()
    names = {await world.link(north, south), await world.link(north, south, name="again")}
    await world.expose(south, "hello", backend, port, at=(north, south))

    async def both() -> Any:
        return {link["name"] for link in (await world.status(south))["links"] if link["active"]} == names

    await world.until("both are active", both)
    (name,) = names - {"again"}
    south.resources.put(
        msgspec.structs.replace(again := south.resources.get("Link", "again"), spec=msgspec.structs.replace(again.spec, cost=7))
    )  # type: ignore[union-attr]
    await world.call(south, "reconcile")
    links = {link["name"]: link for link in (await world.status(south))["links"]}
    for this, other in ((name, "again"), ("again", name)):
        distinct = condition(links[this], "Distinct")
        assert (distinct["status"], distinct["reason"]) == ("False", "SameRouter")
        assert "same router of site north" in distinct["message"]
        assert f"as link {other} (cost {links[other]['cost']})" in distinct["message"]
        assert "at cost 1" in distinct["message"]
        assert f"van link delete {this}" in distinct["next"]
        assert condition(links[this], "Ready")["status"] == "True", "both work"
    assert {n: (x["cost"], x["costInForce"]) for n, x in links.items()} == {name: (1, 1), "again": (7, 1)}
    assert await world.get(port) == b'{"message":"Hello"}'
    await world.call(south, "link.delete", name="again")

    async def one() -> Any:
        return [link["active"] for link in (await world.status(south))["links"]] == [True]

    await world.until("one is left, and active", one)
    (left,) = (await world.status(south))["links"]
    assert "Distinct" not in {c["type"] for c in left["conditions"]}, "and nothing is said of it any more"
    assert await world.get(port) == b'{"message":"Hello"}'


async def test_two_sites_that_dial_each_other_have_one_link_and_each_says_so(world: World, backend: int) -> None:
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south", serviceAddress="127.0.0.2", linkAccess=f"127.0.0.1:{free_port()}")
    await world.start(north)
    await world.start(south)
    await world.link(north, south, name="there", cost=3)
    await world.link(south, north, name="back", cost=9)
    port = free_port()
    await world.expose(south, "hello", backend, port, at=(north, south))
    for home, name, costs in ((south, "there", {"there": (3, 9), "north": (9, 9)}), (north, "back", {"back": (9, 9), "south": (3, 9)})):

        async def told(home: SiteHome = home, name: str = name, costs: Any = costs) -> Any:
            links = {link["name"]: link for link in (await world.status(home))["links"]}
            said = {n: (link["cost"], link["costInForce"]) for n, link in links.items()}
            return said == costs and [c for c in links[name]["conditions"] if c["reason"] == "SameRouter"]

        (distinct,) = await world.until(f"{home.directory.name} says so, with the cost of each", told)
        assert f"incoming link {'north' if name == 'there' else 'south'}" in distinct["message"]
        assert "at cost 9" in distinct["message"]
    assert await world.get(port) == b'{"message":"Hello"}'


async def test_two_sites_of_one_name_anywhere_in_the_network_are_named(world: World) -> None:
    north = world.home("north")
    middle = world.home("middle", linkAccess=f"127.0.0.1:{free_port()}", serviceAddress="127.0.0.2")
    other = world.home("other", site_name="north", serviceAddress="127.0.0.3")
    for home in (north, middle, other):
        await world.start(home)
    await world.link(middle, north)
    await world.link(middle, other)
    for home in (north, middle, other):

        async def told(home: SiteHome = home) -> Any:
            found = [c for c in (await world.status(home))["site"]["conditions"] if c["type"] == "UniqueName"]
            return found and found[0]["status"] == "False"

        await world.until(f"{home.directory.name} says so", told)


async def test_a_member_that_advertises_garbage_is_named_and_nobody_else_is_affected(world: World, backend: int) -> None:
    """south signs a sequence that nobody reaches in a lifetime: middle names it, north never hears of it, and the rest goes on"""
    from vanrouter.messages import Fragment, encode_signed

    north = world.home("north", serviceAddress="127.0.0.1")
    middle = world.home("middle", serviceAddress="127.0.0.2", linkAccess=f"127.0.0.1:{free_port()}")
    south = world.home("south", serviceAddress="127.0.0.3")
    running = {home.directory.name: await world.start(home) for home in (north, middle, south)}
    await world.link(middle, north)
    await world.link(middle, south)
    port = free_port()
    await world.expose(middle, "hello", backend, port, at=(north, middle, south))
    liar, keys = running["south"], running["south"].context.keys
    lie = Fragment(origin=str(liar.context.own), number=7, sequence=1 << 60)
    data = encode_signed(lie, identity=keys.identity.public_der, sign=keys.identity.sign, admissions=[])
    assert liar.context.plane.send_message(str(running["middle"].context.own), data)

    async def named() -> Any:
        return [p for p in (await world.status(middle))["problems"] if "SequenceJump" in p["path"]]

    (problem,) = await world.until("middle names south", named)
    assert "site south" in problem["message"]
    assert problem["hint"]
    assert (await world.status(north))["problems"] == []
    assert await world.get(port) == b'{"message":"Hello"}'
