"""
Services of listeners: made, taken over, given back. Decides; writes nothing.

    none there            ▶ ours is made: it selects the routers' pods
    ours                  ▶ kept as it should be; goes when nobody wants it any more
    somebody's, named     ▶ taken over in one patch, with what it was in the annotation ``vanrouter.io/saved``; given back when not wanted
    somebody's, not named ▶ left alone, and the listener's status says whose it is

One that somebody changed after we took it over is left as it is: we do not fight. One of ours is put in order again, a few times
(``rivals``). Giving back is a function of the object alone, so that
the command line can do it when there is no controller.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from vanrouter.controller.rivals import WITHIN, Rivals
from vanrouter.kube.calls import Call, Object, create, delete, merge_patch
from vanrouter.kube.kinds import SERVICES
from vanrouter.kube.managers import manager_of
from vanrouter.kube.names import PART_OF, ROUTER_LABELS, SERVICE, TYPE, labelled
from vanrouter.kube.workloads import CONTROLLED, SAVED
from vanrouter.resources.shapes import is_service_name

__all__ = ["Note", "ServicePlan", "WantedService", "give_back", "is_ours", "is_taken"]


class WantedService(msgspec.Struct, frozen=True):
    """A host that listeners have: port of the Service to port of the pod. ``named``: a resource of this site says this name."""

    host: str
    ports: dict[int, int]
    named: bool


class Note(msgspec.Struct, frozen=True):
    """Why a Service is not as it should be."""

    reason: str  # CamelCase
    message: str
    next: str = ""


class ServicePlan:
    """``notes`` says of which Services the last look found something to say."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._rivals = Rivals()
        self.notes: dict[str, Note] = {}
        self.remarks: dict[str, Note] = {}  # what was put in order again
        self._settled: dict[str, tuple[WantedService, str]] = {}  # as it is wanted, and the version in which it is so

    def calls(
        self,
        wanted: Mapping[str, WantedService],
        services: Mapping[str, Object],
        *,
        owners: tuple[Object, ...],
        current: bool,
        now: float = 0.0,
    ) -> list[Call]:
        """What to write. ``services``: the copy of all Services of the namespace; ``current``: whether that copy proves something."""
        self.notes, self.remarks = {}, {}
        self._rivals.forget(set(wanted))
        found = []
        for host, want in sorted(wanted.items()):
            service = services.get(host)
            version = "" if service is None else str(service["metadata"].get("resourceVersion", ""))
            if version and self._settled.get(host) == (want, version):
                continue  # of a thousand nearly all are as they were
            self._settled.pop(host, None)
            if call := self._put(want, service, owners, now):
                found.append(call)
        for host in self._settled.keys() - wanted.keys():
            del self._settled[host]
        self._say_rivals(now)
        for name, service in sorted(services.items()):
            if current and name not in wanted and (is_ours(service) or is_taken(service)):
                found += self._take_away(name, service)
        return found

    def deadline(self, now: float) -> float:
        """When the next look may find something else though nothing changed."""
        return self._rivals.deadline(now)

    def _say_rivals(self, now: float) -> None:
        for found in self._rivals.current(now):
            who = found.who or "somebody"
            if found.is_left:
                text = f"Service {found.what} was changed by {who} again each time that it was put back: it stays as it is"
                todo = f"stop what changes it; {WITHIN / 60:g} minutes after its last change it is put in order again"
                self.notes[found.what] = Note("ChangedAgain", text, todo)
            elif found.what not in self.notes:
                text = f"Service {found.what} was changed or deleted by {who}, and put in order again"
                self.remarks[found.what] = Note("PutBack", text, "the site keeps it: change its listener or connector instead")

    def _put(self, want: WantedService, service: Object | None, owners: tuple[Object, ...], now: float) -> Call | None:
        if not is_service_name(want.host):
            todo = "choose a name of at most 63 small letters, digits and -, that begins with a letter"
            self.notes[want.host] = Note("IllegalName", f"{want.host!r} cannot be the name of a Service", todo)
            return None
        wish = {"selector": dict(ROUTER_LABELS), "ports": _ports(want)}
        holds = service is not None and (is_ours(service) or is_taken(service)) and _same(_shape(service), wish)
        if service is not None and is_taken(service) and not holds:
            return self._follow(service, wish)
        if not self._rivals.may_write(want.host, wish, service, holds=holds, now=now):
            if service is not None and holds:
                self._settled[want.host] = want, str(service["metadata"].get("resourceVersion", ""))
            return None
        if service is None:
            metadata = labelled(want.host, SERVICE, owners=owners)
            metadata["annotations"] = {CONTROLLED: "true"}
            return create(SERVICES, self._namespace, {"metadata": metadata, "spec": wish})
        if is_ours(service):
            return self._patch(service, wish, {})
        return self._take_over(want, service, wish)

    def _take_over(self, want: WantedService, service: Object, wish: Object) -> Call | None:
        name, spec = want.host, service.get("spec") or {}
        if not want.named:
            manager = manager_of(service)
            whose = f"{manager}'s" if manager else "not ours"
            text = f"there is a Service {name} in {self._namespace} already ({whose}); it is left alone"
            todo = "rename it; or name it in a resource of this site, then it is taken over and given back later"
            self.notes[name] = Note("NameTaken", text, todo)
            return None
        labels, owners = service["metadata"].get("labels") or {}, service["metadata"].get("ownerReferences") or []
        keeper = next((f"{o.get('kind')}/{o.get('name')}" for o in owners if isinstance(o, dict) and o.get("controller")), "")
        if labels.get(PART_OF) == "vanrouter" or keeper:
            why = "the site itself needs it" if not keeper else f"{keeper} owns it, which would put back what is changed"
            text = f"Service {name} in {self._namespace} is not taken over: {why}"
            self.notes[name] = Note("CannotTakeOver", text, "choose another name")
            return None
        if spec.get("type") == "ExternalName" or spec.get("clusterIP") == "None":
            kind = "of type ExternalName" if spec.get("type") == "ExternalName" else "headless"
            text = (
                f"Service {name} in {self._namespace} is {kind}: it has no address that could lead to the router, so it is not taken over"
            )
            self.notes[name] = Note("CannotTakeOver", text, f"expose under another name (--address), or make {name} a ClusterIP Service")
            return None
        shape = _shape(service)
        saved = {"selector": shape["selector"], "ports": shape["ports"], "set": wish}
        return self._patch(service, wish, {CONTROLLED: "true", SAVED: _compact(saved)})

    def _follow(self, service: Object, wish: Object) -> Call | None:
        """One that was taken over: what is saved stays; what we set may change."""
        name, shape, saved = service["metadata"]["name"], _shape(service), _saved(service)
        if saved is None or not _same(shape, saved.get("set")):
            if not _same(shape, wish):
                manager = manager_of(service)
                text = f"Service {name} was taken over, and then changed by {manager or 'somebody else'}: it stays as it is"
                self.notes[name] = Note("ChangedByOther", text, f"stop what changes it, then: kubectl annotate service {name} {SAVED}-")
            return None
        if _same(shape, wish):
            return None
        return self._patch(service, wish, {SAVED: _compact({**saved, "set": wish})})

    def _patch(self, service: Object, wish: Object, annotations: Mapping[str, str]) -> Call:
        metadata = service["metadata"]
        spec = {"selector": _replacing((service.get("spec") or {}).get("selector"), wish["selector"]), "ports": wish["ports"]}
        patch: Object = {"spec": spec}
        if annotations:
            patch["metadata"] = {"annotations": dict(annotations)}
        return merge_patch(SERVICES, self._namespace, metadata["name"], patch, resource_version=metadata["resourceVersion"])

    def _take_away(self, name: str, service: Object) -> list[Call]:
        if is_taken(service):
            call, note = give_back(self._namespace, service)
            if note is not None:
                self.notes[name] = note
            return [call] if call is not None else []
        return [delete(SERVICES, self._namespace, name, uid=service["metadata"]["uid"])]


