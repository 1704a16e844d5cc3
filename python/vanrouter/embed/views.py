"""What a van shows of the network and of its own site: plain data, made when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from vanrouter.sites.site import RunningSite

__all__ = ["Listener", "Service", "listeners_of", "services_of"]


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """A port of this host where programs reach a routing key."""

    name: str
    """The listener's name; ``ADDRESS:PORT`` where service sync made it."""
    routing_key: str
    """Empty where it has several (a MultiKeyListener)."""
    host: str
    port: int
    matched: bool
    """Whether somebody who can be reached serves it."""
    listening: bool
    """Whether clients can connect now."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """Something that can be connected to by name."""

    key: str
    """The routing key; give it to ``connect``."""
    address: str = ""
    """The service's address, where it is exposed as one; ``connect`` takes ``ADDRESS`` or ``ADDRESS:PORT`` too."""
    port: int = 0
    sites: tuple[str, ...] = ()
    """The names of the sites that serve it, this one included."""
    reachable: bool = True


def listeners_of(site: RunningSite) -> tuple[Listener, ...]:
    return tuple(
        Listener(
            name=status.name,
            routing_key=status.routing_key,
            host=status.host,
            port=status.port,
            matched=status.matched,
            listening=any(c.type == "Listening" and c.status == "True" for c in status.conditions),
        )
        for status in site.services.table.listener_statuses()
    )


def services_of(site: RunningSite) -> tuple[Service, ...]:
    table, network = site.services.table, site.insight.network()
    ports = {offer.key: (service.address, offer.service.port) for service in table.services() for offer in service.offers}
    found = []
    for entry in network["keys"]:
        key, sites = entry["key"], sorted({target["site"] or target["siteId"] for target in entry["targets"]})
        if sites:
            address, port = ports.get(key, ("", 0))
            found.append(Service(key=key, address=address, port=port, sites=tuple(sites), reachable=table.matched_listener(key)))
    return tuple(found)
