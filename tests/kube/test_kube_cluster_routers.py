"""Real routers of two namespaces, each a process: one control port for both, a token of the one redeemed by the other, a link."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import ApiServer
from cluster_world import SITES, in_cluster, installed, namespaces, ready

from vanrouter.kube.access import Access
from vanrouter.kube.calls import apply
from vanrouter.kube.kinds import CONFIG_MAPS, SECRETS, SERVICES
from vanrouter.kube.records import site_text


@pytest.fixture(scope="module")
def account(api_server: ApiServer) -> Iterator[Access]:
    with installed(api_server) as access:
        yield access


@contextlib.contextmanager
def router(server: ApiServer, namespace: str, directory: Path, *, port: int, control: int) -> Iterator[None]:
    """As its pod starts it."""
    command = [sys.executable, "-c", "from vanrouter.cli.main import vanrouter; vanrouter()", "-n", namespace]
    command += ["--kubeconfig", str(server.kubeconfig()), "run", "--kubernetes", str(directory / namespace), "--pod", "van-router-0"]
    command += ["--port", str(port), "--controller", f"127.0.0.1:{control}"]
    with (directory / f"{namespace}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait(10)


def links(value: Any) -> list[Any]:
    return [link for link in json.loads(site_text(value or {}) or "{}").get("links") or [] if link.get("active")]


async def test_routers_of_two_namespaces_find_their_sites_at_one_port_and_link(
    api_server: ApiServer, account: Access, tmp_path: Path
) -> None:
    with namespaces(api_server.access(), 2) as names:
        async with in_cluster(api_server.access(), account) as world, world.controller() as controller:
            with contextlib.ExitStack() as routers:
                for name in names:
                    here = world.namespace(name)
                    await world.site(name, linkAccess="nodeport", settings={"ingress-host": "127.0.0.1"})
                    service = await here.until(SERVICES, "van-router", bool)
                    port = service["spec"]["ports"][0]["nodePort"]
                    routers.enter_context(router(api_server, name, tmp_path, port=port, control=controller.port))
                for name in names:
                    await world.namespace(name).until(SITES, "north", ready, seconds=40.0)
                one, two = map(world.namespace, names)
                token = yaml.safe_load((await one.ask("token.issue", {"name": "guest"}))["result"]["yaml"])
                await world.client.call(apply(SECRETS, two.name, token))
                for here, direction in ((two, "outgoing"), (one, "incoming")):
                    value = await here.until(CONFIG_MAPS, "van-status.site.north", links, seconds=30.0)
                    assert [link["direction"] for link in links(value)] == [direction]
