"""What is kept of a pod, and which of them a selector means."""

from __future__ import annotations

from typing import Any

import pytest

from vanrouter.kube.pods import Pod, keep_pod, labels_that_exist, selected
from vanrouter.resources.selectors import parse_selector


def pod(name: str, *, ready: bool = True, deleted: bool = False, phase: str = "Running", ip: str = "10.0.0.1", **labels: str) -> Any:
    metadata: dict[str, Any] = {"name": name, "labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z"}
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {
        "metadata": metadata,
        "spec": {"containers": [{"name": "much", "image": "more"}]},
        "status": {"phase": phase, "podIP": ip, "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def test_no_more_is_kept_of_a_pod_than_targets_need() -> None:
    assert keep_pod(pod("web-1", app="web")) == Pod(
        name="web-1", labels={"app": "web"}, address="10.0.0.1", ready=True, created="2026-01-01T00:00:00Z"
    )


@pytest.mark.parametrize(
    ("given", "takes", "takes_not_ready"),
    [
        (pod("a"), True, True),
        (pod("a", ready=False), False, True),
        (pod("a", deleted=True), False, False),
        (pod("a", phase="Succeeded"), False, False),
        (pod("a", phase="Failed"), False, False),
        (pod("a", ip=""), False, False),
        ({"metadata": {"name": "a"}}, False, False),
    ],
)
def test_who_takes_new_streams(given: Any, takes: bool, takes_not_ready: bool) -> None:
    kept = keep_pod(given)
    assert kept.takes_streams(include_not_ready=False) is takes
    assert kept.takes_streams(include_not_ready=True) is takes_not_ready


def test_those_that_are_being_deleted_are_not_chosen() -> None:
    pods = [keep_pod(p) for p in (pod("b", app="web"), pod("a", app="web"), pod("c", app="web", deleted=True), pod("d", app="api"))]
    assert [p.name for p in selected(pods, parse_selector("app=web"))] == ["a", "b"]


def test_a_selector_that_matches_nothing_is_answered_with_the_labels_that_exist_those_with_its_keys_first() -> None:
    pods = [keep_pod(p) for p in (pod("a", tier="back", **{"pod-template-hash": "1"}), pod("b", tier="back", app="wep"))]
    assert labels_that_exist(pods, parse_selector("app=web")) == "the labels of pods here: app=wep, tier=back"
    assert labels_that_exist([], parse_selector("app=web")) == "no pod here has labels"
