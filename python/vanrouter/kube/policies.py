"""
Which NetworkPolicies of a namespace stand in the way of traffic that a site needs. Pure: objects in, names out.

As the API defines them: a pod that no policy selects for a direction is open in it; one that is selected gets what any of these allows.
Who enforces them, and where (before or after a Service's address is translated), differs; what may go either way is not called denied.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from vanrouter.kube.calls import Object

__all__ = ["Flow", "Peer", "deniers"]

Direction = Literal["ingress", "egress"]


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """The other end. ``labels``: a pod of this namespace; ``address``: an IP address, where it is known; neither: anywhere."""

    labels: Mapping[str, str] | None = None
    address: str = ""
    in_cluster: bool = False  # a pod of some namespace, of which nothing is known


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """Traffic that pods with ``labels`` need. Any of ``ports`` will do."""

    direction: Direction
    labels: Mapping[str, str]
    ports: tuple[int, ...]
    peer: Peer
    what: str  # for people: "router to the API server"
    protocol: str = "TCP"
    names: Mapping[str, int] = {}  # ports that the receiving pod names

    def __str__(self) -> str:
        return f"{self.what} ({self.direction}, {self.protocol} {' or '.join(map(str, self.ports))})"


def deniers(policies: Sequence[Object], flow: Flow) -> list[str]:
    """The policies that together deny it; none: it is allowed, or may be."""
    named = [(str(p["metadata"]["name"]), _dict(p.get("spec"))) for p in policies]
    concerned = [(name, spec) for name, spec in named if _selects(_dict(spec.get("podSelector")), flow.labels) and _speaks(spec, flow)]
    if any(_allows(_dict(rule), flow) for _, spec in concerned for rule in spec.get(flow.direction) or ()):
        return []
    return [name for name, _ in concerned]


def _speaks(spec: Mapping[str, Any], flow: Flow) -> bool:
    """Whether it says anything of this direction: of ingress always, where it names no types."""
    types = spec.get("policyTypes")
    if types:
        return flow.direction.capitalize() in types
    return flow.direction == "ingress" or bool(spec.get("egress"))


def _allows(rule: Mapping[str, Any], flow: Flow) -> bool:
    peers = rule.get("from" if flow.direction == "ingress" else "to")
    return _has_port(rule.get("ports"), flow) and (not peers or any(_is_peer(_dict(peer), flow.peer) for peer in peers))


def _has_port(ports: Any, flow: Flow) -> bool:
    if not ports:
        return True
    for port in ports:
        if port.get("protocol", "TCP") != flow.protocol:
            continue
        value = port.get("port")
        if value is None:
            return True
        first = flow.names.get(value) if isinstance(value, str) else value
        if first is None:
            continue
        if any(first <= wanted <= port.get("endPort", first) for wanted in flow.ports):
            return True
    return False


def _is_peer(said: Mapping[str, Any], peer: Peer) -> bool:
    if "ipBlock" in said:
        return _in_block(_dict(said["ipBlock"]), peer)
    if peer.labels is not None:
        # Of namespaces nothing is known: one that is chosen by labels may be this one.
        return "podSelector" not in said or _selects(_dict(said["podSelector"]), peer.labels)
    return peer.in_cluster and "namespaceSelector" in said


def _in_block(block: Mapping[str, Any], peer: Peer) -> bool:
    """An address that is not known may be in any block."""
    try:
        network = ipaddress.ip_network(str(block.get("cidr")), strict=False)
        if not peer.address:
            return peer.labels is None or network.prefixlen == 0
        address = ipaddress.ip_address(peer.address)
        excepted = [ipaddress.ip_network(str(text), strict=False) for text in block.get("except") or ()]
    except ValueError:
        return True
    return address in network and not any(address in other for other in excepted)


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Empty: everything."""
    if not (selector.get("matchLabels") or {}).items() <= labels.items():
        return False
    return all(_meets(_dict(e), labels) for e in selector.get("matchExpressions") or ())


def _meets(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression.get("key", ""), expression.get("values") or ()
    match expression.get("operator"):
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    return False


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
