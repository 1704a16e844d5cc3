"""The controller on a real API server: keys, Services, status, tokens; nothing written twice, nothing of others touched."""

from __future__ import annotations

import json
from typing import Any

import trio
from controllers import in_namespace
from fake_router import automatic, router_leaf, service

from vanrouter.kube.calls import apply, delete, merge_patch
from vanrouter.kube.kinds import CONFIG_MAPS, SECRETS, SERVICES
from vanrouter.kube.names import ROUTER_LABELS
from vanrouter.kube.state import files_in
from vanrouter.pki import CertificateAuthority, load_certificates
from vanrouter.pki.authority import names_of

CONNECTOR = """\
apiVersion: vanrouter.io/v1alpha1
kind: Connector
metadata: {name: hello, annotations: {vanrouter.io/target: deployment/hello}}
spec: {routingKey: hello, selector: "app=hello,tier=backend,track=stable", port: 80, expose: {port: 80}}
"""
LISTENER = """\
apiVersion: vanrouter.io/v1alpha1
kind: Listener
metadata: {name: db}
spec: {routingKey: db, host: db, port: 5432}
"""


def leads_to_routers(value: Any, port: int) -> bool:
    return bool(value) and value["spec"]["selector"] == ROUTER_LABELS and [p["port"] for p in value["spec"]["ports"]] == [port]


