"""``van`` in a namespace that the controller of the whole cluster serves: a process of its own on a real API server; no pod runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from custom_resources import remove_definitions, until
from free_ports import free_port
from test_cli_namespace import Here, ok
from van_calls import Van

from vanrouter.kube.calls import Kind, apply, create
from vanrouter.kube.crds import CUSTOM_KINDS, cluster_roles, definitions
from vanrouter.kube.kinds import DEPLOYMENTS

SITES = CUSTOM_KINDS["Site"]


@pytest.fixture
def here(van: Van, api_server: Any, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    found = Here(van, api_server, namespace, monkeypatch)
    with found.client:
        yield found
        remove_definitions(found.client)


def kind_of(value: dict[str, Any]) -> Kind:
    group, _, version = value["apiVersion"].rpartition("/")
    return Kind(group, version, f"{value['kind'].lower()}s", value["kind"])


@pytest.fixture
def served(here: Here, van: Van, tmp_path: Path) -> Iterator[Path]:
    """What an administrator applies is applied, and its controller runs, with the rights of its service account: the path of its log."""
    for value in yaml.safe_load_all(ok(van("manifest controller")).output):
        here.client.call(apply(kind_of(value), value["metadata"].get("namespace", ""), value))
    tokens = Kind("", "v1", "serviceaccounts/van-controller/token", "TokenRequest")
    asked = {"apiVersion": "authentication.k8s.io/v1", "spec": {"expirationSeconds": 3600}}
    token = here.client.call(create(tokens, "vanrouter", asked))["status"]["token"]
    config = yaml.safe_load(here.server.kubeconfig().read_text())
    config["users"][0]["user"] = {"token": token}
    kubeconfig = here.server.directory / "cluster-controller.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-c", "from vanrouter.cli.main import vanrouter; vanrouter()", "-n", "vanrouter"]
    command += ["--kubeconfig", str(kubeconfig), "controller", "--cluster", "--port", str(free_port())]
    path = tmp_path / "controller.log"
    with path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    yield path
    process.terminate()
    assert process.wait(10) == 0
    assert "a bug in" not in path.read_text()


def put_site(here: Here, **spec: Any) -> None:
    here.client.call(apply(SITES, here.name, {"metadata": {"name": "north"}, "spec": {"linkAccess": "local", **spec}}))


def replicas(here: Here) -> int:
    return int(here.get(DEPLOYMENTS, "van-router")["spec"]["replicas"])


def test_the_commands_of_a_namespace_change_its_site_and_the_controller_of_the_cluster_does_the_rest(here: Here, served: Path) -> None:
    put_site(here)
    until(lambda: "Deployment/van-router" in here.listing())
    status = here.van("status")
    assert status.exit_code == 3
    assert "van-controller: it is not there" not in status.output
    assert ok(here.van("update --routers 2 --no-wait")).output
    until(lambda: replicas(here) == 2)
    assert "PodDisruptionBudget/van-router" in here.listing()
    assert "Deployment/van-controller" not in here.listing(), "nothing but the Site was applied"
    (printed,) = yaml.safe_load_all(ok(here.van("init -o yaml")).output)
    assert (printed["kind"], printed["spec"]["settings"]) == ("Site", {"routers": "2"})
    secret = str(here.server.directory / "token.yaml")
    ok(here.van("token create", secret))
    assert yaml.safe_load(Path(secret).read_text())["kind"] == "Secret"
    checks = {c["check"]: c for c in json.loads(here.van("doctor -o json --timeout 20s").output)["checks"]}
    assert (checks["objects"]["verdict"], checks["rights"]["verdict"]) == ("ok", "ok")
    assert "van-controller.vanrouter.svc:55672" in checks["objects"]["message"]
    ok(here.van("delete --timeout 60s"))
    left = {name for name in here.listing() if "van-" in name or "van." in name}
    assert not left


def test_a_site_that_nobody_serves_says_what_to_do(here: Here) -> None:
    for value in (*definitions(), *cluster_roles()):
        here.client.call(apply(kind_of(value), "", value))
    until(lambda: not isinstance(attempt(here), Exception))
    said = here.van("status")
    assert said.exit_code == 3
    assert "no controller that serves the whole cluster has taken it up" in said.output
    assert "van manifest controller" in said.output


def attempt(here: Here) -> Any:
    try:
        put_site(here)
    except Exception as error:
        return error
    return None
