"""The clusters themselves: real, apart, in reach of each other, and gone when nobody uses them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pods
import pytest
from clusters import RUN, SCRIPT, Cluster, Namespace, run, until

HOLDER = """\
import sys
sys.path.insert(0, sys.argv[1])
from clusters import hold
with hold("gone", 9) as cluster:
    print("up", flush=True)
    sys.stdin.read()
"""


def test_two_real_clusters_are_up_and_know_nothing_of_each_other(clusters: tuple[Cluster, Cluster]) -> None:
    for cluster in clusters:
        nodes = cluster.kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").stdout.split()
        assert nodes == [cluster.name]
    one, two = clusters
    stranger = one.kubectl(
        "--server", f"https://{two.address}:6443", "--insecure-skip-tls-verify", "--certificate-authority=", "get", "nodes", check=False
    )
    assert stranger.returncode != 0
    assert "Unauthorized" in stranger.stderr or "logged in" in stranger.stderr


@pytest.mark.parametrize(
    ("may", "what"),
    [
        ("yes", "create deployments.apps"),
        ("yes", "create services"),
        ("yes", "create secrets"),
        ("yes", "create roles.rbac.authorization.k8s.io"),
        ("yes", "create leases.coordination.k8s.io"),
        ("yes", "create pods/portforward"),
        ("no", "create endpointslices.discovery.k8s.io"),
        ("no", "create customresourcedefinitions.apiextensions.k8s.io"),
        ("no", "list nodes"),
        ("no", "list namespaces --all-namespaces"),
        ("no", "list pods --all-namespaces"),
        ("no", "list pods --namespace default"),
    ],
)
def test_a_namespace_owner_has_the_rights_of_admin_and_no_others(owner: Namespace, may: str, what: str) -> None:
    answer = owner.kubectl("auth", "can-i", *what.split(), check=False).stdout.strip().splitlines()[-1]
    assert answer == may


@pytest.fixture(scope="module")
def owner(cluster: Cluster) -> object:
    with cluster.namespace("owned") as made:
        yield made


def test_a_pod_of_one_cluster_reaches_the_other_by_load_balancer_and_by_node_port(
    clusters: tuple[Cluster, Cluster], namespace: Callable[..., Namespace], image: str
) -> None:
    one, two = clusters
    near, far = namespace(one, "near"), namespace(two, "far")
    far.apply(pods.hello(image), pods.service("hello", 80, 8080, kind="LoadBalancer"))
    near.apply(pods.client(image))
    far.wait("pod/hello")
    near.wait("pod/client")
    address = far.load_balancer("hello")
    assert address.startswith("10.200.2.") or two.index != 2
    node_port = far.get("service", "hello")["spec"]["ports"][0]["nodePort"]
    for place in (f"{address}:80", f"{two.address}:{node_port}"):
        answer = until(f"{place} answers", lambda place=place: near.exec("client", *pods.get(f"http://{place}/"), timeout=15))  # type: ignore[misc]
        assert answer == '{"message":"Hello"}'


def test_names_of_services_resolve_in_a_pod(cluster: Cluster, namespace: Callable[..., Namespace], image: str) -> None:
    here = namespace(cluster, "named")
    here.apply(pods.hello(image), pods.service("hello", 80, 8080), pods.client(image))
    here.wait("pod/hello")
    here.wait("pod/client")
    assert until("hello answers", lambda: here.exec("client", *pods.get("http://hello/"), timeout=15)) == '{"message":"Hello"}'


def test_the_cloud_gives_an_address_when_it_gets_to_it_and_takes_it_back(cluster: Cluster, namespace: Callable[..., Namespace]) -> None:
    here = namespace(cluster, "clouded")
    other = pods.service("others", 80, 8080, kind="LoadBalancer")
    other["spec"]["loadBalancerClass"] = "example.com/other"
    with cluster.stopped("cloud"):
        here.apply(pods.service("slow", 80, 8080, kind="LoadBalancer"), other)
        assert here.get("service", "slow")["status"] == {"loadBalancer": {}}
    address = here.load_balancer("slow")
    assert f"{address}/24" in cluster.exec("ip", "addr", "show", "dev", "eth0").stdout
    assert here.get("service", "others")["status"] == {"loadBalancer": {}}
    here.kubectl("delete", "service", "slow")
    until("the address is gone", lambda: f"{address}/24" not in cluster.exec("ip", "addr", "show", "dev", "eth0").stdout)


def test_a_cluster_stays_for_the_last_who_uses_it_and_nothing_of_it_after_him(clusters: tuple[Cluster, Cluster]) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLDER, str(SCRIPT.parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    second = None
    try:
        assert first.stdout
        assert first.stdout.readline() == b"up\n"
        gone = Cluster("gone", 9)
        gone.kubectl("run", "left", "--image=registry.local/pause:1", "--image-pull-policy=Never")
        gone.kubectl("wait", "pod/left", "--for=condition=Ready", "--timeout=60s")
        second = subprocess.Popen([sys.executable, "-c", HOLDER, str(SCRIPT.parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert second.stdout
        assert second.stdout.readline() == b"up\n"
        first.kill()
        first.wait()
        assert run(SCRIPT, "ready", "gone", check=False).returncode == 0
        assert traces("gone", 9) >= {"processes", "mounts", "network namespaces", "cgroups", "files"}
        second.send_signal(signal.SIGINT)
        second.wait(timeout=60)
        until("everything of it is gone", lambda: not traces("gone", 9), seconds=20)
    finally:
        for process in (first, second):
            if process:
                process.kill()
                process.communicate()


def traces(name: str, index: int) -> set[str]:
    """What of a cluster is on this machine."""
    directory, found = f"{RUN / name}/", set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if directory.encode() in entry.read_bytes() and int(entry.parent.name) != os.getpid():
                found.add("processes")
    if directory in Path("/proc/mounts").read_text():
        found.add("mounts")
    spaces = [space.split()[0] for space in run("ip", "netns", "list").stdout.splitlines()]
    routes = [run("ip", "-n", space, "route", check=False).stdout for space in spaces if space.startswith("cni-")]
    if f"van-{name}" in spaces or any(f"via 10.244.{index}.1 " in route for route in routes):
        found.add("network namespaces")
    if [*Path("/sys/fs/cgroup").glob(f"*/van-{name}"), *Path("/sys/fs/cgroup").glob(f"van-{name}")]:
        found.add("cgroups")
    if Path(directory).exists():
        found.add("files")
    return found
