"""A router follows custom resources with the Role that ships, keeps what it has when it cannot, and does not need them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from api_server import ApiServer
from controllers import Namespace, in_namespace
from custom_resources import install_definitions

from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Object, apply, create, delete
from vanrouter.kube.client import KubeClient
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.feeder import Feeder
from vanrouter.kube.kinds import ROLE_BINDINGS, ROLES
from vanrouter.kube.manifests import ROUTER_CUSTOM_RULES, ROUTER_RULES
from vanrouter.stores import SiteHome

LISTENERS = CUSTOM_KINDS["Listener"]
DB = {"routingKey": "db", "host": "db", "port": 5432}
LISTENER = "apiVersion: vanrouter.io/v1alpha1\nkind: Listener\nmetadata: {name: db}\nspec: {routingKey: db, host: db, port: 5433}\n"
CONNECTOR = "apiVersion: vanrouter.io/v1alpha1\nkind: Connector\nmetadata: {name: c}\nspec: {routingKey: c, host: c, port: 1}\n"


@pytest.fixture(autouse=True)
def defined(cluster: Any, undefined_afterwards: None) -> None:
    with BlockingClient(cluster) as client:
        install_definitions(client)


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    made = SiteHome(tmp_path / "site")
    made.create()
    return made


@contextlib.asynccontextmanager
async def feeding(server: ApiServer, here: Namespace, home: SiteHome, *rules: Object) -> AsyncIterator[Feeder]:
    """With these rights and no other."""
    user = f"router-{here.name}"
    await here.client.call(create(ROLES, here.name, {"metadata": {"name": "test"}, "rules": list(rules)}))
    subject = {"kind": "User", "name": user, "apiGroup": ROLES.group}
    reference = {"apiGroup": ROLES.group, "kind": ROLES.kind, "name": "test"}
    await here.client.call(create(ROLE_BINDINGS, here.name, {"metadata": {"name": "test"}, "roleRef": reference, "subjects": [subject]}))
    async with KubeClient(server.access(user, ())) as client, trio.open_nursery() as nursery:
        feeder = Feeder(client, here.name, home, rng=random.Random(1))
        nursery.start_soon(feeder.run)
        yield feeder
        nursery.cancel_scope.cancel()


async def put(here: Namespace, spec: Object) -> None:
    await here.client.call(apply(LISTENERS, here.name, {"metadata": {"name": "db"}, "spec": spec}))


def port(home: SiteHome) -> int:
    found: Any = home.resources.get("Listener", "db")
    return found.spec.port if found is not None else 0


async def until(check: Callable[[], Any], seconds: float = 10.0) -> None:
    with trio.fail_after(seconds):
        while not check():  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.05)


async def test_they_are_files_after_those_of_config_maps(api_server: ApiServer, cluster: Any, namespace: str, home: SiteHome) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        await put(here, DB)
        async with feeding(api_server, here, home, *ROUTER_RULES, *ROUTER_CUSTOM_RULES) as feeder:
            await until(lambda: port(home) == 5432)
            await here.put(LISTENER)
            await until(lambda: port(home) == 5433)
            assert "van.listener.db resource.yaml counts" in home.resources.load().problems[0].message
            await put(here, {**DB, "host": "1.2.3"})
            await until(lambda: any("1.2.3" in p.message for p in feeder.problems))
            await here.client.call(delete(LISTENERS, namespace, "db"))
            await until(lambda: len(list(home.resources.directory.iterdir())) == 2)
            assert feeder.troubles() == []


async def test_a_broken_one_keeps_its_last_good_form(api_server: ApiServer, cluster: Any, namespace: str, home: SiteHome) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        await put(here, DB)
        async with feeding(api_server, here, home, *ROUTER_RULES, *ROUTER_CUSTOM_RULES) as feeder:
            await until(lambda: port(home) == 5432)
            await put(here, {**DB, "port": 1, "host": "1.2.3"})
            await until(lambda: feeder.problems)
            assert port(home) == 5432


async def test_without_the_right_what_the_directory_has_stays_and_the_rest_works(
    api_server: ApiServer, cluster: Any, namespace: str, home: SiteHome
) -> None:
    (home.resources.directory / "~listeners.vanrouter.io db resource.yaml").write_text(LISTENER)
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        await put(here, DB)
        await here.put(CONNECTOR)
        async with feeding(api_server, here, home, *ROUTER_RULES) as feeder:
            await until(lambda: home.resources.get("Connector", "c"))
            await trio.sleep(0.5)
            assert feeder.customs.problems, "it says that they do not count"
            assert port(home) == 5433
