"""
What a listener or a connector tells people: conditions with reason and next action, from facts that were worked out before.

Decides nothing but words. Types: ``Listening`` (listeners), ``Configured`` (connectors), ``Healthy`` (connectors, services), ``Matched``,
``Synced`` (connectors that are a service), and ``Ready``, which sums up (listeners, connectors).
"""

from __future__ import annotations

from typing import Final

import msgspec

from vanrouter.addresses.health import State, Verdict
from vanrouter.addresses.model import LocalConnector, LocalListener
from vanrouter.addresses.offered import LAST_RESORT
from vanrouter.conditions import Conditions, Status
from vanrouter.messages import KeyInfo, Problem
from vanrouter.plane import BindStatus, ListenerState

__all__ = ["Facts", "describe_connector", "describe_listener", "describe_service"]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """About one routing key. Elsewhere: sites, by name, that are reachable now."""

    targets_here: int
    targets_elsewhere: list[str]
    listeners_here: int
    listeners_elsewhere: list[str]
    down_here: int = 0  # targets that fail their checks
    down_elsewhere: list[str] = []


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
    if listener.reached_at is not None:
        where = f"{listener.reached_at[0]}:{listener.reached_at[1]} (port {listener.port} of the pod)"
    if clash:
        todo = "choose another host or port for one of them"
        conditions.set("Listening", "False", "PortTaken", f"{where} belongs to {clash}, which came first", now=now, next=todo)
    elif bind is None:
        conditions.set("Listening", "Unknown", "Pending", f"the data plane has not yet tried {where}", now=now)
    else:
        status, reason, todo = _BINDS[bind.status]
        message = f"{where}: {bind.error}" if bind.error else f"{where} is {bind.status.value.replace('_', ' ')}"
        conditions.set("Listening", status, reason, message, now=now, next=todo.format(host=listener.host, port=listener.port))
    keys = " or ".join(listener.routing_keys[:3])
    if (facts.down_here or facts.down_elsewhere) and not (facts.targets_here or facts.targets_elsewhere):
        _targets_down(conditions, keys, facts, now)
    else:
        _matched(conditions, keys, "target", facts.targets_here, facts.targets_elsewhere, now)
    _ready(conditions, ("Listening", "Matched"), now)


def describe_connector(
    conditions: Conditions,
    connector: LocalConnector,
    facts: Facts,
    clash: str,
    health: Verdict | None,
    is_offered: bool,
    conflict: str,
    reported: list[tuple[str, Problem]],
    crowded: bool,
    *,
    now: float,
) -> None:
    where = "this process" if connector.embedded else f"{connector.host}:{connector.port}"
    if not connector.embedded and not connector.host:
        absent = health.error if health is not None else "not known yet"
        conditions.set("Configured", "True", "Ok", "streams go to the pods that its selector means", now=now)
        todo = "start such a pod, or correct the selector: van connector update, or kubectl edit"
        conditions.set("Healthy", "False", "NoTarget", f"there is no target: {absent}", now=now, next=todo)
        _matched(conditions, connector.routing_key, "listener", facts.listeners_here, facts.listeners_elsewhere, now)
        _ready(conditions, ("Configured", "Healthy", "Matched"), now)
        return
    if clash:
        todo = "give the connector the address of the server itself"
        conditions.set("Configured", "False", "LeadsBack", f"{where} is {clash}: streams would come back here", now=now, next=todo)
    elif crowded:
        message = "this site has more routing keys than it may advertise (4096); others cannot see this one"
        conditions.set("Configured", "False", "TooManyKeys", message, now=now, next="delete listeners or connectors that are not needed")
    else:
        conditions.set("Configured", "True", "Ok", f"streams go to {where}", now=now)
    if health is not None:
        _healthy(conditions, where, health, is_offered, now)
    _matched(conditions, connector.routing_key, "listener", facts.listeners_here, facts.listeners_elsewhere, now)
    if connector.service is not None:
        _synced(conditions, connector, conflict, reported, now)
    _ready(conditions, ("Configured", "Healthy", "Matched", "Synced"), now)


