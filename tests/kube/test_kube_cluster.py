"""One controller for the whole cluster, on a real API server: installs, identities, Services and status of each namespace."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
from api_server import ApiServer
from cluster_world import SITES, World, in_cluster, installed, namespaces, said
from controllers import in_namespace
from fake_router import FakeRouter, automatic, router_leaf

from vanrouter.cli.cluster import manifest_of_controller
from vanrouter.kube.access import Access
from vanrouter.kube.calls import Call, Kind, Object, apply, create, delete, get, list_page, merge_patch
from vanrouter.kube.client import KubeClient
from vanrouter.kube.kinds import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    NAMESPACES,
    POD_DISRUPTION_BUDGETS,
    ROLE_BINDINGS,
    ROLES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
)
from vanrouter.kube.manifests import CONTROLLER, LEASE_RULES
from vanrouter.kube.names import CONTROLLER_LABELS
from vanrouter.kube.records import site_text
from vanrouter.kube.workloads import SAVED

QUOTAS = Kind("", "v1", "resourcequotas", "ResourceQuota")


@pytest.fixture(scope="module")
def account(api_server: ApiServer) -> Iterator[Access]:
    with installed(api_server) as access:
        yield access


def condition(value: Object, type_: str) -> Object:
    return next(c for c in value["status"]["conditions"] if c["type"] == type_)


async def until(check: Callable[[], Any]) -> None:
    with trio.fail_after(10):
        while not check():  # noqa: ASYNC110 - of what is watched, not of a task
            await trio.sleep(0.05)


def test_several_controllers_of_the_cluster_have_a_lease_and_its_rights() -> None:
    one = {(v["kind"], v["metadata"].get("namespace", "")) for v in manifest_of_controller(None, {})}
    two = {(v["kind"], v["metadata"].get("namespace", "")): v for v in manifest_of_controller("net", {"controllers": 2})}
    assert not any(kind == "Lease" for kind, _ in one)
    assert two["Role", "net"]["rules"] == LEASE_RULES
    assert two["Deployment", "net"]["spec"]["replicas"] == 2
    (container,) = two["Deployment", "net"]["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["controller", "--lease", "--cluster"]
    assert {"Lease", "RoleBinding", "Service"} <= {kind for kind, namespace in two if namespace == "net"}


def site_document(value: Object | None) -> Any:
    return json.loads(site_text(value or {}) or "{}")


async def settled(world: World, controller: Any, *names: str) -> None:
    """Until both write nothing any more."""
    for name in names:
        await world.namespace(name).until(SECRETS, "van-router-keys", bool)
    before = -1
    while before != (now := sum(c.copies.writes for c in controller.controllers.values())):
        before = now
        await trio.sleep(0.8)


async def test_a_site_is_all_that_a_namespace_needs_and_each_has_its_own(api_server: ApiServer, account: Access) -> None:
    with namespaces(api_server.access(), 2) as (one, two):
        async with in_cluster(api_server.access(), account) as world, world.controller() as controller:
            await world.site(one, "north", settings={"routers": "2"})
            await world.site(two, "south")
            for name in (one, two):
                here = world.namespace(name)
                deployment = await here.until(DEPLOYMENTS, "van-router", bool)
                (container,) = deployment["spec"]["template"]["spec"]["containers"]
                assert container["image"] == "registry.example/vanrouter:1"
                assert {"name": "VAN_CONTROLLER", "value": "van-controller.vanrouter.svc:55672"} in container["env"]
                for kind in (SERVICE_ACCOUNTS, ROLES, ROLE_BINDINGS):
                    assert await here.until(kind, "van-router", bool)
                assert await here.until(ROLE_BINDINGS, "van-router-resources", bool)
                root = (await here.until(SITES, "north" if name == one else "south", bool))["metadata"]
                assert [o["uid"] for o in deployment["metadata"]["ownerReferences"]] == [root["uid"]]
            assert await world.namespace(one).until(POD_DISRUPTION_BUDGETS, "van-router", bool)
            assert await world.namespace(two).get(POD_DISRUPTION_BUDGETS, "van-router") is None
            await settled(world, controller, one, two)
            async with world.router(one, controller.port) as first, world.router(two, controller.port) as second:
                assert first.site != second.site
                first.say(listeners=[automatic("far", 90)])
                assert await world.namespace(one).until(SERVICES, "far", bool)
                second.say()
                status = await world.namespace(two).until(CONFIG_MAPS, "van-status.site.south", lambda v: site_document(v)["site"]["ready"])
                assert site_document(status)["site"]["controller"]["name"] == "vanrouter/c-0", "who acts is named"
                assert await world.namespace(two).get(SERVICES, "far") is None, "what one site hears is nothing to the other"
            await world.site(one, "north", settings={"routers": "1"})
            assert await world.namespace(one).until(POD_DISRUPTION_BUDGETS, "van-router", lambda v: v is None) is None


async def test_a_router_reaches_its_own_site_alone(api_server: ApiServer, account: Access) -> None:
    with namespaces(api_server.access(), 2) as (one, two):
        async with in_cluster(api_server.access(), account) as world, world.controller() as controller:
            await world.site(one)
            await world.site(two)
            await settled(world, controller, one, two)
            theirs, ours = await router_leaf(world.client, two), await router_leaf(world.client, one)
            async with world.router(one, controller.port) as good:
                assert await good.link.ask("ping") == {}
            mixed = type(ours)(theirs.site, ours.certificate, ours.key, ours.ca)  # our leaf, at their name
            trusting = type(ours)(theirs.site, ours.certificate, ours.key, theirs.ca)  # that trusts what it is shown
            nobody = type(ours)("0" * len(ours.site), ours.certificate, ours.key, ours.ca)
            for leaf in (mixed, trusting, nobody):
                router = FakeRouter(leaf, controller.port)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(router.run)
                    await trio.sleep(0.6)
                    assert not router.link.is_connected, router.link.problem
                    nursery.cancel_scope.cancel()
            assert not controller.controllers[two].routers.has_any


async def test_a_restart_changes_nothing_and_a_quiet_time_asks_for_nothing(api_server: ApiServer, account: Access) -> None:
    with namespaces(api_server.access(), 2) as (one, two):
        async with in_cluster(api_server.access(), account) as world:
            await world.site(one)
            await world.site(two)
            async with world.controller() as controller:
                await settled(world, controller, one, two)
                async with world.router(one, controller.port) as router:
                    router.say()
                    await world.namespace(one).until(SITES, "north", lambda v: v and v.get("status"))
                    await settled(world, controller, one, two)
            before = [(await world.client.call(list_page(kind, one)))["items"] for kind in (SECRETS, CONFIG_MAPS, DEPLOYMENTS, ROLES)]
            async with world.controller() as again:
                await until(lambda: len(again.controllers) == 2)
                async with world.router(one, again.port) as router:
                    router.say()
                    await trio.sleep(2.5)
                    assert {n: c.copies.writes for n, c in again.controllers.items() if n in (one, two)} == {one: 0, two: 0}
            after = [(await world.client.call(list_page(kind, one)))["items"] for kind in (SECRETS, CONFIG_MAPS, DEPLOYMENTS, ROLES)]
            assert after == before


async def test_what_somebody_changed_or_deleted_of_the_install_is_put_right(api_server: ApiServer, account: Access) -> None:
    with namespaces(api_server.access(), 1) as (one,):
        async with in_cluster(api_server.access(), account) as world, world.controller() as controller:
            await world.site(one)
            here = world.namespace(one)
            await settled(world, controller, one)
            await world.client.call(merge_patch(DEPLOYMENTS, one, "van-router", {"spec": {"replicas": 0}}))
            await here.until(DEPLOYMENTS, "van-router", lambda v: v["spec"]["replicas"] == 1)
            await world.client.call(delete(ROLES, one, "van-router"))
            await here.until(ROLES, "van-router", bool)
            document = await here.until(CONFIG_MAPS, "van-status.site.north", lambda v: "Deployment/van-router" in site_text(v or {}))
            assert any("was changed by" in p["message"] for p in site_document(document)["problems"])


async def test_a_namespace_that_may_not_have_secrets_says_so_and_the_others_are_served(api_server: ApiServer, account: Access) -> None:
    with namespaces(api_server.access(), 2) as (one, two):
        async with in_cluster(api_server.access(), account) as world, world.controller() as controller:
            quota = {"metadata": {"name": "none"}, "spec": {"hard": {"count/secrets": "0"}}}
            await world.client.call(apply(QUOTAS, one, quota))
            await world.client.call(
                merge_patch(
                    QUOTAS, one, "none", {"status": {"hard": {"count/secrets": "0"}, "used": {"count/secrets": "0"}}}, subresource="status"
                )
            )
            await world.site(one)
            refused = await world.namespace(one).until(SITES, "north", lambda v: "cannot serve namespace" in said(v))
            assert "quota" in said(refused)
            await world.site(two)
            await world.namespace(two).until(SECRETS, "van-router-keys", bool)
            await world.namespace(two).until(DEPLOYMENTS, "van-router", bool)
            assert one in controller.customs.parts()
            await world.client.call(delete(QUOTAS, one, "none"))
            await world.namespace(one).until(SECRETS, "van-router-keys", bool, seconds=30.0)


async def test_a_site_that_cannot_be_read_says_why_and_counts_once_it_is_right(api_server: ApiServer, account: Access) -> None:
    with namespaces(api_server.access(), 1) as (one,):
        async with in_cluster(api_server.access(), account) as world, world.controller():
            await world.site(one, settings={"routers": "99"})
            here = world.namespace(one)
            await here.until(CONFIG_MAPS, "van-status.site.north", lambda v: "write a number from 1 to 16" in site_text(v or {}))
            assert await here.get(DEPLOYMENTS, "van-router") is None
            await world.site(one, settings={"routers": "1"})
            await here.until(DEPLOYMENTS, "van-router", bool)


async def test_a_namespace_with_a_controller_of_its_own_is_left_to_it(api_server: ApiServer, account: Access) -> None:
    with namespaces(api_server.access(), 1) as (one,):
        async with in_cluster(api_server.access(), account) as world, world.controller() as controller:
            deployment = (await world.client.call(get(DEPLOYMENTS, "vanrouter", CONTROLLER)))["spec"]
            theirs = {"metadata": {"name": CONTROLLER, "labels": dict(CONTROLLER_LABELS)}, "spec": deployment}
            await world.client.call(apply(DEPLOYMENTS, one, theirs))
            await world.site(one)
            async with in_namespace(api_server.access(), one) as here, here.controller(name="own") as own, here.router(own) as router:
                router.say()
                status = await here.until(CONFIG_MAPS, "van-status.site.north", bool)
                assert site_document(status)["site"]["controller"]["name"] == "own"
                assert one not in controller.controllers
                assert await here.get(DEPLOYMENTS, "van-router") is None, "its install is not ours"
            await world.client.call(delete(DEPLOYMENTS, one, CONTROLLER))
            await world.namespace(one).until(DEPLOYMENTS, "van-router", bool)
            assert one in controller.controllers, "once that is gone, the namespace is served"
            await world.client.call(apply(DEPLOYMENTS, one, theirs))
            await until(lambda: one not in controller.controllers)


FOREIGN = {
    "metadata": {"name": "hello"},
    "spec": {"selector": {"app": "hello"}, "ports": [{"name": "web", "port": 80, "targetPort": 8080}]},
}
CONNECTOR = {"routingKey": "hello", "selector": "app=hello", "port": 8080, "expose": {"port": 80}}


async def test_a_site_that_goes_gives_back_what_it_took_and_a_namespace_that_goes_ends(api_server: ApiServer, account: Access) -> None:
    with namespaces(api_server.access(), 2) as (one, two):
        async with in_cluster(api_server.access(), account) as world, world.controller() as controller:
            for name in (one, two):
                await world.client.call(apply(SERVICES, name, FOREIGN))
                await world.site(name)
                await world.put(name, "Connector", "hello", CONNECTOR)
                await world.namespace(name).until(SERVICES, "hello", lambda v: SAVED in v["metadata"].get("annotations", {}))
            await world.client.call(delete(SITES, one, "north"))
            back = await world.namespace(one).until(SERVICES, "hello", lambda v: v["spec"]["selector"] == {"app": "hello"})
            assert SAVED not in back["metadata"].get("annotations", {})
            await world.client.call(delete(NAMESPACES, "", two))
            await until(lambda: not controller.controllers.keys() & {one, two})


async def test_a_service_that_somebody_writes_while_the_site_goes_is_given_back_all_the_same(
    api_server: ApiServer, account: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    with namespaces(api_server.access(), 1) as (name,):
        async with in_cluster(api_server.access(), account) as world, world.controller():
            await world.client.call(apply(SERVICES, name, FOREIGN))
            await world.site(name)
            await world.put(name, "Connector", "hello", CONNECTOR)
            here, original, met = world.namespace(name), KubeClient.call, []
            await here.until(SERVICES, "hello", lambda v: SAVED in v["metadata"].get("annotations", {}))

            async def call(self: KubeClient, call: Call, **how: Any) -> Any:
                if self.access is account and call.kind is SERVICES and call.method == "PATCH" and not met:
                    met.append(call)
                    await original(world.client, merge_patch(SERVICES, name, "hello", {"metadata": {"labels": {"by": "helm"}}}))
                return await original(self, call, **how)

            monkeypatch.setattr(KubeClient, "call", call)
            await world.client.call(delete(SITES, name, "north"))
            back = await here.until(SERVICES, "hello", lambda v: v["spec"]["selector"] == {"app": "hello"})
            assert met, "nobody was in between"
            assert back["metadata"]["labels"]["by"] == "helm"


async def test_what_was_taken_is_given_back_by_a_controller_that_never_saw_the_site(api_server: ApiServer, account: Access) -> None:
    with namespaces(api_server.access(), 3) as (gone, there, own):
        async with in_cluster(api_server.access(), account) as world:
            async with world.controller():
                for name in (gone, there, own):
                    await world.client.call(apply(SERVICES, name, FOREIGN))
                    await world.site(name)
                    await world.put(name, "Connector", "hello", CONNECTOR)
                    await world.namespace(name).until(SERVICES, "hello", lambda v: SAVED in v["metadata"].get("annotations", {}))
            for name in (gone, own):
                await world.client.call(delete(SITES, name, "north"))
            broken = {"metadata": {"name": "van.site.north", "labels": {"vanrouter.io/type": "resource"}}, "data": {"site.yaml": "{"}}
            await world.client.call(apply(CONFIG_MAPS, own, broken))  # a Site that `van init` made, and whose controller is away
            async with world.controller() as controller:
                back = await world.namespace(gone).until(SERVICES, "hello", lambda v: v["spec"]["selector"] == {"app": "hello"})
                assert back["spec"]["ports"][0]["targetPort"] == 8080
                assert not back["metadata"].get("annotations", {}).keys() & {SAVED, "vanrouter.io/controlled"}
                await until(lambda: there in controller.controllers)
                await world.client.call(delete(SITES, there, "north"))
                await world.namespace(there).until(SERVICES, "hello", lambda v: v["spec"]["selector"] == {"app": "hello"})
                kept = await world.namespace(own).get(SERVICES, "hello")
                assert kept is not None
                assert SAVED in kept["metadata"]["annotations"], "it is not ours to give back"
                assert gone not in controller.controllers


async def test_an_identity_that_was_copied_into_another_namespace_is_not_served_there(api_server: ApiServer, account: Access) -> None:
    with namespaces(api_server.access(), 2) as (one, two):
        async with in_cluster(api_server.access(), account) as world, world.controller() as controller:
            await world.site(one)
            await settled(world, controller, one)
            for name in ("van-identity", "van-ca"):
                secret = await world.client.call(get(SECRETS, one, name))
                copy = {"metadata": {"name": name, "labels": secret["metadata"]["labels"]}, "data": secret["data"]}
                await world.client.call(apply(SECRETS, two, copy))
            await world.site(two)
            await world.namespace(two).until(SITES, "north", lambda v: "the very identity" in said(v))
            async with world.router(one, controller.port) as router:
                assert await router.link.ask("ping") == {}


@pytest.mark.parametrize("kind", [SERVICE_ACCOUNTS, ROLES], ids=lambda kind: kind.kind)
async def test_what_somebody_else_has_under_our_name_is_left_alone_and_named(api_server: ApiServer, account: Access, kind: Kind) -> None:
    with namespaces(api_server.access(), 1) as (name,):
        async with in_cluster(api_server.access(), account) as world:
            rules: Object = {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]} if kind is ROLES else {}
            theirs = await world.client.call(create(kind, name, {"metadata": {"name": "van-router"}} | rules))
            async with world.controller():
                await world.site(name)
                here = world.namespace(name)
                await here.until(
                    CONFIG_MAPS, "van-status.site.north", lambda v: "is not ours; it is left alone" in (site_text(v or {}) or "")
                )
                found = await here.get(kind, "van-router")
                assert found is not None
                assert found["metadata"]["resourceVersion"] == theirs["metadata"]["resourceVersion"]
