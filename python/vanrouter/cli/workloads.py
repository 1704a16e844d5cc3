"""
What ``van expose`` takes in a namespace: a workload, a Service, pods by selector, or a host; found, looked at, and refused at once.

What would make the service answer nobody for ever is refused before anything is written: no such workload, no such port. What may only be
not there yet (no ready pod, a workload scaled to 0) is a warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import click

from vanrouter.cli.namespace import NamespaceSite
from vanrouter.cli.ports import Wanted
from vanrouter.cli.values import HOST_PORT
from vanrouter.controller.services import is_ours, is_taken
from vanrouter.errors import ConfigError, NotReady
from vanrouter.kube.calls import Kind, Object
from vanrouter.kube.kinds import DAEMON_SETS, DEPLOYMENTS, PODS, SERVICES, STATEFUL_SETS
from vanrouter.kube.pods import keep_pod, labels_that_exist
from vanrouter.kube.rollout import pod_troubles
from vanrouter.kube.workloads import is_tcp, own_spec
from vanrouter.resources.selectors import parse_selector, selector_text
from vanrouter.resources.shapes import is_service_name

__all__ = ["WORDS", "Doubt", "Target", "check_address", "find_target", "spelled"]

Doc = dict[str, Any]
_WORKLOADS: Final = {"deployment": DEPLOYMENTS, "statefulset": STATEFUL_SETS, "daemonset": DAEMON_SETS}
_SHORT: Final = {"deploy": "deployment", "deployments": "deployment", "sts": "statefulset", "statefulsets": "statefulset"} | {
    "ds": "daemonset",
    "daemonsets": "daemonset",
    "svc": "service",
    "services": "service",
    "pod": "pods",
}
WORDS: Final = (*_WORKLOADS, "service", "pods", "host")
EXAMPLE: Final = "write it like deployment/hello, statefulset/NAME, daemonset/NAME, service/NAME, pods/app=hello or host/HOST:PORT"


class Target(NamedTuple):
    words: str  # as `van expose` took it, in one word: deployment/hello
    name: str  # of the service, where --address does not say another one; empty: it must
    where: Doc  # selector or host: fields of a Connector
    ports: dict[int, int]  # of the service, and of the server
    doubts: tuple[Doubt, ...] = ()


class Doubt(NamedTuple):
    """Why it may answer nobody for now."""

    message: str
    hint: str


def spelled(words: Sequence[str]) -> tuple[str, str]:
    """Kind and name of ``deployment/hello`` or ``deployment hello``; ("", word) for something else."""
    kind, slash, rest = words[0].partition("/")
    kind = _SHORT.get(kind, kind)
    given = ([rest] if slash and rest else []) + list(words[1:])
    if kind not in WORDS:
        return "", words[0]
    if len(given) != 1:
        raise click.UsageError(EXAMPLE)
    return kind, given[0]


def find_target(site: NamespaceSite, words: Sequence[str], wanted: Sequence[Wanted], *, include_not_ready: bool) -> Target:
    """Raises ConfigError or NotReady, and says what there is instead."""
    kind, name = spelled(words)
    if kind == "host":
        host = HOST_PORT.convert(name, None, None)
        if any(one.target is not None for one in wanted):
            raise click.UsageError("--target-port is not for a host: its port is in HOST:PORT")
        return Target(f"host/{host}", "", {"host": host.host}, {one.port or host.port: host.port for one in wanted})
    if kind == "pods":
        selector = name
        parse_selector(selector)
        what = f"pods {selector}"
        pods, doubts = _pods(site, what, selector, include_not_ready=include_not_ready)
        if not pods:
            raise NotReady(doubts[0].message, hint=doubts[0].hint)
        return Target(f"pods/{selector}", "", {"selector": selector}, _choose_all(what, _declared(pods[0]["spec"]), wanted), doubts)
    if kind == "service":
        return _service(site, name, wanted, include_not_ready=include_not_ready)
    if kind in _WORKLOADS:
        return _workload(site, kind, name, wanted, include_not_ready=include_not_ready)
    raise click.UsageError(f"{words[0]!r} cannot be exposed; {EXAMPLE}")


def check_address(site: NamespaceSite, address: str, *, option: str = "--address") -> str:
    """Refuse a name that cannot be a Service's, or whose Service is not to be had. Else what a person should know of it."""
    if not is_service_name(address):
        raise ConfigError(
            f"{address!r} cannot be the name of a Service, under which others reach it",
            hint=f"choose with {option} one of at most 63 small letters, digits and -, that begins with a letter",
        )
    service = site.get(SERVICES, address)
    if service is None or is_ours(service) or is_taken(service):
        return ""
    spec, metadata = service.get("spec") or {}, service["metadata"]
    what = f"there is a Service {address} in {site.namespace} already"
    other = f"choose another name: {option} NAME"
    if spec.get("type") == "ExternalName" or spec.get("clusterIP") == "None":
        kind = "of type ExternalName" if spec.get("type") == "ExternalName" else "headless"
        by_pod = (
            "; each pod of a StatefulSet by its own name: --expose-pods-by-name" if kind == "headless" and option == "--address" else ""
        )
        raise ConfigError(f"{what}, and it is {kind}: it has no address that could lead to the router", hint=f"{other}{by_pod}")
    owner = next((o for o in metadata.get("ownerReferences") or () if o.get("controller")), None)
    if owner is not None:
        raise ConfigError(f"{what}, and {owner['kind']}/{owner['name']} owns it, which would put back what is changed", hint=other)
    if (metadata.get("labels") or {}).get("app.kubernetes.io/part-of") == "vanrouter":
        raise ConfigError(f"{what}, and the site itself needs it", hint=other)
    return f"Service {address} was there before: it leads to the router now, and is given back by unexpose and delete"


