"""
Where others reach this site: the Service ``van-router``, what stands in front of it, and the addresses that they got. Decides; time is
an argument.

    loadbalancer   the addresses in the Service's status, port 55671
    nodeport       ``settings.ingress-host`` of the Site, and the node port
    local          the Service's name, for other namespaces of this cluster
    none           nobody: this site dials, and is not dialled
    all others     a Service inside, and what ``fronts`` puts in front of it
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from vanrouter.conditions import Condition, Conditions
from vanrouter.controller.fronts import ACCESS, ACCESS_PORT, Front, annotated, front
from vanrouter.errors import ConfigError
from vanrouter.kube.calls import Kind, Object
from vanrouter.kube.entrances import ACCESS_NAME, Entrance, entrance, kinds_in_front
from vanrouter.kube.names import ROUTER_LABELS, labelled
from vanrouter.resources.kinds import SiteSpec

__all__ = ["LinkAccess", "Reached", "Seen"]

OLD: Final = 30.0
_TYPE: Final = {"loadbalancer": "LoadBalancer", "nodeport": "NodePort"}


class Seen(msgspec.Struct, frozen=True):
    """What the cluster has in front of the link access. ``kinds``: in the version that it serves; ``copies``: ours, where there is one."""

    kinds: Mapping[str, Kind] = {}
    copies: Mapping[str, Object] = {}
    routes: bool | None = False  # those of OpenShift are there, and may be used; None: not known yet
    problem: str = ""  # why a kind cannot be seen
    todo: str = ""
    told: list[tuple[str, int]] = []  # the endpoints that were told last, whoever did
    unsettled: bool = False  # the copies are not complete yet


NOTHING: Final = Seen()


class Reached(msgspec.Struct, frozen=True):
    """Where the site is reached now, and how that is."""

    endpoints: list[tuple[str, int]]
    condition: Condition | None  # None: it wants no link access
    service: Object | None = None  # what the Service should be, for server-side apply; None: there should be none
    fronts: list[tuple[Kind, Object]] = []  # what should be in front of it, likewise
    going: list[tuple[str, int]] = []  # of the endpoints: those that went, and are told for a while


class LinkAccess:
    """Remembers since when an address is missing, and which went: they are still told for 30 s, while others learn the new ones."""

    def __init__(self, namespace: str, *, name: str = "") -> None:
        """``name``: by which the site is told from others where they share an address."""
        self._namespace, self.name = namespace, name
        self._conditions = Conditions()
        self._now: list[tuple[str, int]] | None = None
        self._old: dict[tuple[str, int], float] = {}  # until when

    @property
    def deadline(self) -> float:
        return min(self._old.values(), default=math.inf)

    def look(self, spec: SiteSpec, service: Object | None, *, owners: tuple[Object, ...], now: float, seen: Seen = NOTHING) -> Reached:
        """``service``: the copy of ``van-router``."""
        if self._now is None:
            self._now = list(seen.told)
        reached = self._look(spec, service, seen, owners, now)
        self._old = {e: until for e, until in self._old.items() if until > now and e not in reached.endpoints}
        self._old |= {e: now + OLD for e in self._now if e not in reached.endpoints}
        self._now = reached.endpoints
        return msgspec.structs.replace(reached, endpoints=[*reached.endpoints, *self._old], going=list(self._old))

    def _look(self, spec: SiteSpec, service: Object | None, seen: Seen, owners: tuple[Object, ...], now: float) -> Reached:
        if seen.unsettled or (seen.routes is None and spec.link_access == "default"):
            said = seen.problem or "asking the cluster what stands in front of the link access"
            return Reached(list(self._now or ()), self._say("False", "Pending", said, seen.todo, now))
        try:
            chosen = entrance(spec, routes=bool(seen.routes))
        except ConfigError as error:
            return Reached([], self._say("False", "NotSupported", str(error), error.hint, now))
        if chosen.type == "none":
            return Reached([], None)
        for kind, there in (("Service", service), *seen.copies.items()):
            if there is not None and not _is_ours(there):
                text = f"there is a {kind} {ACCESS_NAME} in {self._namespace} that is not ours; it is left alone"
                todo = f"rename it, or delete it: kubectl delete {kind.lower()} {ACCESS_NAME}"
                return Reached([], self._say("False", "NameTaken", text, todo, now))
        wanted = self._service(chosen, owners)
        made = self._front(chosen, seen, service, owners)
        if made.missing:
            return Reached([], self._say("False", "Pending", made.missing, made.todo, now), wanted, made.objects)
        where = ", ".join(f"{host}:{port}" for host, port in made.endpoints)
        told = self._say("True", "Listening", f"other sites reach this one at {where}", "", now)
        return Reached(made.endpoints, told, wanted, made.objects)

    def _front(self, chosen: Entrance, seen: Seen, service: Object | None, owners: tuple[Object, ...]) -> Front:
        kinds = kinds_in_front(chosen)
        if not kinds:
            endpoints, missing, todo = self._endpoints(chosen, service)
            return Front([], endpoints, missing, todo)
        if seen.problem:
            return Front([], missing=seen.problem, todo=seen.todo)
        if any(first.kind not in seen.kinds for first, *_ in kinds):
            return Front([], missing=f"looking for {', '.join(first.kind for first, *_ in kinds)} in the cluster")
        return front(chosen, seen.kinds, seen.copies, name=self.name, namespace=self._namespace, owners=owners)

    def _endpoints(self, chosen: Entrance, service: Object | None) -> tuple[list[tuple[str, int]], str, str]:
        what = f"Service/{ACCESS_NAME} in {self._namespace}"
        if chosen.type == "local":
            return [(f"{ACCESS_NAME}.{self._namespace}.svc", ACCESS_PORT)], "", ""
        status = (service or {}).get("status") or {}
        if chosen.type == "loadbalancer":
            given: list[Any] = (status.get("loadBalancer") or {}).get("ingress") or []
            hosts = [str(i.get("ip") or i.get("hostname")) for i in given if isinstance(i, dict) and (i.get("ip") or i.get("hostname"))]
            if hosts:
                return [(host, ACCESS_PORT) for host in hosts], "", ""
            todo = "the cluster gives it (kubectl describe service van-router says why not); without load balancers: --link-access nodeport"
            return [], f"waiting for an address of {what} (type LoadBalancer)", todo
        if not chosen.hosts:
            missing = "waiting for spec.settings.ingress-host of the Site: a node's address as others see it"
            return [], missing, "van update --ingress-host HOST"
        ports: list[Any] = ((service or {}).get("spec") or {}).get("ports") or []
        number = next((p.get("nodePort") for p in ports if isinstance(p, dict) and p.get("nodePort")), None)
        if number is None:
            return [], f"waiting for the node port of {what}", ""
        return [(host, int(number)) for host in chosen.hosts], "", ""

    def _service(self, chosen: Entrance, owners: tuple[Object, ...]) -> Object:
        port = {"name": "links", "port": ACCESS_PORT, "targetPort": ACCESS_PORT, "protocol": "TCP"}
        spec = {"type": _TYPE.get(chosen.type, "ClusterIP"), "selector": dict(ROUTER_LABELS), "ports": [port]}
        value = {"metadata": labelled(ACCESS_NAME, ACCESS, owners=owners), "spec": spec}
        return annotated(value, {} if kinds_in_front(chosen) else chosen.annotations)

    def _say(self, status: Any, reason: str, message: str, todo: str, now: float) -> Condition:
        self._conditions.set("LinkAccess", status, reason, message, now=now, next=todo)
        found = self._conditions.get("LinkAccess")
        assert found is not None
        return found


def _is_ours(value: Object) -> bool:
    labels = value.get("metadata", {}).get("labels") or {}
    return labels.get("app.kubernetes.io/part-of") == "vanrouter"
