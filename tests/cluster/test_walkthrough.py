"""
The walk-through of docs/kubernetes.md: two owners of a namespace each, who have no other right, one service; afterwards nothing is left.

The commands are those of the page; a test below says so.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nginx
import pods
import pytest
from clusters import Cluster, Namespace, until

PAGE = Path(__file__).parents[2] / "docs" / "kubernetes.md"
KINDS = "configmaps,secrets,serviceaccounts,roles,rolebindings,services,deployments,replicasets,poddisruptionbudgets,endpointslices,pods"
SHOWN: tuple[str, ...] = (
    "init --site-name north",
    "init --site-name south",
    "token create secret.yaml",
    "link create secret.yaml",
    "link status",
    "status",
)
SHOWN += ("expose deployment/hello --port 80", "unexpose deployment/hello", "delete")


class Owner:
    """Of one namespace, at a terminal."""

    def __init__(self, space: Namespace, image: str, directory: Path) -> None:
        self.space, self.directory = space, directory
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("VAN_")} | {
            "KUBECONFIG": str(space.kubeconfig),
            "VAN_IMAGE": image,
        }

    def try_van(self, line: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vanrouter.cli", *shlex.split(line)]
        return subprocess.run(command, env=self.env, cwd=self.directory, capture_output=True, text=True, timeout=120, check=False)

    def van(self, line: str) -> str:
        done = self.try_van(line)
        assert done.returncode == 0, f"van {line}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def listing(self) -> dict[str, Any]:
        """Every object but those of Kubernetes itself, with what a Service leads to."""
        found = {}
        for value in self.space.get(KINDS)["items"]:
            metadata, kind = value["metadata"], value["kind"]
            spec = value.get("spec") or {}
            more = {"selector": spec.get("selector"), "ports": spec.get("ports")} if kind == "Service" else {}
            found[f"{kind}/{metadata['name']}"] = {"uid": metadata["uid"], "annotations": metadata.get("annotations"), **more}
        return found


def deployment(name: str, labels: dict[str, str], pod: dict[str, Any]) -> dict[str, Any]:
    template = {"metadata": {"labels": labels}, "spec": pod["spec"]}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def hello(image: str) -> dict[str, Any]:
    """At port 80, as nobody in particular."""
    ready = {"httpGet": {"port": 80, "path": "/"}, "periodSeconds": 1}
    program = ["python3", "-c", pods.HELLO.replace("8080", "80")]
    pod = pods.pod("hello", pods.container("hello", image, program, readinessProbe=ready, ports=[{"containerPort": 80}]))
    pod["spec"]["securityContext"]["sysctls"] = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]
    return deployment("hello", {"app": "hello", "tier": "backend", "track": "stable"}, pod)


@pytest.fixture(scope="session")
def nginx_image(clusters: tuple[Cluster, Cluster], tmp_path_factory: pytest.TempPathFactory) -> str:
    """In the first cluster, where frontend is."""
    return clusters[0].load(nginx.archive(tmp_path_factory.mktemp("nginx")))


def ask_frontend(north: Owner) -> str:
    """From elsewhere in its cluster."""
    for pod in north.space.get("pods", "-l", "app=frontend")["items"]:
        if not pod["metadata"].get("deletionTimestamp"):
            url = f"http://{pod['status']['podIP']}:{nginx.PORT}/"
            return north.space.cluster.exec(sys.executable, "-c", pods.GET, url, timeout=15).stdout
    raise LookupError("no pod of frontend")


@pytest.fixture
def owners(clusters: tuple[Cluster, Cluster], namespace: Callable[..., Namespace], image: str, tmp_path: Path) -> tuple[Owner, Owner]:
    one, two = clusters
    return Owner(namespace(one, "north"), image, tmp_path), Owner(namespace(two, "south"), image, tmp_path)


def link(north: Owner, south: Owner) -> None:
    # Where both are namespaces of one cluster, no cloud is needed.
    local = " --link-access local" if north.space.cluster.name == south.space.cluster.name else ""
    assert "Site north is ready." in north.van(f"init --site-name north{local}")
    assert "Site south is ready." in south.van(f"init --site-name south{local}")
    until("north has an address", lambda: json.loads(north.van("status -o json"))["site"]["endpoints"])
    north.van("token create secret.yaml")
    assert "to site north is active." in south.van("link create secret.yaml")


def controlled(owner: Owner) -> dict[str, Any]:
    service: dict[str, Any] = owner.space.get("service", "hello")
    assert service["metadata"]["annotations"]["vanrouter.io/controlled"] == "true"
    assert service["spec"]["selector"] == {"app.kubernetes.io/component": "router", "app.kubernetes.io/part-of": "vanrouter"}
    return service


def test_the_walk_through(owners: tuple[Owner, Owner], image: str, nginx_image: str) -> None:
    north, south = owners
    north.space.apply(*nginx.frontend(nginx_image))
    south.space.apply(hello(image))
    south.space.wait("deployment/hello", "Available")
    crash = 'host not found in upstream "hello"'
    until("frontend crashes", lambda: crash in north.space.kubectl("logs", "deployment/frontend", check=False).stdout)
    for owner in owners:
        status = owner.try_van("status")
        assert (status.returncode, f"not installed in namespace {owner.space.name}" in status.stderr) == (1, True)
        assert "van init --site-name NAME" in status.stderr
    mine = {"Deployment/frontend", "Deployment/hello"}
    before = [{k: v for k, v in owner.listing().items() if not k.startswith(("Pod/", "ReplicaSet/"))} for owner in owners]

    link(north, south)
    for owner, direction in ((south, "outgoing"), (north, "incoming")):
        (found,) = json.loads(owner.van("link status -o json"))
        assert (found["active"], found["direction"]) == (True, direction)
        assert "is ready, in interior mode. It is linked to 1 other site." in owner.van("status")

    assert south.van("expose deployment/hello --port 80") == "Service hello is exposed on port 80.\n"
    target = {"name": "hello", "selector": "app=hello,tier=backend,track=stable", "targetPorts": {"80": 80}}
    for owner, targets in ((north, []), (south, [target])):
        controlled(owner)
        view = until("the view has it", lambda owner=owner: owner.space.get("configmap", "van-services")["data"]["hello"])  # type: ignore[misc]
        assert json.loads(view) == {"address": "hello", "protocol": "tcp", "ports": [80], "targets": targets}
    assert "It has 1 exposed service." in south.van("status")

    north.space.kubectl("rollout", "restart", "deployment/frontend")
    north.space.kubectl("rollout", "status", "deployment/frontend", "--timeout=60s", timeout=70)
    assert until("frontend answers", lambda: ask_frontend(north)) == '{"message":"Hello"}'

    south.van("unexpose deployment/hello")
    south.van(f"link delete {json.loads(south.van('link status -o json'))[0]['name']}")
    for owner, listing in zip(owners, before, strict=True):
        owner.van("delete")
        after = {k: v for k, v in owner.listing().items() if not k.startswith(("Pod/", "ReplicaSet/"))}
        for name in mine & set(after):  # the cluster's own notes on them
            after[name] = listing[name]
        assert after == listing
        assert all(name.split("/")[1].startswith(("hello", "frontend")) for name in owner.listing() if name.startswith("Pod/"))


@pytest.mark.parametrize("way", ["unexpose", "delete", "delete without a controller"])
def test_a_service_that_was_there_is_taken_over_and_given_back(owners: tuple[Owner, Owner], image: str, way: str) -> None:
    north, south = owners
    south.space.apply(hello(image), pods.service("hello", 80, 80))
    south.space.wait("deployment/hello", "Available")
    before = south.space.get("service", "hello")
    link(north, south)
    south.van("expose deployment/hello --port 80")
    assert controlled(south)["metadata"]["uid"] == before["metadata"]["uid"]
    if way == "unexpose":
        south.van("unexpose deployment/hello")
    elif way == "delete":
        south.van("delete")
    else:
        south.space.kubectl("scale", "deployment/van-controller", "--replicas=0")
        south.van("delete")

    def given_back() -> bool:
        after = south.space.get("service", "hello")
        assert after["spec"] == before["spec"]
        return "vanrouter.io/saved" not in (after["metadata"].get("annotations") or {})

    until("the Service is as it was", given_back, seconds=20)


def test_the_page_has_the_commands_of_the_test() -> None:
    page = PAGE.read_text()
    lines = [*(f"van {line}\n" for line in SHOWN), "kubectl rollout restart deployment/frontend\n"]
    assert [line for line in lines if line not in page] == []
