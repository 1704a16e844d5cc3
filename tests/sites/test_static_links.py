"""
Links without a token: a Link and its Secret from files, in whatever order they come, on hosts and in a namespace with its controller.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml
from click.testing import CliRunner, Result
from gitops_world import SITE, Space, space
from site_world import World, condition, free_port, resource

from vanrouter.cli.main import van as van_group
from vanrouter.kube.records import resource_object
from vanrouter.model import SiteId
from vanrouter.pki import CertificateAuthority, PrivateKey, certificates_to_pem
from vanrouter.resources.kinds import Metadata, Secret

__all__ = ["space"]


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
