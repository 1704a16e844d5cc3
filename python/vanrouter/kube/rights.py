"""
Which rights an install needs, which of them are missing, and a Role that would grant those. Sans-IO: the questions are calls.

Nobody can give what he does not have: the rights of router and controller are needed by whoever installs them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final, NamedTuple

from vanrouter.kube.calls import Call, Object, create
from vanrouter.kube.crds import CUSTOM_KINDS, GROUP
from vanrouter.kube.kinds import ACCESS_REVIEWS
from vanrouter.kube.manifests import CONTROLLER_RULES, LEASE_RULES, ROUTER_RULES

__all__ = ["CENTRAL_OWNER_RULES", "LEASE_INSTALLER_RULES", "Right", "ask", "is_allowed", "needed", "rights_in", "role_granting"]

_INSTALL: Final = ("list", "create", "patch", "delete")
INSTALLER_RULES: Final[list[Object]] = [
    {"apiGroups": [""], "resources": ["configmaps", "secrets", "services", "serviceaccounts"], "verbs": list(_INSTALL)},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "delete"]},
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", *_INSTALL]},
    {"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["list", "delete"]},
    {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": list(_INSTALL)},
    {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": list(_INSTALL)},
]


CENTRAL_OWNER_RULES: Final[list[Object]] = [
    {"apiGroups": [GROUP], "resources": [kind.plural for kind in CUSTOM_KINDS.values()], "verbs": list(_INSTALL)},
    {"apiGroups": [""], "resources": ["configmaps", "secrets", "services"], "verbs": list(_INSTALL)},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list"]},
]
"""Of whoever owns a site that the controller of the whole cluster serves."""


LEASE_INSTALLER_RULES: Final[list[Object]] = [
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create", "patch"]},
    *LEASE_RULES,
]
"""Of whoever wants several controllers."""


class Right(NamedTuple):
    group: str
    resource: str
    verb: str
    name: str = ""  # of one object only

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {resource}" + (f"/{self.name}" if self.name else "")


def needed(more: Iterable[Object] = ()) -> list[Right]:
    """Of whoever installs, once each. ``more``: rules of the controller that a choice takes."""
    return rights_in((*INSTALLER_RULES, *ROUTER_RULES, *CONTROLLER_RULES, *more))


def rights_in(rules: Iterable[Object]) -> list[Right]:
    """Each right once."""
    found: dict[Right, None] = {}
    for rule in rules:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                for name in rule.get("resourceNames", [""]):
                    found[Right(rule["apiGroups"][0], resource, verb, name)] = None
    return [right for right in found if not right.name or right._replace(name="") not in found]


def ask(right: Right, namespace: str) -> Call:
    """Whether we have it: the answer is for ``is_allowed``."""
    resource, _, part = right.resource.partition("/")
    wanted = {
        "namespace": namespace,
        "group": right.group,
        "resource": resource,
        "verb": right.verb,
        "name": right.name,
        "subresource": part,
    }
    return create(ACCESS_REVIEWS, "", {"spec": {"resourceAttributes": {key: value for key, value in wanted.items() if value}}})


def is_allowed(answer: Object) -> bool:
    status = answer.get("status")
    return isinstance(status, dict) and status.get("allowed") is True


def role_granting(missing: Iterable[Right], namespace: str) -> str:
    """A Role as YAML, for an administrator to apply."""
    rules: dict[tuple[str, str, str], list[str]] = {}
    for right in missing:
        rules.setdefault((right.group, right.resource, right.name), []).append(right.verb)
    lines = [
        "apiVersion: rbac.authorization.k8s.io/v1",
        "kind: Role",
        f"metadata: {{name: van-installer, namespace: {namespace}}}",
        "rules:",
    ]
    for (group, resource, name), verbs in rules.items():
        only = f", resourceNames: [{name}]" if name else ""
        lines.append(f"- {{apiGroups: [{json.dumps(group)}], resources: [{resource}]{only}, verbs: [{', '.join(verbs)}]}}")
    return "\n".join(lines)
