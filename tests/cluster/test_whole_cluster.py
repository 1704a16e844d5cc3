"""
One controller for a whole cluster, on real clusters: an administrator applies what `van manifest controller` prints, and a team that has
`admin` in its namespace writes a Site. Linked with another cluster, whose namespace has a controller of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pods
import pytest
from clusters import Cluster, Namespace, until
from test_walkthrough import Owner, hello

SITE = {"apiVersion": "vanrouter.io/v1alpha1", "kind": "Site", "metadata": {"name": "north"}, "spec": {"linkAccess": "default"}}


@pytest.fixture
def whole(clusters: tuple[Cluster, Cluster], image: str) -> Iterator[Cluster]:
    """The first cluster, with a controller for all of it; afterwards as it was."""
    cluster, _ = clusters
    command = [sys.executable, "-m", "vanrouter.cli", "manifest", "controller", "--image", image, "--pull-policy", "Never"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("VAN_")}
    printed = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True).stdout
    apply = ("apply", "--server-side", "-f", "-")
    until("all of it is taken", lambda: cluster.kubectl(*apply, given=printed))  # definitions are served a moment later
    try:
        cluster.kubectl("-n", "vanrouter", "wait", "deployment/van-controller", "--for=condition=Available", "--timeout=60s", timeout=70)
        yield cluster
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            cluster.kubectl("delete", "--wait=false", "-f", "-", given=printed, check=False)
            cluster.kubectl("wait", "--for=delete", "namespace/vanrouter", "--timeout=60s", timeout=70, check=False)


def log_of(cluster: Cluster) -> str:
    return cluster.kubectl("-n", "vanrouter", "logs", "deployment/van-controller", "--tail=60", check=False).stdout


def attached(shop: Namespace, north: Namespace) -> list[dict[str, Any]]:
    version = {"apiVersion": "vanrouter.io/v1alpha1"}
    spec = {"siteNamespace": north.name, "selector": "app=hello", "port": 80}
    binding = {"connectorNamespace": shop.name, "routingKey": "shop"}
    return [
        {**version, "kind": "AttachedConnector", "metadata": {"name": "shop", "namespace": shop.name}, "spec": spec},
        {**version, "kind": "AttachedConnectorBinding", "metadata": {"name": "shop", "namespace": north.name}, "spec": binding},
    ]


def get(cluster: Cluster, service: dict[str, Any]) -> str:
    """As an application of that cluster."""
    url = f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}/"
    return cluster.exec(sys.executable, "-c", pods.GET, url, timeout=15).stdout


def test_a_team_writes_a_site_and_is_linked_with_another_cluster(
    whole: Cluster, clusters: tuple[Cluster, Cluster], namespace: Callable[..., Namespace], image: str, tmp_path: Path
) -> None:
    _, two = clusters
    north, south = Owner(namespace(whole, "north"), image, tmp_path), Owner(namespace(two, "south"), image, tmp_path)
    shop = namespace(whole, "shop")
    site = {**SITE, "spec": {**SITE["spec"], "settings": {"image-pull-policy": "Never"}}}
    until("the roles reach the team", lambda: north.space.apply(site) is None)
    try:
        north.space.kubectl("wait", "site/north", "--for=condition=Ready", "--timeout=60s", timeout=70)
    except AssertionError:
        pytest.fail(f"{north.try_van('status').stdout}\n{log_of(whole)}")
    status = json.loads(north.van("status -o json"))
    assert status["site"]["controller"]["name"].startswith("vanrouter/van-controller-")
    assert [d["metadata"]["name"] for d in north.space.get("deployments")["items"]] == ["van-router"]

    south.space.apply(hello(image))
    south.van("init --site-name south --pull-policy Never")
    until("north has an address", lambda: json.loads(north.van("status -o json"))["site"]["endpoints"])
    north.van("token create secret.yaml")
    assert "to site north is active." in south.van("link create secret.yaml")
    south.space.wait("deployment/hello", "Available")
    south.van("expose deployment/hello --port 80")
    service = until("the Service is in north", lambda: north.space.get("service", "hello"))
    assert until("it answers", lambda: get(whole, service)) == '{"message":"Hello"}'

    shop.apply(hello(image))
    shop.wait("deployment/hello", "Available")
    for side, value in zip((shop, north.space), attached(shop, north.space), strict=True):
        side.apply(value)
    north.space.kubectl("wait", "attachedconnectorbinding/shop", "--for=condition=Matched", "--timeout=30s", timeout=40)
    south.van("listener create shop 8080 --host shop")
    service = until("the Service is in south", lambda: south.space.get("service", "shop"))
    assert until("pods of a namespace without a site answer", lambda: get(two, service)) == '{"message":"Hello"}'

    north.van("update --routers 2")
    north.space.kubectl("wait", "deployment/van-router", "--for=jsonpath={.status.readyReplicas}=2", "--timeout=60s", timeout=70)
    whole.kubectl("-n", "vanrouter", "delete", "pod", "--all", "--grace-period=1")
    assert get(whole, north.space.get("service", "hello")) == '{"message":"Hello"}', "without a controller"
    north.space.kubectl("delete", "site", "north")
    ours = ("-l", "app.kubernetes.io/part-of=vanrouter")
    kinds = "deployments,services,configmaps,secrets,roles,rolebindings,serviceaccounts,poddisruptionbudgets"
    until("nothing of it is left", lambda: not north.space.get(kinds, *ours)["items"] or None, seconds=60)
