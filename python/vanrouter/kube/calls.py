"""
Calls to a Kubernetes API server as values, and what its answers mean.

Sans-IO: builds a ``Call`` from what is wanted and turns status, headers and body into plain values or one of ``vanrouter.kube.errors``.
Sends nothing; ``client`` (trio) and ``blocking`` (threads) do. Objects are plain dictionaries as the server writes them: no model classes,
which cost more memory than the whole controller may have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from vanrouter.kube.errors import (
    AlreadyExists,
    Conflict,
    CredentialsRefused,
    Denied,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NoSuchKind,
    NotFound,
    ServerFailed,
    Throttled,
)

__all__ = [
    "FIELD_MANAGER",
    "Call",
    "Kind",
    "Object",
    "answer_untrusted",
    "apply",
    "create",
    "delete",
    "discover",
    "error_untrusted",
    "get",
    "is_served",
    "list_page",
    "merge_patch",
    "replace",
    "role_for",
    "watch",
]

Object = dict[str, Any]

FIELD_MANAGER: Final = "vanrouter"
PAGE: Final = 500
"""Objects in one page of a list: a page of resources stays below 2 MiB, and 1,000 Services are two calls."""

MAX_MESSAGE: Final = 2_000

LEAST_WAIT: Final = 0.5
"""Seconds. A server that is busy and says to try again at once is not taken at its word."""


class Kind(msgspec.Struct, frozen=True):
    """A kind of object, and where the server has it. ``group`` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """As RBAC and ``kubectl`` name it: ``configmaps``, ``deployments.apps``."""
        if not self.plural:
            return self.api_version
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        steps = [f"namespaces/{quote(namespace, safe='')}" if self.namespaced and namespace else "", self.plural]
        steps += [quote(name, safe=""), subresource]
        return "/".join([root, *filter(None, steps)])


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request. ``verb`` is RBAC's word for it."""

    verb: str
    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    method: str = "GET"
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    body: bytes = b""

    @property
    def path(self) -> str:
        return self.kind.path(self.namespace, "" if self.method == "POST" else self.name, self.subresource)

    def __str__(self) -> str:
        """Like ``get configmaps/van-services in north``. Never shows a body."""
        what = self.kind.resource + (f"/{self.name}" if self.name else "") + (f"/{self.subresource}" if self.subresource else "")
        return f"{self.verb} {what}" + (f" in {self.namespace}" if self.namespace else "")


