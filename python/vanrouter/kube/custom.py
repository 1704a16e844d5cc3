"""
A resource as a custom resource: read, written, and what is said in its ``status``. Sans-IO.

The schema refuses most of what is wrong before anybody sees it. What it lets through and we do not (a rule between fields, a definition of
another release) is a problem that names the object and the field; the last good form stays in force, also over a restart: it is kept in
``status.lastGood``. A name that Kubernetes does not take (``a..b``) stands in an annotation, under a legal one with a hash.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from vanrouter.errors import VanrouterError
from vanrouter.kube.calls import Object
from vanrouter.kube.crds import CUSTOM_KINDS, GROUP, STATUS_FIELDS
from vanrouter.kube.names import PART_OF
from vanrouter.kube.units import Unit
from vanrouter.resources import Resource, read_document, read_resources, to_dict, to_yaml
from vanrouter.stores.resources import Problem

__all__ = ["LAST_GOOD", "NAME_OF", "custom_name", "custom_object", "custom_stamp", "custom_status", "custom_where", "read_custom"]

NAME_OF: Final = "vanrouter.io/name"
LAST_GOOD: Final = "lastGood"
_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST: Final = 63

_FIELDS: Final = {
    ("Link", "remoteSiteName"): "remoteSiteName",
    ("Link", "remoteSiteId"): "remoteSiteId",
    ("Listener", "hasMatchingConnector"): "matched",
    ("Connector", "hasMatchingListener"): "matched",
    ("MultiKeyListener", "hasDestination"): "matched",
    ("AttachedConnectorBinding", "hasMatchingListener"): "matched",
    ("Site", "siteId"): "id",
    ("Site", "linkedSites"): "linkedSites",
    **{("AccessGrant", name): name for name in STATUS_FIELDS["AccessGrant"]},
    **{("AccessToken", name): name for name in STATUS_FIELDS["AccessToken"]},
}
"""Where a field of the status stands in the status document."""


def custom_name(name: str) -> str:
    """``metadata.name`` of the object that says a resource of this name."""
    if len(name) <= _LONGEST and _SUBDOMAIN.fullmatch(name):
        return name
    kept = re.sub(r"[-.]*\.[-.]*", ".", name)[:40].rstrip("-.")
    return f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def custom_where(value: Object) -> str:
    """Like ``listeners.vanrouter.io/web``, as kubectl takes it."""
    kind = CUSTOM_KINDS.get(str(value.get("kind")))
    return f"{kind.resource if kind else GROUP}/{value['metadata']['name']}"


def custom_stamp(value: Object) -> tuple[str, str]:
    """Of the spec and of annotations that mean something here: writing the status changes nothing in it."""
    metadata = value["metadata"]
    ours = sorted((k, v) for k, v in (metadata.get("annotations") or {}).items() if k.startswith("vanrouter.io/"))
    return (str(metadata.get("uid", "")), f"{metadata.get('generation', '')}{ours or ''}")


def custom_object(resource: Resource, *, owners: tuple[Object, ...] = ()) -> Object:
    """For server-side apply."""
    value = to_dict(resource)
    metadata: Object = {"name": custom_name(resource.name), "labels": {**resource.metadata.labels, PART_OF: "vanrouter"}}
    annotations = dict(resource.metadata.annotations)
    if metadata["name"] != resource.name:
        annotations[NAME_OF] = resource.name
    if annotations:
        metadata["annotations"] = annotations
    if owners:
        metadata["ownerReferences"] = list(owners)
    return {"metadata": metadata, "spec": value["spec"]}


def read_custom(value: Object, known: Unit | None = None) -> Unit:
    """``known``: what was read of the same object before."""
    where = custom_where(value)
    try:
        resource = _resource(value)
    except VanrouterError as exc:
        good = known.good if known is not None else str((value.get("status") or {}).get(LAST_GOOD) or "")
        try:
            kept = read_resources(good, source=where) if good else []
        except VanrouterError:  # written by a version that knew more
            kept, good = [], ""
        said = "; its last good form stays in force" if kept else ""
        return Unit("", kept, good, Problem(where, f"{exc}{said}", exc.hint))
    text = to_yaml(resource)
    return Unit(text, [resource], text)


def _resource(value: Object) -> Resource:
    metadata = value["metadata"]
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k not in (NAME_OF, _APPLIED)}
    name = (metadata.get("annotations") or {}).get(NAME_OF, "")
    if not name or custom_name(name) != metadata["name"]:
        name = metadata["name"]
    labels = {k: v for k, v in (metadata.get("labels") or {}).items() if (k, v) != (PART_OF, "vanrouter")}
    return read_document({**value, "metadata": {"name": name, "labels": labels, "annotations": annotations}})


# ---- Status -----------------------------------------------------------------------------------------------------------------------------


def custom_status(value: Object, unit: Unit, said: Mapping[str, Any], *, seen: bool, problem: Problem | None, date: str) -> Object:
    """``status`` of the object. ``said``: its element of the status document. ``seen``: whether that speaks of the present spec.

    ``said["failed"]``: it is not coming right by itself.

    ``problem``: why what the object says is not in force; ``date``: since when.
    """
    known, kind = value.get("status") or {}, str(value.get("kind"))
    generation = value["metadata"].get("generation", 0)
    status: Object = {}
    if problem is not None:
        conditions = [_condition("Ready", "Refused", problem, date), _condition("Configured", "Refused", problem, date)]
        status["status"], status["message"] = "Error", _sentence(problem.message, problem.hint)
    else:
        conditions = list(_conditions(said.get("conditions") or []))
        ready: Object = next((c for c in conditions if c["type"] == "Ready"), {})
        status["status"] = "Ready" if ready.get("status") == "True" else "Error" if said.get("failed") else "Pending"
        if status["status"] == "Ready":
            status["message"] = "OK"
        elif ready:
            status["message"] = _sentence(ready["message"], ready.get("next", ""))
        else:
            status["message"] = "no router has said anything of it yet"
    keeps = problem is None or kind in ("AccessGrant", "AccessToken")  # what was granted or redeemed is so, whatever it says now
    for field, (type_, _) in STATUS_FIELDS.get(kind, {}).items() if keeps else ():
        found = said.get(_FIELDS.get((kind, field), ""))
        if isinstance(found, {"string": str, "integer": int, "boolean": bool}[type_]):
            status[field] = found
    observed = generation if seen and problem is None else known.get("observedGeneration")
    if isinstance(observed, int):
        status["observedGeneration"] = observed
        conditions = [{**c, "observedGeneration": observed} for c in conditions]
    if conditions:
        status["conditions"] = conditions
    if unit.good:
        status[LAST_GOOD] = unit.good
    return status


def _conditions(given: Iterable[Any]) -> Iterable[Object]:
    """In Kubernetes' words; one for each type, as it demands."""
    found: dict[str, Object] = {}
    for condition in given:
        if not isinstance(condition, dict) or condition.get("status") not in ("True", "False", "Unknown"):
            continue
        made = {key: str(condition.get(key) or "") for key in ("type", "status", "reason", "message", "next")}
        if since := str(condition.get("since") or ""):
            made["lastTransitionTime"] = since
        found.setdefault(made["type"], made)
    return found.values()


def _condition(type_: str, reason: str, problem: Problem, date: str) -> Object:
    return {
        "type": type_,
        "status": "False",
        "reason": reason,
        "message": problem.message,
        "next": problem.hint,
        "lastTransitionTime": date,
    }


def _sentence(message: str, hint: str) -> str:
    return f"{message}; {hint}" if hint else message