def describe_service(conditions: Conditions, address: str, infos: list[tuple[str, KeyInfo]], *, now: float) -> None:
    """Whether somebody serves it. ``infos``: what each site that can be reached has of it; this one has no name."""
    sound = sum(info.targets for _, info in infos if info.cost < LAST_RESORT)
    down = sum(info.down for _, info in infos)
    where = ", ".join(f"site {site}" if site else "this site" for site in sorted({site for site, info in infos if info.down})[:3])
    todo = "start the server there; which one and why: van connector status, at that site"
    if down and sound:
        message = f"{down} of {sound + down} targets of {address} {'fails its' if down == 1 else 'fail their'} checks, at {where}"
        conditions.set("Healthy", "True", "SomeTargetsDown", f"{message}; streams go to the others", now=now, next=todo)
    elif down:
        last = any(info.targets for _, info in infos)
        ends = "streams go there only because nothing better is left" if last else "clients are refused"
        message = f"every target of {address} fails its checks, at {where}; {ends}"
        conditions.set("Healthy", "False", "TargetsDown", message, now=now, next=todo)
    elif sound:
        conditions.set("Healthy", "True", "Ok", f"{sound} {'target' if sound == 1 else 'targets'} for {address}", now=now)
    else:
        todo = f"offer {address} at some linked site (van expose), and check the links: van link status"
        conditions.set("Healthy", "False", "NoTarget", f"no target for {address} is reachable", now=now, next=todo)


def _healthy(conditions: Conditions, where: str, health: Verdict, is_offered: bool, now: float) -> None:
    """Whether the target takes streams, by its checks; without checks, by the streams themselves."""
    todo = "check that the server runs and listens there"
    if health.error.startswith("TLS: "):
        todo = "compare spec.tlsCredentials and the name with what the server shows: openssl s_client -showcerts -connect HOST:PORT"
    check = health.check
    if check.type == "none":
        if health.connects_failed:
            message = f"the last {health.connects_failed} connections to {where} failed: {health.error}"
            conditions.set("Healthy", "False", "TargetFails", message, now=now, next=todo)
        else:
            conditions.set("Healthy", "True", "NotChecked", f"{where} is not checked; streams go there", now=now)
        return
    what = f"{check.type} check" if not check.port else f"{check.type} check on port {check.port}"
    if health.is_out:
        returning = f"; it has passed {health.passed} again" if health.passed else ""
        goes = "streams go there only because nothing better is left" if is_offered else "no new stream goes there until it passes again"
        message = f"{where} fails its {what}: {health.error}{returning}; {goes}"
        if check.type == "http":
            todo += f", and what it answers to GET {check.path}"
        conditions.set("Healthy", "False", "TargetDown", message, now=now, next=todo)
    elif health.blocked:
        message = f"this router cannot check {where}: {health.blocked}; streams go there"
        todo = "give the router more descriptors (ulimit -n), or take load off this host"
        conditions.set("Healthy", "Unknown", "CannotCheck", message, now=now, next=todo)
    elif health.state is State.SUSPECT:
        message = f"{where} failed {health.failed} of the {check.failures} checks that take it out: {health.error}"
        conditions.set("Healthy", "Unknown", "Suspect", message, now=now, next="")
    elif health.state is State.NEW:
        conditions.set("Healthy", "Unknown", "Pending", f"{where} has not been checked yet", now=now)
    else:
        conditions.set("Healthy", "True", "Ok", f"{where} passes its {what}", now=now)


def _targets_down(conditions: Conditions, key: str, facts: Facts, now: float) -> None:
    """There are targets, but all of them fail their checks."""
    places = (["this site"] if facts.down_here else []) + [f"site {site}" for site in facts.down_elsewhere[:3]]
    more = f" and {len(facts.down_elsewhere) - 3} more" if len(facts.down_elsewhere) > 3 else ""
    message = f"every target for {key} fails its checks, at {', '.join(places)}{more}: clients are refused"
    todo = "start the server there; which one and why: van connector status, at that site"
    conditions.set("Matched", "False", "TargetsDown", message, now=now, next=todo)


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
