"""
Connectors that are made from something else, kept in ConfigMaps of their own: ``van.made.deployment.hello``.

From annotations, and from connectors that expose pods by name. Routers read them like any other. Nothing is made before a router has said
what the network has; nothing is withdrawn unless the copy that shows it gone is current.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from vanrouter.controller.annotations import annotated, targets_named
from vanrouter.controller.copies import Copies
from vanrouter.controller.pods_by_name import pods_by_name
from vanrouter.controller.services import is_ours
from vanrouter.controller.workloads import FOLLOWED, Workloads
from vanrouter.kube.calls import Object
from vanrouter.kube.kinds import CONFIG_MAPS, SERVICES
from vanrouter.kube.names import RESOURCE, labelled, resource_map
from vanrouter.kube.records import RECORD_KEY
from vanrouter.kube.workloads import INCUMBENT, MADE_FROM, Workload, has_annotations, keep_service
from vanrouter.resources import Resource, to_yaml
from vanrouter.resources.kinds import Connector
from vanrouter.stores.resources import Problem

__all__ = ["Making", "is_made"]

ORIGIN: Final = "vanrouter.io/origin"  # annotation of such a ConfigMap: what it is made from, like ``deployment/hello``
_INCUMBENTS: Final = "internal.skupper.io/controlled"  # annotation of a Service that the incumbent made


class Making:
    """``problems``: what is wrong with what the last look found."""

    def __init__(self, copies: Copies, workloads: Workloads) -> None:
        self._copies, self._workloads = copies, workloads
        self._problems: list[Problem] = []
        self._maps: dict[str, tuple[list[Connector], Object]] = {}  # by origin: writing YAML takes its time

    @property
    def problems(self) -> list[Problem]:
        return [*self._workloads.problems, *self._problems]

    async def write(self, resources: Iterable[Resource], services: Iterable[Mapping[str, Any]], owners: tuple[Object, ...]) -> None:
        if not self._workloads.known:
            return
        connectors = [r for r in resources if isinstance(r, Connector)]
        explicit, before = [c for c in connectors if not is_made(c)], [c for c in connectors if is_made(c)]
        there = self._copies.of(SERVICES)
        own = [*self._workloads.all(), *(keep_service(s) for s in there.values() if not is_ours(s) and has_annotations(s))]
        named = targets_named(own) - {workload.name for workload in own if workload.kind == "Service"}
        workloads = [*own, *(keep_service(s) for name, s in there.items() if name in named and not is_ours(s))]
        found, self._problems = annotated(_without_the_incumbents(workloads, there), explicit, before, services)
        by_pod, more = pods_by_name([*explicit, *(c for made in found.values() for c in made)], workloads)
        self._problems += more if self._workloads.current("StatefulSet") else []
        known, self._maps = self._maps, {}
        for origin, made in {**found, **{origin: made for origin, made in by_pod.items() if made}}.items():
            old = known.get(origin)
            self._maps[origin] = old if old is not None and old[0] == made else (made, _map(origin, made, owners))
        wanted = {value["metadata"]["name"]: value for _, value in self._maps.values()}
        changed = [value for value in wanted.values() if self._copies.differs(CONFIG_MAPS, value)]
        await self._copies.each(changed, lambda value: self._copies.ensure(CONFIG_MAPS, value))
        for name, value in self._copies.of(CONFIG_MAPS).items():
            if MADE_FROM in (value["metadata"].get("labels") or {}) and name not in wanted and self._is_certain(value):
                await self._copies.remove(CONFIG_MAPS, name)

    def _is_certain(self, value: Object) -> bool:
        """Whether it is known to be made from nothing that there is."""
        kind = str((value["metadata"].get("annotations") or {}).get(ORIGIN, "")).partition("/")[0]
        if kind == "connector":
            return self._copies.current(CONFIG_MAPS) and self._workloads.current("StatefulSet")
        if kind == "service":  # a port by name is one of the pods of a workload
            return self._copies.current(SERVICES) and all(self._workloads.current(k.kind) for k in FOLLOWED)
        return self._workloads.current(next((k.kind for k in FOLLOWED if k.kind.lower() == kind), ""))


def is_made(connector: Connector) -> bool:
    return MADE_FROM in connector.metadata.annotations


def _map(origin: str, connectors: list[Connector], owners: tuple[Object, ...]) -> Object:
    metadata = labelled(resource_map("made", origin.replace("/", ".")), RESOURCE, owners=owners)
    metadata["labels"][MADE_FROM] = "connector" if origin.startswith("connector/") else "annotation"
    metadata["annotations"] = {ORIGIN: origin}
    return {"metadata": metadata, "data": {RECORD_KEY: to_yaml(connectors)}}


def _without_the_incumbents(workloads: Iterable[Workload], services: Mapping[str, Object]) -> list[Workload]:
    """While the incumbent itself serves an address in this namespace, its annotations are for it."""
    found = []
    for workload in workloads:
        address = workload.annotations.get(f"{INCUMBENT}address") or workload.name
        annotations = (services.get(address) or {"metadata": {}})["metadata"].get("annotations") or {}
        if _INCUMBENTS in annotations:
            theirs = {key: value for key, value in workload.annotations.items() if not key.startswith(INCUMBENT)}
            found.append(msgspec.structs.replace(workload, annotations=theirs))
        else:
            found.append(workload)
    return found
