"""
Pods as targets: what is kept of one, which of them a selector means, and what to say when it means none. Pure.

Of a pod no more is kept than is needed for that: name, labels, address, readiness, age.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from vanrouter.kube.calls import Object
from vanrouter.resources.selectors import Selector

__all__ = ["Pod", "keep_pod", "labels_that_exist", "selected"]

MAX_SAID: Final = 5
_NOISE: Final = ("pod-template-hash", "controller-revision-hash", "statefulset.kubernetes.io/", "apps.kubernetes.io/")


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """``address`` is empty until it has one."""

    name: str
    labels: dict[str, str]
    address: str = ""
    ready: bool = False
    leaving: bool = False  # being deleted, or ended
    created: str = ""  # RFC 3339, as the server writes it: texts in the order of time

    def takes_streams(self, *, include_not_ready: bool) -> bool:
        return bool(self.address) and not self.leaving and (self.ready or include_not_ready)


def keep_pod(value: Object) -> Pod:
    """What is kept of a pod, as a watch brings it."""
    metadata, status = value.get("metadata") or {}, value.get("status") or {}
    conditions: list[Any] = status.get("conditions") or []
    return Pod(
        name=str(metadata.get("name", "")),
        labels={str(k): str(v) for k, v in (metadata.get("labels") or {}).items()},
        address=str(status.get("podIP") or ""),
        ready=any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions if isinstance(c, dict)),
        created=str(metadata.get("creationTimestamp") or ""),
        leaving=bool(metadata.get("deletionTimestamp")) or status.get("phase") in ("Succeeded", "Failed"),
    )


def selected(pods: Iterable[Pod], selector: Selector) -> list[Pod]:
    """By name, without those that are being deleted or have ended."""
    return sorted((pod for pod in pods if selector.matches(pod.labels) and not pod.leaving), key=lambda pod: pod.name)


def labels_that_exist(pods: Iterable[Pod], selector: Selector) -> str:
    """For who wrote a selector that matches nothing: the labels that pods have, those with its keys first."""
    counts: dict[str, int] = {}
    for pod in pods:
        for key, value in pod.labels.items():
            if not pod.leaving and not key.startswith(_NOISE):
                counts[f"{key}={value}"] = counts.get(f"{key}={value}", 0) + 1
    if not counts:
        return "no pod here has labels"
    ordered = sorted(counts, key=lambda label: (label.partition("=")[0] not in selector.keys, -counts[label], label))
    more = f" and {len(ordered) - MAX_SAID} more" if len(ordered) > MAX_SAID else ""
    return f"the labels of pods here: {', '.join(ordered[:MAX_SAID])}{more}"
