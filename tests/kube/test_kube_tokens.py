"""Tokens between two namespaces on a real API server: made, redeemed once, renewed; the CLI only stores them."""

from __future__ import annotations

import base64
import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import yaml
from controllers import Namespace, in_namespace
from fake_router import FakeRouter, serve_visitors

from vanrouter.controller.run import Controller
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import apply, create, delete
from vanrouter.kube.kinds import CONFIG_MAPS, NAMESPACES, SECRETS, SERVICES
from vanrouter.kube.names import pending_secret, selector
from vanrouter.kube.state import files_in
from vanrouter.pki import IdentityKey
from vanrouter.tokens import LinkCredential, parse_token, prepare


@pytest.fixture
def elsewhere(cluster: Any) -> Any:
    """A second namespace."""
    name = f"van-test-{secrets.token_hex(4)}"
    with BlockingClient(cluster) as client:
        client.call(create(NAMESPACES, "", {"metadata": {"name": name}}))
        yield name
        client.call(delete(NAMESPACES, "", name))


@contextlib.asynccontextmanager
async def reachable(here: Namespace) -> AsyncIterator[tuple[Controller, FakeRouter]]:
    """A site whose link access is a node port, on which its router listens."""
    await here.site(spec="{linkAccess: nodeport, settings: {ingress-host: 127.0.0.1}}")
    async with here.controller() as controller, here.router(controller) as router, trio.open_nursery() as nursery:
        service = await here.until(SERVICES, "van-router", lambda v: v and v["spec"]["ports"][0].get("nodePort"))
        await here.until(SECRETS, "van-router-keys", lambda v: b"MII" in files_in(v)["own__server.crt"])
        await trio.sleep(0.5)  # the certificate for that host
        await nursery.start(
            lambda task_status: serve_visitors(
                router, here.client, here.name, port=service["spec"]["ports"][0]["nodePort"], task_status=task_status
            )
        )
        yield controller, router
        nursery.cancel_scope.cancel()


async def pending(here: Namespace) -> list[Any]:
    return await here.client.pages(SECRETS, here.name, labels=selector("pending"))


async def test_a_token_secret_that_is_applied_becomes_a_link_and_is_not_redeemed_again(
    cluster: Any, namespace: str, elsewhere: str
) -> None:
    async with in_namespace(cluster, namespace) as north, in_namespace(cluster, elsewhere) as south, reachable(north):
        await south.site("south", "{}")
        token = yaml.safe_load((await north.ask("token.issue", {"name": "t"}))["result"]["yaml"])
        async with south.controller() as controller:
            await south.client.call(apply(SECRETS, elsewhere, token))
            link = await south.until(CONFIG_MAPS, "van.link.t", bool)
            assert "127.0.0.1" in link["data"]["resource.yaml"]
            keys = await south.until(SECRETS, "van-router-keys", lambda v: "credentials__t__tls.key" in v["data"])
            files = {k.removeprefix("credentials__t__"): v for k, v in files_in(keys).items() if k.startswith("credentials__t__")}
            assert LinkCredential.from_files(files).issuer_name == "north"
            await south.until(SECRETS, "t", lambda v: v["metadata"]["annotations"].get("vanrouter.io/redeemed") == "t")
            await trio.sleep(1.0)
            assert await pending(south) == []
            listed = await north.ask("token.list", {}, name="van-request.2")
            assert [(g["used"], g["redeemedBy"][0]["site"]) for g in listed["result"]["grants"]] == [(1, "south")]
            await south.client.call(delete(CONFIG_MAPS, elsewhere, "van.link.t"))
            await trio.sleep(2.0)
            assert await south.get(CONFIG_MAPS, "van.link.t") is None, "the token that made it is used"
            assert controller.copies.problems == []


