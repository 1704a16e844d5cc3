"""
Router and controller of a namespace, both real, over a real API server; and a host that joins by a token.

    host south ──token, link──▶ router ──van-control/1──▶ controller ──▶ API server
                                  └────────── watches ──────────────────────┘
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from namespace_world import Namespace
from pod_world import Routers, asked, element
from site_world import World, backend, condition, free_port, http_get

from vanrouter.controller.run import Controller
from vanrouter.errors import TokenError
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.client import KubeClient
from vanrouter.kube.ledger import SecretLedger
from vanrouter.kube.names import ROUTER_LABELS
from vanrouter.tokens import Endpoint, Issuer, format_token

__all__ = ["backend"]


@asynccontextmanager
async def controlling(space: Namespace, port: int = 0) -> AsyncIterator[Controller]:
    async with KubeClient(space.access) as client, trio.open_nursery() as nursery:
        with BlockingClient(space.access) as blocking:
            controller = Controller(client, blocking, space.name, port=port, name="van-controller-1")
            await nursery.start(controller.run)
            yield controller
            nursery.cancel_scope.cancel()


def token_for(space: Namespace, controller: Controller, port: int, host: str = "127.0.0.1") -> str:
    """As `van token create` at the controller, for a host that reaches the router's link access at this port of loopback."""
    with BlockingClient(space.access) as blocking:
        keys, ledger = controller.keys, SecretLedger(blocking, space.name)
        issuer = Issuer(
            ledger=ledger, identity=keys.identity, site_name="north", authority=keys.authority, endpoints=[Endpoint(host, port)]
        )
        _, token = issuer.grant("north-1", now=time.time())
    return format_token(token)


async def test_the_controller_gives_keys_and_ports_and_hears_how_the_router_is(space: Namespace, routers: Routers, backend: int) -> None:
    space.put("Site", "north")
    space.put("Connector", "hello", routingKey="hello", host="127.0.0.1", port=backend)
    space.put("Listener", "hello", routingKey="hello", host="hello", port=8080)
    async with controlling(space) as controller:
        home = await routers.start(space, controller=("127.0.0.1", controller.port))
        status = await routers.until(home, "it listens", lambda s: element(s, "listeners", "hello")["matched"])
        port = element(status, "listeners", "hello")["podPort"]
        assert 20_000 <= port < 30_000
        assert await trio.to_thread.run_sync(http_get, port) == b'{"message":"Hello"}'
        with trio.fail_after(10):
            while not controller.routers.document().get("site", {}).get("ready"):  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert controller.routers.document()["site"]["routers"][0]["pod"] == "van-router-1"
        assert "streams" not in controller.routers.document()["site"], "numbers that change all the time are not written down"
        network = await controller.routers.ask("network", {})
        assert [site["name"] for site in network["sites"]] == ["north"]


async def test_a_host_joins_over_the_router_and_both_use_each_others_services(
    space: Namespace, routers: Routers, backend: int, tmp_path: Path, nursery: trio.Nursery, plane: str
) -> None:
    world = World(tmp_path, nursery, plane)
    south = world.home("south", serviceAddress="127.0.0.3")
    await world.start(south)
    space.put("Site", "north")
    async with controlling(space) as controller:
        home = await routers.start(space, controller=("127.0.0.1", controller.port))
        await routers.until(home, "it is controlled", lambda s: s["site"]["controller"])
        token = await trio.to_thread.run_sync(token_for, space, controller, routers.port)
        await world.call(south, "token.redeem", token=token)
        await routers.until(home, "they are linked", lambda s: s["site"]["linkedSites"] == 1)
        await world.expose(south, "hello", backend, free_port())
        status = await routers.until(home, "synced", lambda s: any(e["automatic"] and e["matched"] for e in s["listeners"]))
        (found,) = [e for e in status["listeners"] if e["automatic"]]
        assert condition(found, "Listening")["status"] == "True"
        assert await trio.to_thread.run_sync(http_get, found["podPort"]) == b'{"message":"Hello"}'


async def test_a_visitor_with_a_token_is_told_later_when_there_is_no_controller_and_nothing_is_used_up(
    space: Namespace, routers: Routers, tmp_path: Path, nursery: trio.Nursery, plane: str
) -> None:
    world = World(tmp_path, nursery, plane)
    south = world.home("south")
    await world.start(south)
    space.put("Site", "north")
    port = free_port()
    async with controlling(space, port) as controller:
        home = await routers.start(space, controller=("127.0.0.1", port))
        await routers.until(home, "it is controlled", lambda s: s["site"]["controller"])
        token = await trio.to_thread.run_sync(token_for, space, controller, routers.port)
    await routers.until(home, "it is alone", lambda s: not s["site"]["controller"])
    before = trio.current_time()
    with pytest.raises(TokenError) as refused:
        await world.call(south, "token.redeem", token=token)
    assert 2.5 < trio.current_time() - before < 6
    assert "later" in str(refused.value).lower() or "cannot" in str(refused.value).lower(), refused.value
    async with controlling(space, port):
        await routers.until(home, "it is controlled again", lambda s: s["site"]["controller"])
        await world.call(south, "token.redeem", token=token)
        await routers.until(home, "they are linked", lambda s: s["site"]["linkedSites"] == 1)


