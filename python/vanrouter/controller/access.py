"""
Where others reach this site: the Service ``van-router``, and the addresses that it got. Decides; time is an argument.

    loadbalancer   the addresses in the Service's status, port 55671
    nodeport       ``settings.ingress-host`` of the Site, and the node port
    local          the Service's name, for other namespaces of this cluster
    none           nobody: this site dials, and is not dialled
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from vanrouter.conditions import Condition, Conditions
from vanrouter.kube.calls import Object
from vanrouter.kube.names import ROUTER_LABELS, ROUTER_MAP, labelled
from vanrouter.resources.kinds import SiteSpec

__all__ = ["ACCESS_PORT", "ACCESS_SERVICE", "LinkAccess", "Reached"]

ACCESS_SERVICE: Final = ROUTER_MAP  # the same name as the Deployment's
ACCESS_PORT: Final = 55671
OLD: Final = 30.0
ACCESS: Final = "access"  # the label's value
INGRESS_HOST: Final = "ingress-host"
KINDS: Final = ("loadbalancer", "nodeport", "local", "none")
_TYPE: Final = {"loadbalancer": "LoadBalancer", "nodeport": "NodePort", "local": "ClusterIP"}


class Reached(msgspec.Struct, frozen=True):
    """Where the site is reached now, and how that is."""

    endpoints: list[tuple[str, int]]
    condition: Condition | None  # None: it wants no link access
    service: Object | None  # what the Service should be, for server-side apply; None: there should be none


class LinkAccess:
    """Remembers since when an address is missing, and which went: they are still told for 30 s, while others learn the new ones."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._conditions = Conditions()
        self._now: list[tuple[str, int]] = []
        self._old: dict[tuple[str, int], float] = {}  # until when

    @property
    def deadline(self) -> float:
        return min(self._old.values(), default=math.inf)

    def look(self, spec: SiteSpec, service: Object | None, *, owners: tuple[Object, ...], now: float) -> Reached:
        """``service``: the copy of ``van-router``."""
        reached = self._look(spec, service, owners, now)
        self._old = {e: until for e, until in self._old.items() if until > now and e not in reached.endpoints}
        self._old |= {e: now + OLD for e in self._now if e not in reached.endpoints}
        self._now = reached.endpoints
        return msgspec.structs.replace(reached, endpoints=[*reached.endpoints, *self._old])

    def _look(self, spec: SiteSpec, service: Object | None, owners: tuple[Object, ...], now: float) -> Reached:
        kind = spec.link_access or "none"
        kind = "loadbalancer" if kind == "default" else kind
        if kind == "none":
            return Reached([], None, None)
        if kind not in KINDS:
            text = f"spec.linkAccess is {kind!r}, which this release does not make on Kubernetes"
            return Reached([], self._say("False", "NotSupported", text, f"choose one of: {', '.join(KINDS)}", now), None)
        wanted = self._service(kind, owners)
        if service is not None and not _is_ours(service):
            text = f"there is a Service {ACCESS_SERVICE} in {self._namespace} that is not ours; it is left alone"
            return Reached(
                [], self._say("False", "NameTaken", text, f"rename it, or delete it: kubectl delete service {ACCESS_SERVICE}", now), None
            )
        endpoints, missing, todo = self._endpoints(kind, spec, service)
        if missing:
            return Reached([], self._say("False", "Pending", missing, todo, now), wanted)
        where = ", ".join(f"{host}:{port}" for host, port in endpoints)
        return Reached(endpoints, self._say("True", "Listening", f"other sites reach this one at {where}", "", now), wanted)

    def _endpoints(self, kind: str, spec: SiteSpec, service: Object | None) -> tuple[list[tuple[str, int]], str, str]:
        what = f"Service/{ACCESS_SERVICE} in {self._namespace}"
        if kind == "local":
            return [(f"{ACCESS_SERVICE}.{self._namespace}.svc", ACCESS_PORT)], "", ""
        status = (service or {}).get("status") or {}
        if kind == "loadbalancer":
            given: list[Any] = (status.get("loadBalancer") or {}).get("ingress") or []
            hosts = [str(i.get("ip") or i.get("hostname")) for i in given if isinstance(i, dict) and (i.get("ip") or i.get("hostname"))]
            if hosts:
                return [(host, ACCESS_PORT) for host in hosts], "", ""
            todo = "the cluster gives it (kubectl describe service van-router says why not); without load balancers: --link-access nodeport"
            return [], f"waiting for an address of {what} (type LoadBalancer)", todo
        host = spec.settings.get(INGRESS_HOST, "")
        if not host:
            return (
                [],
                f"waiting for spec.settings.{INGRESS_HOST} of the Site: a node's address as others see it",
                "van update --ingress-host HOST",
            )
        ports: list[Any] = ((service or {}).get("spec") or {}).get("ports") or []
        number = next((p.get("nodePort") for p in ports if isinstance(p, dict) and p.get("nodePort")), None)
        if number is None:
            return [], f"waiting for the node port of {what}", ""
        return [(host, int(number))], "", ""

    def _service(self, kind: str, owners: tuple[Object, ...]) -> Object:
        port = {"name": "links", "port": ACCESS_PORT, "targetPort": ACCESS_PORT, "protocol": "TCP"}
        spec = {"type": _TYPE[kind], "selector": dict(ROUTER_LABELS), "ports": [port]}
        return {"metadata": labelled(ACCESS_SERVICE, ACCESS, owners=owners), "spec": spec}

    def _say(self, status: Any, reason: str, message: str, todo: str, now: float) -> Condition:
        self._conditions.set("LinkAccess", status, reason, message, now=now, next=todo)
        found = self._conditions.get("LinkAccess")
        assert found is not None
        return found


def _is_ours(service: Object) -> bool:
    labels = service.get("metadata", {}).get("labels") or {}
    return labels.get("app.kubernetes.io/part-of") == "vanrouter"
