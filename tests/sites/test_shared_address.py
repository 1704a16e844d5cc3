"""
Sites behind one address and one port, told apart by the name in the TLS handshake.

    guest ── 127.0.0.1:R ── relay ── SITE-ID.van of one ── one
                                  ── localhost ─────────── two
"""

from __future__ import annotations

import dataclasses

import trio
from site_world import World, free_port
from sni_relay import SniRelay

from vanrouter.pki.authority import van_name
from vanrouter.tokens import Endpoint, format_token, parse_token


async def test_two_sites_share_one_port_and_the_name_decides(world: World, nursery: trio.Nursery) -> None:
    ports = [free_port(), free_port()]
    one, two = world.home("one", linkAccess=f"127.0.0.1:{ports[0]}"), world.home("two", linkAccess=f"127.0.0.1:{ports[1]}")
    running = await world.start(one)
    await world.start(two)
    guest = world.home("guest", serviceAddress="127.0.0.2")
    await world.start(guest)
    name = van_name(running.context.keys.site_id)
    relay = SniRelay({name: ports[0], "localhost": ports[1]})
    await nursery.start(relay.run)
    for home, host in ((one, "127.0.0.1"), (two, "localhost")):
        issued = await world.call(home, "token.issue")
        token = dataclasses.replace(parse_token(issued["yaml"]), endpoints=(Endpoint(host, relay.port),))
        relay.seen.clear()
        await world.call(guest, "token.redeem", token=format_token(token), name=home.directory.name)
        await world.until_linked(home)
        assert set(relay.seen) == {name if host == "127.0.0.1" else "localhost"}, "redemption and link say the same name"

    async def both() -> bool:
        links = {link["name"]: link for link in (await world.status(guest))["links"]}
        return [links[x]["remoteSiteName"] for x in ("one", "two") if links[x]["active"]] == ["one", "two"]

    await world.until("both links are active, each with its site", both)
