"""
The router of a namespace as a pod, started by `van init`: two namespaces, linked by a token, and an application in each.

    client (north) ─▶ Service hello ─▶ router north ◀──link── router south ─▶ pods of Deployment hello, by a selector
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pods
import pytest
from clusters import Cluster, Namespace, until

VAN = Path(sys.executable).parent / "van"
LABELS = {"app.kubernetes.io/part-of": "vanrouter", "vanrouter.io/type": "resource"}

LOAD = """\
import http.client, json, sys, time
end, good, bad = time.monotonic() + float(sys.argv[1]), 0, []
while time.monotonic() < end:
    try:
        connection = http.client.HTTPConnection("hello", 80, timeout=5)
        connection.request("GET", "/")
        assert connection.getresponse().read()
        good += 1
    except Exception as error:
        bad.append(repr(error))
    connection.close()
    time.sleep(0.02)
print(json.dumps({"good": good, "bad": bad[:5]}))
"""


def van(space: Namespace, *words: str) -> str:
    """As a person would, with the rights of the namespace's owner."""
    environment = os.environ | {"VAN_PLATFORM": "kubernetes", "KUBECONFIG": str(space.kubeconfig)}
    done = subprocess.run([VAN, *words], capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, f"van {' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def resource(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    value = {"apiVersion": "vanrouter.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    metadata = {"name": f"van.{kind.lower()}.{name}", "labels": LABELS}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"resource.yaml": json.dumps(value)}}


def deployment(image: str, replicas: int) -> dict[str, Any]:
    template = pods.hello(image)
    template["metadata"].pop("name")
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "hello"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": template["metadata"]["labels"]},
            "template": {"metadata": template["metadata"], "spec": template["spec"]},
        },
    }


@pytest.fixture
def linked(cluster: Cluster, namespace: Callable[..., Namespace], image: str, tmp_path: Path) -> tuple[Namespace, Namespace]:
    """north, to which south dials; a client in north, and in south two pods of hello, offered by a connector with a selector."""
    north, south = namespace(cluster, "north"), namespace(cluster, "south")
    for space, name, access in ((north, "north", "local"), (south, "south", "none")):
        van(space, "init", "--site-name", name, "--link-access", access, "--image", image, "--pull-policy", "Never")
    north.apply(pods.client(image))
    south.apply(
        deployment(image, 2), resource("Connector", "hello", routingKey="hello", selector="app=hello", port=8080, expose={"port": 80})
    )
    token = tmp_path / "token.yaml"
    van(north, "token", "create", str(token))
    van(south, "link", "create", str(token))
    north.wait("pod/client")
    south.wait("deployment/hello", "Available")
    until("hello answers in north", lambda: "Hello" in north.exec("client", *pods.get("http://hello/")))
    return north, south


def test_nothing_is_lost_when_the_router_of_a_namespace_is_replaced(linked: tuple[Namespace, Namespace]) -> None:
    """One replica, maxSurge 1: the new one is ready when it can serve, the old one serves through its grace."""
    north, _ = linked
    said: list[str] = []
    load = threading.Thread(target=lambda: said.append(north.exec("client", "python3", "-c", LOAD, "50", timeout=90)))
    load.start()
    north.kubectl("rollout", "restart", "deployment/van-router")
    north.kubectl("rollout", "status", "deployment/van-router", "--timeout=60s", timeout=70)
    load.join()
    result = json.loads(said[0])
    assert result["bad"] == []
    assert result["good"] > 500


def test_targets_follow_a_deployment_that_is_scaled(linked: tuple[Namespace, Namespace]) -> None:
    north, south = linked
    said: list[str] = []
    load = threading.Thread(target=lambda: said.append(north.exec("client", "python3", "-c", LOAD, "15", timeout=60)))
    load.start()
    south.kubectl("scale", "deployment/hello", "--replicas=3")
    south.wait("deployment/hello", "jsonpath={.status.readyReplicas}=3")
    load.join()
    assert json.loads(said[0])["bad"] == []
    south.kubectl("scale", "deployment/hello", "--replicas=0")
    until("the connector has no target", lambda: "is scaled to 0" in van(south, "connector", "status", "hello", "-o", "json"))
    assert "hello" in north.get("services")["items"][0]["metadata"]["name"]
    south.kubectl("scale", "deployment/hello", "--replicas=1")
    until("hello answers again", lambda: "Hello" in north.exec("client", *pods.get("http://hello/")))


def test_streams_go_on_while_the_controller_and_its_pod_are_away(linked: tuple[Namespace, Namespace]) -> None:
    north, south = linked
    for space in linked:
        space.kubectl("scale", "deployment/van-controller", "--replicas=0")
        space.kubectl("wait", "pod", "-l", "app.kubernetes.io/component=controller", "--for=delete", "--timeout=30s")
    south.kubectl("scale", "deployment/hello", "--replicas=3")
    south.wait("deployment/hello", "jsonpath={.status.readyReplicas}=3")
    result = json.loads(north.exec("client", "python3", "-c", LOAD, "5", timeout=60))
    assert result["bad"] == []
    router = south.get("pods", "-l", "app.kubernetes.io/component=router")["items"][0]["metadata"]["name"]
    south.kubectl("delete", "pod", router, "--grace-period=1")
    south.kubectl("rollout", "status", "deployment/van-router", "--timeout=60s", timeout=70)
    until("hello answers over the new router", lambda: "Hello" in north.exec("client", *pods.get("http://hello/")))
