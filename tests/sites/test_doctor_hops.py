"""How far ``van doctor`` gets with the link port of a real router."""

from __future__ import annotations

from typing import Any

import trio
from site_world import World, free_port

from vanrouter.cli.hops import try_hop
from vanrouter.cli.values import HostPort

__all__: list[Any] = []


async def test_a_routers_link_port_is_reached_and_known_by_the_credential_of_its_link(world: World) -> None:
    port = free_port()
    north, south = world.home("north", linkAccess=f"127.0.0.1:{port}"), world.home("south")
    await world.start(north)
    await world.start(south)
    name = await world.link(north, south)
    credential = south.state.read_credential(name) or {}
    ids = [(await world.status(home))["site"]["id"] for home in (north, south)]

    async def tried(site: str) -> Any:
        return await trio.to_thread.run_sync(lambda: try_hop(HostPort("127.0.0.1", port), ca=credential["ca.crt"], site=site))

    assert (await tried(ids[0])).stage == ""
    assert (await tried(ids[1])).stage == "identity"
