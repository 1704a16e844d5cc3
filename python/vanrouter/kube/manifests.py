"""
Every object of an install, from the Site resource. Pure: what comes out is applied as it is, and `van manifest` prints the same.

In the order in which they are applied: the root first, because all others are owned by it. `docs/kubernetes-design.md` says what each is
for.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from vanrouter.kube.calls import Kind, Object
from vanrouter.kube.crds import CUSTOM_KINDS, GROUP
from vanrouter.kube.custom import custom_object
from vanrouter.kube.entrances import front_rules
from vanrouter.kube.kinds import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    LEASES,
    POD_DISRUPTION_BUDGETS,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    SERVICES,
)
from vanrouter.kube.names import CONTROLLER_LABELS, IDENTITY_SECRET, KEYS_SECRET, ROUTER_LABELS
from vanrouter.kube.plan import Plan, Sizes
from vanrouter.kube.records import reference_to, resource_object
from vanrouter.resources.kinds import Site

__all__ = [
    "CONTROLLER",
    "CONTROLLER_CUSTOM_RULES",
    "CONTROLLER_RULES",
    "CONTROLLER_VARIABLE",
    "LEASE_RULES",
    "OPTIONAL",
    "ROUTER",
    "ROUTER_CUSTOM_RULES",
    "ROUTER_RULES",
    "Manifest",
    "controller_address",
    "controller_deployment",
    "controller_service",
    "manifests",
    "router_manifests",
]

ROUTER: Final = "van-router"
CONTROLLER: Final = "van-controller"
_LABELS: Final = {ROUTER: ROUTER_LABELS, CONTROLLER: CONTROLLER_LABELS}

_WORDS: Final = {ROUTER: ("run", "--kubernetes", "/var/lib/vanrouter/site"), CONTROLLER: ("controller",)}

CONTROLLER_VARIABLE: Final = "VAN_CONTROLLER"
"""Of a router whose controller is not in its namespace: HOST:PORT."""

LINK_PORT: Final = 55671
CONTROL_PORT: Final = 55672
GRACE: Final = 30
DRAIN: Final = 60
HOME: Final = "/var/lib/vanrouter"

_FOLLOW: Final = ["list", "watch"]
_READ: Final = ["get", *_FOLLOW]

# What the programs use, no more: tests/cluster/test_rights.py compares with the audit log of an API server.
ROUTER_RULES: Final[list[Object]] = [
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": _READ},
    {"apiGroups": [""], "resources": ["pods"], "verbs": _FOLLOW},
    # A list or watch of one object by name is granted by its name.
    {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [IDENTITY_SECRET, KEYS_SECRET], "verbs": _FOLLOW},
]
CONTROLLER_RULES: Final[list[Object]] = [
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": [*_FOLLOW, "create", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["secrets"], "verbs": [*_READ, "create", "patch", "update", "delete"]},
    {"apiGroups": [""], "resources": ["services"], "verbs": [*_FOLLOW, "create", "patch", "delete"]},
    {"apiGroups": ["apps"], "resources": ["daemonsets", "deployments", "statefulsets"], "verbs": _FOLLOW},  # annotations on them
]

_CUSTOM: Final = [kind.plural for kind in CUSTOM_KINDS.values()]
# Roles of their own, where the cluster has the definitions: without them nobody would hold these rights.
ROUTER_CUSTOM_RULES: Final[list[Object]] = [
    {"apiGroups": [GROUP], "resources": [p for p in _CUSTOM if p not in ("accessgrants", "accesstokens")], "verbs": _FOLLOW},
]
CONTROLLER_CUSTOM_RULES: Final[list[Object]] = [
    {"apiGroups": [GROUP], "resources": _CUSTOM, "verbs": _FOLLOW},
    {"apiGroups": [GROUP], "resources": [f"{plural}/status" for plural in _CUSTOM], "verbs": ["patch"]},
]
LEASE_RULES: Final[list[Object]] = [
    {"apiGroups": [LEASES.group], "resources": ["leases"], "resourceNames": [CONTROLLER], "verbs": ["get", "update"]},
]
"""Of several controllers; the Lease itself comes with the install."""

RESOURCES: Final = "-resources"  # behind the name of router or controller

OPTIONAL: Final = (
    (POD_DISRUPTION_BUDGETS, ROUTER),
    *((kind, f"{name}{RESOURCES}") for kind in (ROLE_BINDINGS, ROLES) for name in (ROUTER, CONTROLLER)),
)
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


def router_manifests(plan: Plan, namespace: str, *, owners: tuple[Object, ...], controller: str) -> list[Manifest]:
    """What of an install a namespace has whose controller is the one of the whole cluster, at ``controller`` (HOST:PORT)."""
    made = [m for m in _install(plan, namespace, owners=owners, custom=True) if _is_of_router(m)]
    for manifest in made:
        if manifest.kind == DEPLOYMENTS:
            (container,) = manifest.value["spec"]["template"]["spec"]["containers"]
            container["env"].append({"name": CONTROLLER_VARIABLE, "value": controller})
    return made


def _is_of_router(manifest: Manifest) -> bool:
    return manifest.name in (ROUTER, f"{ROUTER}{RESOURCES}")


def manifests(site: Site, plan: Plan, namespace: str, *, root: Object | None = None, custom: bool = False) -> list[Manifest]:
    """``root``: as it is in the cluster. What is printed before there is one names no owner: an owner is known by its uid only.

    ``custom``: with the rights to custom resources, where the cluster has their definitions.
    """
    owners: tuple[Object, ...] = ()
    if root is not None:
        owners = (reference_to(root),)
    first = _root(site, namespace, custom=root is not None and root.get("kind") == "Site")
    return [first, *_install(plan, namespace, owners=owners, custom=custom)]


def _install(plan: Plan, namespace: str, *, owners: tuple[Object, ...], custom: bool) -> list[Manifest]:
    made: list[Manifest] = []

    def add(kind: Kind, name: str, suffix: str = "", **content: Any) -> None:
        metadata: Object = {"name": name + suffix, "namespace": namespace, "labels": {**plan.labels, **_LABELS[name]}}
        if plan.annotations:
            metadata["annotations"] = dict(plan.annotations)
        if owners:
            metadata["ownerReferences"] = list(owners)
        made.append(Manifest(kind, {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **content}))

    for name in (ROUTER, CONTROLLER):
        add(SERVICE_ACCOUNTS, name, automountServiceAccountToken=False)
    lease_rules = LEASE_RULES if plan.controllers > 1 else []
    roles = [(ROUTER, "", ROUTER_RULES), (CONTROLLER, "", [*CONTROLLER_RULES, *front_rules(plan.entrance), *lease_rules])]
    if custom:
        roles += [(ROUTER, RESOURCES, ROUTER_CUSTOM_RULES), (CONTROLLER, RESOURCES, CONTROLLER_CUSTOM_RULES)]
    for name, suffix, rules in roles:
        add(ROLES, name, suffix, rules=rules)
    for name, suffix, _ in roles:
        reference = {"apiGroup": ROLES.group, "kind": ROLES.kind, "name": name + suffix}
        account = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        add(ROLE_BINDINGS, name, suffix, roleRef=reference, subjects=[account])
    # Routers ask the controller before it is ready, and it decides whom it answers.
    add(SERVICES, CONTROLLER, spec=controller_service())
    if plan.routers > 1:
        add(POD_DISRUPTION_BUDGETS, ROUTER, spec={"maxUnavailable": 1, "selector": {"matchLabels": ROUTER_LABELS}})
    if plan.controllers > 1:
        add(LEASES, CONTROLLER, spec={})
    add(DEPLOYMENTS, CONTROLLER, spec=controller_deployment(plan))
    add(DEPLOYMENTS, ROUTER, spec=_router(plan))
    return made


def _root(site: Site, namespace: str, *, custom: bool) -> Manifest:
    kind = CUSTOM_KINDS["Site"] if custom else CONFIG_MAPS
    value = custom_object(site) if custom else resource_object(site)
    value["metadata"]["namespace"] = namespace
    return Manifest(kind, {"apiVersion": kind.api_version, "kind": kind.kind, **value})


# ---- Pods -------------------------------------------------------------------------------------------------------------------------------


def _router(plan: Plan) -> Object:
    ports = [{"name": "links", "containerPort": LINK_PORT, "protocol": "TCP"}]
    probes = {
        "readinessProbe": _probe(_https("/readyz"), period=1, timeout=2, failures=2),
        "livenessProbe": _probe(_https("/livez"), period=10, timeout=5, failures=3),
    }
    spec = _pod(plan, ROUTER, plan.router, ports, probes)
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
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        **_template(plan, ROUTER, spec),
    }


def controller_address(namespace: str) -> str:
    """Where routers of other namespaces find the controller in this one."""
    return f"{CONTROLLER}.{namespace}.svc:{CONTROL_PORT}"


def controller_service() -> Object:
    port = {"name": "control", "port": CONTROL_PORT, "targetPort": CONTROL_PORT, "protocol": "TCP"}
    return {"type": "ClusterIP", "selector": CONTROLLER_LABELS, "ports": [port], "publishNotReadyAddresses": True}


def controller_deployment(plan: Plan) -> Object:
    ports = [{"name": "control", "containerPort": CONTROL_PORT, "protocol": "TCP"}]
    probes = {
        # It takes mutual TLS only, and the kubelet has no certificate of this site.
        "readinessProbe": _probe({"tcpSocket": {"port": CONTROL_PORT}}, period=1, timeout=2, failures=2),
        "livenessProbe": _probe({"tcpSocket": {"port": CONTROL_PORT}}, period=10, timeout=5, failures=6),
    }
    spec = _pod(plan, CONTROLLER, plan.controller, ports, probes)
    spec["terminationGracePeriodSeconds"] = 10
    if plan.controllers > 1:
        spec["containers"][0]["args"].append("--lease")
        rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        return {"replicas": plan.controllers, "strategy": rolling, **_template(plan, CONTROLLER, spec)}
    # Never two at once: the second would wait for the first one anyway.
    return {"replicas": 1, "strategy": {"type": "Recreate"}, **_template(plan, CONTROLLER, spec)}


def _template(plan: Plan, name: str, spec: Object) -> Object:
    metadata: Object = {"labels": {**plan.labels, **_LABELS[name]}}
    if plan.annotations:
        metadata["annotations"] = dict(plan.annotations)
    return {"selector": {"matchLabels": _LABELS[name]}, "template": {"metadata": metadata, "spec": spec}}


def _pod(plan: Plan, name: str, sizes: Sizes, ports: list[Object], probes: Object) -> Object:
    container = {
        "name": name.removeprefix("van-"),
        "image": plan.image,
        "imagePullPolicy": plan.pull_policy,
        "args": list(_WORDS[name]),  # of `vanrouter`
        "env": _environment(plan),
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


def _environment(plan: Plan) -> list[Object]:
    given: list[Object] = [{"name": "VAN_POD", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}]
    return [*given, {"name": "VAN_LOG_LEVEL", "value": plan.log_level}] if plan.log_level else given


def _resources(sizes: Sizes) -> Object:
    asked = {"requests": (sizes.cpu, sizes.memory), "limits": (sizes.cpu_limit, sizes.memory_limit)}
    found: Object = {}
    for key, (cpu, memory) in asked.items():
        quantities = {name: value for name, value in (("cpu", cpu), ("memory", memory)) if value}
        if quantities:
            found[key] = quantities
    return found


def _https(path: str) -> Object:
    return {"httpGet": {"scheme": "HTTPS", "port": LINK_PORT, "path": path}}


def _probe(how: Object, *, period: int, timeout: int, failures: int) -> Object:
    return {**how, "periodSeconds": period, "timeoutSeconds": timeout, "failureThreshold": failures}
