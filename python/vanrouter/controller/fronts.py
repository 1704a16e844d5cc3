"""
What stands in front of the link access and leads TLS to it by its name, unopened; and where it is reached, by its status. Decides.

The name is the host that the Site says (``ingress-host``), else ``SITE-ID.van``: that is what others say in the handshake when they dial a
bare address. So an entrance that has an address needs no DNS, and one port of it serves many sites.

    Route              a host that OpenShift gives, or the Site's     status.ingress, where admitted
    Ingress            the name                                       the Site's host, or status.loadBalancer
    HTTPProxy          the name                                       once valid: the Site's host, or status.loadBalancer
    Gateway, TLSRoute  the name                                       once accepted: the Site's host, or status.addresses
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from vanrouter.kube.calls import Kind, Object
from vanrouter.kube.entrances import ACCESS_NAME, Entrance
from vanrouter.kube.kinds import GATEWAYS, HTTP_PROXIES, INGRESSES, ROUTES
from vanrouter.kube.names import labelled
from vanrouter.resources.shapes import is_ip

__all__ = ["ACCESS", "ACCESS_PORT", "Front", "annotated", "front"]

ACCESS: Final = "access"  # the label's value
ACCESS_PORT: Final = 55671
LISTENER: Final = "links"
APPLIED: Final = "vanrouter.io/applied"
_NGINX: Final = {"nginx.ingress.kubernetes.io/ssl-passthrough": "true", "nginx.ingress.kubernetes.io/ssl-redirect": "true"}
_GIVE_HOST: Final = "give it a name that leads there: van update --ingress-host HOST"


class Front(msgspec.Struct, frozen=True):
    """``endpoints``, or what is ``missing`` and what is ``todo`` about it."""

    objects: list[tuple[Kind, Object]]
    endpoints: list[tuple[str, int]] = []
    missing: str = ""
    todo: str = ""


def front(
    chosen: Entrance, kinds: Mapping[str, Kind], copies: Mapping[str, Object], *, name: str, namespace: str, owners: tuple[Object, ...]
) -> Front:
    """``kinds`` and ``copies``: by kind, in the version that the cluster serves. ``name``: ``SITE-ID.van``."""
    maker = _Maker(chosen, kinds, copies, name=name, namespace=namespace, owners=owners)
    makers = {
        "route": maker.route,
        "ingress": maker.ingress,
        "ingress-nginx": maker.ingress,
        "contour-http-proxy": maker.http_proxy,
        "gateway": maker.gateway,
    }
    return makers[chosen.type]()


def annotated(value: Object, annotations: Mapping[str, str]) -> Object:
    """With a mark of what we want: when a field or an annotation is no longer wanted, the object differs and is applied again."""
    mark = hashlib.sha256(msgspec.json.encode([value["spec"], dict(annotations)], order="deterministic")).hexdigest()[:16]
    value["metadata"]["annotations"] = {**annotations, APPLIED: mark}
    return value


class _Maker:
    def __init__(
        self,
        chosen: Entrance,
        kinds: Mapping[str, Kind],
        copies: Mapping[str, Object],
        *,
        name: str,
        namespace: str,
        owners: tuple[Object, ...],
    ) -> None:
        self.chosen, self.kinds, self.copies, self.namespace, self.owners = chosen, kinds, copies, namespace, owners
        self.host = chosen.hosts[0] if chosen.hosts else ""
        self.name = self.host or name

    def route(self) -> Front:
        spec: Object = {
            "to": {"kind": "Service", "name": ACCESS_NAME, "weight": 100},
            "port": {"targetPort": LISTENER},
            "tls": {"termination": "passthrough", "insecureEdgeTerminationPolicy": "None"},
        }
        if self.host:
            spec["host"] = self.host
        objects = [(ROUTES, self._object(spec))]
        hosts, refusal = [], ""
        for place in _list(self._status("Route").get("ingress")):
            said = _condition(place.get("conditions"), "Admitted")
            if said.get("status") == "True" and place.get("host"):
                hosts.append(str(place["host"]))
            elif said.get("status") == "False":
                refusal = _words(said)
        if hosts:
            return Front(objects, [(host, self.chosen.port) for host in dict.fromkeys(hosts)])
        what = self._what("Route")
        if refusal:
            return Front(objects, missing=f"{what} is not admitted: {refusal}", todo="another host: van update --ingress-host HOST")
        return Front(
            objects, missing=f"waiting for a host of {what}", todo="OpenShift gives it (oc describe route van-router says why not)"
        )

    def ingress(self) -> Front:
        nginx = self.chosen.type == "ingress-nginx"
        backend = {"service": {"name": ACCESS_NAME, "port": {"number": ACCESS_PORT}}}
        paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
        spec: Object = {"rules": [{"host": self.name, "http": {"paths": paths}}]}
        if ingress_class := self.chosen.ingress_class or ("nginx" if nginx else ""):
            spec["ingressClassName"] = ingress_class
        objects = [(INGRESSES, self._object(spec, _NGINX if nginx else {}))]
        if self.host and "Ingress" in self.copies:
            return Front(objects, [(self.host, self.chosen.port)])
        return self._by_balancer("Ingress", objects, "its ingress controller gives it (kubectl describe ingress van-router says why not)")

    def http_proxy(self) -> Front:
        services = [{"name": ACCESS_NAME, "port": ACCESS_PORT}]
        spec: Object = {"virtualhost": {"fqdn": self.name, "tls": {"passthrough": True}}, "tcpproxy": {"services": services}}
        if self.chosen.ingress_class:
            spec["ingressClassName"] = self.chosen.ingress_class
        objects = [(HTTP_PROXIES, self._object(spec))]
        status, what = self._status("HTTPProxy"), self._what("HTTPProxy")
        todo = "Contour says it (kubectl describe httpproxy van-router says why not)"
        if status.get("currentStatus") not in (None, "", "NotReconciled", "valid"):
            return Front(objects, missing=f"{what} is {status['currentStatus']}: {status.get('description', '')}", todo=todo)
        if self.host and status.get("currentStatus") == "valid":
            return Front(objects, [(self.host, self.chosen.port)])
        if self.host:
            return Front(objects, missing=f"waiting for {what} to be valid", todo=todo)
        return self._by_balancer("HTTPProxy", objects, todo)

    def gateway(self) -> Front:
        there, routes = self.chosen.gateway, self.kinds["TLSRoute"]
        objects: list[tuple[Kind, Object]] = []
        parent: Object = {"group": GATEWAYS.group, "kind": "Gateway", "name": there[1] or ACCESS_NAME}
        if there[0]:
            parent["namespace"] = there[0]
        if not there[1]:
            parent["sectionName"] = LISTENER
            listener: Object = {
                "name": LISTENER,
                "protocol": "TLS",
                "port": self.chosen.port,
                "hostname": self.name,
                "tls": {"mode": "Passthrough"},
                "allowedRoutes": {"namespaces": {"from": "Same"}, "kinds": [{"group": GATEWAYS.group, "kind": "TLSRoute"}]},
            }
            objects.append((GATEWAYS, self._object({"gatewayClassName": self.chosen.ingress_class, "listeners": [listener]})))
        rule = {"backendRefs": [{"kind": "Service", "name": ACCESS_NAME, "port": ACCESS_PORT}]}
        objects.append((routes, self._object({"parentRefs": [parent], "hostnames": [self.name], "rules": [rule]})))
        return self._through_gateway(objects, f"Gateway/{there[1]} in {there[0] or self.namespace}" if there[1] else self._what("Gateway"))

    def _through_gateway(self, objects: list[tuple[Kind, Object]], gateway: str) -> Front:
        said = [
            _condition(parent.get("conditions"), kind)
            for parent in _list(self._status("TLSRoute").get("parents"))
            for kind in ("Accepted", "ResolvedRefs")
        ]
        route, todo = self._what("TLSRoute"), "kubectl describe gateway,tlsroute says why not"
        if refused := next((c for c in said if c.get("status") == "False"), None):
            return Front(objects, missing=f"{route} is not accepted: {_words(refused)}", todo=todo)
        if not self.chosen.gateway[1]:
            conditions = self._status("Gateway").get("conditions")
            for kind in ("Accepted", "Programmed"):
                found = _condition(conditions, kind)
                if found.get("status") == "False":
                    return Front(objects, missing=f"{gateway} is not {kind.lower()}: {_words(found)}", todo=todo)
        if not any(c.get("status") == "True" for c in said):
            hint = f"its controller says it; {todo}"
            return Front(objects, missing=f"waiting for {route} to be accepted by {gateway}", todo=hint)
        if self.host:
            return Front(objects, [(self.host, self.chosen.port)])
        given = [str(a["value"]) for a in _list(self._status("Gateway").get("addresses")) if a.get("value")]
        return self._by_address(given, objects, gateway, todo)

    # ---- Addresses -----------------------------------------------------------------------------------------------------------------------

    def _by_balancer(self, kind: str, objects: list[tuple[Kind, Object]], todo: str) -> Front:
        status = self._status(kind).get("loadBalancer")
        given = _list(status.get("ingress") if isinstance(status, dict) else None)
        return self._by_address([str(i.get("ip") or i.get("hostname") or "") for i in given], objects, self._what(kind), todo)

    def _by_address(self, given: Iterable[str], objects: list[tuple[Kind, Object]], what: str, todo: str) -> Front:
        """Under a bare address others say ``SITE-ID.van``; under a name that is not ours they would say that name."""
        found = [address for address in given if address]
        if addresses := [address for address in found if is_ip(address)]:
            return Front(objects, [(address, self.chosen.port) for address in addresses])
        if found:
            return Front(
                objects, missing=f"{what} has the address {found[0]}, which is a name and tells no site from another", todo=_GIVE_HOST
            )
        return Front(objects, missing=f"waiting for an address of {what}", todo=todo)

    # ---- Objects -------------------------------------------------------------------------------------------------------------------------

    def _object(self, spec: Object, annotations: Mapping[str, str] | None = None) -> Object:
        value = {"metadata": labelled(ACCESS_NAME, ACCESS, owners=self.owners), "spec": spec}
        return annotated(value, {**(annotations or {}), **self.chosen.annotations})

    def _status(self, kind: str) -> Mapping[str, Any]:
        status = self.copies.get(kind, {}).get("status")
        return status if isinstance(status, dict) else {}

    def _what(self, kind: str) -> str:
        return f"{kind}/{ACCESS_NAME} in {self.namespace}"


def _condition(conditions: Any, kind: str) -> Mapping[str, Any]:
    return next((c for c in _list(conditions) if c.get("type") == kind), {})


def _words(condition: Mapping[str, Any]) -> str:
    return ": ".join(str(condition[key]) for key in ("reason", "message") if condition.get(key)) or "it does not say why"


def _list(value: Any) -> list[Mapping[str, Any]]:
    return list(_dicts(value)) if isinstance(value, list) else []


def _dicts(values: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    return (value for value in values if isinstance(value, dict))
