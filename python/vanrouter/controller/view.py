"""
``van-services``: what people see of exposed services, one key per address. A view: derived, put back when somebody edits it. Pure.

    hello: {"address":"hello","protocol":"tcp","ports":[80],"targets":[{"name":"hello","selector":"app=hello","targetPorts":{"80":80}}]}

``targets`` has those of this site only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from vanrouter.controller.rivals import Rivals
from vanrouter.kube.calls import Object
from vanrouter.kube.names import SERVICES_MAP, VIEW, labelled
from vanrouter.resources.kinds import Connector
from vanrouter.stores.resources import Problem

__all__ = ["TARGET", "ViewKeeper", "services_view"]

TARGET: Final = "vanrouter.io/target"  # annotation of a Connector: what was exposed, like ``deployment/hello``


def services_view(connectors: Iterable[Connector], services: Iterable[Mapping[str, Any]], *, owners: tuple[Object, ...] = ()) -> Object:
    """The ConfigMap. ``services``: of the status document, those of the whole network."""
    found: dict[str, dict[str, Any]] = {}
    for service in services:
        entry = _entry(found, str(service["address"]), str(service["protocol"]))
        entry["ports"] = sorted({*entry["ports"], *service["ports"]})
    for connector in connectors:
        expose, spec = connector.spec.expose, connector.spec
        if expose is None:
            continue
        entry = _entry(found, expose.address or spec.routing_key, expose.protocol)
        entry["ports"] = sorted({*entry["ports"], expose.port})
        name = connector.metadata.annotations.get(TARGET, connector.name).rpartition("/")[2]
        what = {"selector": spec.selector} if spec.selector else {"host": spec.host}
        target = next((t for t in entry["targets"] if t["name"] == name and what.items() <= t.items()), None)
        if target is None:
            target = {"name": name, **what, "targetPorts": {}}
            entry["targets"].append(target)
        target["targetPorts"][str(expose.port)] = spec.port
    data = {address: json.dumps(entry, separators=(",", ":")) for address, entry in sorted(found.items())}
    return {"metadata": labelled(SERVICES_MAP, VIEW, owners=owners), "data": data}


def _entry(found: dict[str, dict[str, Any]], address: str, protocol: str) -> dict[str, Any]:
    return found.setdefault(address, {"address": address, "protocol": protocol, "ports": [], "targets": []})


class ViewKeeper:
    """The view; whether to write it, and what to say of somebody who edits it."""

    def __init__(self) -> None:
        self._made: tuple[list[Connector], list[dict[str, Any]], Object] | None = None
        self._rivals = Rivals()
        self._edited: list[str] = []

    def view(self, connectors: list[Connector], services: list[dict[str, Any]], owners: tuple[Object, ...]) -> Object:
        """Made anew only when what it shows is another."""
        if self._made is None or self._made[1] is not services or self._made[0] != connectors:
            self._made = connectors, services, services_view(connectors, services, owners=owners)
        return self._made[2]

    def may_write(self, view: Object, known: Object | None, *, now: float) -> bool:
        """``known``: as it is there; None: it is not."""
        data = (known or {}).get("data") or {}
        holds = known is not None and data == view["data"] and not known.get("binaryData")
        written = self._rivals.may_write(SERVICES_MAP, view["data"], known, holds=holds, now=now)
        if written:
            self._edited = [] if known is None else sorted(key for key in {*data, *view["data"]} if data.get(key) != view["data"].get(key))
        return written or holds  # what else the object has is kept by whoever writes it

    def problems(self, now: float) -> list[Problem]:
        path, found = f"ConfigMap/{SERVICES_MAP}", []
        for rivalry in self._rivals.current(now):
            what = f"edited by {rivalry.who or 'somebody'} ({', '.join(self._edited[:5])})" if self._edited else "deleted"
            done = "and again each time that it was put back: it stays as it is" if rivalry.is_left else "and put back"
            text = f"it was {what}, {done}; it only shows what is exposed"
            todo = "change what is exposed instead: van expose, van unexpose, or the ConfigMap van.connector.NAME"
            found.append(Problem(path, text, todo))
        return found

    def deadline(self, now: float) -> float:
        return self._rivals.deadline(now)
