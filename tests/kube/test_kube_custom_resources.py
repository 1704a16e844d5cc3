"""Custom resources beside ConfigMaps, on a real API server: both count, status is written, and definitions may be absent."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from api_relay import api_relay
from api_server import ApiServer
from controllers import Namespace, in_namespace
from custom_resources import DEFINITIONS, install_definitions, remove_definitions

from vanrouter.controller import writing
from vanrouter.controller.run import Controller
from vanrouter.kube import following
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Object, apply, delete
from vanrouter.kube.client import KubeClient
from vanrouter.kube.crds import CUSTOM_KINDS, definition
from vanrouter.kube.kinds import CONFIG_MAPS, ROLE_BINDINGS, ROLES, SERVICES
from vanrouter.kube.manifests import CONTROLLER_CUSTOM_RULES, CONTROLLER_RULES
from vanrouter.kube.records import site_text

LISTENERS = CUSTOM_KINDS["Listener"]
SITES = CUSTOM_KINDS["Site"]
DB = {"routingKey": "db", "host": "db", "port": 5432}
LISTENER = "apiVersion: vanrouter.io/v1alpha1\nkind: Listener\nmetadata: {name: db}\nspec: {routingKey: db, host: db, port: 5433}\n"


@pytest.fixture
def defined(cluster: Any, undefined_afterwards: None) -> None:
    with BlockingClient(cluster) as client:
        install_definitions(client)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that a test can wait for."""
    monkeypatch.setattr(following.Discovery, "_again", lambda self, _seconds, now: setattr(self, "at", now + 0.3))


async def put(here: Namespace, name: str, spec: Object, kind: str = "Listener") -> Object:
    return await here.client.call(apply(CUSTOM_KINDS[kind], here.name, {"metadata": {"name": name}, "spec": spec}))


def element(name: str, spec: Object, *, matched: bool = True, status: str = "True") -> Object:
    """As a router says it."""
    message = "" if status == "True" else "no target"
    about = {"reason": "Ok" if status == "True" else "NotMatched", "message": message, "since": "2026-01-02T03:04:05Z", "next": ""}
    conditions = [{"type": kind, "status": status, **about} for kind in ("Ready", "Configured")]
    return {"name": name, "spec": spec, "conditions": conditions, "matched": matched, "host": spec["host"], "port": spec["port"]}


def ready(value: Object | None) -> Any:
    return value and (value.get("status") or {}).get("status") == "Ready"


def condition(value: Object, type_: str = "Ready") -> Object:
    return next(c for c in value["status"]["conditions"] if c["type"] == type_)


