"""Pods of one namespace as targets of the site of another one, with the word of both, on a real API server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from api_server import ApiServer
from cluster_world import World, in_cluster, installed, namespaces, ready, said
from controllers import in_namespace

from vanrouter.kube.access import Access
from vanrouter.kube.calls import Object, apply, create, delete, merge_patch
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.kinds import CONFIG_MAPS, PODS
from vanrouter.kube.records import site_text
from vanrouter.resources import read_resources

CONNECTORS, BINDINGS = CUSTOM_KINDS["AttachedConnector"], CUSTOM_KINDS["AttachedConnectorBinding"]
MADE = "van.made.attached.db"


@pytest.fixture(scope="module")
def account(api_server: ApiServer) -> Iterator[Access]:
    with installed(api_server) as access:
        yield access


async def pod(world: World, namespace: str, name: str, address: str, *, is_ready: bool = True) -> None:
    """As a kubelet would have it."""
    spec = {"containers": [{"name": "db", "image": "db"}], "automountServiceAccountToken": False}
    await world.client.call(create(PODS, namespace, {"metadata": {"name": name, "labels": {"app": "db"}}, "spec": spec}))
    conditions = [{"type": "Ready", "status": str(is_ready)}]
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": conditions}
    await world.client.call(merge_patch(PODS, namespace, name, {"status": status}, subresource="status"))


def made(value: Object | None) -> dict[str, tuple[str, str, int]]:
    """Name of the connector: its key, and where it leads."""
    if value is None:
        return {}
    found: list[Any] = read_resources(value["data"]["resource.yaml"], source="test")
    return {c.name: (c.spec.routing_key, c.spec.host, c.spec.port) for c in found}


def matched(value: Object | None) -> str:
    conditions = ((value or {}).get("status") or {}).get("conditions") or []
    return next((c["status"] for c in conditions if c["type"] == "Matched"), "")


async def test_pods_of_another_namespace_are_targets_only_while_both_say_so(api_server: ApiServer, account: Access) -> None:
    with namespaces(api_server.access(), 3) as (shop, north, other):
        async with in_cluster(api_server.access(), account) as world, world.controller() as controller:
            site, there = world.namespace(north), world.namespace(shop)
            await world.site(north)
            await pod(world, shop, "db-0", "10.1.0.1")
            connector = {"siteNamespace": north, "selector": "app=db", "port": 5432}
            await world.put(shop, "AttachedConnector", "db", connector)
            value = await there.until(CONNECTORS, "db", lambda v: f"waiting for the consent of namespace {north}" in said(v))
            assert f"connectorNamespace: {shop}" in said(value), "and what to do"
            binding = {"connectorNamespace": other, "routingKey": "db"}
            await world.put(north, "AttachedConnectorBinding", "db", binding)
            await site.until(BINDINGS, "db", lambda v: f"waiting for the consent of namespace {other}" in said(v))
            assert await site.get(CONFIG_MAPS, MADE) is None
            watches = controller.watches.count

            await world.put(north, "AttachedConnectorBinding", "db", {**binding, "connectorNamespace": shop})
            assert made(await site.until(CONFIG_MAPS, MADE, bool)) == {"db.db-0": ("db", "10.1.0.1", 5432)}
            for where, kind in ((there, CONNECTORS), (site, BINDINGS)):
                assert matched(await where.until(kind, "db", ready)) == "True"
            await pod(world, shop, "db-1", "10.1.0.2")
            await pod(world, shop, "db-2", "10.1.0.3", is_ready=False)
            assert (await site.until(CONFIG_MAPS, MADE, lambda v: len(made(v)) == 2)) is not None
            await there.until(CONNECTORS, "db", lambda v: "2 of 3 pods" in condition_message(v))
            await world.put(north, "AttachedConnectorBinding", "db", {**binding, "connectorNamespace": shop, "exposePodsByName": True})
            by_name = made(await site.until(CONFIG_MAPS, MADE, lambda v: len(made(v)) == 4))
            assert ("db.db-1", "10.1.0.2", 5432) in by_name.values()
            await world.client.call(delete(PODS, shop, "db-0", grace=0))
            await site.until(CONFIG_MAPS, MADE, lambda v: len(made(v)) == 2)

            await world.client.call(delete(CONNECTORS, shop, "db"))
            assert await site.until(CONFIG_MAPS, MADE, lambda v: v is None) is None, "the word is withdrawn"
            await site.until(BINDINGS, "db", lambda v: matched(v) == "False")
            assert controller.watches.count == watches, "no pods are watched for nobody"


def condition_message(value: Object | None) -> str:
    conditions = ((value or {}).get("status") or {}).get("conditions") or []
    return next((str(c["message"]) for c in conditions if c["type"] == "Ready"), "")


async def test_a_controller_of_one_namespace_says_that_it_takes_one_of_the_cluster(
    api_server: ApiServer, account: Access, namespace: str
) -> None:
    del account  # the definitions are there
    text = "apiVersion: vanrouter.io/v1alpha1\nkind: AttachedConnectorBinding\nmetadata: {name: db}\n"
    async with in_namespace(api_server.access(), namespace) as here:
        await here.site()
        await here.put(text + "spec: {connectorNamespace: shop, routingKey: db}\n")
        binding = {"metadata": {"name": "web"}, "spec": {"connectorNamespace": "shop", "routingKey": "web"}}
        await here.client.call(apply(BINDINGS, namespace, binding))
        async with here.controller():
            why = "takes a controller that serves the whole cluster"
            await here.until(CONFIG_MAPS, "van-status.site.north", lambda v: f"AttachedConnectorBinding/db {why}" in site_text(v or {}))
            value = await here.until(BINDINGS, "web", lambda v: why in said(v))
            assert value["status"]["status"] == "Error"
