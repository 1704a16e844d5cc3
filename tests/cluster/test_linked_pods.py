"""
A router in a pod of each of two clusters, set up by plain commands in the pods: the thinnest real path.

      cluster one                                cluster two
  client ─▶ Service hello                      Service hello ─▶ hello
             │                                        ▲
             ▼            link, dialled by south      │
        router north  ◀─────────────────────── router south
        LoadBalancer north:7001
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pods
from clusters import Cluster, Namespace, until

LINKS = 7001
PLACE: dict[str, Any] = {
    "volumeMounts": [{"name": "site", "mountPath": "/var/lib/vanrouter"}],
    "env": [{"name": "VAN_PLATFORM", "value": "linux"}],
}


def router(image: str, name: str, *words: str) -> dict[str, Any]:
    """One container makes the site's directory on an emptyDir, the other runs it."""
    make = ["van", "init", "--site-name", name, "--no-start", "--service-address", "0.0.0.0", *words]  # every address of the pod
    ready = {"exec": {"command": ["van", "status"]}, "periodSeconds": 1, "timeoutSeconds": 5}
    return pods.pod(
        name,
        pods.container("router", image, args=["run"], readinessProbe=ready, **PLACE),
        initContainers=[pods.container("init", image, make, **PLACE)],
        volumes=[{"name": "site", "emptyDir": {}}],
    )


def test_a_service_of_one_cluster_answers_in_the_other(
    clusters: tuple[Cluster, Cluster], namespace: Callable[..., Namespace], image: str
) -> None:
    one, two = clusters
    north, south = namespace(one, "north"), namespace(two, "south")
    north.apply(
        router(image, "north", "--link-access", f"0.0.0.0:{LINKS}"),
        pods.service("north", LINKS, LINKS, kind="LoadBalancer"),
        pods.service("hello", 80, 8080, app="north"),
        pods.client(image),
    )
    south.apply(router(image, "south"), pods.hello(image), pods.service("hello", 80, 8080))
    for where, what in ((north, "north"), (north, "client"), (south, "south"), (south, "hello")):
        where.wait(f"pod/{what}")

    token = north.exec("north", "van", "token", "create", "-", "--host", north.load_balancer("north"))
    south.exec("south", "van", "link", "create", "-", given=token)
    south.exec("south", "van", "expose", "host", "hello:80", "--port", "8080", "--address", "hello")

    for where, what in ((north, "north"), (south, "south")):
        (link,) = json.loads(where.exec(what, "van", "status", "-o", "json"))["links"]
        assert link["active"], link
    answer = until("hello answers in north", lambda: north.exec("client", *pods.get("http://hello/"), timeout=15))
    assert answer == '{"message":"Hello"}'
