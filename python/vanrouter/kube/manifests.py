"""
Every object of an install, from the Site resource. Pure: what comes out is applied as it is, and `van manifest` prints the same.

In the order in which they are applied: the root first, because all others are owned by it. `docs/kubernetes-design.md` says what each is
for.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from vanrouter.kube.calls import Kind, Object
from vanrouter.kube.kinds import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    POD_DISRUPTION_BUDGETS,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    SERVICES,
)
from vanrouter.kube.names import CONTROLLER_LABELS, IDENTITY_SECRET, KEYS_SECRET, ROUTER_LABELS
from vanrouter.kube.plan import Plan, Sizes
from vanrouter.kube.records import resource_object
from vanrouter.resources.kinds import Site

__all__ = ["CONTROLLER", "CONTROLLER_RULES", "OPTIONAL", "ROUTER", "ROUTER_RULES", "Manifest", "manifests"]

ROUTER: Final = "van-router"
CONTROLLER: Final = "van-controller"
_LABELS: Final = {ROUTER: ROUTER_LABELS, CONTROLLER: CONTROLLER_LABELS}

LINK_PORT: Final = 55671
CONTROL_PORT: Final = 55672
HEALTH_PORT: Final = 55673  # of the controller: its other port takes mutual TLS only
GRACE: Final = 30
DRAIN: Final = 60
HOME: Final = "/var/lib/vanrouter"

_READ: Final = ["get", "list", "watch"]
_WRITE: Final = [*_READ, "create", "patch", "update", "delete"]

# What the programs use, no more: an audit of a running site shows that each verb is used, and no other.
ROUTER_RULES: Final[list[Object]] = [
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": _READ},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    # A list or watch of one object by name is granted by its name.
    {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [IDENTITY_SECRET, KEYS_SECRET], "verbs": _READ},
]
CONTROLLER_RULES: Final[list[Object]] = [
    {"apiGroups": [""], "resources": ["configmaps", "secrets", "services"], "verbs": _WRITE},
    {"apiGroups": [""], "resources": ["pods"], "verbs": _READ},
]

OPTIONAL: Final = ((POD_DISRUPTION_BUDGETS, ROUTER),)
"""What another choice may no longer want: removed by whoever installs."""


class Manifest(NamedTuple):
    kind: Kind
    value: Object  # with apiVersion and kind

    @property
    def name(self) -> str:
        return str(self.value["metadata"]["name"])

    @property
    def ref(self) -> str:
        return f"{self.kind.kind}/{self.name}"


def manifests(site: Site, plan: Plan, namespace: str, *, root: Object | None = None) -> list[Manifest]:
    """``root``: as it is in the cluster. What is printed before there is one names no owner: an owner is known by its uid only."""
    owners: tuple[Object, ...] = ()
    if root is not None:
        owners = ({"apiVersion": "v1", "kind": "ConfigMap", "name": root["metadata"]["name"], "uid": root["metadata"]["uid"]},)
    made: list[Manifest] = []

    def add(kind: Kind, name: str, **content: Any) -> None:
        metadata: Object = {"name": name, "namespace": namespace, "labels": {**plan.labels, **_LABELS[name]}}
        if plan.annotations:
            metadata["annotations"] = dict(plan.annotations)
        if owners:
            metadata["ownerReferences"] = list(owners)
        made.append(Manifest(kind, {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **content}))

    made.append(_root(site, namespace))
    for name in (ROUTER, CONTROLLER):
        add(SERVICE_ACCOUNTS, name, automountServiceAccountToken=False)
    for name, rules in ((ROUTER, ROUTER_RULES), (CONTROLLER, CONTROLLER_RULES)):
        add(ROLES, name, rules=rules)
    for name in (ROUTER, CONTROLLER):
        reference = {"apiGroup": ROLES.group, "kind": ROLES.kind, "name": name}
        add(ROLE_BINDINGS, name, roleRef=reference, subjects=[{"kind": "ServiceAccount", "name": name, "namespace": namespace}])
    # Routers ask the controller before it is ready, and it decides whom it answers.
    port = {"name": "control", "port": CONTROL_PORT, "targetPort": CONTROL_PORT, "protocol": "TCP"}
    add(SERVICES, CONTROLLER, spec={"type": "ClusterIP", "selector": CONTROLLER_LABELS, "ports": [port], "publishNotReadyAddresses": True})
    if plan.routers > 1:
        add(POD_DISRUPTION_BUDGETS, ROUTER, spec={"maxUnavailable": 1, "selector": {"matchLabels": ROUTER_LABELS}})
    add(DEPLOYMENTS, CONTROLLER, spec=_controller(site, plan))
    add(DEPLOYMENTS, ROUTER, spec=_router(site, plan))
    return made


def _root(site: Site, namespace: str) -> Manifest:
    value = resource_object(site)
    value["metadata"]["namespace"] = namespace
    return Manifest(CONFIG_MAPS, {"apiVersion": CONFIG_MAPS.api_version, "kind": CONFIG_MAPS.kind, **value})


# ---- Pods -------------------------------------------------------------------------------------------------------------------------------


def _router(site: Site, plan: Plan) -> Object:
    ports = [{"name": "links", "containerPort": LINK_PORT, "protocol": "TCP"}]
    probes = {
        "readinessProbe": _probe("/healthz", LINK_PORT, period=1, timeout=2, failures=2),
        "livenessProbe": _probe("/livez", LINK_PORT, period=10, timeout=5, failures=3),
    }
    spec = _pod(site, plan, ROUTER, plan.router, ports, probes)
    spec["terminationGracePeriodSeconds"] = GRACE + DRAIN + 5
    if plan.routers > 1:
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone"):
            spread = {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": ROUTER_LABELS},
            }
            spec.setdefault("topologySpreadConstraints", []).append(spread)
    return {
        "replicas": plan.routers,
        "minReadySeconds": 0,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        **_template(plan, ROUTER, spec),
    }


def _controller(site: Site, plan: Plan) -> Object:
    ports = [{"name": "control", "containerPort": CONTROL_PORT, "protocol": "TCP"}]
    probes = {
        "readinessProbe": _probe("/healthz", HEALTH_PORT, period=1, timeout=2, failures=2, scheme="HTTP"),
        "livenessProbe": _probe("/livez", HEALTH_PORT, period=10, timeout=5, failures=3, scheme="HTTP"),
    }
    spec = _pod(site, plan, CONTROLLER, plan.controller, ports, probes)
    spec["terminationGracePeriodSeconds"] = 10
    # Never two at once: the second would wait for the first one anyway.
    return {"replicas": 1, "strategy": {"type": "Recreate"}, **_template(plan, CONTROLLER, spec)}


def _template(plan: Plan, name: str, spec: Object) -> Object:
    metadata: Object = {"labels": {**plan.labels, **_LABELS[name]}}
    if plan.annotations:
        metadata["annotations"] = dict(plan.annotations)
    return {"selector": {"matchLabels": _LABELS[name]}, "template": {"metadata": metadata, "spec": spec}}


def _pod(site: Site, plan: Plan, name: str, sizes: Sizes, ports: list[Object], probes: Object) -> Object:
    container = {
        "name": name.removeprefix("van-"),
        "image": plan.image,
        "imagePullPolicy": plan.pull_policy,
        "args": [name.removeprefix("van-")],  # `vanrouter router`, `vanrouter controller`
        "env": _environment(site, plan),
        "ports": ports,
        **probes,
        "resources": _resources(sizes),
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "home", "mountPath": HOME}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - in the pod
    }
    spec: Object = {
        "serviceAccountName": name,
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        # No fixed user: the image runs under any, and some clusters choose one.
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "home", "emptyDir": {}}, {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}],
    }
    if plan.pull_secret:
        spec["imagePullSecrets"] = [{"name": plan.pull_secret}]
    if plan.node_selector:
        spec["nodeSelector"] = dict(plan.node_selector)
    if plan.tolerations:
        spec["tolerations"] = list(plan.tolerations)
    if plan.affinity:
        spec["affinity"] = dict(plan.affinity)
    return spec


def _environment(site: Site, plan: Plan) -> list[Object]:
    given = [{"name": "VAN_SITE", "value": site.name}]
    if plan.log_level:
        given.append({"name": "VAN_LOG_LEVEL", "value": plan.log_level})
    fields = (("VAN_NAMESPACE", "metadata.namespace"), ("VAN_POD", "metadata.name"), ("VAN_POD_IP", "status.podIP"))
    return given + [{"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}} for name, path in fields]


def _resources(sizes: Sizes) -> Object:
    asked = {"requests": (sizes.cpu, sizes.memory), "limits": (sizes.cpu_limit, sizes.memory_limit)}
    found: Object = {}
    for key, (cpu, memory) in asked.items():
        quantities = {name: value for name, value in (("cpu", cpu), ("memory", memory)) if value}
        if quantities:
            found[key] = quantities
    return found


def _probe(path: str, port: int, *, period: int, timeout: int, failures: int, scheme: str = "HTTPS") -> Object:
    get = {"scheme": scheme, "port": port, "path": path}
    return {"httpGet": get, "periodSeconds": period, "timeoutSeconds": timeout, "failureThreshold": failures}
