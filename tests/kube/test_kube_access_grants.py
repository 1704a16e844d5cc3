"""AccessGrant and AccessToken as custom resources, and as GitOps and `van apply` write them, on a real API server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import yaml
from api_server import ApiServer
from cluster_world import namespaces
from controllers import Namespace, in_namespace
from custom_resources import install_definitions
from test_kube_custom_resources import as_user
from test_kube_tokens import reachable

from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Object, apply, delete
from vanrouter.kube.crds import CUSTOM_KINDS, cluster_roles
from vanrouter.kube.kinds import CONFIG_MAPS, SECRETS
from vanrouter.kube.manifests import CONTROLLER_CUSTOM_RULES, CONTROLLER_RULES, ROUTER_CUSTOM_RULES
from vanrouter.kube.names import selector
from vanrouter.kube.records import resource_object, site_text
from vanrouter.kube.rights import rights_in
from vanrouter.kube.state import files_in
from vanrouter.resources import AccessToken, Metadata
from vanrouter.resources.kinds import AccessTokenSpec
from vanrouter.tokens.declared import as_secret

GRANTS, TOKENS = CUSTOM_KINDS["AccessGrant"], CUSTOM_KINDS["AccessToken"]
IN_A_MAP = "apiVersion: vanrouter.io/v1alpha1\nkind: AccessGrant\nmetadata: {name: in-a-map}\nspec: {redemptionsAllowed: 2%s}\n"
CHOSEN = "a-code-that-nobody-guesses-1"


@pytest.fixture
def defined(cluster: Any, undefined_afterwards: None) -> None:
    with BlockingClient(cluster) as client:
        install_definitions(client)


@contextlib.asynccontextmanager
async def two(cluster: Any) -> AsyncIterator[tuple[Namespace, Namespace]]:
    """North, which has no site yet, and south, which has one that nobody runs yet."""
    with namespaces(cluster, 2) as names:
        async with in_namespace(cluster, names[0]) as north, in_namespace(cluster, names[1]) as south:
            await south.site("south", "{}")
            yield north, south


async def grant(here: Namespace, name: str = "for-south", **spec: Any) -> Object:
    return await here.client.call(apply(GRANTS, here.name, {"metadata": {"name": name}, "spec": spec}))


async def token(here: Namespace, name: str = "north", **spec: Any) -> Object:
    return await here.client.call(apply(TOKENS, here.name, {"metadata": {"name": name}, "spec": spec}))


async def granted(here: Namespace, name: str = "for-south") -> Object:
    """The status of a grant that can be redeemed."""
    value = await here.until(GRANTS, name, lambda v: v and (v.get("status") or {}).get("url") and v["status"]["status"] == "Ready")
    return dict(value["status"])


def as_token(status: Object) -> Object:
    """As a person copies it."""
    return {key: status[key] for key in ("url", "code", "ca")}


async def grants_of(here: Namespace) -> list[Object]:
    return await here.client.pages(SECRETS, here.name, labels=selector("grant"))


async def until_withdrawn(here: Namespace) -> None:
    with trio.fail_after(10):
        while await grants_of(here):  # noqa: ASYNC110 - of another end
            await trio.sleep(0.05)


def condition(value: Object, kind: str) -> Object:
    return next(dict(c) for c in value["status"]["conditions"] if c["type"] == kind)


@pytest.mark.usefixtures("defined")
async def test_what_a_grant_shows_is_a_token_elsewhere_and_makes_a_link_once(cluster: Any) -> None:
    async with two(cluster) as (north, south), reachable(north):
        await grant(north)
        shown = await granted(north)
        assert (shown["redemptions"], condition({"status": shown}, "Redeemable")["status"]) == (0, "True")
        await token(south, linkCost=7, **as_token(shown))
        async with south.controller():
            link = await south.until(CONFIG_MAPS, "van.link.north", bool)
            assert "cost: 7" in link["data"]["resource.yaml"]
            done = await south.until(TOKENS, "north", lambda v: v and (v.get("status") or {}).get("redeemed"))
            assert (done["status"]["status"], done["status"]["link"]) == ("Ready", "north")
            await south.put(link["data"]["resource.yaml"].replace("cost: 7", "cost: 9"))
            await token(south, "twin", **as_token(shown))
            twin = await south.until(TOKENS, "twin", lambda v: v and (v.get("status") or {}).get("redeemed"))
            link = await south.get(CONFIG_MAPS, "van.link.north")
            assert link is not None
            assert (twin["status"]["link"], "cost: 9" in link["data"]["resource.yaml"]) == ("north", True), "it is as somebody wants it"
            used = await north.until(GRANTS, "for-south", lambda v: v["status"]["redemptions"] == 1)
            assert condition(used, "Redeemable")["reason"] == "Used"
            await south.client.call(delete(CONFIG_MAPS, south.name, "van.link.north"))
            done = await south.until(TOKENS, "north", lambda v: "and is gone" in condition(v, "Redeemed")["message"])
        async with south.controller():
            await trio.sleep(2.0)
            assert await south.get(CONFIG_MAPS, "van.link.north") is None, "the token that made it is used"
            again = await south.get(TOKENS, "north")
            assert again is not None
            assert again["metadata"]["resourceVersion"] == done["metadata"]["resourceVersion"], "a start anew changes nothing"


@pytest.mark.usefixtures("defined")
async def test_a_link_outlives_the_token_that_made_it_and_a_grant_that_is_deleted_is_withdrawn(cluster: Any) -> None:
    async with two(cluster) as (north, south), reachable(north):
        await grant(north, redemptionsAllowed=5)
        shown = await granted(north)
        await token(south, **as_token(shown))
        async with south.controller():
            await south.until(TOKENS, "north", lambda v: v and (v.get("status") or {}).get("redeemed"))
            await south.client.call(delete(TOKENS, south.name, "north"))
            await north.client.call(delete(GRANTS, north.name, "for-south"))
            await until_withdrawn(north)
            await south.client.call(delete(CONFIG_MAPS, south.name, "van.link.north"))
            await south.client.call(delete(SECRETS, south.name, "van-credential.north"))
            await token(south, "late", **as_token(shown))
            refused = await south.until(TOKENS, "late", lambda v: v and (v.get("status") or {}).get("status") == "Error")
            assert "its AccessGrant was deleted" in refused["status"]["message"]
            assert refused["status"]["redeemed"] is False
            assert await south.get(CONFIG_MAPS, "van.link.late") is None


@pytest.mark.usefixtures("defined")
async def test_a_token_waits_for_its_issuer_and_is_used_once_also_where_it_stands_twice(cluster: Any) -> None:
    async with two(cluster) as (north, south):
        async with reachable(north):
            await grant(north, redemptionsAllowed=2)
            copied = as_token(await granted(north))
        await token(south, **copied)
        async with south.controller():
            value = await south.until(TOKENS, "north", lambda v: v and (v.get("status") or {}).get("status") == "Pending")
            assert condition(value, "Redeemed")["reason"] == "TryingAgain"
            assert "could not be asked" in value["status"]["message"]
            async with reachable(north):
                await south.until(TOKENS, "north", lambda v: v["status"]["status"] == "Ready")
                await grant(north, "twice", redemptionsAllowed=2)
                copied = as_token(await granted(north, "twice"))
        secret = as_secret(AccessToken(metadata=Metadata(name="same"), spec=AccessTokenSpec(**copied)))
        await token(south, "same", **copied)
        await south.client.call(apply(SECRETS, south.name, resource_object(secret)))
        async with reachable(north), south.controller():
            await south.until(TOKENS, "same", lambda v: v and (v.get("status") or {}).get("redeemed"))
            await south.until(SECRETS, "same", lambda v: "vanrouter.io/redeemed" in v["metadata"]["annotations"])
            listed = {g["name"]: g["used"] for g in (await north.ask("token.list", {}))["result"]["grants"]}
            assert listed == {"for-south": 1, "twice": 1}
            links = await south.client.pages(CONFIG_MAPS, south.name, labels=selector("resource"))
            names = [m["metadata"]["name"] for m in links if m["metadata"]["name"].startswith("van.link.")]
            assert names == ["van.link.north", "van.link.same"]


@pytest.mark.usefixtures("defined")
async def test_a_grant_is_made_once_whoever_starts_anew_and_anew_when_its_spec_is_another(cluster: Any) -> None:
    async with two(cluster) as (north, _south):
        await grant(north, expirationWindow="1h")
        await north.site(spec="{linkAccess: local}")
        async with north.controller() as controller, north.router(controller):
            first = await granted(north)
            (kept,) = await grants_of(north)
            assert first["code"].encode() not in files_in(kept)["grant.json"]
        async with north.controller() as controller, north.router(controller):
            await trio.sleep(1.0)
            assert (await granted(north), await grants_of(north)) == (first, [kept])
            await grant(north, expirationWindow="2h", code=CHOSEN)
            value = await north.until(GRANTS, "for-south", lambda v: v["status"].get("code") == CHOSEN)
            assert value["status"]["url"] != first["url"]
            await grant(north, expirationWindow="2h", code="short")
            value = await north.until(GRANTS, "for-south", lambda v: v["status"]["status"] == "Error")
            assert "at least 20 characters" in value["status"]["message"]
            await until_withdrawn(north)


@pytest.mark.usefixtures("defined")
async def test_a_token_that_was_changed_on_the_way_and_one_of_the_incumbent_are_told_from_a_refused_one(cluster: Any) -> None:
    async with two(cluster) as (north, south), reachable(north):
        await grant(north)
        copied = as_token(await granted(north))
        await token(south, "edited", **{**copied, "code": copied["code"][:-1]})
        await token(south, "theirs", url="https://10.0.0.5:9090/0a1b", code="hP4f", ca=copied["ca"])
        async with south.controller():
            for name, said in (("edited", "do not belong together"), ("theirs", "by its own sites only")):
                value = await south.until(TOKENS, name, lambda v: v and (v.get("status") or {}).get("status") == "Error")
                assert said in value["status"]["message"]
            site = await south.until(CONFIG_MAPS, "van-status.site.south", lambda m: m and "AccessToken/edited" in site_text(m))
            assert "by its own sites only" in site_text(site)


@pytest.mark.usefixtures("defined")
async def test_the_roles_that_ship_are_enough_and_give_codes_to_the_controller_alone(
    api_server: ApiServer, cluster: Any, namespace: str
) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        await grant(here)
        await here.put(IN_A_MAP % "")
        async with as_user(api_server, here, *CONTROLLER_RULES, *CONTROLLER_CUSTOM_RULES) as controller, here.router(controller):
            shown = await granted(here)
            await token(here, "edited", **{**as_token(shown), "code": "edited"})
            await here.until(TOKENS, "edited", lambda v: (v.get("status") or {}).get("status") == "Error")
            await here.until(SECRETS, "van-token.in-a-map", bool)
            await here.client.call(delete(GRANTS, namespace, "for-south"))
            await here.client.call(delete(CONFIG_MAPS, namespace, "van.accessgrant.in-a-map"))
            await until_withdrawn(here)
            await here.until(SECRETS, "van-token.in-a-map", lambda v: v is None)
            assert controller.copies.customs.problems == []
    coded = {"accessgrants", "accesstokens"}
    for rules in (ROUTER_CUSTOM_RULES, *(role["rules"] for role in cluster_roles() if role["metadata"]["name"] == "vanrouter-view")):
        assert not any(right.resource.partition("/")[0] in coded for right in rights_in(rules))


async def test_a_grant_in_a_config_map_shows_its_token_in_a_secret_and_nowhere_else(cluster: Any) -> None:
    text = IN_A_MAP.replace("in-a-map", "for-south")
    async with two(cluster) as (north, south), reachable(north):
        await north.put(text % "")
        shown = files_in(await north.until(SECRETS, "van-token.for-south", bool))
        for value in await north.client.pages(CONFIG_MAPS, north.name):
            assert shown["code"].decode() not in str(value)
        async with south.controller():
            await south.client.call(apply(SECRETS, south.name, yaml.safe_load(shown["token.yaml"])))
            await south.until(CONFIG_MAPS, "van.link.for-south", bool)
        (listed,) = (await north.ask("token.list", {}))["result"]["grants"]
        assert (listed["used"], listed["source"]) == (1, "ConfigMap/van.accessgrant.for-south: resource.yaml")
        refused = await north.ask("token.delete", {"name": "for-south"}, name="van-request.2")
        assert "is that of an AccessGrant" in refused["error"]["message"]
        await north.put(text % f", code: {CHOSEN}")
        site = await north.until(CONFIG_MAPS, "van-status.site.north", lambda m: m and "does not belong into a ConfigMap" in site_text(m))
        assert "AccessGrant/for-south" in site_text(site)
        await north.client.call(delete(CONFIG_MAPS, north.name, "van.accessgrant.for-south"))
        await north.until(SECRETS, "van-token.for-south", lambda v: v is None)
        assert await grants_of(north) == []


@pytest.mark.usefixtures("defined")
async def test_what_a_grant_in_a_config_map_showed_stays_while_nobody_can_reach_the_site(cluster: Any) -> None:
    async with two(cluster) as (north, _south):
        await north.site(spec="{linkAccess: local}")
        await north.put(IN_A_MAP % "")
        async with north.controller() as controller, north.router(controller):
            shown = await north.until(SECRETS, "van-token.in-a-map", bool)
        await north.site(spec="{linkAccess: loadbalancer}")  # nobody gives it an address, and the former one is forgotten
        await north.client.call(delete(CONFIG_MAPS, north.name, "van-router"))
        async with north.controller() as controller, north.router(controller):
            await north.until(CONFIG_MAPS, "van-status.site.north", lambda m: m and "nobody can reach this site now" in site_text(m))
            await trio.sleep(0.5)
        kept = await north.until(SECRETS, "van-token.in-a-map", bool)
        assert kept["metadata"]["uid"] == shown["metadata"]["uid"]
