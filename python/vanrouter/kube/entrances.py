"""
The kinds of link access in a namespace: what each takes of the cluster, which rights, and which settings of the Site. Pure.

    local, loadbalancer, nodeport     a Service
    route, ingress, ingress-nginx,    a Service inside, and in front of it an object that leads TLS to it by its name (SNI), unopened:
    contour-http-proxy, gateway       so many sites share one address and one port
    none                              nothing

A kind that the cluster has in several versions is a tuple of alternatives, the newest first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from vanrouter.errors import ConfigError
from vanrouter.kube.calls import Kind, Object
from vanrouter.kube.kinds import GATEWAYS, HTTP_PROXIES, INGRESSES, ROUTES, TLS_ROUTES
from vanrouter.kube.names import ROUTER_MAP
from vanrouter.resources.kinds import SiteSpec
from vanrouter.resources.shapes import is_ip, parse_host

__all__ = [
    "ACCESS_NAME",
    "ACCESS_SETTINGS",
    "ACCESS_TYPES",
    "BEHIND_NAMES",
    "FRONT_KINDS",
    "Entrance",
    "entrance",
    "every_front_rule",
    "faults",
    "front_rules",
    "kinds_in_front",
    "unread",
]

ACCESS_NAME: Final = ROUTER_MAP
"""Of every object of the link access; the same as the Deployment's."""

BEHIND_NAMES: Final = ("route", "ingress", "ingress-nginx", "contour-http-proxy", "gateway")
"""Those in front of which something chooses the site by the name in the TLS handshake."""

ACCESS_TYPES: Final = ("loadbalancer", "nodeport", "local", *BEHIND_NAMES, "none")
FRONT_KINDS: Final = (ROUTES, INGRESSES, HTTP_PROXIES, GATEWAYS, *TLS_ROUTES)

ACCESS_SETTINGS: Final = ("ingress-host", "ingress-port", "ingress-class", "ingress-annotations", "gateway")
_READ_BY: Final = {
    "ingress-host": ("nodeport", *BEHIND_NAMES),
    "ingress-port": BEHIND_NAMES,
    "ingress-class": ("ingress", "ingress-nginx", "contour-http-proxy", "gateway"),
    "ingress-annotations": tuple(t for t in ACCESS_TYPES if t != "none"),
    "gateway": ("gateway",),
}
_CUSTOM_HOST: Final[Object] = {"apiGroups": [ROUTES.group], "resources": ["routes/custom-host"], "verbs": ["create", "update"]}
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")

Fault = tuple[str, str, str]


class Entrance(msgspec.Struct, frozen=True):
    """The link access as it was chosen."""

    type: str
    hosts: list[str]  # under which others reach it, where that was said
    port: int  # of what is in front
    ingress_class: str
    annotations: dict[str, str]
    gateway: tuple[str, str]  # namespace and name of one that is there; both empty: one is made


def entrance(spec: SiteSpec, *, routes: bool = False) -> Entrance:
    """``routes``: the cluster has those of OpenShift, and they may be used: then they are the default. Raises ConfigError."""
    for where, what, hint in faults(spec, routes=routes):
        raise ConfigError(f"{where} {what}", hint=hint)
    said = spec.settings
    namespace, _, name = said.get("gateway", "").rpartition("/")
    return Entrance(
        type=_type(spec, routes),
        hosts=[parse_host(host) for host in _several(said.get("ingress-host", ""))],
        port=int(said.get("ingress-port", "443")),
        ingress_class=said.get("ingress-class", ""),
        annotations=dict(item.partition("=")[::2] for item in _several(said.get("ingress-annotations", ""))),
        gateway=(namespace, name),
    )


def kinds_in_front(chosen: Entrance) -> list[Sequence[Kind]]:
    """What is made in front of the Service: of each the alternatives."""
    if chosen.type == "gateway":
        return [TLS_ROUTES] if chosen.gateway[1] else [(GATEWAYS,), TLS_ROUTES]
    kinds = {"route": ROUTES, "ingress": INGRESSES, "ingress-nginx": INGRESSES, "contour-http-proxy": HTTP_PROXIES}
    return [(kinds[chosen.type],)] if chosen.type in kinds else []


