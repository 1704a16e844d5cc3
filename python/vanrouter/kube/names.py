"""
Names and labels of the objects that a site keeps in its namespace. ``docs/kubernetes-design.md`` says what each is for.

Every object of ours has the label ``app.kubernetes.io/part-of: vanrouter``, and those that are selected by what they are also
``vanrouter.io/type``.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

from vanrouter.kube.calls import Object

__all__ = [
    "ADMISSION",
    "ANY_TYPE",
    "CA_SECRET",
    "COMPONENT",
    "CONTROLLER_LABELS",
    "CREDENTIAL",
    "GRANT",
    "IDENTITY_SECRET",
    "KEYS",
    "KEYS_SECRET",
    "PENDING",
    "REQUEST",
    "RESOURCE",
    "ROUTER",
    "ROUTER_LABELS",
    "ROUTER_MAP",
    "SERVICE",
    "SERVICES_MAP",
    "SIBLING",
    "STATE",
    "STATE_SECRET",
    "STATUS",
    "STATUS_OF",
    "TOKEN",
    "TYPE",
    "VIEW",
    "admission_secret",
    "credential_secret",
    "grant_secret",
    "labelled",
    "pending_secret",
    "resource_map",
    "selector",
    "status_map",
    "token_secret",
]

PART_OF: Final = "app.kubernetes.io/part-of"
TYPE: Final = "vanrouter.io/type"
STATUS_OF: Final = "vanrouter.io/status-of"  # annotation of a status ConfigMap: the name of its source

RESOURCE: Final = "resource"
STATUS: Final = "status"
STATE: Final = "state"
CREDENTIAL: Final = "credential"
ADMISSION: Final = "admission"
GRANT: Final = "grant"
TOKEN: Final = "token"  # noqa: S105 - a label: what an AccessGrant in a ConfigMap shows: a ConfigMap is no place for a code
PENDING: Final = "pending"
REQUEST: Final = "request"
KEYS: Final = "keys"
ROUTER: Final = "router"
SERVICE: Final = "service"
VIEW: Final = "view"
ANY_TYPE: Final = TYPE  # as a selector: whatever has the label

SIBLING: Final = "sibling-"  # what the links between the routers of a namespace are called, before the pod's name

COMPONENT: Final = "app.kubernetes.io/component"
ROUTER_LABELS: Final = {COMPONENT: "router", PART_OF: "vanrouter"}  # of the pods
CONTROLLER_LABELS: Final = {COMPONENT: "controller", PART_OF: "vanrouter"}

IDENTITY_SECRET: Final = "van-identity"  # noqa: S105 - a name
CA_SECRET: Final = "van-ca"  # noqa: S105 - a name
KEYS_SECRET: Final = "van-router-keys"  # noqa: S105 - a name
ROUTER_MAP: Final = "van-router"
SERVICES_MAP: Final = "van-services"
STATE_SECRET: Final = "van-state"  # noqa: S105 - a name

LONGEST: Final = 253
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def resource_map(kind: str, name: str) -> str:
    """The ConfigMap in which we write a resource: ``van.listener.hello``."""
    return _legal(f"van.{kind.lower()}.{name}")


def status_map(source: str) -> str:
    """The ConfigMap with the status of what the ConfigMap ``source`` says: ``van-status.listener.hello``."""
    return _legal(f"van-status.{source.removeprefix('van.')}")


def credential_secret(name: str) -> str:
    return _legal(f"van-credential.{name}")


def admission_secret(name: str) -> str:
    return _legal(f"van-admission.{name}")


def grant_secret(grant_id: str) -> str:
    return _legal(f"van-grant.{grant_id}")


def token_secret(name: str) -> str:
    return _legal(f"van-token.{name}")


def pending_secret(token_id: str) -> str:
    return _legal(f"van-pending.{token_id}")


def is_own_secret(name: str) -> bool:
    """Whether it is one that the controller keeps: nobody writes it by hand."""
    own = (IDENTITY_SECRET, CA_SECRET, KEYS_SECRET, STATE_SECRET)
    return name in own or name.startswith(("van-credential.", "van-pending.", "van-admission.", "van-grant.", "van-token.", "van-request."))


def selector(*types: str) -> str:
    return f"{TYPE} in ({','.join(types)})" if len(types) > 1 else f"{TYPE}={types[0]}"


def labelled(name: str, type_: str, *, owners: tuple[Object, ...] = (), **annotations: str) -> Object:
    """``metadata`` of an object of ours."""
    metadata: dict[str, Any] = {"name": name, "labels": {PART_OF: "vanrouter", TYPE: type_}}
    if annotations:
        metadata["annotations"] = annotations
    if owners:
        metadata["ownerReferences"] = list(owners)
    return metadata


def _legal(name: str) -> str:
    """As it is where Kubernetes takes it; else (``a..b``, or too long) told apart by a hash."""
    if len(name) <= LONGEST and _SUBDOMAIN.fullmatch(name):
        return name
    kept = re.sub(r"[-.]*\.[-.]*", ".", name)[:200].rstrip("-.")
    return f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
