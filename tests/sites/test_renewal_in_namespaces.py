"""
Certificates of two linked namespaces renew themselves, at two thirds of their life, and no stream is lost.

    controller south ▸ router south ══link══ router north ▸ controller north         one wall clock, which the test moves
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import yaml
from cryptography import x509
from namespace_world import Namespace
from pod_world import Routers, element
from site_world import free_port
from test_controlled_router import token_for

from vanrouter.controller.run import Controller
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import apply, create, delete, get
from vanrouter.kube.client import KubeClient
from vanrouter.kube.kinds import NAMESPACES, SECRETS
from vanrouter.kube.state import files_in
from vanrouter.stores import SiteHome

SAID = "van-status.site.south"
LIFETIME = 480.0  # begins five minutes in the past: two thirds are over 220 s from now, with jitter 259 s
BEFORE = 100.0  # two minutes in which this may take its time
AFTER = 275.0  # and what is renewed then has begun by the clock of TLS, which is the real one


class Wall:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@asynccontextmanager
async def controlling(space: Namespace, wall: Wall) -> AsyncIterator[Controller]:
    async with KubeClient(space.access) as client, trio.open_nursery() as nursery:
        with BlockingClient(space.access) as blocking:
            controller = Controller(client, blocking, space.name, port=0, name="c-0", clock=wall, leaf_lifetime=LIFETIME)
            await nursery.start(controller.run)
            yield controller
            nursery.cancel_scope.cancel()


@pytest.fixture
def far(cluster: Any) -> Any:
    """South's namespace."""
    name = f"van-test-{secrets.token_hex(4)}"
    with BlockingClient(cluster) as client:
        client.call(create(NAMESPACES, "", {"metadata": {"name": name}}))
        with Namespace(cluster, name, "south") as made:
            yield made
        client.call(delete(NAMESPACES, "", name))


class Secrets:
    """What the two controllers wrote."""

    def __init__(self, client: BlockingClient) -> None:
        self._client = client

    async def files(self, space: Namespace, name: str) -> dict[str, bytes]:
        return files_in(await trio.to_thread.run_sync(self._client.call, get(SECRETS, space.name, name)))

    async def serial(self, space: Namespace, name: str, file: str) -> int:
        return x509.load_pem_x509_certificates((await self.files(space, name))[file])[0].serial_number

    async def serials(self, north: Namespace, south: Namespace) -> list[int]:
        """The link's, and the sites' own."""
        own = [
            await self.serial(space, "van-router-keys", f"own__{which}.crt") for space in (north, south) for which in ("server", "client")
        ]
        return [await self.serial(south, "van-credential.north-1", "tls.crt"), *own]


@pytest.fixture
def kept(cluster: Any) -> Iterator[Secrets]:
    with BlockingClient(cluster) as client:
        yield Secrets(client)


async def test_in_both_namespaces_they_renew_at_two_thirds_and_the_streams_of_the_link_go_on(
    space: Namespace, far: Namespace, routers: Routers, kept: Secrets, cluster: Any
) -> None:
    wall = Wall()
    listeners = await routers.nursery.start(functools.partial(trio.serve_tcp, _echo, 0, host="127.0.0.1"))
    target = listeners[0].socket.getsockname()[1]
    space.put("Site", "north")
    space.put("Connector", "echo", routingKey="echo", host="127.0.0.1", port=target)
    far.put("Site", "south")
    far.put("Listener", "echo", routingKey="echo", host="echo", port=7)
    async with controlling(space, wall) as issuing, controlling(far, wall) as redeeming:
        near = await routers.start(space, "north-1", controller=("127.0.0.1", issuing.port), any_host="127.0.0.21", wall=wall)
        token = await trio.to_thread.run_sync(functools.partial(token_for, space, issuing, routers.port, host="127.0.0.21"))
        with BlockingClient(cluster) as client:
            client.call(apply(SECRETS, far.name, yaml.safe_load(token)))
        start = functools.partial(routers.start, far, "south-1", controller=("127.0.0.1", redeeming.port), any_host="127.0.0.22", wall=wall)
        home = await start(link_port=free_port())
        status = await routers.until(home, "it is matched", lambda s: (element(s, "listeners", "echo") or {}).get("matched"))
        stream = await trio.open_tcp_stream("127.0.0.22", element(status, "listeners", "echo")["podPort"])
        assert await _answer(stream, b"before") == b"before"

        before = await kept.serials(space, far)
        wall.ahead = BEFORE
        for controller in (issuing, redeeming):
            controller.wake()
        await trio.sleep(1.0)
        assert await kept.serials(space, far) == before, "not before two thirds"
        wall.ahead = AFTER
        for controller in (issuing, redeeming):
            controller.wake()
        with trio.fail_after(15):
            while set(after := await kept.serials(space, far)) & set(before):  # noqa: ASYNC110
                await trio.sleep(0.1)
        with trio.fail_after(10):
            while _serial(home) != after[0]:  # noqa: ASYNC110 - a router's file
                await trio.sleep(0.1)
        assert await _answer(stream, b"after") == b"after"
        await stream.aclose()
        (link,) = [one for one in (await routers.status(home))["links"] if one["direction"] == "outgoing"]
        assert link["active"]
        assert (await routers.status(near))["site"]["linkedSites"] == 1
        # What is dialled from now on shows the new one; the old one is nowhere any more.
        routers.scope.cancel()
        await trio.sleep(0.5)
        home = await start(link_port=free_port())
        await routers.until(home, "it is linked again", lambda s: s["site"]["linkedSites"] == 1)
        assert (await kept.serials(space, far)) == after, "and that is all: renewed once"


