"""
Sites behind one address and one port, told apart by the name in the TLS handshake.

    guest ── 127.0.0.1:R ── relay ── SITE-ID.van of one ── one
                                  ── localhost ─────────── two
"""

from __future__ import annotations

import dataclasses

import trio
from site_world import World, free_port, resource
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
    hosts = {"one": "127.0.0.1", "two": "localhost"}
    for home in (one, two):
        where = hosts[home.directory.name]
        issued = await world.call(home, "token.issue")
        token = dataclasses.replace(parse_token(issued["yaml"]), endpoints=(Endpoint(where, relay.port),))
        link = (await world.call(guest, "token.redeem", token=format_token(token)))["link"]
        spec = guest.resources.get("Link", link).spec  # type: ignore[union-attr]
        # Without the sites' own ports, which the answer named.
        ends = [{"host": where, "port": relay.port}]
        guest.resources.put(resource("Link", link, endpoints=ends, siteId=spec.site_id, tlsCredentials=link))
    assert relay.seen == [name, "localhost"], "the token was redeemed where the name leads"
    relay.seen.clear()
    await world.start(guest)  # it takes over, and knows nothing but the relay

    async def both() -> bool:
        links = [link for link in (await world.status(guest))["links"] if link["endpoint"] == f"127.0.0.1:{relay.port}"]
        return sorted(link["remoteSiteName"] for link in links if link["active"]) == ["one", "two"]

    await world.until("both links are active, each with its site", both)
    assert set(relay.seen) == {name, "localhost"}