def front_rules(chosen: Entrance) -> list[Object]:
    """Rights of the controller, for what this choice makes and for nothing else. Only ``create`` cannot be granted by name."""
    rules: list[Object] = []
    for first, *_ in kinds_in_front(chosen):
        rules += _rules(first)
    if chosen.type == "route" and chosen.hosts:
        rules.append(_CUSTOM_HOST)
    return rules


def every_front_rule() -> list[Object]:
    """Rights of a controller that serves all namespaces: of every choice."""
    rules: list[Object] = []
    for kind in (ROUTES, INGRESSES, HTTP_PROXIES, GATEWAYS, TLS_ROUTES[0]):
        rules += _rules(kind)
    return [*rules, _CUSTOM_HOST]


def _rules(kind: Kind) -> list[Object]:
    named = {"resourceNames": [ACCESS_NAME], "verbs": ["list", "watch", "patch", "delete"]}
    return [
        {"apiGroups": [kind.group], "resources": [kind.plural], **named},
        {"apiGroups": [kind.group], "resources": [kind.plural], "verbs": ["create"]},
    ]


# ---- What can be wrong ------------------------------------------------------------------------------------------------------------------


def _type(spec: SiteSpec, routes: bool) -> str:
    if spec.edge or not spec.link_access:
        return "none"
    return ("route" if routes else "loadbalancer") if spec.link_access == "default" else spec.link_access


def faults(spec: SiteSpec, *, routes: bool) -> Iterator[Fault]:
    """(where, what is wrong, what to do)."""
    chosen = _type(spec, routes)
    if chosen not in ACCESS_TYPES:
        yield "spec.linkAccess", f"{chosen!r} is no link access in a namespace", f"one of: {', '.join(ACCESS_TYPES)}"
        return
    said = spec.settings
    hosts = _several(said.get("ingress-host", ""))
    for host in hosts:
        try:
            parse_host(host)
        except ConfigError as error:
            yield "spec.settings.ingress-host", str(error), ""
        if chosen in BEHIND_NAMES and (is_ip(host) or host != host.lower()):
            hint = "write the name, in lower case, under which the cluster's entrance is reached; without one, its address is used"
            yield "spec.settings.ingress-host", f"is {host!r}, and {chosen} tells sites apart by host names", hint
    if chosen in BEHIND_NAMES and len(hosts) > 1:
        yield "spec.settings.ingress-host", f"has {len(hosts)} hosts; {chosen} takes one", "leave one"
    port = said.get("ingress-port", "443")
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        yield "spec.settings.ingress-port", f"is {port!r}", "write a port from 1 to 65535"
    for item in _several(said.get("ingress-annotations", "")):
        if not item.partition("=")[0] or "=" not in item:
            yield "spec.settings.ingress-annotations", f"{item!r} is not KEY=VALUE", "separate several by commas"
    if said.get("ingress-class") and not _NAME.fullmatch(said["ingress-class"]):
        yield "spec.settings.ingress-class", f"{said['ingress-class']!r} is no name", "see: kubectl get ingressclass,gatewayclass"
    yield from _gateway_faults(chosen, said, hosts)


def _gateway_faults(chosen: str, said: dict[str, str], hosts: list[str]) -> Iterator[Fault]:
    named = said.get("gateway", "")
    if any(not _NAME.fullmatch(part) for part in (named.split("/") if named else [])) or named.count("/") > 1:
        yield "spec.settings.gateway", f"{named!r} is not NAME or NAMESPACE/NAME", "see: kubectl get gateway -A"
    if chosen != "gateway":
        return
    if named and not hosts:
        hint = "give it one that leads to the Gateway: van update --ingress-host HOST"
        yield "spec.settings.ingress-host", f"is missing: only a name leads through Gateway {named}", hint
    if not named and not said.get("ingress-class"):
        hint = "van update --ingress-class CLASS (kubectl get gatewayclass), or --gateway [NAMESPACE/]NAME for a Gateway that is there"
        yield "spec.settings.ingress-class", "is missing: a Gateway that is made needs a class", hint


def unread(spec: SiteSpec, *, routes: bool = False) -> list[tuple[str, Sequence[str]]]:
    """Settings of the link access that the chosen one does not read, and which do."""
    chosen = _type(spec, routes)
    return [(name, by) for name, by in _READ_BY.items() if spec.settings.get(name) and chosen not in by]


def _several(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
