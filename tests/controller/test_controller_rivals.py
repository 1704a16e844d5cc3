"""Somebody else changes what the controller keeps: put back, counted, left alone and named, and put back again when it is quiet."""

from __future__ import annotations

import copy
from typing import Any

from vanrouter.controller.rivals import MOST, WITHIN
from vanrouter.controller.services import ServicePlan, WantedService
from vanrouter.controller.view import ViewKeeper, services_view
from vanrouter.kube.calls import Call, Object
from vanrouter.kube.names import ROUTER_LABELS, SERVICE, labelled
from vanrouter.kube.workloads import CONTROLLED

WANTED = {"hello": WantedService("hello", {80: 20000}, named=True)}


def ours(version: int, selector: dict[str, str] = ROUTER_LABELS, *, by: str = "") -> dict[str, Object]:
    metadata = labelled("hello", SERVICE) | {"uid": "x", "resourceVersion": str(version), "annotations": {CONTROLLED: "true"}}
    if by:
        metadata["managedFields"] = [{"manager": by, "time": "2026-01-01T00:00:00Z"}]
    ports = [{"name": "port80", "port": 80, "protocol": "TCP", "targetPort": 20000}]
    return {"hello": {"metadata": metadata, "spec": {"selector": dict(selector), "ports": ports}}}


def look(plan: ServicePlan, services: dict[str, Object], now: float) -> list[Call]:
    return plan.calls(WANTED, services, owners=(), current=True, now=now)


def fight(plan: ServicePlan, rounds: int, *, start: float = 0.0, version: int = 10) -> float:
    """Each round the other one changes it and it is put back. Returns the time."""
    now = start
    for _ in range(rounds):
        assert len(look(plan, ours(version, {"app": "evil"}, by="argocd"), now)) == 1
        assert look(plan, ours(version + 1), now + 1) == []
        now, version = now + 10, version + 2
    return now


def test_one_change_is_put_back_and_said_for_ten_minutes() -> None:
    plan = ServicePlan("north")
    look(plan, ours(1), 0.0)
    fight(plan, 1)
    assert plan.notes == {}
    assert "argocd" in plan.remarks["hello"].message
    assert plan.deadline(5.0) == WITHIN
    look(plan, ours(11), WITHIN)
    assert plan.remarks == {}


def test_who_changes_it_again_and_again_is_named_and_not_fought_until_it_is_quiet() -> None:
    plan = ServicePlan("north")
    look(plan, ours(1), 0.0)
    now = fight(plan, MOST)
    theirs = ours(99, {"app": "evil"}, by="argocd")
    for at in (now, now + 1, now + WITHIN - 1):
        assert look(plan, theirs, at) == []
        assert plan.notes["hello"].reason == "ChangedAgain"
        assert "argocd" in plan.notes["hello"].message
    assert plan.deadline(now + 1) == now + WITHIN
    assert len(look(plan, theirs, now + WITHIN)) == 1


def test_looking_twice_at_one_change_counts_once() -> None:
    plan = ServicePlan("north")
    look(plan, ours(1), 0.0)
    for at in range(20):
        assert len(look(plan, ours(2, {"app": "evil"}), float(at))) == 1


def test_what_we_want_otherwise_is_no_change_of_somebody_else() -> None:
    plan = ServicePlan("north")
    look(plan, ours(1), 0.0)
    for port in range(20001, 20020):
        wanted = {"hello": WantedService("hello", {80: port}, named=True)}
        assert len(plan.calls(wanted, ours(1), owners=(), current=True, now=1.0)) == 1
    assert (plan.notes, plan.remarks) == ({}, {})


def test_one_that_somebody_deletes_again_and_again_is_not_made_without_end() -> None:
    plan = ServicePlan("north")
    made = 0
    for n in range(20):
        value = ours(n)
        value["hello"]["metadata"]["uid"] = f"uid-{made}"
        look(plan, value, n * 2.0)
        made += bool(look(plan, {}, n * 2.0 + 1))
        if "hello" in plan.notes:
            break
    assert made == MOST
    assert "deleted" in plan.notes["hello"].message or "changed" in plan.notes["hello"].message


def test_one_that_was_taken_over_and_replaced_is_not_taken_over_without_end() -> None:
    plan = ServicePlan("north")
    theirs: dict[str, Any] = {
        "hello": {"metadata": {"name": "hello", "uid": "x", "resourceVersion": "1"}, "spec": {"selector": {"app": "h"}}}
    }
    taken = ours(2)
    taken["hello"]["metadata"] |= {"labels": {}, "annotations": {"vanrouter.io/saved": "{}"}}
    done = 0
    for n in range(20):
        replaced = copy.deepcopy(theirs)
        replaced["hello"]["metadata"]["resourceVersion"] = str(10 + n)
        done += len(look(plan, replaced, float(n)))
        look(plan, taken, n + 0.5)
    assert done == MOST + 1, "the first time it was not ours"
    assert plan.notes["hello"].reason == "ChangedAgain"


def test_an_edit_of_the_view_is_put_back_and_what_to_edit_instead_is_said() -> None:
    keeper = ViewKeeper()
    view = services_view([], [{"address": "hello", "protocol": "tcp", "ports": [80]}])
    metadata = {"name": "van-services", "uid": "x", "resourceVersion": "1"}
    good = {"metadata": metadata, "data": dict(view["data"])}
    assert keeper.may_write(view, None, now=0.0)
    assert keeper.may_write(view, good, now=1.0)
    assert keeper.problems(1.0) == []
    managed = [{"manager": "kubectl-edit", "time": "2026-01-01T00:00:00Z"}]
    edited = {"metadata": {**metadata, "resourceVersion": "2", "managedFields": managed}, "data": {"hello": "{}", "more": ""}}
    assert keeper.may_write(view, edited, now=2.0)
    keeper.may_write(view, good, now=3.0)
    (problem,) = keeper.problems(3.0)
    assert problem.path == "ConfigMap/van-services"
    assert "edited by kubectl-edit (hello, more), and put back" in problem.message
    assert "van expose" in problem.hint
    assert keeper.problems(2.0 + WITHIN) == []
