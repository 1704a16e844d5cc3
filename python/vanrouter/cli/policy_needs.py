"""The traffic that a site in a namespace needs, as ``kube.policies`` judges it. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from vanrouter.kube.calls import Object
from vanrouter.kube.manifests import CONTROL_PORT, LINK_PORT
from vanrouter.kube.names import CONTROLLER_LABELS, ROUTER_LABELS
from vanrouter.kube.pods import keep_pod, selected
from vanrouter.kube.policies import Flow, Peer
from vanrouter.resources.kinds import Connector, Link, Listener, MultiKeyListener
from vanrouter.resources.selectors import parse_selector

__all__ = ["flows_of"]

API_PORTS: Final = (443, 6443)  # of the Service, and where it leads as a rule
ANYWHERE: Final = Peer()
SOME_POD: Final = Peer(in_cluster=True)
FIRST_LISTENER: Final = 20000


def flows_of(resources: Iterable[Any], pods: Iterable[Object], *, edge: bool, central: bool = False) -> Iterator[Flow]:
    """``edge``: nobody links to this site. ``central``: its controller is in another namespace."""
    listed, kept = list(resources), [(value, keep_pod(value)) for value in pods]
    routers = _labels(kept, ROUTER_LABELS)
    controllers = _labels(kept, CONTROLLER_LABELS)
    names = {"links": LINK_PORT, "control": CONTROL_PORT}

    def flow(direction: Any, labels: Mapping[str, str], port: int | tuple[int, ...], peer: Peer, what: str, **more: Any) -> Flow:
        ports = port if isinstance(port, tuple) else (port,)
        return Flow(direction=direction, labels=labels, ports=ports, peer=peer, what=what, **{"names": names, **more})

    for word, labels in (("router", routers), ("controller", controllers))[: 1 if central else 2]:
        yield flow("egress", labels, API_PORTS, ANYWHERE, f"the {word}'s way to the API server")
        yield flow("egress", labels, 53, SOME_POD, f"the {word}'s way to the DNS", protocol="UDP")
    if central:
        yield flow("egress", routers, CONTROL_PORT, SOME_POD, "the router's way to the controller")
    else:
        yield flow("egress", routers, CONTROL_PORT, Peer(labels=controllers), "the router's way to the controller")
        yield flow("ingress", controllers, CONTROL_PORT, Peer(labels=routers), "the router's way to the controller")
    if not edge:
        yield flow("ingress", routers, LINK_PORT, SOME_POD, "the way of other sites to the router")
    for link in listed:
        if isinstance(link, Link):
            for endpoint in link.spec.endpoints:
                what = f"the router's way to {endpoint.host}:{endpoint.port} of link {link.name}"
                peer = Peer(address=_address(endpoint.host), in_cluster=not _address(endpoint.host))
                yield flow("egress", routers, int(endpoint.port), peer, what)
    if any(isinstance(x, Listener | MultiKeyListener) for x in listed):
        yield flow("ingress", routers, FIRST_LISTENER, SOME_POD, "the way of applications to the router's listeners")
    for connector in listed:
        if isinstance(connector, Connector) and connector.spec.selector:
            yield from _to_targets(connector, kept, routers, flow)


def _to_targets(connector: Connector, kept: list[Any], routers: Mapping[str, str], flow: Any) -> Iterator[Flow]:
    selector = parse_selector(connector.spec.selector)
    found = selected((pod for _, pod in kept), selector)
    if not found:
        return
    target, port = found[0], connector.spec.port
    value = next(value for value, pod in kept if pod is target)
    what = f"the router's way to pod {target.name} of connector {connector.name}"
    yield flow("egress", routers, port, Peer(labels=target.labels), what)
    yield flow("ingress", target.labels, port, Peer(labels=routers), what, names=_ports(value))


def _labels(kept: list[Any], wanted: Mapping[str, str]) -> Mapping[str, str]:
    """Of such a pod as there is; else those that it would have at least."""
    return next((pod.labels for _, pod in kept if wanted.items() <= pod.labels.items() and not pod.leaving), wanted)


def _ports(value: Object) -> dict[str, int]:
    containers = (value.get("spec") or {}).get("containers") or ()
    return {str(p["name"]): int(p["containerPort"]) for c in containers for p in c.get("ports") or () if p.get("name")}


def _address(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ""