@pytest.mark.parametrize("plane", ["baseline"])
async def test_while_the_issuer_is_away_status_says_until_when_and_it_is_renewed_when_it_is_back(
    space: Namespace, far: Namespace, routers: Routers, kept: Secrets, cluster: Any
) -> None:
    wall = Wall()
    space.put("Site", "north")
    far.put("Site", "south")
    async with controlling(far, wall) as redeeming:
        async with controlling(space, wall) as issuing:
            port = issuing.port
            home = await routers.start(space, "north-1", controller=("127.0.0.1", port), any_host="127.0.0.21", wall=wall)
            token = await trio.to_thread.run_sync(functools.partial(token_for, space, issuing, routers.port, host="127.0.0.21"))
            with BlockingClient(cluster) as client:
                client.call(apply(SECRETS, far.name, yaml.safe_load(token)))
            with trio.fail_after(15):
                while "van.link.north-1" not in await trio.to_thread.run_sync(_resources, cluster, far):  # noqa: ASYNC110
                    await trio.sleep(0.1)
        await routers.until(home, "its controller is gone", lambda s: not s["site"]["controller"])
        before = await kept.serial(far, "van-credential.north-1", "tls.crt")
        wall.ahead = AFTER
        redeeming.wake()
        with trio.fail_after(15):
            while "valid until" not in (said := (await trio.to_thread.run_sync(far.data, SAID))["site.json"]):  # noqa: ASYNC110
                await trio.sleep(0.1)
        assert "Link/north-1" in said
        redeeming.wake()
        await trio.sleep(1.5)  # it is said for as long as it is so
        assert "valid until" in (await trio.to_thread.run_sync(far.data, SAID))["site.json"]
        assert await kept.serial(far, "van-credential.north-1", "tls.crt") == before
    async with KubeClient(space.access) as client, trio.open_nursery() as nursery:
        with BlockingClient(space.access) as blocking:
            await nursery.start(Controller(client, blocking, space.name, port=port, name="c-1", clock=wall, leaf_lifetime=LIFETIME).run)
            await routers.until(home, "it is controlled again", lambda s: s["site"]["controller"])
            async with controlling(far, wall):
                with trio.fail_after(15):
                    while await kept.serial(far, "van-credential.north-1", "tls.crt") == before:  # noqa: ASYNC110
                        await trio.sleep(0.1)
            nursery.cancel_scope.cancel()


def _resources(cluster: Any, space: Namespace) -> set[str]:
    from vanrouter.kube.kinds import CONFIG_MAPS

    with BlockingClient(cluster) as client:
        return {o["metadata"]["name"] for o in client.pages(CONFIG_MAPS, space.name)}


def _serial(home: SiteHome) -> int:
    files = home.state.read_credential("north-1")
    assert files is not None
    return x509.load_pem_x509_certificates(files["tls.crt"])[0].serial_number


async def _echo(stream: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):  # when its router ends
        async for data in stream:
            await stream.send_all(data)


async def _answer(stream: trio.SocketStream, said: bytes) -> bytes:
    await stream.send_all(said)
    with trio.fail_after(5):
        return bytes(await stream.receive_some())
