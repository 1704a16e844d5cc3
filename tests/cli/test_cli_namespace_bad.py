"""
What can be wrong in a namespace, on a real API server: pods as a kubelet would show them, objects that somebody deleted, names and labels
that lead nowhere. Each is said by what a person types next.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from test_cli_namespace import Here, here, ok, workload

from vanrouter.kube.calls import Kind, apply, create, delete, merge_patch
from vanrouter.kube.errors import NotFound
from vanrouter.kube.kinds import CONFIG_MAPS, DEPLOYMENTS, PODS, SERVICES
from vanrouter.kube.names import STATUS, labelled

__all__ = ["here"]


@pytest.fixture
def installed(here: Here) -> Here:
    ok(here.van("init --site-name north --no-wait"))
    workload(here, "hello", labels={"tier": "backend", "app": "hello"})
    workload(here, "starting", ready=False)
    return here


# ---- Pods -------------------------------------------------------------------------------------------------------------------------------


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "x:1", "imageID": "", "ready": False, "restartCount": 5}
    return {"phase": "Pending", "containerStatuses": [{**container, "state": {"waiting": {"reason": reason, "message": message}}, **more}]}


def ended(code: int, reason: str) -> dict[str, Any]:
    return {"lastState": {"terminated": {"exitCode": code, "reason": reason}}}


UNSCHEDULED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 too many pods."}


@contextlib.contextmanager
def router_pod(site: Here, status: dict[str, Any], name: str = "van-router-0") -> Iterator[None]:
    """A pod of the router as a kubelet shows it."""
    labels = {"app.kubernetes.io/part-of": "vanrouter", "app.kubernetes.io/component": "router"}
    spec = {"containers": [{"name": "c", "image": "x:1"}], "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0}
    site.client.call(create(PODS, site.name, {"metadata": {"name": name, "labels": labels}, "spec": spec}))
    site.client.call(merge_patch(PODS, site.name, name, {"status": status}, subresource="status"))
    yield
    with contextlib.suppress(NotFound):
        site.client.call(delete(PODS, site.name, name))


@pytest.mark.parametrize(
    ("status", "said", "todo"),
    [
        (waiting("ImagePullBackOff", "not found"), "pod van-router-0: image x:1: ImagePullBackOff: not found", "--image"),
        (waiting("CrashLoopBackOff", **ended(1, "Error")), "its program ends (exit code 1), 5 restarts", "kubectl logs van-router-0"),
        (waiting("CrashLoopBackOff", **ended(137, "OOMKilled")), "its program ends (out of memory)", "kubectl logs van-router-0"),
        (waiting("CreateContainerConfigError", "image will run as root"), "image will run as root", "kubectl describe pod van-router-0"),
        ({"phase": "Pending", "conditions": [UNSCHEDULED]}, "no node takes it: 0/1 nodes are available", "make room"),
        ({"phase": "Failed", "reason": "Evicted"}, "it has failed: Evicted", "kubectl describe pod van-router-0"),
    ],
)
def test_what_keeps_a_pod_is_said_by_status_and_by_init_that_waits(installed: Here, status: dict[str, Any], said: str, todo: str) -> None:
    with router_pod(installed, status):
        results = [installed.van("status")]
        if "Image" in str(status):
            results.append(installed.van("init --timeout 5s"))
    assert [result.exit_code for result in results] == [3, 4][: len(results)]
    for result in results:
        assert said in result.stderr
        assert todo in result.stderr.partition("Next:")[2]


def test_a_quota_that_forbids_the_pods_is_said_with_its_words(installed: Here) -> None:
    message = 'pods "van-router-1" is forbidden: exceeded quota: small, requested: memory=64Mi, used: memory=0, limited: memory=1Mi'
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    installed.client.call(
        merge_patch(DEPLOYMENTS, installed.name, "van-router", {"status": {"conditions": [condition]}}, subresource="status")
    )
    result = installed.van("status")
    assert result.exit_code == 3
    assert "exceeded quota: small" in result.stderr
    assert "kubectl describe quota" in result.stderr


def test_an_install_that_a_quota_cuts_short_says_so_and_the_next_one_finishes_it(here: Here) -> None:
    quotas = Kind("", "v1", "resourcequotas", "ResourceQuota")
    hard = {"hard": {"services": "0"}}
    here.client.call(create(quotas, here.name, {"metadata": {"name": "small"}, "spec": hard}))
    counted = {"status": {**hard, "used": {"services": "0"}}}
    here.client.call(merge_patch(quotas, here.name, "small", counted, subresource="status"))
    result = here.van("init --site-name north --no-wait")
    assert result.exit_code == 1
    assert "exceeded quota: small, requested: services=1" in result.stderr
    assert "deployment van-router: it is not there" in here.van("status").stderr
    here.client.call(merge_patch(quotas, here.name, "small", {"spec": {"hard": {"services": "9"}}}))
    here.client.call(merge_patch(quotas, here.name, "small", {"status": {"hard": {"services": "9"}}}, subresource="status"))
    until = time.monotonic() + 15
    while (result := here.van("init --no-wait")).exit_code and time.monotonic() < until:
        time.sleep(0.2)  # the server looks at quotas now and then
    ok(result)
    assert here.get(DEPLOYMENTS, "van-router")


def test_a_deployment_that_is_deleted_or_scaled_to_0_is_named_and_update_brings_it_back(installed: Here) -> None:
    installed.client.call(delete(DEPLOYMENTS, installed.name, "van-router"))
    installed.client.call(merge_patch(DEPLOYMENTS, installed.name, "van-controller", {"spec": {"replicas": 0}}))
    said = installed.van("status").stderr
    assert "deployment van-router: it is not there" in said
    assert "deployment van-controller: it is scaled to 0" in said
    assert f"van -n {installed.name} update" in said
    ok(installed.van("update --no-wait"))
    assert installed.get(DEPLOYMENTS, "van-controller")["spec"]["replicas"] == 1
    assert "scaled" not in installed.van("status").stderr


def test_a_pod_that_was_evicted_is_no_trouble_once_another_one_does_its_work(installed: Here) -> None:
    status = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "observedGeneration": 99}
    installed.client.call(merge_patch(DEPLOYMENTS, installed.name, "van-router", {"status": status}, subresource="status"))
    with router_pod(installed, {"phase": "Failed", "reason": "Evicted"}):
        assert "Evicted" not in installed.van("status").stderr


# ---- Listeners and connectors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("listener create a 80 --host a..b", 1, "cannot be the name of a Service"),
        ("listener create a 80 --host db.example.com", 1, "cannot be the name of a Service"),
        ("listener create a 80 --host 1st", 1, "cannot be the name of a Service"),
        ("listener create 1st 80", 1, "choose with --host"),
        ("listener create a 80 --host van-controller", 1, "the site itself needs it"),
        ("listener create a 0", 2, "not in the range"),
        ("listener create a 70000", 2, "not in the range"),
        ("listener create a 80 --host Not_a_Host!", 2, "neither an IP address nor a host name"),
        ("listener create Bad_Name 80", 2, "must be 1 to 63 characters of a-z"),
        ("listener create a 80 --host headless", 1, "it is headless"),
        ("connector create a 99999 --selector app=hello", 2, "not in the range"),
        ("connector create a 80 --selector app=a(", 2, "is not a label selector; write it as kubectl does"),
    ],
)
def test_what_can_never_work_is_refused_before_anything_is_written(installed: Here, line: str, code: int, said: str) -> None:
    if "headless" in line:
        installed.create(SERVICES, "headless", spec={"clusterIP": "None", "selector": {"app": "a"}, "ports": [{"port": 80}]})
    before = installed.listing()
    result = installed.van(line)
    assert (result.exit_code, said in result.stderr) == (code, True), result.output
    assert installed.listing() == before


def test_two_listeners_of_one_host_and_port_are_refused_at_once(installed: Here) -> None:
    ok(installed.van("listener create one 80 --host web --no-wait"))
    ok(installed.van("listener create other 81 --host web --no-wait"))
    for line in ("listener create two 80 --host web", "listener update other --port 80"):
        result = installed.van(line)
        assert result.exit_code == 1
        assert "Listener/one has host web and port 80 already" in result.stderr
    ok(installed.van("listener create one 80 --host web --no-wait"))


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ("app=hallo", "no pod matches app=hallo; the labels of pods here: app=hello, app=starting, tier=backend"),
        ("app=starting", "no pod that matches app=starting is ready"),
    ],
)
def test_a_connector_that_matches_nothing_is_written_and_says_so_at_once(installed: Here, selector: str, said: str) -> None:
    result = ok(installed.van(f"connector create c 80 --selector {selector} --no-wait"))
    assert said in result.stderr
    assert "ConfigMap/van.connector.c" in installed.listing()


def test_a_change_of_a_site_that_does_not_run_says_what_keeps_it_from_running(installed: Here) -> None:
    with router_pod(installed, waiting("ImagePullBackOff", "not found")):
        result = installed.van("listener create a 80")
    assert result.exit_code == 3
    assert "ImagePullBackOff" in result.stderr
    assert "this takes effect when it starts" in result.stderr


# ---- ConfigMaps that somebody edits -----------------------------------------------------------------------------------------------------


def test_update_keeps_what_a_person_wrote_into_the_site_and_refuses_what_is_broken(installed: Here) -> None:
    text = installed.get(CONFIG_MAPS, "van.site.north")["data"]["resource.yaml"]
    broken = text.replace("linkAccess:", "linkAcces:")
    installed.client.call(merge_patch(CONFIG_MAPS, installed.name, "van.site.north", {"data": {"resource.yaml": broken}}))
    for line in ("update --routers 2 --no-wait", "init --no-wait"):
        result = installed.van(line)
        assert result.exit_code == 1
        assert "ConfigMap/van.site.north: resource.yaml" in result.stderr
        assert "spec.linkAcces" in result.stderr
    assert yaml.safe_load(installed.get(CONFIG_MAPS, "van.site.north")["data"]["resource.yaml"])["spec"] == {"linkAcces": "default"}


def absent(name: str) -> dict[str, Any]:
    """A connector as its router says it, of which it sees no pod."""
    why, todo = "there is no target: its selector matches no pod; the labels of pods here: app=hello", "start such a pod"
    said = {"status": "False", "reason": "NoTarget", "message": why, "next": todo, "since": ""}
    spec = {"selector": f"app={name}", "routingKey": name, "port": 8080}
    conditions = [{"type": kind, **said} for kind in ("Healthy", "Ready")]
    return {"name": name, "routingKey": name, "port": 8080, "matched": False, "spec": spec, "conditions": conditions, "targets": []}


@pytest.mark.parametrize("line", ["status", "connector status"])
def test_a_workload_that_is_exposed_and_scaled_to_0_is_named_by_status_and_how_to_start_it(installed: Here, line: str) -> None:
    workload(installed, "idle", replicas=0)
    connectors = [absent("idle"), absent("gone")]
    document = {"site": {"name": "north", "id": "a", "ready": True, "routers": [], "conditions": []}, "connectors": connectors}
    value = {"metadata": labelled("van-status.site.north", STATUS), "data": {"site.json": json.dumps(document)}}
    installed.client.call(apply(CONFIG_MAPS, installed.name, value))
    said = installed.van(line).output
    assert "there is no target: deployment idle is scaled to 0" in said
    assert "kubectl" in said
    assert "scale deployment/idle" in said
    assert said.count("its selector matches no pod") == 1, "of the other one nobody knows what it was"
