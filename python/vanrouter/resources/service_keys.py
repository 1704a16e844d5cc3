"""
Which routing key a new port of a service gets. Pure.

All servers behind one routing key get the same streams, so two ports of one address need two keys: the first port has the address as its
key, a further one ``ADDRESS:PORT``. What the network has already for an address and port counts first: another key would be a conflict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vanrouter.resources.kinds import Connector

__all__ = ["keys_in_use", "service_key"]

Slot = tuple[str, int]


def keys_in_use(connectors: Iterable[Connector], services: Iterable[Mapping[str, Any]] = ()) -> dict[Slot, str]:
    """The key of each (address, port): first what this site's connectors say, then ``services`` of its status document."""
    found: dict[Slot, str] = {}
    for connector in connectors:
        if (expose := connector.spec.expose) is not None:
            found.setdefault((expose.address or connector.spec.routing_key, expose.port), connector.spec.routing_key)
    for service in services:
        for target in service.get("targets") or ():
            if isinstance(port := target.get("port"), int) and (key := target.get("routingKey")):
                found.setdefault((str(service["address"]), port), str(key))
    return found


def service_key(address: str, port: int, in_use: Mapping[Slot, str]) -> str:
    if (address, port) in in_use:
        return in_use[address, port]
    return f"{address}:{port}" if address in in_use.values() or any(name == address for name, _ in in_use) else address
