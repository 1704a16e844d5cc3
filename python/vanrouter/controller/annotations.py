"""
Annotations on workloads and Services that expose them: which connectors they ask for, and what is wrong with them. Pure.

    vanrouter.io/proxy: http           what is spoken: tcp, http or http2; without it nothing is exposed
    vanrouter.io/port: 80:web,443      PORT or PORT:TARGET, several by commas; default: all that its pods (the Service) declare
    vanrouter.io/address: hello        the name under which others reach it; default: its own
    vanrouter.io/headless: "true"      of a StatefulSet: each pod by its own name too
    vanrouter.io/target: backend       of a Service: not its own pods and ports, but those of this Service

The incumbent's names (``skupper.io/``) mean the same; where both are there, ours count. An explicit Connector for the same address and port
counts before an annotation. What is wrong is a problem that names object and annotation; the rest stays in force.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from vanrouter.controller.view import TARGET
from vanrouter.errors import ConfigError
from vanrouter.kube.workloads import INCUMBENT, MADE_FROM, OURS, Workload
from vanrouter.resources import API_VERSION, read_document
from vanrouter.resources.kinds import Connector
from vanrouter.resources.selectors import parse_selector
from vanrouter.resources.service_keys import keys_in_use, service_key
from vanrouter.resources.shapes import is_service_name
from vanrouter.stores.resources import Problem

__all__ = ["Decided", "annotated", "targets_named"]

_PROTOCOLS: Final = ("tcp", "http", "http2")
_PORTS_HINT: Final = "write PORT or PORT:TARGET, several separated by commas, for example 80:8080,443:https"


class Decided(NamedTuple):
    """``made``: connectors by what they are made from, like ``deployment/hello``."""

    made: dict[str, list[Connector]]
    problems: list[Problem]


class _Wish(NamedTuple):
    workload: Workload
    address: str
    protocol: str
    ports: dict[int, int]
    pods_by_name: bool
    proxy: str  # the annotation that says so


class _Wrong(ConfigError):
    """What is wrong with an annotation: its name stands before the message."""

    def __init__(self, annotation: str, message: str, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.annotation = annotation


def annotated(
    workloads: Iterable[Workload], explicit: Iterable[Connector], before: Iterable[Connector], services: Iterable[Mapping[str, Any]] = ()
) -> Decided:
    """``explicit``: connectors that somebody wrote. ``before``: made earlier, their routing keys stay. ``services``: of the status."""
    everything, explicit = sorted(workloads, key=lambda w: (w.kind, w.name)), list(explicit)
    keys = keys_in_use([*explicit, *before], services)
    decided = Decided({}, [])
    owned = {(c.spec.expose.address or c.spec.routing_key, c.spec.expose.port): c.ref for c in explicit if c.spec.expose is not None}
    names = {c.name for c in explicit}
    for workload in everything:
        try:
            wish = _read(workload, everything, decided.problems)
        except _Wrong as exc:
            decided.problems.append(_problem(workload, exc.annotation, str(exc), exc.hint))
            continue
        if wish is None:
            continue
        for port, target in sorted(wish.ports.items()):
            name = _name(workload, port)
            winner = owned.get((wish.address, port)) or (f"Connector/{name}" if name in names else "")
            if winner:
                text = f"{winner} exposes {wish.address}:{port} already and counts; the annotation does not"
                decided.problems.append(_problem(workload, wish.proxy, text, f"remove one of them: the annotation, or {winner}"))
                continue
            keys[wish.address, port] = key = service_key(wish.address, port, keys)
            decided.made.setdefault(workload.words, []).append(_connector(wish, name, key, port, target))
    return decided


def targets_named(workloads: Iterable[Workload]) -> set[str]:
    """Names of Services that annotations lead on to."""
    return {w.annotations[key].strip() for w in workloads for key in (f"{OURS}target", f"{INCUMBENT}target") if key in w.annotations}


def _connector(wish: _Wish, name: str, key: str, port: int, target: int) -> Connector:
    spec: dict[str, Any] = {"routingKey": key, "selector": wish.workload.selector, "port": target}
    spec["expose"] = {"port": port, "address": wish.address, "protocol": wish.protocol}
    if wish.pods_by_name:
        spec["exposePodsByName"] = True
    marks = {TARGET: wish.workload.words, MADE_FROM: f"{wish.workload.words}: {wish.proxy}"}
    document = {"apiVersion": API_VERSION, "kind": "Connector", "metadata": {"name": name, "annotations": marks}, "spec": spec}
    found = read_document(document)
    assert isinstance(found, Connector)
    return found


def _name(workload: Workload, port: int) -> str:
    """As it is where it fits; else told apart by a hash."""
    name = f"{workload.kind.lower()}.{workload.name}.{port}"
    if len(name) <= 63:
        return name
    return f"{workload.kind.lower()}.{workload.name[:30].rstrip('-.')}-{hashlib.sha256(workload.name.encode()).hexdigest()[:8]}.{port}"


# ---- Reading ----------------------------------------------------------------------------------------------------------------------------


def _read(workload: Workload, everything: list[Workload], problems: list[Problem]) -> _Wish | None:
    """None: it is not exposed. Raises _Wrong."""
    proxy, protocol = _value(workload, "proxy", problems)
    if not proxy:
        if loose := next(
            (f"{OURS}{key}" for key in ("port", "address", "headless", "target") if f"{OURS}{key}" in workload.annotations), ""
        ):
            raise _Wrong(loose, f"it says nothing without {OURS}proxy", f"add {OURS}proxy: tcp, or remove it")
        return None
    if protocol not in _PROTOCOLS:
        raise _Wrong(proxy, f"{protocol!r} is none of {', '.join(_PROTOCOLS)}", "write one of these")
    named, address = _value(workload, "address", problems)
    address = address or workload.name
    if not is_service_name(address):
        todo = f"choose with {OURS}address one of at most 63 small letters, digits and -, that begins with a letter"
        raise _Wrong(named or proxy, f"{address!r} cannot be the name of a Service, under which others reach it", todo)
    workload = _led_on(workload, everything, problems)
    if not workload.selector:
        raise _Wrong(proxy, "it selects no pods", "expose where it leads: van expose host/HOST:PORT --address NAME")
    says, headless = _value(workload, "headless", problems)
    if headless not in ("", "true", "false"):
        raise _Wrong(says, f"{headless!r} is neither true nor false", "write one of these")
    if headless == "true" and workload.kind != "StatefulSet":
        raise _Wrong(says, f"pods of a {workload.kind} have no lasting names", "remove it: only pods of a StatefulSet have an address each")
    where, text = _value(workload, "port", problems)
    ports = _ports(workload, where, text, everything) if where else _all_ports(workload, proxy, everything)
    return _Wish(workload, address, protocol, ports, headless == "true", proxy)


def _led_on(workload: Workload, everything: list[Workload], problems: list[Problem]) -> Workload:
    """A Service that names another one, with what that leads to; any other as it is. Raises _Wrong."""
    says, name = _value(workload, "target", problems)
    if not says:
        return workload
    if workload.kind != "Service":
        raise _Wrong(says, f"a {workload.kind} is exposed by its own pods", f"remove it, or annotate Service {name} instead")
    if "." in name:
        raise _Wrong(says, f"{name!r} is in another namespace", "an AttachedConnector exposes pods of other namespaces")
    other = next((w for w in everything if w.kind == "Service" and w.name == name), None)
    if other is None:
        raise _Wrong(says, f"there is no Service {name!r} in this namespace that is not the site's own", "name the one with the pods")
    return msgspec.structs.replace(workload, selector=other.selector, ports=other.ports)


def _value(workload: Workload, key: str, problems: list[Problem]) -> tuple[str, str]:
    """The annotation in force and its value; empty: there is none."""
    ours, theirs = f"{OURS}{key}", f"{INCUMBENT}{key}"
    has = workload.annotations
    if ours in has and theirs in has and has[ours].strip() != has[theirs].strip():
        text = f"{ours} says {has[ours]!r}, this says {has[theirs]!r}; {ours} counts"
        problems.append(_problem(workload, theirs, text, "remove one of them"))
    name = ours if ours in has else theirs if theirs in has else ""
    return name, has[name].strip() if name else ""


def _ports(workload: Workload, where: str, text: str, everything: list[Workload]) -> dict[int, int]:
    found: dict[int, int] = {}
    for item in (part.strip() for part in text.split(",")):
        first, colon, target = item.partition(":")
        port = _number(first)
        if not port or (colon and not target):
            raise _Wrong(where, f"{item!r} is no port", _PORTS_HINT)
        if port in found:
            raise _Wrong(where, f"{port} is there twice", _PORTS_HINT)
        found[port] = _target(workload, where, port, target.strip(), everything)
    return found


def _all_ports(workload: Workload, proxy: str, everything: list[Workload]) -> dict[int, int]:
    if not workload.ports:
        whose = "the Service" if workload.kind == "Service" else "its pods"
        raise _Wrong(proxy, f"{whose} declare{'s' if whose == 'the Service' else ''} no TCP port", f"say it: {OURS}port: PORT")
    return {p.number: _target(workload, proxy, p.number, "", everything) for p in workload.ports}


def _target(workload: Workload, where: str, port: int, target: str, everything: list[Workload]) -> int:
    """The port of the pods."""
    is_service = workload.kind == "Service"
    if is_service and not target:
        own = next((p for p in workload.ports if p.number == port), None)
        if own is None:
            raise _Wrong(where, f"the Service has no port {port}; it has: {_known(workload)}", "name one of these, or write PORT:TARGET")
        target = own.target
    if not target:
        return port
    if number := _number(target):
        return number
    declaring = _behind(workload, everything) if is_service else [workload]
    named = next((p.number for w in declaring for p in w.ports if p.name == target), 0)
    if not named:
        have = ", ".join(_known(w) for w in declaring if w.ports) or "none"
        raise _Wrong(where, f"its pods have no port named {target!r}; they have: {have}", f"write its number: {OURS}port: {port}:NUMBER")
    return named


def _behind(service: Workload, everything: list[Workload]) -> list[Workload]:
    """The workloads whose pods a Service selects."""
    selector = parse_selector(service.selector)
    return [w for w in everything if w.kind != "Service" and selector.matches(w.labels)]


def _known(workload: Workload) -> str:
    return ", ".join(f"{p.number} ({p.name})" if p.name else str(p.number) for p in workload.ports) or "none"


def _number(text: str) -> int:
    text = text.strip()
    return int(text) if text.isdecimal() and 1 <= int(text) <= 65535 else 0


def _problem(workload: Workload, annotation: str, message: str, hint: str) -> Problem:
    return Problem(f"{workload.kind}/{workload.name}: {annotation}", message, hint)
