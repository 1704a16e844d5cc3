"""
A router and custom resources of its namespace: they are served as those in ConfigMaps, and what keeps them from counting is in its status.

    Listener (custom resource), Connector (ConfigMap) ──▶ API server ──▶ feeder ──▶ router
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from custom_resources import DEFINITIONS, install_definitions, remove_definitions
from namespace_world import Namespace
from pod_world import Routers, element
from site_world import backend, condition, free_port, http_get

from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import apply
from vanrouter.kube.crds import CUSTOM_KINDS, definition

__all__ = ["backend"]


@pytest.fixture
async def space(space: Namespace, cluster: Any) -> AsyncIterator[Namespace]:
    """Afterwards the server knows no definitions."""
    with BlockingClient(cluster) as client:
        yield space
        await trio.to_thread.run_sync(remove_definitions, client)


async def test_a_listener_that_is_a_custom_resource_is_served(space: Namespace, routers: Routers, backend: int, cluster: Any) -> None:
    port = space.ports["hello:8080"] = free_port()
    space.establish()
    space.put_ports()
    space.put("Site", "north")
    space.put("Connector", "hello", routingKey="hello", host="127.0.0.1", port=backend)
    space.put("AttachedConnectorBinding", "shop", connectorNamespace="shop", routingKey="shop")
    spec = {"routingKey": "hello", "host": "hello", "port": 8080}
    with BlockingClient(cluster) as client:
        install_definitions(client)
        client.call(apply(CUSTOM_KINDS["Listener"], space.name, {"metadata": {"name": "hello"}, "spec": spec}))
    home = await routers.start(space)
    status = await routers.status(home)
    assert element(status, "listeners", "hello"), "a first start is over only when it knows them"
    assert not status["problems"], "a binding is the controller's business"
    await routers.until(home, "it listens", lambda s: condition(element(s, "listeners", "hello"), "Listening")["status"] == "True")
    assert await trio.to_thread.run_sync(http_get, port) == b'{"message":"Hello"}'


async def test_definitions_of_another_version_are_named(space: Namespace, routers: Routers, cluster: Any) -> None:
    space.establish()
    space.put_ports()
    space.put("Site", "north")
    other = definition("Policy")
    other["spec"]["versions"][0]["name"] = "v9"
    with BlockingClient(cluster) as client:
        remove_definitions(client)
        client.call(apply(DEFINITIONS, "", other))
        await trio.sleep(1.0)
    home = await routers.start(space)
    await routers.until(home, "it is named", lambda s: any("version v9" in p["message"] for p in s["problems"]))
    await routers.until(home, "and all else works", lambda s: s["site"]["ready"])