_JSON: Final = {"Content-Type": "application/json"}
_METADATA_ONLY: Final = {"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}


def get(kind: Kind, namespace: str, name: str) -> Call:
    return Call(verb="get", kind=kind, namespace=namespace, name=name)


def discover(kind: Kind) -> Call:
    """What the server has of the kind's API, version and all: everybody may ask. NotFound or NoSuchKind: nothing of it."""
    return Call(verb="get", kind=Kind(kind.group, kind.version, "", "APIResourceList", namespaced=False))


def is_served(kind: Kind, answer: Object) -> bool:
    """Whether the answer to ``discover`` has this kind."""
    return any(isinstance(r, dict) and r.get("name") == kind.plural for r in _list(answer.get("resources")))


def list_page(
    kind: Kind,
    namespace: str,
    *,
    labels: str = "",
    fields: str = "",
    limit: int = PAGE,
    continue_token: str = "",
    metadata_only: bool = False,
) -> Call:
    """One page; ``metadata.continue`` of the answer is the token of the next. ``limit`` 0: all at once."""
    query = _selected(labels, fields)
    if limit:
        query["limit"] = str(limit)
    if continue_token:
        query["continue"] = continue_token
    return Call(verb="list", kind=kind, namespace=namespace, query=query, headers=_METADATA_ONLY if metadata_only else {})


def watch(kind: Kind, namespace: str, *, resource_version: str, timeout: int, labels: str = "", fields: str = "") -> Call:
    """The events after ``resource_version``, with bookmarks; the server ends it after ``timeout`` seconds."""
    query = _selected(labels, fields) | {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": resource_version,
        "timeoutSeconds": str(timeout),
    }
    return Call(verb="watch", kind=kind, namespace=namespace, query=query)


def create(kind: Kind, namespace: str, value: Object, *, dry_run: bool = False) -> Call:
    query = {"fieldManager": FIELD_MANAGER} | _dry(dry_run)
    name = str(value.get("metadata", {}).get("name", ""))
    return Call(
        verb="create", kind=kind, namespace=namespace, name=name, method="POST", query=query, headers=_JSON, body=_body(_typed(kind, value))
    )


def apply(kind: Kind, namespace: str, value: Object, *, subresource: str = "", force: bool = True, dry_run: bool = False) -> Call:
    """Server-side apply: the fields in ``value`` become ours, those we had and no longer name go, others stay as they are."""
    query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"} | _dry(dry_run)
    return Call(
        verb="patch",
        kind=kind,
        namespace=namespace,
        name=value["metadata"]["name"],
        subresource=subresource,
        method="PATCH",
        query=query,
        headers={"Content-Type": "application/apply-patch+yaml"},  # JSON is YAML
        body=_body(_typed(kind, value)),
    )


def merge_patch(kind: Kind, namespace: str, name: str, patch: Object, *, subresource: str = "", resource_version: str = "") -> Call:
    """Change the named fields only (null removes). With ``resource_version`` only if it is still that one: else Conflict."""
    if resource_version:
        patch = {**patch, "metadata": {**patch.get("metadata", {}), "resourceVersion": resource_version}}
    return Call(
        verb="patch",
        kind=kind,
        namespace=namespace,
        name=name,
        subresource=subresource,
        method="PATCH",
        query={"fieldManager": FIELD_MANAGER},
        headers={"Content-Type": "application/merge-patch+json"},
        body=_body(patch),
    )


def replace(kind: Kind, namespace: str, value: Object, *, subresource: str = "") -> Call:
    """Put the whole object; with ``metadata.resourceVersion`` in it only if it is still that one: else Conflict."""
    return Call(
        verb="update",
        kind=kind,
        namespace=namespace,
        name=value["metadata"]["name"],
        subresource=subresource,
        method="PUT",
        query={"fieldManager": FIELD_MANAGER},
        headers=_JSON,
        body=_body(_typed(kind, value)),
    )


def delete(
    kind: Kind,
    namespace: str,
    name: str,
    *,
    uid: str = "",
    resource_version: str = "",
    propagation: str = "Background",
    grace: int | None = None,
) -> Call:
    """``uid`` and ``resource_version`` are preconditions: of another object of this name, or a changed one, the answer is Conflict.

    ``grace``: seconds that a pod gets; default: its own.
    """
    preconditions = {key: value for key, value in (("uid", uid), ("resourceVersion", resource_version)) if value}
    options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
    if preconditions:
        options["preconditions"] = preconditions
    if grace is not None:
        options["gracePeriodSeconds"] = grace
    return Call(verb="delete", kind=kind, namespace=namespace, name=name, method="DELETE", headers=_JSON, body=_body(options))


def _selected(labels: str, fields: str) -> dict[str, str]:
    return {key: value for key, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def _typed(kind: Kind, value: Object) -> Object:
    return {"apiVersion": kind.api_version, "kind": kind.kind, **value}


def _body(value: Object) -> bytes:
    return msgspec.json.encode(value)


# ---- Answers ----------------------------------------------------------------------------------------------------------------------------


def answer_untrusted(call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Object:
    """The object of a good answer. Raises KubeError for every other one, whatever it contains."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if 200 <= status < 300 and isinstance(value, dict):
        return value
    raise error_untrusted(call, status, headers, value if isinstance(value, dict) else {"message": _excerpt(body)})


def error_untrusted(call: Call, status: int, headers: Mapping[str, str], value: Object) -> KubeError:
    """What an answer that is no success means. ``value`` is the server's Status object, or something like it."""
    code = status if not 200 <= status < 300 else value.get("code")
    message, reason, details = _text(value.get("message")), _text(value.get("reason")), _dict(value.get("details"))
    said = f": {message}" if message else ""
    where = str(call)
    if code == 401:
        return CredentialsRefused(
            f"{where}: the cluster does not accept the credentials (401 Unauthorized)",
            call=where,
            hint="they have expired or were revoked: log in again, or name another context with --context",
        )
    if code == 403:
        return _forbidden(call, message, details)
    if code == 404:
        return _not_found(call, message, details)
    if code == 409:
        if reason == "AlreadyExists":
            return AlreadyExists(f"{where}: it exists already", call=where)
        return Conflict(f"{where}: changed by somebody else meanwhile{said}", call=where, hint="read it again, then try again")
    if code == 410 or reason in ("Expired", "Gone"):
        return Gone(f"{where}: the cluster no longer keeps what was asked for{said}", call=where)
    if code == 429:
        return Throttled(
            f"{where}: the cluster is busy and asks to wait{said}",
            call=where,
            hint="try again later",
            retry_after=_retry_after(headers, details),
        )
    if code in (400, 405, 413, 415, 422):
        fields = tuple(_text(c.get("field")) for c in _list(details.get("causes")) if isinstance(c, dict) and c.get("field"))
        return Invalid(f"{where}: the cluster refuses the object{said}", call=where, fields=fields)
    hint = "look at the cluster's API server; this is tried again where something keeps running"
    return ServerFailed(f"{where}: the cluster answered {code}{said}", call=where, hint=hint)


def _forbidden(call: Call, message: str, details: Object) -> KubeError:
    where = str(call)
    if any(isinstance(c, dict) and c.get("reason") == "NamespaceTerminating" for c in _list(details.get("causes"))):
        return Denied(f"{where}: namespace {call.namespace} is being deleted", call=where, hint="wait until it is gone, or use another one")
    if " cannot " not in message:
        return Denied(f"{where}: refused by the cluster: {message}", call=where, hint="a quota or an admission rule says no")
    resource = call.kind.resource + (f"/{call.subresource}" if call.subresource else "")
    scope = f"in namespace {call.namespace}" if call.namespace else "in the whole cluster"
    return Forbidden(
        f"you may not {call.verb} {resource} {scope}{f' ({call.name})' if call.name else ''}",
        call=where,
        hint="ask for the right; a Role that grants it:\n" + role_for(call),
        verb=call.verb,
        resource=resource,
        namespace=call.namespace,
        role=role_for(call),
    )


def _not_found(call: Call, message: str, details: Object) -> KubeError:
    where = str(call)
    if details.get("kind") == "namespaces" and call.kind.plural != "namespaces":
        return NotFound(
            f"{where}: there is no namespace {call.namespace}", call=where, hint=f"create it: kubectl create namespace {call.namespace}"
        )
    if not details.get("name") and ("could not find the requested resource" in message or "page not found" in message):
        return NoSuchKind(f"{where}: the cluster does not know {call.kind.resource} ({call.kind.api_version})", call=where)
    return NotFound(f"{where}: does not exist", call=where)


def role_for(call: Call) -> str:
    """A Role (of a cluster-wide call: a ClusterRole) with this one right, as YAML."""
    kind = "Role" if call.namespace else "ClusterRole"
    resource = call.kind.plural + (f"/{call.subresource}" if call.subresource else "")
    return "\n".join(
        [
            "apiVersion: rbac.authorization.k8s.io/v1",
            f"kind: {kind}",
            f"metadata: {{name: van-{call.verb}-{call.kind.plural}{f', namespace: {call.namespace}' if call.namespace else ''}}}",
            f"rules: [{{apiGroups: [{json.dumps(call.kind.group)}], resources: [{resource}], verbs: [{call.verb}]}}]",
        ]
    )


def _retry_after(headers: Mapping[str, str], details: Object) -> float:
    for given in (headers.get("retry-after"), details.get("retryAfterSeconds")):
        try:
            seconds = float(given) if given is not None else -1.0
        except (TypeError, ValueError):
            continue
        if 0 <= seconds < 3600:
            return max(seconds, LEAST_WAIT)
    return 1.0


def _excerpt(body: bytes) -> str:
    return body[:200].decode("utf-8", "replace").strip()


def _text(value: object) -> str:
    return value[:MAX_MESSAGE] if isinstance(value, str) else ""


def _dict(value: object) -> Object:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
