"""
The objects of the incumbent's first version that say what there is: ``skupper-services`` and ``skupper-site``. Pure.

    skupper-services: one key per address ──▶ a Connector for each target and port that is here, exposed to the other sites
    skupper-site ──▶ the Site

What other sites offer comes from them by service sync; what has no counterpart is a note.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from vanrouter.resources.effects import Note, Platform
from vanrouter.resources.service_keys import Slot, service_key

__all__ = ["is_first_version", "resources_of"]

Doc = dict[str, Any]

_SERVICES: Final = "skupper-services"
_SITE: Final = "skupper-site"
_API: Final = "vanrouter.io/v1alpha1"
_ACCESS: Final = {
    "": "default",
    "route": "route",
    "loadbalancer": "loadbalancer",
    "nodeport": "nodeport",
    "nginx-ingress-v1": "ingress-nginx",
    "contour-http-proxy": "contour-http-proxy",
    "ingress": "ingress",
    "none": "none",
}
_SWITCHES: Final = {
    "aggregate": "answers of several servers are not put together",
    "eventchannel": "requests are not sent to every server",
    "enableTls": "everything between sites is encrypted anyway; for TLS with clients and servers: tlsCredentials",
    "exposeIngress": "clients of every site reach it",
}


def is_first_version(document: Any) -> bool:
    metadata = document.get("metadata") if isinstance(document, dict) else None
    return isinstance(metadata, dict) and document.get("kind") == "ConfigMap" and metadata.get("name") in (_SERVICES, _SITE)


def resources_of(document: Mapping[str, Any], platform: Platform) -> tuple[list[Doc], list[Note], list[Note]]:
    """Documents of ours, notes, and faults."""
    notes: list[Note] = []
    faults: list[Note] = []
    data = document.get("data")
    data = data if isinstance(data, dict) else {}
    if document["metadata"]["name"] == _SITE:
        return [_site(data, notes)], notes, faults
    found: list[Doc] = []
    in_use: dict[Slot, str] = {}
    for address, text in sorted(data.items()):
        where = f"ConfigMap/{_SERVICES}: data[{address}]"
        try:
            service = json.loads(text)
            found += _connectors(where, service, platform, in_use, notes)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            faults.append(Note(where, f"is no service as the incumbent writes it ({exc})", "remove the key, or mend it"))
    return found, notes, faults


def _connectors(where: str, service: Doc, platform: Platform, in_use: dict[Slot, str], notes: list[Note]) -> Iterator[Doc]:
    address, protocol = str(service["address"]), str(service.get("protocol") or "tcp")
    ports = [int(port) for port in service.get("ports") or ([service["port"]] if service.get("port") else [])]
    targets = [] if service.get("origin") else list(service.get("targets") or [])
    if not targets:
        notes.append(Note(where, "is served by other sites: it comes from them by service sync", ""))
    for switch, why in _SWITCHES.items():
        if service.get(switch) and not (switch == "exposeIngress" and service[switch] == "Always"):
            notes.append(Note(f"{where}.{switch}", "is left out", why))
    keys = {port: in_use.setdefault((address, port), service_key(address, port, in_use)) for port in ports}
    for target in targets:
        selector, host = str(target.get("selector") or ""), str(target.get("service") or target.get("host") or "")
        if target.get("namespace") and host:
            host = f"{host}.{target['namespace']}"
        if not selector and not host:
            notes.append(Note(where, f"the target {target.get('name', '?')!r} has neither pods nor a host; it is left out", ""))
            continue
        if selector and platform == "linux":
            notes.append(Note(where, f"the target {target.get('name', '?')!r} is pods; it is left out", "apply it in a namespace"))
            continue
        given = {str(k): int(v) for k, v in (target.get("targetPorts") or {}).items()}
        for number, port in enumerate(ports):
            name = "-".join([address, *([str(target.get("name") or number)] if len(targets) > 1 else []), *([str(port)] if number else [])])
            spec: Doc = {"routingKey": keys[port], "port": given.get(str(port), port)}
            spec |= {"selector": selector} if selector else {"host": host}
            spec["expose"] = {"port": port, "address": address, **({"protocol": protocol} if protocol != "tcp" else {})}
            if service.get("headless") and selector:
                spec["exposePodsByName"] = True
            if service.get("publishNotReadyAddresses") and selector:
                spec["includeNotReadyPods"] = True
            yield {"apiVersion": _API, "kind": "Connector", "metadata": {"name": name[:63].rstrip("-")}, "spec": spec}


def _site(data: Mapping[str, Any], notes: list[Note]) -> Doc:
    spec: Doc = {}
    where = f"ConfigMap/{_SITE}"
    ingress = str(data.get("ingress") or "")
    if data.get("router-mode") == "edge":
        spec["edge"] = True
    elif (access := _ACCESS.get(ingress)) is not None:
        spec["linkAccess"] = access
    else:
        notes.append(Note(f"{where}: data[ingress]", f"{ingress!r} is left out", "van update --link-access says which ways there are"))
    if str(data.get("service-sync")).lower() == "false":
        spec["serviceSync"] = False
    if data.get("ingress-host"):
        spec["settings"] = {"ingress-host": str(data["ingress-host"])}
    if str(data.get("routers") or "1") not in ("", "0", "1"):
        notes.append(Note(f"{where}: data[routers]", f"{data['routers']} is left out", f"van update --routers {data['routers']}"))
    return {"apiVersion": _API, "kind": "Site", "metadata": {"name": str(data.get("name") or "site")}, "spec": spec}