async def test_it_makes_the_keys_that_routers_show_and_serves_those_who_have_them(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        async with here.controller() as controller, here.router(controller) as router:
            keys = files_in(await here.until(SECRETS, "van-router-keys", bool))
            ca = files_in(await here.until(SECRETS, "van-ca", bool))
            authority = CertificateAuthority.load(ca["ca.crt"], ca["ca.key"])
            leaf = load_certificates(keys["own__server.crt"], "own")[0]
            assert authority.issued(leaf)
            assert names_of(leaf) == [f"{controller.keys.site_id}.van", f"van-router.{namespace}.svc"], (
                "others check the name that they dial"
            )
            assert b"ca.key" not in b"".join(name.encode() for name in keys)
            assert await router.link.ask("ping") == {}
            assert router.link.problem == ""


async def test_a_second_start_makes_nothing_anew_and_a_quiet_site_writes_nothing(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        await here.put(CONNECTOR)
        await here.put(LISTENER)
        async with here.controller() as first, here.router(first) as router:
            router.say(services=[service("hello", 80)], listeners=[automatic("hello", 80)])
            await here.until(CONFIG_MAPS, "van-services", bool)
            await here.until(SERVICES, "db", bool)
            before = await router_leaf(here.client, namespace)
            await trio.sleep(2.0)
            written = first.copies.writes
            first.wake()
            await trio.sleep(1.0)
            assert first.copies.writes == written, "nothing changed"
        async with here.controller() as second, here.router(second) as router:
            router.say(services=[service("hello", 80)], listeners=[automatic("hello", 80)])
            await trio.sleep(2.0)
            assert second.copies.writes == 0, "all is as it left it"
            assert await router_leaf(here.client, namespace) == before


async def test_an_exposed_service_is_seen_as_in_the_walk_through(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        await here.put(CONNECTOR)
        async with here.controller() as controller, here.router(controller) as router:
            router.say(services=[service("hello", 80), service("far", 90)], listeners=[automatic("hello", 80), automatic("far", 90)])
            made = await here.until(SERVICES, "hello", lambda v: leads_to_routers(v, 80))
            assert made["metadata"]["annotations"]["vanrouter.io/controlled"] == "true"
            ports = json.loads((await here.until(CONFIG_MAPS, "van-router", bool))["data"]["router.json"])["ports"]
            assert made["spec"]["ports"][0]["targetPort"] == ports["hello:80"]
            assert await here.until(SERVICES, "far", lambda v: leads_to_routers(v, 90))
            view = await here.until(CONFIG_MAPS, "van-services", bool)
            assert view["data"] == {
                "hello": '{"address":"hello","protocol":"tcp","ports":[80],"targets":[{"name":"hello",'
                '"selector":"app=hello,tier=backend,track=stable","targetPorts":{"80":80}}]}',
                "far": '{"address":"far","protocol":"tcp","ports":[90],"targets":[]}',
            }
            edit = {"data": {"hello": "edited", "more": "added"}}
            await here.client.call(merge_patch(CONFIG_MAPS, namespace, "van-services", edit))
            await here.until(CONFIG_MAPS, "van-services", lambda v: v["data"] == view["data"])


async def test_what_is_withdrawn_goes_after_ten_seconds_and_not_before(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        async with here.controller() as controller, here.router(controller) as router:
            router.say(listeners=[automatic("far", 90)])
            await here.until(SERVICES, "far", bool)
            router.say()
            await trio.sleep(8.0)
            assert await here.get(SERVICES, "far")
            assert "far:90" in (await here.until(CONFIG_MAPS, "van-router", bool))["data"]["router.json"], "and its port still listens"
            await here.until(SERVICES, "far", lambda v: v is None, seconds=6.0)
            await here.until(CONFIG_MAPS, "van-router", lambda v: "far" not in v["data"]["router.json"])


async def test_a_router_that_starts_or_is_away_withdraws_nothing(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        async with here.controller() as controller:
            async with here.router(controller) as router:
                router.say(listeners=[automatic("far", 90)])
                before = await here.until(SERVICES, "far", bool)
            async with here.router(controller, pod="van-router-1") as router:
                router.say(ready=False)
                await trio.sleep(12.0)
                after = await here.get(SERVICES, "far")
                assert after
                assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


FOREIGN = {
    "metadata": {"name": "hello"},
    "spec": {"selector": {"app": "hello"}, "ports": [{"name": "web", "port": 80, "targetPort": 8080}]},
}


async def test_a_service_that_was_there_is_taken_over_and_given_back_as_it_was(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        before = await here.client.call(apply(SERVICES, namespace, FOREIGN))
        async with here.controller():
            await here.put(CONNECTOR)
            taken = await here.until(SERVICES, "hello", lambda v: leads_to_routers(v, 80))
            saved = json.loads(taken["metadata"]["annotations"]["vanrouter.io/saved"])
            assert (saved["selector"], saved["ports"]) == (before["spec"]["selector"], before["spec"]["ports"])
            await here.client.call(delete(CONFIG_MAPS, namespace, "van.connector.hello"))
            after = await here.until(SERVICES, "hello", lambda v: v["spec"]["selector"] == {"app": "hello"}, seconds=3.0)
            assert after["spec"] == before["spec"]
            assert not after["metadata"].get("annotations")
            assert after["metadata"]["uid"] == before["metadata"]["uid"]


async def test_a_service_that_nobody_named_is_left_alone_and_status_says_so(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        before = await here.client.call(apply(SERVICES, namespace, FOREIGN))
        async with here.controller() as controller, here.router(controller) as router:
            router.say(listeners=[automatic("hello", 80)])
            said = await here.until(
                CONFIG_MAPS,
                "van-status.site.north",
                lambda v: v and "Service/hello" in v["data"]["site.json"],
            )
            assert "left alone" in said["data"]["site.json"]
            assert (await here.get(SERVICES, "hello"))["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]  # type: ignore[index]


async def test_what_another_changed_after_the_take_over_is_not_fought_and_not_undone(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        await here.client.call(apply(SERVICES, namespace, FOREIGN))
        async with here.controller():
            await here.put(CONNECTOR)
            await here.until(SERVICES, "hello", lambda v: leads_to_routers(v, 80))
            theirs = {"spec": {"selector": {"app": "other", **dict.fromkeys(ROUTER_LABELS)}}}
            changed = await here.client.call(merge_patch(SERVICES, namespace, "hello", theirs))
            await here.until(
                CONFIG_MAPS, "van-status.site.north", lambda v: "ChangedByOther" in str(v) or "stays as it is" in v["data"]["site.json"]
            )
            await trio.sleep(1.0)
            assert (await here.get(SERVICES, "hello"))["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]  # type: ignore[index]
            await here.client.call(delete(CONFIG_MAPS, namespace, "van.connector.hello"))
            after = await here.until(
                SERVICES, "hello", lambda v: "vanrouter.io/saved" not in (v["metadata"].get("annotations") or {}), seconds=20.0
            )
            assert after["spec"]["selector"] == {"app": "other"}


async def test_when_the_site_is_deleted_a_taken_service_is_given_back_and_the_controller_ends(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        await here.client.call(apply(SERVICES, namespace, FOREIGN))
        async with here.controller():
            await here.put(CONNECTOR)
            await here.until(SERVICES, "hello", lambda v: leads_to_routers(v, 80))
            await here.client.call(delete(CONFIG_MAPS, namespace, "van.site.north"))
            await here.until(SERVICES, "hello", lambda v: v["spec"]["selector"] == {"app": "hello"})


async def test_status_says_of_which_spec_it_speaks(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        await here.put(LISTENER)
        async with here.controller() as controller, here.router(controller) as router:
            spec = {"routingKey": "db", "host": "db", "port": 5432}
            ready = [{"type": "Ready", "status": "True", "reason": "Ok", "message": "", "since": "x", "next": ""}]
            router.say(listeners=[{"name": "db", "spec": spec, "conditions": ready, "host": "db", "port": 5432, "automatic": False}])
            said = await here.until(CONFIG_MAPS, "van-status.listener.db", lambda v: v and "Ready" in v["data"]["status.json"])
            (record,) = json.loads(said["data"]["status.json"])
            assert len(record["spec_hash"]) == 64
            assert record["status"]["conditions"] == ready
            site_said = await here.until(CONFIG_MAPS, "van-status.site.north", lambda v: v and "van-router-0" in v["data"]["site.json"])
            site = json.loads(site_said["data"]["site.json"])
            assert [r["pod"] for r in site["site"]["routers"]] == ["van-router-0"]
            assert site["site"]["endpoints"] == [{"host": f"van-router.{namespace}.svc", "port": 55671}]


async def test_a_missing_load_balancer_is_named_with_what_is_waited_for(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site(spec="{linkAccess: loadbalancer}")
        async with here.controller() as controller:
            said = await here.until(
                CONFIG_MAPS, "van-status.site.north", lambda v: v and "waiting for an address" in v["data"]["site.json"]
            )
            (condition,) = json.loads(said["data"]["site.json"])["site"]["conditions"]
            assert (condition["type"], condition["status"], condition["reason"]) == ("LinkAccess", "False", "Pending")
            assert f"Service/van-router in {namespace}" in condition["message"]
            assert (await here.ask("token.issue", {}))["error"]["code"] == "not_ready"
            await here.until(SERVICES, "van-router", bool)  # a server that has just started may refuse a Service for a moment
            address = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}}
            await here.client.call(merge_patch(SERVICES, namespace, "van-router", address, subresource="status"))
            keys = await here.until(
                SECRETS, "van-router-keys", lambda v: "203.0.113.7" in names_of(load_certificates(files_in(v)["own__server.crt"], "own")[0])
            )
            assert keys
            assert "result" in await here.ask("token.issue", {"name": "t"})
            assert controller.copies.problems == []


async def test_the_cli_asks_a_router_through_the_controller(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        async with here.controller() as controller:
            assert (await here.ask("network", {}, name="van-request.0"))["error"]["code"] == "not_ready"
            async with here.router(controller) as router:
                await router.link.ask("ping")
                assert await here.ask("network", {}) == {"result": {"sites": ["here"]}}
                assert router.asked == [("network", {})]
                assert (await here.ask("stop", {}, name="van-request.2"))["error"]["code"] == "config"