# ---- Kinds ------------------------------------------------------------------------------------------------------------------------------


def _workload(site: NamespaceSite, kind: str, name: str, wanted: Sequence[Wanted], *, include_not_ready: bool) -> Target:
    what = f"{kind} {name}"
    value = _named(site, _WORKLOADS[kind], kind, name)
    spec, status = value.get("spec") or {}, value.get("status") or {}
    ports = _choose_all(what, _declared(spec["template"]["spec"]), wanted)
    selector = _selector(what, spec.get("selector") or {})
    count = status.get("desiredNumberScheduled", 0) if kind == "daemonset" else spec.get("replicas", 1)
    doubts: tuple[Doubt, ...]
    if count == 0:
        todo = "give it a node" if kind == "daemonset" else f"start some: kubectl scale {kind}/{name} --replicas 1"
        doubts = (Doubt(f"{what} has no pods: " + ("no node takes them" if kind == "daemonset" else "it is scaled to 0"), todo),)
    else:
        _, doubts = _pods(site, what, selector, include_not_ready=include_not_ready)
    return Target(f"{kind}/{name}", name, {"selector": selector}, ports, doubts)


def _service(site: NamespaceSite, name: str, wanted: Sequence[Wanted], *, include_not_ready: bool) -> Target:
    """The pods behind it: through the Service itself it would be reached by way of the router again once it is taken over."""
    what = f"service {name}"
    value = _named(site, SERVICES, "service", name)
    spec: Doc = own_spec(value)
    labels = spec.get("selector") or {}
    if is_ours(value) or not labels:
        why = "it is one that the site made" if is_ours(value) else "it selects no pods"
        raise ConfigError(f"{what} cannot be exposed: {why}", hint="expose where it leads: host/HOST:PORT --address NAME")
    selector = ",".join(f"{key}={text}" for key, text in sorted(labels.items()))
    pods, doubts = _pods(site, what, selector, include_not_ready=include_not_ready)
    declared = _declared(pods[0]["spec"]) if pods else []
    offered = [p for p in spec.get("ports") or () if is_tcp(p)]
    if not offered:
        raise ConfigError(f"{what} has no TCP port", hint="only TCP is carried")
    ports = dict(_service_port(what, offered, declared, one) for one in wanted)
    return Target(f"service/{name}", name, {"selector": selector}, ports, doubts)


