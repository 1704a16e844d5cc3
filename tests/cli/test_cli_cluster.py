"""``van`` in a namespace that the controller of the whole cluster serves: a process of its own on a real API server; no pod runs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from custom_resources import remove_definitions, until
from custom_resources import served as is_served
from free_ports import free_port
from test_cli_namespace import Here, ok
from van_calls import Van

from vanrouter.cli.central import announced
from vanrouter.kube.access import Token
from vanrouter.kube.announcement import ANNOUNCEMENT
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Kind, apply, create, delete, get
from vanrouter.kube.cluster_manifests import cluster_manifests
from vanrouter.kube.crds import CUSTOM_KINDS, cluster_roles, definitions
from vanrouter.kube.errors import Forbidden
from vanrouter.kube.kinds import CLUSTER_ROLES, DEPLOYMENTS
from vanrouter.kube.plan import Plan, plan
from vanrouter.resources import Site, read_resources

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
def applied(here: Here, van: Van) -> Iterator[None]:
    """What an administrator applies for a controller of the cluster, which does not run."""
    for value in yaml.safe_load_all(ok(van("manifest controller")).output):
        here.client.call(apply(kind_of(value), value["metadata"].get("namespace", ""), value))
    for kind in CUSTOM_KINDS.values():
        until(lambda kind=kind: is_served(here.client, kind))
    yield
    here.client.call(delete(CLUSTER_ROLES, "", ANNOUNCEMENT))


@pytest.fixture
def served(here: Here, applied: None, tmp_path: Path) -> Iterator[Path]:
    """And its controller runs, with the rights of its service account: the path of its log."""
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


def test_init_beside_a_controller_of_the_cluster_makes_a_site_and_leaves_the_rest_to_it(here: Here, served: Path, tmp_path: Path) -> None:
    (printed,) = yaml.safe_load_all(ok(here.van("init --site-name north --link-access local -o yaml")).output)
    assert (printed["kind"], printed["metadata"]["name"]) == ("Site", "north")
    assert not any("north" in name for name in here.listing()), "nothing was applied"
    said = ok(here.van("init --site-name north --link-access local --controllers 2 --no-wait"))
    assert "change nothing: controllers" in said.output
    until(lambda: "Deployment/van-router" in here.listing())
    assert not {"Deployment/van-controller", "ConfigMap/van.site.north"} & set(here.listing())
    ok(here.van("delete --timeout 60s"))

    file = tmp_path / "site.yaml"
    spec = {"linkAccess": "local", "settings": {"routers": "2"}}
    file.write_text(yaml.safe_dump({"apiVersion": "vanrouter.io/v1alpha1", "kind": "Site", "metadata": {"name": "west"}, "spec": spec}))
    ok(here.van("apply --no-wait -f", str(file)))
    until(lambda: "Deployment/van-router" in here.listing() and replicas(here) == 2)
    assert not {"Deployment/van-controller", "ConfigMap/van.site.west"} & set(here.listing())
    ok(here.van("delete --timeout 60s"))


def test_init_beside_a_controller_of_the_cluster_that_does_not_act_says_so_and_what_to_do(here: Here, applied: None) -> None:
    said = here.van("init --site-name north --link-access local --timeout 3s")
    assert said.exit_code == 4
    assert "the controller of the cluster has not taken it up within 3s\n" in said.output
    assert "init --own-controller" in said.output
    ok(here.van("init --own-controller --no-wait"))
    assert {"Deployment/van-controller", "Deployment/van-router"} <= set(here.listing())
    printed = yaml.safe_load_all(ok(here.van("init -o yaml")).output)
    assert "van-controller" in {v["metadata"]["name"] for v in printed}, "from then on it has its own"
    ok(here.van("delete --timeout 60s"))


def test_whoever_owns_a_namespace_and_nothing_else_sees_that_there_is_a_controller_of_the_cluster(here: Here, applied: None) -> None:
    accounts, tokens = Kind("", "v1", "serviceaccounts", "ServiceAccount"), "serviceaccounts/owner/token"
    here.client.call(apply(accounts, here.name, {"metadata": {"name": "owner"}}))
    asked = {"apiVersion": "authentication.k8s.io/v1", "spec": {"expirationSeconds": 3600}}
    token = here.client.call(create(Kind("", "v1", tokens, "TokenRequest"), here.name, asked))["status"]["token"]
    access = dataclasses.replace(here.server.access(), certificate=None, credentials=Token(token))
    with BlockingClient(access) as client:
        assert announced(client) == "van-controller.vanrouter.svc:55672"
        with pytest.raises(Forbidden):
            client.call(get(CLUSTER_ROLES, "", "vanrouter-controller"))
        here.client.call(delete(CLUSTER_ROLES, "", ANNOUNCEMENT))
        assert announced(client) == ""
    for value in cluster_manifests(plan_of_nobody(), "net"):
        if value["metadata"]["name"] == ANNOUNCEMENT and value["kind"] == "ClusterRole":
            here.client.call(apply(kind_of(value), "", value))
    assert announced(here.client) == "van-controller.net.svc:55672"


def test_a_site_that_nobody_serves_says_what_to_do(here: Here) -> None:
    for value in (*definitions(), *cluster_roles()):
        here.client.call(apply(kind_of(value), "", value))
    until(lambda: not isinstance(attempt(here), Exception))
    said = here.van("status")
    assert said.exit_code == 3
    assert "no controller that serves the whole cluster has taken it up" in said.output
    assert "van manifest controller" in said.output


def plan_of_nobody() -> Plan:
    (site,) = read_resources("apiVersion: vanrouter.io/v1alpha1\nkind: Site\nmetadata: {name: any}\n")
    assert isinstance(site, Site)
    return plan(site, image="registry.example/vanrouter:1")


def attempt(here: Here) -> Any:
    try:
        put_site(here)
    except Exception as error:
        return error
    return None
