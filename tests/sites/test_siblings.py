"""
Several routers of one site: one identity, two router ids, each linked with the hub and with the other.

    hub ── pair/1 ┐
     └──── pair/2 ┘     hello is offered by both
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio
from site_world import World, free_port, resource

from vanrouter.errors import ConfigError, TokenError
from vanrouter.pki import IdentityKey
from vanrouter.sites.site import RunningSite
from vanrouter.stores import SiteHome
from vanrouter.tokens import Endpoint, parse_token, prepare
from vanrouter.tokens.redeem import redeem


def copy_of(first: SiteHome, directory: Path, **spec: Any) -> SiteHome:
    """What a second machine or pod would have: its own site directory with the same state."""
    second = SiteHome(directory)
    shutil.copytree(first.directory, second.directory, ignore=shutil.ignore_patterns("run"))
    second.create()
    second.resources.put(resource("Site", "pair", **spec))
    return second


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
        second = copy_of(first, world.root / "copy", serviceAddress="127.0.0.3", linkAccess=f"127.0.0.1:{ports[1]}")
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
    # People can tell the two apart, and neither counts as another site.
    choices = (await world.call(siblings.hub, "trace", key="hello"))["choices"]
    ends = {str(site.context.own)[-5:] for site in siblings.running}
    assert {choice["label"] for choice in choices} == {f"pair (router {end})" for end in ends}
    for home in siblings.homes:
        assert (await world.status(home))["site"]["linkedSites"] <= 1
    siblings.running[0].stop(grace=0.0, drain=0.0)

    async def one() -> Any:
        offers = [s for s in (await world.status(siblings.hub))["services"] if s["address"] == "hello"]
        return offers and len(offers[0]["targets"]) == 1

    await world.until("the hub sees one", one)
    for _ in range(5):
        assert await world.get(port) == b'{"message":"Hello"}'


async def test_a_token_from_before_the_copy_gives_one_certificate_however_many_ask_at_both_routers_at_once(world: World) -> None:
    first = world.home("pair", serviceAddress="127.0.0.2", linkAccess=f"127.0.0.1:{free_port()}")
    running = await world.start(first)
    token = parse_token((await world.call(first, "token.issue", name="once"))["yaml"])
    running.stop(grace=0.0, drain=0.0)  # the ledger is whole in its file then
    await world.until("it has ended", lambda: _has_ended(first))
    second = copy_of(first, world.root / "copy", serviceAddress="127.0.0.3", linkAccess=f"127.0.0.1:{free_port()}")
    for home in (second, first):
        await world.start(home)

    async def reachable() -> list[int]:
        sites = (world.running["pair"], world.running["copy"])
        return [endpoint.port for site in sites for endpoint in site.accesses.endpoints()]

    async def both() -> Any:
        return len(await reachable()) == 2

    await world.until("both can be reached", both)
    ports = await reachable()
    given, refused = [], []

    async def ask(number: int) -> None:
        where = dataclasses.replace(token, endpoints=(Endpoint("127.0.0.1", ports[number % 2]),))
        pending = prepare(where, site_name=f"guest-{number}", identity=IdentityKey.generate())
        try:
            given.append((await redeem(pending)).leaf.serial_number)
        except TokenError as error:
            refused.append(str(error))

    async with trio.open_nursery() as asking:
        for number in range(8):
            asking.start_soon(ask, number)
    assert (len(given), len(refused)) == (1, 7), refused
    assert all("refuses token once" in error for error in refused)

    grants = {home.directory.name: (await world.status(home))["grants"][0] for home in (first, second)}
    assert {name: (grant["state"], grant["used"]) for name, grant in grants.items()} == {"pair": ("used", 1), "copy": ("elsewhere", 0)}
    with pytest.raises(ConfigError, match="another router of this site"):
        await world.call(second, "grant.delete", name="once")

    fresh = world.home("guest", serviceAddress="127.0.0.4")
    await world.start(fresh)
    await world.link(second, fresh)  # what the copy itself makes, it redeems
    assert [(g["name"] == "once", g["state"]) for g in (await world.status(first))["grants"]] == [(True, "used")]


async def _has_ended(home: SiteHome) -> bool:
    if not home.lock():
        return False
    home.unlock()
    return True


class Balancer:
    """One address in front of several routers: connections in turn, to the next one where nobody answers."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = itertools.cycle(ports)
        self._count = len(ports)
        self.port = 0

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._handle, listeners)

    async def _handle(self, near: trio.SocketStream) -> None:
        for port in itertools.islice(self._ports, self._count):
            with contextlib.suppress(OSError):
                far = await trio.open_tcp_stream("127.0.0.1", port)
                break
        else:
            return
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_on, near, far, nursery.cancel_scope)
            nursery.start_soon(self._pass_on, far, near, nursery.cancel_scope)

    @staticmethod
    async def _pass_on(source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await sink.send_all(data)
        both.cancel()


async def test_lanes_of_one_link_reach_several_routers_behind_one_address_and_each_takes_over(
    world: World, siblings: Siblings, backend: int, nursery: trio.Nursery
) -> None:
    """
    hub ══ pair/1 ┐            lanes in turn
     ╚════ pair/2 ┴─ balancer ══════ client       hello is offered by the hub
    """

    async def listen() -> bool:
        return all(site.accesses.endpoints() for site in siblings.running)

    await world.until("both listen", listen)
    balancer = Balancer([site.accesses.endpoints()[0].port for site in siblings.running])
    await nursery.start(balancer.run)
    client = world.home("client", serviceAddress="127.0.0.4")
    await world.start(client)
    name = await world.link(siblings.homes[0], client)
    link = client.resources.get("Link", name)
    assert link is not None
    spec = {"endpoints": [{"host": "127.0.0.1", "port": balancer.port}], "siteId": link.spec.site_id, "tlsCredentials": name}  # type: ignore[attr-defined]
    client.resources.put(resource("Link", name, **spec))
    running = await world.start(client)  # it takes over, and dials the balancer
    port = free_port()
    await world.expose(siblings.hub, "hello", backend, port)
    ids = [str(site.context.own) for site in siblings.running]

    async def linked() -> Any:
        up = [router for router in ids if running.links.states.get(router) is not None and running.links.states[router].lanes]
        return len(up) >= (2 if world.plane == "core" else 1) and up  # the baseline has one worker, so it wants one lane

    up = await world.until("the lanes have reached them", linked)
    assert await world.until("hello is there", lambda: _answers(world, port)) == b'{"message":"Hello"}'
    siblings.running[ids.index(up[0])].stop(grace=0.0, drain=0.0)

    async def other() -> Any:
        states = running.links.states
        return up[0] not in states and any(router in states and states[router].lanes for router in ids)

    await world.until("the other one carries the link", other)
    assert await world.until("hello answers over the other one", lambda: _answers(world, port)) == b'{"message":"Hello"}'
    (shown,) = [x for x in (await world.status(client))["links"] if x["name"] == name]
    assert shown["active"]


async def _answers(world: World, port: int) -> bytes:
    with contextlib.suppress(OSError):
        return await world.get(port, "127.0.0.4")
    return b""
