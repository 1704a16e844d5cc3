"""Services of listeners, decided without a cluster: what is written, and above all what is not."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from vanrouter.controller.services import ServicePlan, WantedService, give_back
from vanrouter.kube.calls import Call, Object
from vanrouter.kube.names import ROUTER_LABELS, SERVICE, labelled
from vanrouter.kube.workloads import CONTROLLED, SAVED

ROOT = ({"apiVersion": "v1", "kind": "ConfigMap", "name": "van.site.north", "uid": "u"},)


def want(host: str = "hello", *, named: bool = False, **ports: int) -> dict[str, WantedService]:
    return {host: WantedService(host, {int(k.removeprefix("p")): v for k, v in ports.items()} or {80: 20000}, named)}


def a_service(spec: Object | None = None, **metadata: Any) -> dict[str, Object]:
    usual = {
        "selector": {"app": "hello"},
        "ports": [{"name": "web", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        "clusterIP": "1.2.3.4",
    }
    return {"hello": {"metadata": {"name": "hello", "uid": "x", "resourceVersion": "7", **metadata}, "spec": {**usual, **(spec or {})}}}


def ours(**ports: int) -> dict[str, Object]:
    plan = [{"name": f"port{k[1:]}", "port": int(k[1:]), "protocol": "TCP", "targetPort": v} for k, v in ports.items()]
    metadata = labelled("hello", SERVICE)
    return a_service({"selector": dict(ROUTER_LABELS), "ports": plan}, labels=metadata["labels"], annotations={CONTROLLED: "true"})


def decide(wanted: dict[str, WantedService], services: dict[str, Object], *, current: bool = True) -> tuple[list[Call], ServicePlan]:
    plan = ServicePlan("north")
    return plan.calls(wanted, services, owners=ROOT, current=current), plan


def patched(service: Object, call: Call) -> Object:
    """The object after a merge patch."""

    def merge(old: Any, patch: Any) -> Any:
        if not isinstance(patch, dict):
            return patch
        merged = {**(old if isinstance(old, dict) else {})}
        for key, value in patch.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = merge(merged.get(key), value)
        return merged

    result: Object = merge(copy.deepcopy(service), json.loads(call.body))
    return result


def test_one_that_is_not_there_is_made_and_owned_by_the_root() -> None:
    (call,), _ = decide(want(), {})
    made = json.loads(call.body)
    assert (call.verb, made["metadata"]["ownerReferences"], made["spec"]["selector"]) == ("create", list(ROOT), ROUTER_LABELS)
    assert made["spec"]["ports"] == [{"name": "port80", "port": 80, "protocol": "TCP", "targetPort": 20000}]


def test_one_that_is_as_it_should_be_is_not_written() -> None:
    assert decide(want(), ours(p80=20000))[0] == []


def test_one_of_ours_that_was_edited_is_put_back_under_its_version() -> None:
    edited = ours(p80=20000)
    edited["hello"]["spec"]["selector"] = {"app": "evil"}
    (call,), _ = decide(want(), edited)
    assert json.loads(call.body)["metadata"]["resourceVersion"] == "7"
    assert patched(edited["hello"], call)["spec"]["selector"] == ROUTER_LABELS


def test_nothing_is_deleted_while_the_copy_may_be_behind() -> None:
    assert decide({}, ours(p80=20000), current=False)[0] == []
    (call,), _ = decide({}, ours(p80=20000))
    assert (call.verb, json.loads(call.body)["preconditions"]) == ("delete", {"uid": "x"})


def test_somebodys_that_nobody_named_is_left_alone_and_whose_it_is_is_said() -> None:
    managed = [{"manager": "helm", "operation": "Update", "time": "2026-01-01T00:00:00Z"}]
    calls, plan = decide(want(), a_service(managedFields=managed))
    assert calls == []
    assert plan.notes["hello"].reason == "NameTaken"
    assert "helm's" in plan.notes["hello"].message


@pytest.mark.parametrize("spec", [{"clusterIP": "None"}, {"type": "ExternalName", "externalName": "x"}])
def test_one_without_an_address_is_never_taken_over(spec: Object) -> None:
    calls, plan = decide(want(named=True), a_service(spec))
    assert (calls, plan.notes["hello"].reason) == ([], "CannotTakeOver")


def test_take_over_and_give_back_leave_no_trace() -> None:
    before = a_service()["hello"]
    (call,), _ = decide(want(named=True), {"hello": before})
    taken = patched(before, call)
    assert taken["spec"]["selector"] == ROUTER_LABELS
    assert decide(want(named=True), {"hello": taken})[0] == [], "and taking it over again writes nothing"
    back, note = give_back("north", taken)
    assert (back is not None, note) == (True, None)
    after = patched(taken, back)  # type: ignore[arg-type]
    after["metadata"].pop("annotations")
    assert {**after, "metadata": before["metadata"]} == before


def test_what_was_saved_stays_when_ports_are_added_later() -> None:
    before = a_service()["hello"]
    taken = patched(before, decide(want(named=True), {"hello": before})[0][0])
    wider = patched(taken, decide(want(named=True, p80=20000, p90=20001), {"hello": taken})[0][0])
    assert [p["port"] for p in wider["spec"]["ports"]] == [80, 90]
    assert json.loads(wider["metadata"]["annotations"][SAVED])["ports"] == before["spec"]["ports"]
    assert patched(wider, give_back("north", wider)[0])["spec"] == before["spec"]  # type: ignore[arg-type]


def test_one_that_somebody_changed_since_is_neither_fought_nor_undone() -> None:
    before = a_service()["hello"]
    taken = patched(before, decide(want(named=True), {"hello": before})[0][0])
    taken["spec"]["ports"] = [{"port": 81, "targetPort": 9}]
    taken["metadata"]["managedFields"] = [{"manager": "argocd", "time": "2026-01-01T00:00:00Z"}]
    calls, plan = decide(want(named=True), {"hello": taken})
    assert (calls, plan.notes["hello"].reason) == ([], "ChangedByOther")
    assert "argocd" in plan.notes["hello"].message
    call, note = give_back("north", taken)
    assert note is not None
    assert patched(taken, call)["spec"] == taken["spec"], "only our annotations go"  # type: ignore[arg-type]


AS_IT_IS = {"selector": {"app": "hello"}, "ports": [{"name": "web", "port": 80, "targetPort": 8080}]}


@pytest.mark.parametrize(
    "text",
    [
        "{broken",
        json.dumps({"selector": "everything", "ports": [], "set": AS_IT_IS}),
        json.dumps({"selector": {}, "ports": 80, "set": AS_IT_IS}),
        json.dumps({"set": {**AS_IT_IS, "ports": [{"port": 80}, {"port": "80"}]}}),
        json.dumps({"set": "all"}),
    ],
    ids=["text", "selector", "ports", "sorts", "set"],
)
def test_a_broken_annotation_never_loses_what_is_there(text: str) -> None:
    taken = a_service(annotations={SAVED: text})["hello"]
    assert decide(want(named=True), {"hello": taken})[0] == []
    call, note = give_back("north", taken)
    assert note is not None
    assert patched(taken, call)["spec"] == taken["spec"]  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["Hello", "a.b", "-x", "9x", "x" * 64])
def test_a_host_that_cannot_be_a_service_is_said_and_not_tried(host: str) -> None:
    calls, plan = decide(want(host, named=True), {})
    assert (calls, plan.notes[host].reason) == ([], "IllegalName")