def is_ours(service: Object) -> bool:
    """We made it."""
    labels = service["metadata"].get("labels") or {}
    return labels.get(PART_OF) == "vanrouter" and labels.get(TYPE) == SERVICE and not is_taken(service)


def is_taken(service: Object) -> bool:
    """Somebody made it, and we took it over."""
    return SAVED in (service["metadata"].get("annotations") or {})


def give_back(namespace: str, service: Object) -> tuple[Call | None, Note | None]:
    """Undo a take-over, in one patch; of what somebody changed since, only the annotations go, and the note says it."""
    metadata, shape, saved = service["metadata"], _shape(service), _saved(service)
    patch: Object = {"metadata": {"annotations": {CONTROLLED: None, SAVED: None}}}
    note: Note | None = None
    if saved is not None and _same(shape, saved.get("set")):
        old = saved.get("selector") or {}
        patch["spec"] = {
            "selector": _replacing((service.get("spec") or {}).get("selector"), old) or None,
            "ports": saved.get("ports") or [],
        }
    else:
        text = (
            f"Service {metadata['name']} was changed by {manager_of(service) or 'somebody else'} after it was taken over: it stays as it is"
        )
        note = Note("ChangedByOther", text)
    return merge_patch(SERVICES, namespace, metadata["name"], patch, resource_version=metadata["resourceVersion"]), note


# ---- Shapes -----------------------------------------------------------------------------------------------------------------------------


def _ports(want: WantedService) -> list[Object]:
    return [{"name": f"port{port}", "port": port, "protocol": "TCP", "targetPort": pod} for port, pod in sorted(want.ports.items())]


def _shape(service: Object) -> Object:
    """Selector and ports, without what the cluster adds by itself unless somebody chose it (node ports stay)."""
    spec = service.get("spec") or {}
    return {"selector": spec.get("selector") or {}, "ports": spec.get("ports") or []}


def _same(shape: Object, wish: Any) -> bool:
    if not isinstance(wish, dict):
        return False
    return shape["selector"] == (wish.get("selector") or {}) and _essence(shape["ports"]) == _essence(wish.get("ports") or [])


def _essence(ports: Any) -> list[tuple[Any, ...]]:
    found = [p for p in ports if isinstance(p, dict)] if isinstance(ports, list) else []
    shapes = ((p.get("port"), p.get("protocol", "TCP"), str(p.get("targetPort", p.get("port"))), p.get("name", "")) for p in found)
    return sorted(shapes, key=repr)


def _replacing(old: Any, new: Mapping[str, str]) -> dict[str, str | None]:
    """As a merge patch: what is not in ``new`` goes."""
    gone: Collection[str] = old if isinstance(old, dict) else ()
    return {**{key: None for key in gone if key not in new}, **new}


def _saved(service: Object) -> dict[str, Any] | None:
    try:
        value = json.loads(service["metadata"]["annotations"][SAVED])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and _is_shape(value) and _is_shape(value.get("set") or {}) else None


def _is_shape(value: Any) -> bool:
    """Annotations are for anybody to write."""
    if not isinstance(value, dict):
        return False
    selector, ports = value.get("selector") or {}, value.get("ports") or []
    return isinstance(selector, dict) and isinstance(ports, list) and all(isinstance(port, dict) for port in ports)


def _compact(value: Object) -> str:
    return json.dumps(value, separators=(",", ":"))
