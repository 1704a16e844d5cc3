"""
Every object of a controller that serves the whole cluster, for its administrator to apply once. Pure; `van manifest controller` prints it.

The ClusterRole is what that controller uses, no more: ``tests/kube/test_kube_cluster_rights.py`` runs it with these rights and compares.
"""

from __future__ import annotations

from typing import Any, Final

from vanrouter.kube.announcement import ANNOUNCEMENT, READ_BY_ALL, WHERE
from vanrouter.kube.calls import Kind, Object
from vanrouter.kube.crds import cluster_roles, definitions
from vanrouter.kube.entrances import every_front_rule
from vanrouter.kube.kinds import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    DEPLOYMENTS,
    LEASES,
    NAMESPACES,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    SERVICES,
)
from vanrouter.kube.manifests import (
    CONTROLLER,
    CONTROLLER_CUSTOM_RULES,
    CONTROLLER_RULES,
    LEASE_RULES,
    ROUTER_RULES,
    controller_address,
    controller_deployment,
    controller_service,
)
from vanrouter.kube.names import CONTROLLER_LABELS
from vanrouter.kube.plan import Plan

__all__ = ["CLUSTER_NAMESPACE", "CLUSTER_RULES", "cluster_manifests"]

CLUSTER_NAMESPACE: Final = "vanrouter"
CLUSTER_ROLE: Final = "vanrouter-controller"

_KEPT: Final = ["list", "watch", "create", "patch"]
CLUSTER_RULES: Final[list[Object]] = [
    *CONTROLLER_RULES,
    *CONTROLLER_CUSTOM_RULES,
    {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]},
    # What an install consists of. Nobody can give a right that he does not have: those of routers too.
    {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": _KEPT},
    {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": _KEPT},
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create", "patch"]},
    {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": [*_KEPT, "delete"]},
    *ROUTER_RULES,
    *every_front_rule(),
]


def cluster_manifests(plan: Plan, namespace: str = CLUSTER_NAMESPACE) -> list[Object]:
    """In the order in which they are applied."""
    labels = {**plan.labels, **CONTROLLER_LABELS}

    def made(kind: Kind, name: str, **content: Any) -> Object:
        metadata: Object = {"name": name, "labels": dict(labels)}
        if plan.annotations:
            metadata["annotations"] = dict(plan.annotations)
        if kind.namespaced:
            metadata["namespace"] = namespace
        return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **content}

    reference = {"apiGroup": CLUSTER_ROLES.group, "kind": CLUSTER_ROLES.kind, "name": CLUSTER_ROLE}
    account = {"kind": "ServiceAccount", "name": CONTROLLER, "namespace": namespace}
    deployment = controller_deployment(plan)
    (container,) = deployment["template"]["spec"]["containers"]
    container["args"].append("--cluster")
    container["env"].append({"name": "VAN_IMAGE", "value": plan.image})  # of routers, where the Site names none
    everybody = {"apiGroup": CLUSTER_ROLES.group, "kind": "Group", "name": "system:authenticated"}
    announcement = made(CLUSTER_ROLES, ANNOUNCEMENT, rules=READ_BY_ALL)
    announcement["metadata"].setdefault("annotations", {})[WHERE] = controller_address(namespace)
    several = []
    if plan.controllers > 1:
        role = {"apiGroup": ROLES.group, "kind": ROLES.kind, "name": CONTROLLER}
        several = [
            made(ROLES, CONTROLLER, rules=LEASE_RULES),
            made(ROLE_BINDINGS, CONTROLLER, roleRef=role, subjects=[account]),
            made(LEASES, CONTROLLER, spec={}),
        ]
    return [
        *definitions(),
        *cluster_roles(),
        made(NAMESPACES, namespace),
        made(SERVICE_ACCOUNTS, CONTROLLER, automountServiceAccountToken=False),
        made(CLUSTER_ROLES, CLUSTER_ROLE, rules=CLUSTER_RULES),
        made(CLUSTER_ROLE_BINDINGS, CLUSTER_ROLE, roleRef=reference, subjects=[account]),
        announcement,
        made(CLUSTER_ROLE_BINDINGS, ANNOUNCEMENT, roleRef={**reference, "name": ANNOUNCEMENT}, subjects=[everybody]),
        *several,
        made(SERVICES, CONTROLLER, spec=controller_service()),
        made(DEPLOYMENTS, CONTROLLER, spec=deployment),
    ]
