"""The Roles that ship are what is used, by the audit log of the API server: no right is missing, and none is there for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pods
from clusters import Cluster, Namespace, until
from test_walkthrough import Owner, hello, link

Rights = dict[str, set[tuple[str, str]]]
BROKEN = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: broken, labels: {vanrouter.io/type: resource}}
data: {one.yaml: "kind: ["}
"""


def used(cluster: Cluster, namespace: str) -> Rights:
    """Resource and verb of what router and controller of a namespace asked for. Nothing may have been refused."""
    found: Rights = {"van-router": set(), "van-controller": set()}
    for line in (cluster.directory / "audit.log").read_text().splitlines():
        event = json.loads(line)
        # A request whose token is refused (401: its pod or account is gone) has no user: it used no right.
        _, _, name = event["user"].get("username", "").rpartition(f"system:serviceaccount:{namespace}:")
        if name in found and (what := event.get("objectRef")):
            assert event.get("responseStatus", {}).get("code") != 403, event
            found[name].add((what["resource"], event["verb"]))
    return found


def granted(owner: Owner) -> Rights:
    roles = {name: owner.space.get("role", name) for name in ("van-router", "van-controller")}
    return {
        n: {(resource, verb) for rule in r["rules"] for resource in rule["resources"] for verb in rule["verbs"]} for n, r in roles.items()
    }


def test_every_right_is_used_and_none_is_missing(
    clusters: tuple[Cluster, Cluster], namespace: Callable[..., Namespace], image: str, tmp_path: Path
) -> None:
    one, two = clusters
    north, south = Owner(namespace(one, "north"), image, tmp_path), Owner(namespace(two, "south"), image, tmp_path)
    south.space.apply(hello(image), pods.service("taken", 80, 80))
    south.space.wait("deployment/hello", "Available")
    link(north, south)
    south.van("expose deployment/hello --port 80")
    south.van("expose deployment/hello --port 80 --address taken")
    north.space.kubectl("apply", "-f", "-", given=BROKEN)
    south.van("unexpose hello")
    south.van("unexpose taken")
    south.space.kubectl("annotate", "deployment/hello", "vanrouter.io/proxy=tcp", "vanrouter.io/port=80", "vanrouter.io/address=noted")
    until("the annotation exposes", lambda: north.space.kubectl("get", "service", "noted", check=False).returncode == 0)
    south.space.kubectl("annotate", "deployment/hello", "vanrouter.io/proxy-", "vanrouter.io/port-", "vanrouter.io/address-")
    made = ("get", "configmap", "van.made.deployment.hello")
    until("what was made of it is gone", lambda: south.space.kubectl(*made, check=False).returncode != 0)
    north.van("token create other.yaml other")
    north.van("token delete other")
    until("the Service is gone", lambda: north.space.kubectl("get", "service", "hello", check=False).returncode != 0)

    both: Rights = {"van-router": set(), "van-controller": set()}
    for cluster, owner in ((one, north), (two, south)):
        for name, rights in used(cluster, owner.space.name).items():
            assert rights <= granted(owner)[name], f"{name} uses what it was not granted"
            both[name] |= rights
    assert both == granted(north), "a right that nobody uses"
