"""Annotations on a real API server: what the controller makes of them and takes back, and that it goes on where it may not see them."""

from __future__ import annotations

import json
from typing import Any

import trio
from controllers import Namespace, in_namespace
from fake_router import service

from vanrouter.kube.calls import apply, create, delete, merge_patch
from vanrouter.kube.kinds import CONFIG_MAPS, DEPLOYMENTS, ROLE_BINDINGS, ROLES, SERVICES, STATEFUL_SETS
from vanrouter.kube.manifests import CONTROLLER_RULES
from vanrouter.kube.names import ROUTER_LABELS

MADE = "van.made.deployment.hello"
CONNECTOR = """\
apiVersion: vanrouter.io/v1alpha1
kind: Connector
metadata: {name: mine}
spec: {routingKey: hello, host: 10.0.0.1, port: 80, expose: {port: 80}}
"""


def spec(name: str, **more: Any) -> dict[str, Any]:
    labels = {"app": name}
    container = {"name": "c", "image": "x", "ports": [{"containerPort": 8080, "name": "web"}]}
    return {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}, **more}


async def deploy(here: Namespace, name: str = "hello", **annotations: str) -> None:
    marks = {f"vanrouter.io/{key}": value for key, value in annotations.items()}
    await here.client.call(apply(DEPLOYMENTS, here.name, {"metadata": {"name": name, "annotations": marks}, "spec": spec(name)}))


async def problems(here: Namespace, text: str) -> list[dict[str, str]]:
    said = await here.until(CONFIG_MAPS, "van-status.site.north", lambda v: v and text in v["data"]["site.json"])
    found: list[dict[str, str]] = json.loads(said["data"]["site.json"])["problems"]
    return [p for p in found if text in p["message"]]


async def test_an_annotation_exposes_and_its_removal_withdraws(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        mine = {"metadata": {"name": "hello"}, "spec": {"selector": {"app": "hello"}, "ports": [{"port": 80, "targetPort": 8080}]}}
        before = await here.client.call(apply(SERVICES, namespace, mine))
        await deploy(here, proxy="http", port="80:web")
        async with here.controller() as controller, here.router(controller) as router:
            router.say()
            made = await here.until(CONFIG_MAPS, MADE, bool)
            assert made["metadata"]["labels"]["vanrouter.io/made-from"] == "annotation"
            assert "protocol: http" in made["data"]["resource.yaml"]
            await here.until(SERVICES, "hello", lambda v: v["spec"]["selector"] == ROUTER_LABELS)
            router.say(services=[service("hello", 80)])
            await trio.sleep(1.0)
            written = controller.copies.writes
            controller.wake()
            await trio.sleep(0.5)
            assert controller.copies.writes == written, "nothing changed"
            await here.client.call(
                merge_patch(DEPLOYMENTS, namespace, "hello", {"metadata": {"annotations": {"vanrouter.io/proxy": None}}})
            )
            await here.until(CONFIG_MAPS, MADE, lambda v: v is None)
            after = await here.until(SERVICES, "hello", lambda v: v["spec"]["selector"] == {"app": "hello"})
            assert after["spec"] == before["spec"], "given back"
            (said,) = await problems(here, "says nothing without")
            assert said["path"] == "Deployment/hello: vanrouter.io/port"


async def test_an_explicit_connector_counts_and_a_deleted_workload_is_withdrawn(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        await deploy(here, proxy="tcp", port="80:web")
        async with here.controller() as controller, here.router(controller) as router:
            router.say()
            await here.until(CONFIG_MAPS, MADE, bool)
            await here.put(CONNECTOR)
            await here.until(CONFIG_MAPS, MADE, lambda v: v is None)
            (said,) = await problems(here, "Connector/mine exposes hello:80 already")
            assert said["path"] == "Deployment/hello: vanrouter.io/proxy"
            await here.client.call(delete(CONFIG_MAPS, namespace, "van.connector.mine"))
            await here.until(CONFIG_MAPS, MADE, bool)
            await here.client.call(delete(DEPLOYMENTS, namespace, "hello"))
            await here.until(CONFIG_MAPS, MADE, lambda v: v is None)


async def test_pods_of_a_stateful_set_have_a_service_each_and_a_controller_that_starts_takes_none_away(
    cluster: Any, namespace: str
) -> None:
    connector = """\
apiVersion: vanrouter.io/v1alpha1
kind: Connector
metadata: {name: db}
spec: {routingKey: db, selector: app=db, port: 5432, expose: {port: 5432, address: db-any}, exposePodsByName: true}
"""
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        metadata = {"metadata": {"name": "db"}}
        await here.client.call(create(STATEFUL_SETS, namespace, {**metadata, "spec": spec("db", replicas=2, serviceName="db")}))
        theirs = await here.client.call(create(SERVICES, namespace, {"metadata": {"name": "db-1"}, "spec": {"ports": [{"port": 1}]}}))
        await here.put(connector)
        async with here.controller() as controller, here.router(controller) as router:
            router.say()
            assert await here.until(SERVICES, "db-0", lambda v: v and [p["port"] for p in v["spec"]["ports"]] == [5432])
            kept = await here.until(CONFIG_MAPS, "van.made.connector.db", bool)
            assert await problems(here, "there is a Service db-1")
            assert (await here.get(SERVICES, "db-1"))["spec"] == theirs["spec"], "nobody named it"  # type: ignore[index]
        async with here.controller() as controller, here.router(controller) as router:
            router.say()
            await trio.sleep(1.5)
            after = await here.get(CONFIG_MAPS, "van.made.connector.db")
            assert after["metadata"]["resourceVersion"] == kept["metadata"]["resourceVersion"]  # type: ignore[index]
            await here.client.call(merge_patch(STATEFUL_SETS, namespace, "db", {"spec": {"replicas": 3}}))
            assert await here.until(SERVICES, "db-2", bool)


async def test_with_the_role_of_an_older_install_all_else_goes_on_and_status_says_what_is_not_seen(
    api_server: Any, cluster: Any, namespace: str
) -> None:
    rules = [rule for rule in CONTROLLER_RULES if rule["apiGroups"] == [""]]
    rules.append({"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list", "watch"]})
    async with in_namespace(cluster, namespace) as admin:
        await admin.client.call(create(ROLES, namespace, {"metadata": {"name": "old"}, "rules": rules}))
        reference = {"apiGroup": ROLES.group, "kind": ROLES.kind, "name": "old"}
        subject = {"kind": "User", "name": "old-controller", "apiGroup": ROLES.group}
        await admin.client.call(
            create(ROLE_BINDINGS, namespace, {"metadata": {"name": "old"}, "roleRef": reference, "subjects": [subject]})
        )
        await admin.site()
        await deploy(admin, proxy="tcp")
        await admin.put(CONNECTOR)
        async with (
            in_namespace(api_server.access("old-controller", ()), namespace) as here,
            here.controller() as controller,
            admin.router(controller) as router,
        ):
            router.say()
            await admin.until(SERVICES, "hello", bool)
            said = await problems(admin, "annotations on StatefulSets are not seen")
            assert "van update" in said[0]["hint"]
            assert await admin.until(CONFIG_MAPS, MADE, bool), "what may be seen counts"