@pytest.mark.usefixtures("defined")
async def test_a_custom_resource_gets_its_service_and_its_status_and_a_quiet_one_is_written_once(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        made = await put(here, "db", DB)
        async with here.controller() as controller, here.router(controller) as router:
            await here.until(SERVICES, "db", bool)
            router.say(listeners=[element("db", DB)])
            value = await here.until(LISTENERS, "db", ready)
            status = value["status"]
            assert (status["message"], status["hasMatchingConnector"]) == ("OK", True)
            assert status["observedGeneration"] == made["metadata"]["generation"] == 1
            assert condition(value)["lastTransitionTime"] == "2026-01-02T03:04:05Z"
            changed = {**DB, "port": 5433}
            await put(here, "db", changed)
            await here.until(SERVICES, "db", lambda s: s and s["spec"]["ports"][0]["port"] == 5433)
            await trio.sleep(0.7)
            old = (await here.until(LISTENERS, "db", bool))["status"]
            assert old["observedGeneration"] == 1, "no router has said anything of the new one yet"
            router.say(listeners=[element("db", changed)])
            await here.until(LISTENERS, "db", lambda v: v["status"]["observedGeneration"] == 2)
            await trio.sleep(1.5)
            written = controller.copies.writes
            controller.wake()
            await trio.sleep(1.0)
            assert controller.copies.writes == written
            await here.client.call(delete(LISTENERS, namespace, "db"))
            await here.until(SERVICES, "db", lambda s: s is None)


@pytest.mark.usefixtures("defined")
async def test_what_the_schema_lets_through_is_refused_in_status_and_the_last_good_form_stays_also_for_the_next_controller(
    cluster: Any, namespace: str
) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        await put(here, "db", DB)
        async with here.controller() as controller, here.router(controller) as router:
            router.say(listeners=[element("db", DB)])
            await here.until(LISTENERS, "db", ready)
        await put(here, "db", {**DB, "host": "1.2.3"})
        async with here.controller() as controller, here.router(controller) as router:
            router.say(listeners=[element("db", DB)])
            value = await here.until(LISTENERS, "db", lambda v: v["status"]["status"] == "Error")
            assert "spec.host: '1.2.3' is neither an IP address" in value["status"]["message"]
            assert "last good form stays" in value["status"]["message"]
            assert value["status"]["observedGeneration"] == 1
            assert (condition(value)["status"], condition(value)["reason"]) == ("False", "Refused")
            assert await here.get(SERVICES, "db") is not None
            site = await here.until(CONFIG_MAPS, "van-status.site.north", lambda m: m and "1.2.3" in site_text(m))
            assert "listeners.vanrouter.io/db" in site_text(site)


@pytest.mark.usefixtures("defined")
async def test_of_two_with_one_name_the_config_map_counts_and_the_other_says_so(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        await put(here, "db", DB)
        await here.put(LISTENER)
        async with here.controller() as controller, here.router(controller) as router:
            router.say(listeners=[element("db", {**DB, "port": 5433})])
            value = await here.until(LISTENERS, "db", lambda v: (v.get("status") or {}).get("status") == "Error")
            assert "ConfigMap/van.listener.db: resource.yaml counts" in value["status"]["message"]
            service = await here.until(SERVICES, "db", bool)
            assert [p["port"] for p in service["spec"]["ports"]] == [5433]


@pytest.mark.usefixtures("defined")
async def test_a_site_may_be_a_custom_resource_and_owns_what_belongs_to_it(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        site = await put(here, "north", {"linkAccess": "local"}, "Site")
        async with here.controller() as controller, here.router(controller) as router:
            said = {"type": "Ready", "status": "True", "reason": "Ok", "message": "", "since": "2026-01-02T03:04:05Z", "next": ""}
            router.say(site={"name": "north", "id": router.site, "ready": True, "conditions": [said], "linkedSites": 2})
            value = await here.until(SITES, "north", ready)
            assert value["status"]["linkedSites"] == 2
            assert value["status"]["siteId"] == controller.keys.site_id
            document = await here.until(CONFIG_MAPS, "van-status.site.north", lambda m: m and site_text(m))
            for owned in (document, await here.until(CONFIG_MAPS, "van-router", bool)):
                (owner,) = owned["metadata"]["ownerReferences"]
                assert (owner["apiVersion"], owner["kind"], owner["uid"]) == ("vanrouter.io/v1alpha1", "Site", site["metadata"]["uid"])
            await put(here, "other", {}, "Site")
            refused = await here.until(SITES, "other", lambda v: v and v.get("status"))
            assert not ready(refused), "a namespace is one site"
            assert "this namespace is site north" in condition(refused)["message"]


@contextlib.asynccontextmanager
async def as_user(server: ApiServer, here: Namespace, *rules: Object, port: int = 0) -> AsyncIterator[Controller]:
    """A controller with these rights and no other."""
    user = f"controller-{here.name}"
    await here.client.call(apply(ROLES, here.name, {"metadata": {"name": "test"}, "rules": list(rules)}))
    subject = {"kind": "User", "name": user, "apiGroup": ROLES.group}
    reference = {"apiGroup": ROLES.group, "kind": ROLES.kind, "name": "test"}
    await here.client.call(apply(ROLE_BINDINGS, here.name, {"metadata": {"name": "test"}, "roleRef": reference, "subjects": [subject]}))
    access = server.access(user, (), port=port)
    with BlockingClient(access) as blocking:
        async with KubeClient(access) as client, trio.open_nursery() as nursery:
            controller = Controller(client, blocking, here.name, port=0, name="c-0")
            await nursery.start(controller.run)
            yield controller
            nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("defined")
async def test_the_roles_that_ship_are_enough(api_server: ApiServer, cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        await put(here, "db", DB)
        async with as_user(api_server, here, *CONTROLLER_RULES, *CONTROLLER_CUSTOM_RULES) as controller, here.router(controller) as router:
            router.say(listeners=[element("db", DB)])
            await here.until(LISTENERS, "db", ready)
            assert controller.copies.customs.problems == []


@pytest.mark.usefixtures("defined")
async def test_a_controller_without_the_rights_works_as_without_definitions_and_says_so(
    api_server: ApiServer, cluster: Any, namespace: str
) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        await here.put(LISTENER)
        await put(here, "other", {**DB, "host": "other"})
        async with as_user(api_server, here, *CONTROLLER_RULES) as controller, here.router(controller) as router:
            router.say()
            await here.until(SERVICES, "db", bool)
            site = await here.until(CONFIG_MAPS, "van-status.site.north", lambda m: m and "do not count" in site_text(m))
            assert "you may not list" in site_text(site)
            assert await here.get(SERVICES, "other") is None


@pytest.mark.usefixtures("defined", "often")
async def test_a_right_that_is_taken_away_is_said_and_takes_no_service_with_it(
    api_server: ApiServer, cluster: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a controller that starts without it."""
    monkeypatch.setattr(writing, "LINGER", 0.3)
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        await put(here, "db", DB)
        rules = [*CONTROLLER_RULES, *CONTROLLER_CUSTOM_RULES]
        async with (
            api_relay(api_server.port) as relay,
            as_user(api_server, here, *rules, port=relay.port) as controller,
            here.router(controller) as router,
        ):
            router.say(listeners=[element("db", DB)])
            before = await here.until(SERVICES, "db", bool)
            await here.client.call(apply(ROLES, namespace, {"metadata": {"name": "test"}, "rules": CONTROLLER_RULES}))
            relay.cut()  # as the server ends each watch some time
            await here.until(CONFIG_MAPS, "van-status.site.north", lambda m: "do not count" in site_text(m), seconds=30.0)
            assert controller.copies.customs.objects, "what there was stays known"
        async with as_user(api_server, here, *CONTROLLER_RULES) as controller, here.router(controller) as router:
            router.say(listeners=[element("db", DB)])
            await here.until(CONFIG_MAPS, "van-status.site.north", lambda m: '"listeners":[{' in site_text(m))
            await trio.sleep(1.0)
            assert controller.copies.current(SERVICES)
            assert await here.get(SERVICES, "db") == before


@pytest.mark.usefixtures("often")
async def test_definitions_may_come_go_and_be_of_another_version(cluster: Any, namespace: str) -> None:
    def blocking(do: Callable[[BlockingClient], None]) -> None:
        with BlockingClient(cluster) as client:
            do(client)

    await trio.to_thread.run_sync(blocking, remove_definitions)
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        async with here.controller() as controller, here.router(controller) as router:
            router.say()
            await here.until(CONFIG_MAPS, "van-status.site.north", lambda m: m and site_text(m))
            customs = controller.copies.customs
            assert (customs.synced, customs.objects, customs.problems) == (True, {}, [])
            other = definition("Policy")
            other["spec"]["versions"][0]["name"] = "v9"
            await here.client.call(apply(DEFINITIONS, "", other))
            await here.until(CONFIG_MAPS, "van-status.site.north", lambda m: "version v9, and not v1alpha1" in site_text(m))
            await here.client.call(delete(DEFINITIONS, "", "policies.vanrouter.io"))
            await trio.to_thread.run_sync(blocking, install_definitions)
            await put(here, "db", DB)
            await here.until(SERVICES, "db", bool)
            await here.until(CONFIG_MAPS, "van-status.site.north", lambda m: "v9" not in site_text(m))
            await trio.to_thread.run_sync(blocking, remove_definitions)
            await here.until(SERVICES, "db", lambda s: s is None, seconds=30.0)
