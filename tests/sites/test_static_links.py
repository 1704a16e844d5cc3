"""
Links without a token: a Link and its Secret from files, in whatever order they come, on hosts and in a namespace with its controller.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml
from click.testing import CliRunner, Result
from site_world import FAST, World, condition, free_port, resource

from vanrouter.cli.main import van as van_group
from vanrouter.controller.run import Controller
from vanrouter.kube.access import Access
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import apply
from vanrouter.kube.client import KubeClient
from vanrouter.kube.kinds import CONFIG_MAPS, SECRETS
from vanrouter.kube.records import resource_object
from vanrouter.model import SiteId
from vanrouter.pki import CertificateAuthority, PrivateKey, certificates_to_pem
from vanrouter.resources.kinds import Metadata, Secret
from vanrouter.sites.run_in_pod import run_in_pod
from vanrouter.stores import SiteHome


@pytest.fixture
def van(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``van -p linux`` for the sites of this test, from another thread than theirs."""
    monkeypatch.setenv("VAN_HOME", str(tmp_path))

    async def call(line: str, *, input: str | None = None) -> Result:
        args = ["-p", "linux", *line.split()]
        result = await trio.to_thread.run_sync(lambda: CliRunner().invoke(van_group, args, prog_name="van", input=input))
        assert result.exit_code == 0, result.output
        return result

    return call


def link_in(status: Any, name: str) -> Any:
    return next((link for link in status["links"] if link["name"] == name), None)


SERVICE = """
apiVersion: skupper.io/v2alpha1
kind: {kind}
metadata: {{name: backend}}
spec: {{routingKey: backend, host: 127.0.0.1, port: {port}}}
"""


async def test_files_of_the_incumbents_kind_make_a_link_and_a_service_in_any_order(world: World, van: Any, backend: int) -> None:
    port = free_port()
    north, south = world.home("north", linkAccess=f"127.0.0.1:{port}"), world.home("south")
    await world.start(north)
    await world.start(south)
    link, secret = yaml.safe_load_all((await van("-n north link generate to-north --cost 7")).stdout)
    assert link["spec"]["siteId"] == (await world.status(north))["site"]["id"]
    assert (secret["type"], secret["metadata"]["annotations"].keys()) == ("kubernetes.io/tls", {"vanrouter.io/expires"})

    await van("-n south apply -f -", input=yaml.safe_dump(link))
    waiting = condition(link_in(await world.status(south), "to-north"), "Configured")
    assert (waiting["status"], "neither in the state nor a Secret" in waiting["message"]) == ("False", True)
    await van("-n south apply -f -", input=yaml.safe_dump(secret))
    await world.until_linked(north, south)
    found = link_in(await world.status(south), "to-north")
    assert (found["remoteSiteName"], found["cost"]) == ("north", 7)
    await van("-n south apply -f -", input=SERVICE.format(kind="Connector", port=backend))
    await van("-n north apply -f -", input=SERVICE.format(kind="Listener", port=(clients := free_port())))

    async def answers() -> bool:
        try:
            return b"Hello" in await world.get(clients)
        except OSError:
            return False

    await world.until("the service answers at the other site", answers)
    again = await van("-n south apply -f -", input=yaml.safe_dump_all([link, secret]))
    assert again.stdout == "secret/to-north unchanged\nlink/to-north unchanged\n"


async def test_only_the_link_is_printed_for_a_secret_that_is_there_already(world: World, van: Any) -> None:
    await world.start(world.home("north", linkAccess=f"127.0.0.1:{free_port()}"))
    (link,) = yaml.safe_load_all((await van("-n north link generate --tls-credentials corporate")).stdout)
    assert (link["kind"], link["spec"]["tlsCredentials"]) == ("Link", "corporate")


# ---- In a namespace: a real controller, a real router, a real API server --------------------------------------------------------------