@pytest.mark.parametrize("name", ["van-router-0", "van-router-2"])
async def test_routers_of_one_namespace_link_with_each_other_and_the_second_is_ready_when_it_knows_what_the_first_knows(
    space: Namespace, routers: Routers, backend: int, tmp_path: Path, nursery: trio.Nursery, plane: str, name: str
) -> None:
    """Both are pods with an address of their own, here of loopback; the link port is the same on both."""
    world = World(tmp_path, nursery, plane)
    south = world.home("south")
    await world.start(south)
    space.put("Site", "north")
    async with controlling(space) as controller:
        first = await routers.start(space, controller=("127.0.0.1", controller.port), any_host="127.0.0.11")
        token = await trio.to_thread.run_sync(functools.partial(token_for, space, controller, routers.port, host="127.0.0.11"))
        await world.call(south, "token.redeem", token=token)
        await world.expose(south, "hello", backend, free_port())
        await routers.until(first, "it has the service", lambda s: any(e["automatic"] and e["matched"] for e in s["listeners"]))
        space.put_pod("van-router-1", "127.0.0.11", **ROUTER_LABELS)
        await trio.sleep(1.1)  # a pod's age is known by the second
        space.put_pod(name, "127.0.0.12", ready=False, **ROUTER_LABELS)
        second = await routers.start(space, name, controller=("127.0.0.1", controller.port), any_host="127.0.0.12", link_port=routers.port)
        status = await routers.until(second, "it is ready", lambda s: s["site"]["ready"])
        assert [link["routers"] for link in status["links"]] == [[(await routers.status(first))["site"]["router"]]]
        (found,) = [e for e in status["listeners"] if e["automatic"]]
        assert condition(found, "Listening")["reason"] == "Listening", found
        answer = await trio.to_thread.run_sync(functools.partial(http_get, found["podPort"], "127.0.0.12"))
        assert answer == b'{"message":"Hello"}'


async def test_a_link_that_nobody_answers_holds_a_router_back_for_ten_seconds_at_most(space: Namespace, routers: Routers) -> None:
    """A peer that accepts and says nothing."""
    listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
    silent = listener[0].socket.getsockname()[1]
    space.put("Site", "north")
    async with controlling(space) as controller:
        home = await routers.start(space, controller=("127.0.0.1", controller.port))
        site_id = (await routers.until(home, "it is ready", lambda s: s["site"]["ready"]))["site"]["id"]
        routers.scope.cancel()
        await trio.sleep(0.3)
        space.put("Link", "south", endpoints=[{"host": "127.0.0.1", "port": silent}], siteId=site_id)
        before = trio.current_time()
        home = await routers.start(space, "van-router-2", controller=("127.0.0.1", controller.port))
        status = await routers.until(home, "it waits", lambda s: "link south" in condition(s["site"], "Ready")["message"])
        assert condition(status["site"], "Ready")["reason"] == "Starting"
        assert await asked(routers.port, "/livez") == 200
        assert await asked(routers.port) == 503
        await routers.until(home, "it is ready", lambda s: s["site"]["ready"])
        assert 5 < trio.current_time() - before < 13
    for one in listener:
        await one.aclose()


async def test_a_new_router_takes_the_last_good_form_that_the_controller_remembers(
    space: Namespace, routers: Routers, backend: int
) -> None:
    space.put("Site", "north")
    space.put("Connector", "hello", routingKey="hello", host="127.0.0.1", port=backend)
    space.put("Listener", "hello", routingKey="hello", host="hello", port=8080)
    async with controlling(space) as controller:
        first = await routers.start(space, controller=("127.0.0.1", controller.port))
        await routers.until(first, "it listens", lambda s: element(s, "listeners", "hello")["matched"])
        with trio.fail_after(10):
            while "good.resource.yaml" not in await trio.to_thread.run_sync(space.data, "van-status.listener.hello"):  # noqa: ASYNC110
                await trio.sleep(0.1)
        routers.scope.cancel()
        space.put_text("Listener", "hello", "kind: [")
        await trio.sleep(0.5)
        second = await routers.start(space, "van-router-2", controller=("127.0.0.1", controller.port))
        status = await routers.until(second, "it listens", lambda s: element(s, "listeners", "hello") is not None)
        assert "last good form stays in force" in status["problems"][0]["message"]
