"""
Connectors that expose each pod of a StatefulSet by its name, made from one that says ``exposePodsByName``. Pure.

    Connector db  selector app=db  ──▶  db-0   key db.db-0   the pod db-0 alone   Service db-0 in every namespace
    StatefulSet db, 3 replicas          db-1   db-2

Each is a Service of its own with an address: a headless Service, which has none, could not lead to a router. Only pods of a StatefulSet
have names that last. Where the connector exposes nothing, each pod has its key alone, for listeners that name it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec

from vanrouter.controller.view import TARGET
from vanrouter.kube.workloads import MADE_FROM, Workload
from vanrouter.resources.kinds import Connector, Metadata
from vanrouter.resources.selectors import parse_selector
from vanrouter.stores.resources import Problem

__all__ = ["POD_NAME", "pods_by_name"]

POD_NAME: Final = "statefulset.kubernetes.io/pod-name"  # label that the cluster gives


def pods_by_name(connectors: Iterable[Connector], workloads: Iterable[Workload]) -> tuple[dict[str, list[Connector]], list[Problem]]:
    """By the connector that asks for it, like ``connector/db``."""
    sets = sorted((w for w in workloads if w.kind == "StatefulSet"), key=lambda w: w.name)
    made: dict[str, list[Connector]] = {}
    problems: list[Problem] = []
    for connector in sorted(connectors, key=lambda c: c.name):
        if not connector.spec.expose_pods_by_name:
            continue
        where = f"{connector.ref}: spec.exposePodsByName"
        if not connector.spec.selector:
            problems.append(Problem(where, "a host has no pods", "set spec.selector instead of spec.host, or remove it"))
            continue
        selector = parse_selector(connector.spec.selector)
        chosen = [w for w in sets if selector.matches(w.labels)]
        if not chosen:
            text = f"{connector.spec.selector} means pods of no StatefulSet, and other pods have no lasting names"
            problems.append(Problem(where, text, "remove it, or name the pods of a StatefulSet in spec.selector"))
        for workload in (w for w in chosen if w.replicas > len(w.pods)):
            text = f"{workload.words} has {workload.replicas} pods: the first {len(workload.pods)} are exposed by name"
            problems.append(Problem(where, text, "expose them by one name, or in several StatefulSets"))
        made[f"connector/{connector.name}"] = [_one(connector, w, pod) for w in chosen for pod in w.pods]
    return made, problems


def _one(connector: Connector, workload: Workload, pod: str) -> Connector:
    name = f"{connector.name[:40].rstrip('-.')}.{pod}"
    if len(name) > 63 or name.endswith("-"):
        name = f"{name[:50].rstrip('-.')}-{hashlib.sha256(f'{connector.name}.{pod}'.encode()).hexdigest()[:10]}"
    marks = {TARGET: workload.words, MADE_FROM: f"connector/{connector.name}: exposePodsByName"}
    expose = connector.spec.expose
    spec = msgspec.structs.replace(
        connector.spec,
        routing_key=f"{connector.spec.routing_key}.{pod}",
        selector=f"{POD_NAME}={pod}",
        expose=msgspec.structs.replace(expose, address=pod) if expose is not None else None,
        expose_pods_by_name=False,
    )
    return Connector(metadata=Metadata(name=name, annotations=marks), spec=spec)
