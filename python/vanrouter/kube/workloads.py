"""
Workloads as what annotations on them ask for: what is kept of a Deployment, StatefulSet, DaemonSet or Service. Pure.

Of a workload no more is kept than is needed to expose it: annotations of ours and of the incumbent, its selector, the ports that its pods
declare, their labels, and how many pods with lasting names there are.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from vanrouter.kube.calls import Object
from vanrouter.resources.selectors import selector_text

__all__ = [
    "INCUMBENT",
    "MADE_FROM",
    "MOST_PODS",
    "OURS",
    "Port",
    "Workload",
    "has_annotations",
    "is_tcp",
    "keep_service",
    "keep_workload",
    "own_spec",
]

OURS: Final = "vanrouter.io/"
INCUMBENT: Final = "skupper.io/"
MADE_FROM: Final = f"{OURS}made-from"
"""Label of a ConfigMap that the controller made: ``annotation`` or ``connector``. Annotation of a resource in it: what it is made from, and
what there says so (``deployment/hello: vanrouter.io/proxy``)."""
MOST_PODS: Final = 1_000
"""Names that are kept of one StatefulSet: each is a Service in every namespace of the network."""
SAVED: Final = "vanrouter.io/saved"
CONTROLLED: Final = "vanrouter.io/controlled"


class Port(msgspec.Struct, frozen=True):
    """``number``: of the Service, or of the pods; ``target``: where a Service's leads, by number or name."""

    number: int
    name: str = ""
    target: str = ""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    kind: str  # Deployment
    name: str
    annotations: dict[str, str] = {}
    selector: str = ""  # empty: it selects nothing
    ports: list[Port] = []
    labels: dict[str, str] = {}  # of the pods that it makes
    pods: list[str] = []  # those that have lasting names, the first of them
    replicas: int = 0  # how many those are

    @property
    def words(self) -> str:
        return f"{self.kind.lower()}/{self.name}"


def has_annotations(value: Object) -> bool:
    """Whether there is one that may expose it."""
    found = (value.get("metadata") or {}).get("annotations") or {}
    return any(key.startswith((OURS, INCUMBENT)) and key not in (SAVED, CONTROLLED) for key in found)


def keep_workload(kind: str, value: Object) -> Workload:
    """What is kept of a workload, as a watch brings it."""
    metadata, spec = value.get("metadata") or {}, value.get("spec") or {}
    template = spec.get("template") or {}
    name = str(metadata.get("name", ""))
    containers = (template.get("spec") or {}).get("containers") or ()
    declared = [p for c in containers for p in c.get("ports") or () if is_tcp(p)]
    pods: list[str] = []
    wanted = 0
    if kind == "StatefulSet":
        first, replicas = int((spec.get("ordinals") or {}).get("start") or 0), spec.get("replicas")
        wanted = int(1 if replicas is None else replicas)
        pods = [f"{name}-{number}" for number in range(first, first + min(wanted, MOST_PODS))]
    return Workload(
        kind=kind,
        name=name,
        annotations=_annotations(metadata),
        selector=selector_text(spec.get("selector") or {}),
        ports=[Port(int(p["containerPort"]), str(p.get("name") or "")) for p in declared],
        labels={str(k): str(v) for k, v in ((template.get("metadata") or {}).get("labels") or {}).items()},
        pods=pods,
        replicas=wanted,
    )


def is_tcp(port: Object) -> bool:
    """Of a pod or of a Service: what is not said is TCP."""
    return bool(port.get("protocol", "TCP") == "TCP")


def keep_service(value: Object) -> Workload:
    """A Service that was taken over is what it was before: through its selector now the routers would lead to themselves."""
    metadata, spec = value.get("metadata") or {}, own_spec(value)
    labels, ports = spec.get("selector") or {}, [p for p in spec.get("ports") or () if is_tcp(p) and isinstance(p.get("port"), int)]
    return Workload(
        kind="Service",
        name=str(metadata.get("name", "")),
        annotations=_annotations(metadata),
        selector=",".join(f"{key}={text}" for key, text in sorted(labels.items())),
        ports=[Port(int(p["port"]), str(p.get("name") or ""), str(p.get("targetPort") or p["port"])) for p in ports],
        labels={},
    )


def own_spec(service: Object) -> Object:
    """Of a Service what its owner wants: of one that was taken over, what is saved; nothing where somebody edited that beyond reading."""
    spec: Object = service.get("spec") or {}
    annotations = (service.get("metadata") or {}).get("annotations") or {}
    if SAVED not in annotations:
        return spec
    try:
        saved = msgspec.json.decode(annotations[SAVED], type=_Saved)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return {**spec, "selector": saved.selector or {}, "ports": saved.ports or []}


class _Saved(msgspec.Struct):
    selector: dict[str, str] | None = None
    ports: list[dict[str, Any]] | None = None


def _annotations(metadata: Any) -> dict[str, str]:
    found = metadata.get("annotations") or {}
    return {str(k): str(v) for k, v in found.items() if k.startswith((OURS, INCUMBENT)) and k not in (SAVED, CONTROLLED)}