def _service_port(what: str, ports: list[Doc], declared: list[tuple[str, int]], wanted: Wanted) -> tuple[int, int]:
    known = ", ".join(str(p["port"]) for p in ports)
    port = wanted.port
    if port is None and len(ports) != 1:
        raise click.UsageError(f"{what} has ports {known}; name one or several: --port {known.replace(' ', '')}")
    port = port or int(ports[0]["port"])
    own = next((p for p in ports if p["port"] == port), None)
    if own is None and wanted.target is None:
        raise ConfigError(f"{what} has no port {port}; it has: {known}", hint="name one of these, or with --target-port a port of its pods")
    target = wanted.target or str((own or {}).get("targetPort", port))
    if target.isdecimal() and wanted.target is None:
        return port, int(target)
    return _choose(what, declared, Wanted(port, target))


def _named(site: NamespaceSite, kind: Kind, word: str, name: str) -> Object:
    value = site.get(kind, name)
    if value is not None:
        return value
    names = sorted(str(o["metadata"]["name"]) for o in site.objects(kind, metadata_only=True))
    known = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") if names else "none"
    raise ConfigError(f"there is no {word} {name} in namespace {site.namespace}; there: {known}", hint=f"kubectl get {word}s")


def _selector(what: str, given: Doc) -> str:
    if not (text := selector_text(given)):
        raise ConfigError(f"{what} selects no pods", hint="give it a selector")
    return text


def _pods(site: NamespaceSite, what: str, selector: str, *, include_not_ready: bool) -> tuple[list[Object], tuple[Doubt, ...]]:
    """Those that are selected, ready ones first; and that there is none, or none that is ready."""
    parsed = parse_selector(selector)
    everything = site.objects(PODS)
    kept = [(value, keep_pod(value)) for value in everything]
    found = [(value, pod) for value, pod in kept if parsed.matches(pod.labels) and not pod.leaving]
    doubts: tuple[Doubt, ...] = ()
    if not found:
        said = labels_that_exist((pod for _, pod in kept), parsed)
        doubts = (Doubt(f"{what}: no pod matches {selector}; {said}", "correct the labels, or wait until there are pods"),)
    elif not include_not_ready and not any(pod.ready for _, pod in found):
        trouble = next((t for value, _ in found for t in pod_troubles(value)), None)
        why = f"{trouble.what}: {trouble.why}" if trouble else f"pod {found[0][1].name} is not ready"
        todo = (trouble.next if trouble else "") or "it serves once one is ready; or before: --include-not-ready-pods"
        doubts = (Doubt(f"{what} has no ready pod; {why}", todo),)
    return [value for value, _ in sorted(found, key=lambda pair: not pair[1].ready)], doubts


# ---- Ports ------------------------------------------------------------------------------------------------------------------------------


def _declared(pod: Doc) -> list[tuple[str, int]]:
    """Name and number of the ports that a pod says it has."""
    ports = [p for c in pod.get("containers") or () for p in c.get("ports") or () if is_tcp(p)]
    return [(str(p.get("name", "")), int(p["containerPort"])) for p in ports]


def _choose_all(what: str, declared: list[tuple[str, int]], wanted: Sequence[Wanted]) -> dict[int, int]:
    return dict(_choose(what, declared, one) for one in wanted)


def _choose(what: str, declared: list[tuple[str, int]], wanted: Wanted) -> tuple[int, int]:
    """(port of the service, port of the pods)."""
    port, target = wanted
    known = ", ".join(f"{number} ({name})" if name else str(number) for name, number in declared) or "none"
    numbers = sorted({number for _, number in declared})
    if target is not None and not target.isdecimal():
        named = next((number for name, number in declared if name == target), None)
        if named is None:
            raise ConfigError(f"{what} has no port named {target!r}; it has: {known}", hint="name one of these with --target-port")
        return port or named, named
    if target is not None:
        number = int(target)
    elif port is not None:
        number = port
    elif len(numbers) == 1:
        (number,) = numbers
    elif numbers:
        raise click.UsageError(f"{what} has ports {known}; name one or several: --port {','.join(map(str, numbers))}")
    else:
        raise click.UsageError(f"{what} names no port; say it: --port PORT")
    if numbers and number not in numbers:
        raise ConfigError(
            f"{what} has no port {number}; it has: {known}", hint="name one of these with --target-port, or declare it in the pod"
        )
    return port or number, number