class Space:
    """A namespace to which a GitOps tool applies objects."""

    def __init__(self, access: Access, name: str, root: Path, nursery: trio.Nursery, plane: str) -> None:
        self.access = Access(**{**vars(access), "namespace": name})
        self.name, self.nursery, self.plane = name, nursery, plane
        self.home = SiteHome(root / "pod")
        self.client = BlockingClient(self.access)

    async def apply(self, value: dict[str, Any]) -> None:
        kind = SECRETS if value["kind"] == "Secret" else CONFIG_MAPS
        await trio.to_thread.run_sync(lambda: self.client.call(apply(kind, self.name, value)))

    async def run_controller(self, *, task_status: trio.TaskStatus[Controller] = trio.TASK_STATUS_IGNORED) -> None:
        async with KubeClient(self.access) as client, trio.open_nursery() as nursery:
            controller = Controller(client, self.client, self.name, port=0, name="c-0")

            class Served:
                def started(self, _value: None = None) -> None:
                    task_status.started(controller)

            await controller.run(task_status=Served())
            nursery.cancel_scope.cancel()

    async def run_router(self, controller: Controller, *, task_status: trio.TaskStatus[Any]) -> None:
        run = functools.partial(run_in_pod, self.home.directory, self.access, pod="van-router-0", controller=("127.0.0.1", controller.port))
        await run(link_port=free_port(), any_host="127.0.0.1", plane=self.plane, timing=FAST, task_status=task_status)


@pytest.fixture
def space(cluster: Any, namespace: str, tmp_path: Path, nursery: trio.Nursery, plane: str) -> Iterator[Space]:
    made = Space(cluster, namespace, tmp_path, nursery, plane)
    with made.client:
        yield made


SITE = """
apiVersion: v1
kind: ConfigMap
metadata: {name: van.site.south, labels: {vanrouter.io/type: resource}}
data:
  resource.yaml: |
    apiVersion: skupper.io/v2alpha1
    kind: Site
    metadata: {name: south}
    spec: {linkAccess: none}
"""


async def test_gitops_brings_a_link_before_its_site_and_before_its_secret(world: World, van: Any, space: Space) -> None:
    """Whatever comes first waits for the rest, and status says for what."""
    north = world.home("north", linkAccess=f"127.0.0.1:{free_port()}")
    await world.start(north)
    link, secret = yaml.safe_load_all((await van("-n north link generate to-north --objects")).stdout)
    await space.apply(link)
    await space.apply(yaml.safe_load(SITE))
    controller = await world.nursery.start(space.run_controller)
    await world.nursery.start(space.run_router, controller)

    async def waits() -> Any:
        found = link_in(await world.status(space.home), "to-north")
        return found and condition(found, "Configured")["reason"] == "Pending" and condition(found, "Configured")

    waiting = await world.until("the link waits", waits)
    assert "it waits for its credential to-north" in waiting["message"]
    assert "kubectl label secret to-north vanrouter.io/type=resource" in waiting["next"]
    await space.apply(secret)
    await world.until_linked(north, space.home)
    assert link_in(await world.status(space.home), "to-north")["remoteSiteName"] == "north"


async def test_a_link_in_a_namespace_shows_a_certificate_of_the_users_own(world: World, space: Space) -> None:
    port = free_port()
    north = world.home("north")
    await world.start(north)
    authority = CertificateAuthority.create("corporate", (await world.status(north))["site"]["id"], now=time.time())

    def tls(name: str, hosts: list[str]) -> Secret:
        key = PrivateKey.generate()
        named = SiteId(f"{name}-of-the-user")  # not ours to say what names a user's CA gives
        now = time.time()
        leaf = (
            authority.issue_server(key.public_der, named, hosts, now=now)
            if hosts
            else authority.issue_client(key.public_der, named, now=now)
        )
        data = {"tls.crt": certificates_to_pem([leaf]), "tls.key": key.pem().reveal(), "ca.crt": authority.certificate_pem()}
        return Secret(metadata=Metadata(name=name), type="kubernetes.io/tls", data=data)

    north.resources.put(tls("server", ["127.0.0.1"]))
    roles = [{"name": "inter-router", "port": port}]
    north.resources.put(
        resource("RouterAccess", "own", roles=roles, bindHost="127.0.0.1", tlsCredentials="server", admit=["client-of-the-user.van"])
    )
    await world.call(north, "reconcile")
    link = resource("Link", "north", endpoints=[{"host": "127.0.0.1", "port": port}], tlsCredentials="client", verifyHost=True)
    for value in (
        yaml.safe_load(SITE),
        {"kind": "ConfigMap", **resource_object(link)},
        {"kind": "Secret", **resource_object(tls("client", []))},
    ):
        await space.apply(value)
    controller = await world.nursery.start(space.run_controller)
    await world.nursery.start(space.run_router, controller)
    await world.until_linked(north, space.home)