async def test_a_controller_that_was_killed_in_the_middle_goes_on_with_the_same_key(cluster: Any, namespace: str, elsewhere: str) -> None:
    async with in_namespace(cluster, namespace) as north, in_namespace(cluster, elsewhere) as south:
        await south.site("south", "{}")
        async with reachable(north):
            token = yaml.safe_load((await north.ask("token.issue", {"name": "t"}))["result"]["yaml"])
        async with south.controller():
            await south.client.call(apply(SECRETS, elsewhere, token))  # nobody answers there
            holder = pending_secret(parse_token(yaml.safe_dump(token)).id)
            begun = files_in(await south.until(SECRETS, holder, bool))
            await trio.sleep(0.5)
        async with reachable(north), south.controller():
            await south.until(CONFIG_MAPS, "van.link.t", bool)
            listed = await north.ask("token.list", {}, name="van-request.2")
            assert [g["used"] for g in listed["result"]["grants"]] == [1]
            credential = files_in(await south.until(SECRETS, "van-credential.t", bool))
            assert credential["tls.key"].decode().strip() in begun["pending.json"].decode().replace("\\n", "\n")


async def test_a_token_that_is_refused_is_a_problem_that_names_its_secret(cluster: Any, namespace: str, elsewhere: str) -> None:
    async with in_namespace(cluster, namespace) as north, in_namespace(cluster, elsewhere) as south, reachable(north):
        await south.site("south", "{}")
        token = yaml.safe_load((await north.ask("token.issue", {"name": "t"}))["result"]["yaml"])
        assert (await north.ask("token.delete", {"name": "t"}, name="van-request.2"))["result"] == {"deleted": 1}
        async with south.controller():
            await south.client.call(apply(SECRETS, elsewhere, token))
            said = await south.until(CONFIG_MAPS, "van-status.site.south", lambda v: v and "refuses token t" in v["data"]["site.json"])
            assert "Secret/t" in said["data"]["site.json"]
            assert await south.get(CONFIG_MAPS, "van.link.t") is None


async def test_a_token_is_made_for_whoever_may_read_secrets_and_redeemed_through_a_router(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        async with here.controller() as controller, here.router(controller) as router:
            answer = await here.ask("token.issue", {"name": "south", "uses": 1})
            token = parse_token(answer["result"]["yaml"])
            assert [str(e) for e in token.endpoints] == [f"van-router.{namespace}.svc:55671"]
            pending = prepare(token, site_name="south", identity=IdentityKey.generate())
            request = {"method": "POST", "path": "/redeem", "body": base64.b64encode(pending.request.reveal()).decode()}
            first = await router.link.ask("join", {"visitor": "192.0.2.1", "request": request})
            again = await router.link.ask("join", {"visitor": "192.0.2.1", "request": request})
            assert (first["status"], again) == (200, first), "a lost answer is no lost token"
            other = prepare(token, site_name="east", identity=IdentityKey.generate())
            request = {**request, "body": base64.b64encode(other.request.reveal()).decode()}
            assert (await router.link.ask("join", {"visitor": "192.0.2.2", "request": request}))["status"] == 403
            listed = await here.ask("token.list", {}, name="van-request.2")
            assert [(g["name"], g["used"], g["state"]) for g in listed["result"]["grants"]] == [("south", 1, "used")]


async def test_a_site_that_is_refused_redeems_nothing_and_uses_nothing_up(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        guest = IdentityKey.generate()
        await here.site(spec=f"{{linkAccess: local, refusedSites: [{guest.site_id}]}}")
        async with here.controller() as controller, here.router(controller) as router:
            token = parse_token((await here.ask("token.issue", {"name": "t"}))["result"]["yaml"])

            async def redeem(identity: IdentityKey) -> int:
                body = prepare(token, site_name="south", identity=identity).request.reveal()
                request = {"method": "POST", "path": "/redeem", "body": base64.b64encode(body).decode()}
                return int((await router.link.ask("join", {"visitor": "192.0.2.1", "request": request}))["status"])

            assert await redeem(guest) == 403
            assert await redeem(IdentityKey.generate()) == 200
