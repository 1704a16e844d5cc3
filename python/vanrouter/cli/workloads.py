"""
What ``van expose`` takes in a namespace: a workload, a Service, pods by selector, or a host; found, looked at, and refused at once.

Everything that would make the service answer nobody is said before anything is written: no such workload, no such port, no ready pod.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import click

from vanrouter.cli.namespace import NamespaceSite
from vanrouter.cli.values import HOST_PORT
from vanrouter.controller.services import is_ours, is_taken
from vanrouter.errors import ConfigError, NotReady
from vanrouter.kube.calls import Kind, Object
from vanrouter.kube.kinds import DAEMON_SETS, DEPLOYMENTS, PODS, SERVICES, STATEFUL_SETS
from vanrouter.kube.pods import keep_pod, labels_that_exist
from vanrouter.kube.rollout import pod_troubles
from vanrouter.resources.selectors import parse_selector

__all__ = ["WORDS", "Target", "check_address", "find_target", "spelled"]

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
_LABEL: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
SAVED: Final = "vanrouter.io/saved"


class Target(NamedTuple):
    words: str  # as `van expose` took it, in one word: deployment/hello
    name: str  # of the service, where --address does not say another one; empty: it must
    where: Doc  # selector or host, and port: fields of a Connector
    port: int  # of the service


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


def find_target(site: NamespaceSite, words: Sequence[str], port: int | None, target_port: str | None, *, include_not_ready: bool) -> Target:
    """Raises ConfigError or NotReady, and says what there is instead."""
    kind, name = spelled(words)
    if kind == "host":
        host = HOST_PORT.convert(name, None, None)
        if target_port is not None:
            raise click.UsageError("--target-port is not for a host: its port is in HOST:PORT")
        return Target(f"host/{host}", "", {"host": host.host, "port": host.port}, port or host.port)
    if kind == "pods":
        selector = name
        parse_selector(selector)
        pods = _pods(site, f"pods {selector}", selector, include_not_ready=include_not_ready)
        number, port = _choose(f"pods {selector}", _declared(pods[0]["spec"]), port, target_port)
        return Target(f"pods/{selector}", "", {"selector": selector, "port": number}, port)
    if kind == "service":
        return _service(site, name, port, target_port, include_not_ready=include_not_ready)
    if kind in _WORKLOADS:
        return _workload(site, kind, name, port, target_port, include_not_ready=include_not_ready)
    raise click.UsageError(f"{words[0]!r} cannot be exposed; {EXAMPLE}")


def check_address(site: NamespaceSite, address: str, *, option: str = "--address") -> str:
    """Refuse a name that cannot be a Service's, or whose Service is not to be had. Else what a person should know of it."""
    if not _LABEL.fullmatch(address):
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
        raise ConfigError(f"{what}, and it is {kind}: it has no address that could lead to the router", hint=other)
    owner = next((o for o in metadata.get("ownerReferences") or () if o.get("controller")), None)
    if owner is not None:
        raise ConfigError(f"{what}, and {owner['kind']}/{owner['name']} owns it, which would put back what is changed", hint=other)
    if (metadata.get("labels") or {}).get("app.kubernetes.io/part-of") == "vanrouter":
        raise ConfigError(f"{what}, and the site itself needs it", hint=other)
    return f"Service {address} was there before: it leads to the router now, and is given back by unexpose and delete"


# ---- Kinds ------------------------------------------------------------------------------------------------------------------------------


def _workload(site: NamespaceSite, kind: str, name: str, port: int | None, target_port: str | None, *, include_not_ready: bool) -> Target:
    what = f"{kind} {name}"
    value = _named(site, _WORKLOADS[kind], kind, name)
    spec, status = value.get("spec") or {}, value.get("status") or {}
    wanted = status.get("desiredNumberScheduled", 0) if kind == "daemonset" else spec.get("replicas", 1)
    if wanted == 0:
        todo = "give it a node" if kind == "daemonset" else f"start some: kubectl scale {kind}/{name} --replicas 1"
        raise NotReady(f"{what} has no pods: " + ("no node takes them" if kind == "daemonset" else "it is scaled to 0"), hint=todo)
    number, port = _choose(what, _declared(spec["template"]["spec"]), port, target_port)
    selector = _selector(what, spec.get("selector") or {})
    _pods(site, what, selector, include_not_ready=include_not_ready)
    return Target(f"{kind}/{name}", name, {"selector": selector, "port": number}, port)


