"""
What any site can tell about the whole network, what it says would be lost, and where it says a stream would go.

    north ── middle ── south
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from site_world import World, free_port
from test_many_sites import line

from vanrouter.errors import ConfigError
from vanrouter.routing.trace_wire import TRACE
from vanrouter.stores import SiteHome


async def lines(world: World, backend: int) -> tuple[SiteHome, SiteHome, SiteHome, int]:
    """With the service hello in south, known everywhere."""
    north, middle, south = await line(world)
    port = free_port()
    await world.expose(south, "hello", backend, port, at=(north, middle, south))
    return north, middle, south, port


async def test_every_site_shows_all_sites_links_and_services(world: World, backend: int) -> None:
    homes = await lines(world, backend)
    for home in homes[:3]:

        async def whole(home: SiteHome = home) -> Any:
            network = await world.call(home, "network")
            return len(network["sites"]) == 3 and len(network["links"]) == 2 and network["services"] and network

        network = await world.until(f"{home.directory.name} knows the whole network", whole)
        assert {site["name"]: site["state"] for site in network["sites"]} == {
            name: "own" if name == home.directory.name else "up" for name in ("north", "middle", "south")
        }
        assert all(site["version"] for site in network["sites"])
        ends = {frozenset((link["from"], link["to"])) for link in network["links"]}
        assert ends == {frozenset(("north", "middle")), frozenset(("south", "middle"))}
        assert {link["state"] for link in network["links"]} == {"up"}
        (service,) = network["services"]
        assert (service["address"], [target["site"] for target in service["targets"]]) == ("hello", ["south"])


async def test_a_trace_shows_each_hop_and_the_target(world: World, backend: int) -> None:
    north, _, south, _ = await lines(world, backend)
    (key,) = [c["routingKey"] for c in (await world.status(south))["connectors"]]
    trace = await world.call(north, "trace", key=key)
    assert trace["complete"], trace["note"]
    assert [(hop["site"], hop["end"]) for hop in trace["hops"]] == [("middle", ""), ("south", "arrived")]
    assert [hop["targets"] for hop in trace["hops"]] == [0, 1]
    assert trace["hops"][0]["roundTripMs"] > 0
    (choice,) = trace["choices"]
    assert (choice["site"], choice["chosen"], choice["cost"], choice["nextHops"]) == ("south", True, 2, ["middle"])
    local = await world.call(south, "trace", key=key)
    assert (local["complete"], local["hops"], local["choices"][0]["connector"]) == (True, [], "hello")
    with pytest.raises(ConfigError, match="nobody in the network offers 'nothing'"):
        await world.call(north, "trace", key="nothing")


async def test_who_dialled_is_told_of_links_of_this_site_and_of_no_others(world: World, backend: int) -> None:
    homes = await lines(world, backend)
    expected = {
        "north": {("north", "middle", "from"), ("middle", "south", "")},
        "middle": {("north", "middle", "from"), ("south", "middle", "from")},
        "south": {("south", "middle", "from"), ("middle", "north", "")},
    }
    for home in homes[:3]:
        name = home.directory.name

        async def told(home: SiteHome = home, name: str = name) -> Any:
            links = (await world.call(home, "network"))["links"]
            said = {(x["from"], x["to"], x["dialler"]) if x["dialler"] else (*sorted((x["from"], x["to"])), "") for x in links}
            return said == {(a, b, c) if c else (*sorted((a, b)), "") for a, b, c in expected[name]}

        await world.until(f"{name} says who dialled its own links", told)


async def test_a_trace_shows_the_cost_in_force_and_not_the_one_that_was_dialled(world: World, backend: int) -> None:
    north, _, south, _ = await lines(world, backend)
    name = (await world.status(south))["links"][0]["name"]
    link: Any = south.resources.get("Link", name)
    south.resources.put(msgspec.structs.replace(link, spec=msgspec.structs.replace(link.spec, cost=42)))
    await world.call(south, "reconcile")

    async def traced() -> Any:
        trace = await world.call(north, "trace", key="hello")
        return [hop["cost"] for hop in trace["hops"]] == [1, 42] and trace["choices"][0]["cost"] == 43

    await world.until("the trace has the changed cost", traced)


async def test_a_trace_past_a_site_that_does_not_answer_names_it_and_ends_in_time(
    world: World, backend: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, _, _, _ = await lines(world, backend)
    insight = world.running["south"].insight
    monkeypatch.setattr(insight, "handle_message", lambda message: message.data[1] == TRACE)  # hears it, and says nothing
    began = trio.current_time()
    trace = await world.call(north, "trace", key="hello")
    assert trio.current_time() - began < 10.0
    assert not trace["complete"]
    assert trace["note"] == "no answer beyond site middle within 1 s: it went on to site south"
    assert [hop["site"] for hop in trace["hops"]] == ["middle"]


async def test_what_would_be_lost_is_told_before_and_is_lost_after(world: World, backend: int) -> None:
    north, _, south, _ = await lines(world, backend)
    for word in ("middle", "middle/south", "south"):
        told = await world.call(north, "simulate", down=[word])
        assert [(key["key"], key["before"], key["after"]) for key in told["keys"]] == [("hello", 1, 0)], word
    assert [site["site"] for site in (await world.call(north, "simulate", down=["middle"]))["cutOff"]] == ["south"]
    (name,) = [link["name"] for link in (await world.status(south))["links"]]
    told = await world.call(south, "simulate", down=[name])
    assert {site["site"] for site in told["cutOff"]} == {"middle", "north"}
    assert told["keys"] == [], "its own target stays"
    with pytest.raises(ConfigError, match="neither a site nor a link 'nowhere'"):
        await world.call(north, "simulate", down=["nowhere"])
    await world.call(south, "link.delete", name=name)

    async def lost() -> Any:
        network = await world.call(north, "network")
        return {site["name"]: site["state"] for site in network["sites"]}.get("south", "unreachable") == "unreachable"

    await world.until("south is unreachable for north", lost)
    trace = await world.call(north, "trace", key="hello")
    assert not trace["complete"]
    assert trace["choices"][0]["reason"] == "no path leads there now"


async def test_an_edge_is_seen_under_its_interior_and_a_trace_goes_through_to_it(world: World, backend: int) -> None:
    """leaf ══ north ── middle: leaf offers hello"""
    north = world.home("north", serviceAddress="127.0.0.1", linkAccess=f"127.0.0.1:{free_port()}")
    middle = world.home("middle", serviceAddress="127.0.0.2")
    leaf = world.home("leaf", serviceAddress="127.0.0.9", edge=True)
    for home in (north, middle, leaf):
        await world.start(home)
    await world.link(north, middle)
    await world.link(north, leaf)
    await world.expose(leaf, "hello", backend, free_port(), at=(north, leaf))
    for home in (north, middle, leaf):

        async def seen(home: SiteHome = home) -> Any:
            network = await world.call(home, "network")
            return {site["name"]: site["role"] for site in network["sites"]} == {
                "north": "interior",
                "middle": "interior",
                "leaf": "edge",
            } and [(link["from"], link["to"]) for link in network["links"] if link.get("edge")] == [("leaf", "north")]

        await world.until(f"{home.directory.name} sees the leaf under north", seen)

    async def reached() -> Any:
        trace = await world.call(middle, "trace", key="hello")
        return [(hop["site"], hop["end"], hop["targets"]) for hop in trace["hops"]]

    assert await reached() == [("north", "", 0), ("leaf", "arrived", 1)]
    (choice,) = (await world.call(middle, "trace", key="hello"))["choices"]
    assert (choice["site"], choice["orEdge"]) == ("north", True), "it may be north's own"
    for home, where in ((north, ("leaf", False)), (middle, ("north", True)), (leaf, ("leaf", False))):
        (service,) = (await world.call(home, "network"))["services"]
        assert [(t["site"], t["orEdge"]) for t in service["targets"]] == [where]
        (service,) = (await world.status(home))["services"]
        assert [(t["site"], t["orEdge"]) for t in service["targets"]] == [where], "and so says its status"
    told = await world.call(north, "simulate", down=["leaf"])
    assert [(key["key"], key["after"]) for key in told["keys"]] == [("hello", 0)]
