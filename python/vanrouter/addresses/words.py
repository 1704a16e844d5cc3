"""
What a listener or a connector tells people: conditions with reason and next action, from facts that were worked out before.

Decides nothing but words. Types: ``Listening`` (listeners), ``Configured`` (connectors), ``Matched``, ``Synced`` (connectors that are a
service), and ``Ready``, which sums up.
"""

from __future__ import annotations

from typing import Final

import msgspec

from vanrouter.addresses.model import LocalConnector, LocalListener
from vanrouter.conditions import Conditions, Status
from vanrouter.messages import Problem
from vanrouter.plane import BindStatus, ConnectorState, ListenerState

__all__ = ["Facts", "describe_connector", "describe_listener"]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """About one routing key. Elsewhere: sites, by name, that are reachable now."""

    targets_here: int
    targets_elsewhere: list[str]
    listeners_here: int
    listeners_elsewhere: list[str]


# What the plane says of a port: status of the condition, its reason, what to do.
_BINDS: Final[dict[BindStatus, tuple[Status, str, str]]] = {
    BindStatus.LISTENING: ("True", "Listening", ""),
    BindStatus.BOUND: ("True", "BoundNotMatched", ""),
    BindStatus.IN_USE: (
        "False",
        "PortInUse",
        "stop what uses this port, or choose another host or port; see it with: ss -ltnp 'sport = :{port}'",
    ),
    BindStatus.DENIED: ("False", "PortDenied", "choose a port from 1024 up, or give the router the right to this one"),
    BindStatus.FAILED: ("False", "BindFailed", "check that {host} is an address of this host"),
}


def describe_listener(
    conditions: Conditions, listener: LocalListener, facts: Facts, clash: str, bind: ListenerState | None, *, now: float
) -> None:
    where = f"{listener.host}:{listener.port}"
    if clash:
        todo = "choose another host or port for one of them"
        conditions.set("Listening", "False", "PortTaken", f"{where} belongs to {clash}, which came first", now=now, next=todo)
    elif bind is None:
        conditions.set("Listening", "Unknown", "Pending", f"the data plane has not yet tried {where}", now=now)
    else:
        status, reason, todo = _BINDS[bind.status]
        message = f"{where}: {bind.error}" if bind.error else f"{where} is {bind.status.value.replace('_', ' ')}"
        conditions.set("Listening", status, reason, message, now=now, next=todo.format(host=listener.host, port=listener.port))
    _matched(conditions, " or ".join(listener.routing_keys[:3]), "target", facts.targets_here, facts.targets_elsewhere, now)
    _ready(conditions, ("Listening", "Matched"), now)


def describe_connector(
    conditions: Conditions,
    connector: LocalConnector,
    facts: Facts,
    clash: str,
    health: ConnectorState | None,
    conflict: str,
    reported: list[tuple[str, Problem]],
    crowded: bool,
    *,
    now: float,
) -> None:
    where = "this process" if connector.embedded else f"{connector.host}:{connector.port}"
    if clash:
        todo = "give the connector the address of the server itself"
        conditions.set("Configured", "False", "LeadsBack", f"{where} is {clash}: streams would come back here", now=now, next=todo)
    elif crowded:
        message = "this site has more routing keys than it may advertise (4096); others cannot see this one"
        conditions.set("Configured", "False", "TooManyKeys", message, now=now, next="delete listeners or connectors that are not needed")
    elif health is not None and health.failures:
        message = f"the last {health.failures} connections to {where} failed: {health.error}"
        conditions.set("Configured", "False", "TargetFails", message, now=now, next="check that the server runs and listens there")
    else:
        conditions.set("Configured", "True", "Ok", f"streams go to {where}", now=now)
    _matched(conditions, connector.routing_key, "listener", facts.listeners_here, facts.listeners_elsewhere, now)
    if connector.service is not None:
        _synced(conditions, connector, conflict, reported, now)
    _ready(conditions, ("Configured", "Matched", "Synced"), now)


def _matched(conditions: Conditions, key: str, what: str, here: int, elsewhere: list[str], now: float) -> None:
    if here or elsewhere:
        places = (["this site"] if here else []) + [f"site {site}" for site in elsewhere[:3]]
        more = f" and {len(elsewhere) - 3} more" if len(elsewhere) > 3 else ""
        reason = "HereAndElsewhere" if here and elsewhere else "Here" if here else "Elsewhere"
        conditions.set("Matched", "True", reason, f"a {what} for {key} is at {', '.join(places)}{more}", now=now)
    else:
        todo = {
            "target": f"offer {key} at some linked site (van expose), and check the links: van link status",
            "listener": f"create a listener for {key} at some linked site, and check the links: van link status",
        }[what]
        conditions.set("Matched", "False", f"No{what.capitalize()}", f"no {what} for {key} is reachable", now=now, next=todo)


def _synced(conditions: Conditions, connector: LocalConnector, conflict: str, reported: list[tuple[str, Problem]], now: float) -> None:
    assert connector.service is not None
    name = f"{connector.service.address}:{connector.service.port}"
    todo = "offer it under another address or port, or settle with the other sites who keeps this one"
    if conflict:
        conditions.set("Synced", "False", "ConflictHere", conflict, now=now, next=todo)
    elif reported:
        site, problem = reported[0]
        more = f"; and {len(reported) - 1} more" if len(reported) > 1 else ""
        message = f"site {site}: {problem.message}{more}"
        conditions.set("Synced", "False", problem.reason or "ConflictElsewhere", message, now=now, next=todo)
    else:
        conditions.set("Synced", "True", "Offered", f"offered as {name} ({connector.service.protocol})", now=now)


def _ready(conditions: Conditions, types: tuple[str, ...], now: float) -> None:
    """True when all of them are; else what the first one says that is not."""
    for type in types:
        found = conditions.get(type)
        if found is not None and found.status != "True":
            conditions.set("Ready", found.status, found.reason, found.message, now=now, next=found.next)
            return
    conditions.set("Ready", "True", "Ok", "", now=now)