def _service(site: NamespaceSite, name: str, port: int | None, target_port: str | None, *, include_not_ready: bool) -> Target:
    """The pods behind it: through the Service itself it would be reached by way of the router again once it is taken over."""
    import json

    what = f"service {name}"
    value = _named(site, SERVICES, "service", name)
    spec: Doc = value.get("spec") or {}
    if is_taken(value):
        spec = {**spec, **json.loads(value["metadata"]["annotations"][SAVED])}
    labels = spec.get("selector") or {}
    if is_ours(value) or not labels:
        why = "it is one that the site made" if is_ours(value) else "it selects no pods"
        raise ConfigError(f"{what} cannot be exposed: {why}", hint="expose where it leads: host/HOST:PORT --address NAME")
    ports = spec.get("ports") or []
    known = ", ".join(str(p["port"]) for p in ports)
    if port is None and len(ports) != 1:
        raise click.UsageError(f"{what} has ports {known}; name one: --port")
    own = next((p for p in ports if p["port"] == (port or ports[0]["port"])), None)
    if own is None and target_port is None:
        raise ConfigError(f"{what} has no port {port}; it has: {known}", hint="name one of these, or with --target-port a port of its pods")
    selector = ",".join(f"{key}={text}" for key, text in sorted(labels.items()))
    pods = _pods(site, what, selector, include_not_ready=include_not_ready)
    port = port or int(ports[0]["port"])
    wanted = target_port or str((own or {}).get("targetPort", port))
    if wanted.isdecimal() and target_port is None:
        return Target(f"service/{name}", name, {"selector": selector, "port": int(wanted)}, port)
    number, port = _choose(what, _declared(pods[0]["spec"]), port, wanted)
    return Target(f"service/{name}", name, {"selector": selector, "port": number}, port)


def _named(site: NamespaceSite, kind: Kind, word: str, name: str) -> Object:
    value = site.get(kind, name)
    if value is not None:
        return value
    names = sorted(str(o["metadata"]["name"]) for o in site.objects(kind, metadata_only=True))
    known = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") if names else "none"
    raise ConfigError(f"there is no {word} {name} in namespace {site.namespace}; there: {known}", hint=f"kubectl get {word}s")


def _selector(what: str, given: Doc) -> str:
    """As text, keys in order."""
    parts = [f"{key}={value}" for key, value in (given.get("matchLabels") or {}).items()]
    for expression in given.get("matchExpressions") or ():
        key, operator, values = expression["key"], expression["operator"], ",".join(expression.get("values") or ())
        parts.append({"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key, "DoesNotExist": f"!{key}"}[operator])
    if not parts:
        raise ConfigError(f"{what} selects no pods", hint="give it a selector")
    return ",".join(sorted(parts))


def _pods(site: NamespaceSite, what: str, selector: str, *, include_not_ready: bool) -> list[Object]:
    """Those that are selected, one at least, and of them one at least ready."""
    parsed = parse_selector(selector)
    everything = site.objects(PODS)
    kept = [(value, keep_pod(value)) for value in everything]
    found = [(value, pod) for value, pod in kept if parsed.matches(pod.labels) and not pod.leaving]
    if not found:
        said = labels_that_exist((pod for _, pod in kept), parsed)
        raise NotReady(f"{what}: no pod matches {selector}; {said}", hint="correct the labels, or wait until there are pods")
    if not include_not_ready and not any(pod.ready for _, pod in found):
        trouble = next((t for value, _ in found for t in pod_troubles(value)), None)
        why = f"{trouble.what}: {trouble.why}" if trouble else f"pod {found[0][1].name} is not ready"
        raise NotReady(
            f"{what} has no ready pod; {why}", hint=(trouble.next if trouble else "") or "wait for it, or --include-not-ready-pods"
        )
    return [value for value, _ in sorted(found, key=lambda pair: not pair[1].ready)]


# ---- Ports ------------------------------------------------------------------------------------------------------------------------------


def _declared(pod: Doc) -> list[tuple[str, int]]:
    """Name and number of the ports that a pod says it has."""
    return [(str(p.get("name", "")), int(p["containerPort"])) for c in pod.get("containers") or () for p in c.get("ports") or ()]


def _choose(what: str, declared: list[tuple[str, int]], port: int | None, target_port: str | None) -> tuple[int, int]:
    """(port of the pods, port of the service)."""
    known = ", ".join(f"{number} ({name})" if name else str(number) for name, number in declared) or "none"
    numbers = {number for _, number in declared}
    if target_port is not None and not target_port.isdecimal():
        named = next((number for name, number in declared if name == target_port), None)
        if named is None:
            raise ConfigError(f"{what} has no port named {target_port!r}; it has: {known}", hint="name one of these with --target-port")
        return named, port or named
    if target_port is not None:
        number = int(target_port)
        if not 1 <= number <= 65535:
            raise click.UsageError(f"--target-port {target_port} is not in the range of 1 to 65535")
    elif port is not None:
        number = port
    elif len(numbers) == 1:
        (number,) = numbers
    else:
        raise click.UsageError(f"{what} has ports {known}; name one: --port" if numbers else f"{what} names no port; say it: --port PORT")
    if numbers and number not in numbers:
        raise ConfigError(
            f"{what} has no port {number}; it has: {known}", hint="name one of these with --target-port, or declare it in the pod"
        )
    return number, port or number
