"""
What the controller writes into the ``status`` of custom resources: when it differs, at most twice a second, and nothing else of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from vanrouter.controller.copies import Copies
from vanrouter.controller.report import Doc, Said, rfc3339, status_records
from vanrouter.controller.services import Note
from vanrouter.kube.calls import Object, apply
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.custom import custom_status
from vanrouter.kube.records import Records, StatusRecord, spec_hash
from vanrouter.kube.units import Unit
from vanrouter.resources import Resource
from vanrouter.stores.resources import Problem

__all__ = ["CustomStatuses"]

BETWEEN: Final = 0.5
OVERLAY: Final = 5.0  # the watch brings a write by then, or somebody undid it
AT_A_TIME: Final = 200
OWN: Final = ("AccessGrant", "AccessToken")  # of these the controller says how they are
_CONDITIONAL: Final = ("Site", "Link", "Listener", "Connector", "MultiKeyListener")  # of these the routers say how they are


class CustomStatuses:
    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[tuple[str, str], str] = {}  # uid and message: since when
        self._sent: dict[str, tuple[Object, float]] = {}  # by uid: what was written, until when the watch may not have brought it
        self._next = 0.0
        self._tried: dict[str, float] = {}  # by uid: when it was tried last, of what still differs
        self.deadline = math.inf

    async def write(
        self,
        copies: Copies,
        records: Records,
        document: Doc,
        *,
        problems: Sequence[Problem],
        notes: Mapping[str, Note],
        since: Callable[[str, str], str],
        told: Mapping[tuple[str, str], Doc] | None = None,
        own: Mapping[str, Doc],
    ) -> None:
        """Raises KubeError: the first of those that failed, when all were tried.

        ``told``: of resources of which routers say nothing; None: nobody serves the whole cluster. ``own``: of grants and tokens, by where
        they stand: of these nobody else says anything.
        """
        now = trio.current_time()
        if now < self._next:
            self.deadline = self._next
            return
        self.deadline = math.inf
        objects = copies.customs.objects
        units = {where: unit for where, unit in records.customs().items() if where in objects}
        listed = {(r.kind, r.name): r for r in status_records(_resources(units), Said(document), notes, since=since)}
        self._sent = {uid: sent for uid, sent in self._sent.items() if now < sent[1]}
        if told is not None:  # whoever serves the cluster says what of these is so
            units = {where: unit for where, unit in units.items() if objects[where].get("kind") != "AttachedConnector"}
        wanted = self._wanted(objects, units, listed, document, {p.path: p for p in problems}, told or {}, own)
        wanted = [(value, status) for value, status in wanted if status != value.get("status") and not self._is_sent(value, status, now)]
        uids = {str(value["metadata"].get("uid")) for value, _ in wanted}
        self._tried = {uid: at for uid, at in self._tried.items() if uid in uids}
        if wanted:
            # What the server refuses comes again and again, and keeps nothing else from its turn.
            wanted.sort(key=lambda pair: self._tried.get(str(pair[0]["metadata"].get("uid")), -math.inf))
            self._tried |= {str(value["metadata"].get("uid")): now for value, _ in wanted[:AT_A_TIME]}
            self._next = now + BETWEEN
            if len(wanted) > AT_A_TIME:
                self.deadline = self._next
            await copies.each(wanted[:AT_A_TIME], lambda pair: self._send(copies, *pair))

    def _wanted(
        self,
        objects: Mapping[str, Object],
        units: Mapping[str, Unit],
        listed: Mapping[tuple[str, str], StatusRecord],
        document: Doc,
        refused: Mapping[str, Problem],
        told: Mapping[tuple[str, str], Doc],
        own: Mapping[str, Doc],
    ) -> list[tuple[Object, Object]]:
        said_of = {str(p.get("path")): Problem(str(p.get("path")), str(p.get("message")), str(p.get("hint"))) for p in _problems(document)}
        made = []
        kept: dict[tuple[str, str], str] = {}
        for where, unit in units.items():
            value = objects[where]
            resource = unit.resources[0] if unit.resources else None
            problem = refused.get(where)
            said: Doc = own.get(where, {})
            seen = bool(said)
            if resource is not None and resource.kind in OWN:
                if not said and problem is None:
                    continue  # what was said last stays until there is something to say
            elif resource is not None:
                record = listed[resource.kind, resource.name]
                said, seen = _with_site(resource, record.status, document), record.spec_hash == spec_hash(resource)
                if problem is None and resource.kind == "Site":  # another one than that which counts
                    problem = refused.get(f"{resource.ref}: metadata.name")
                if problem is None:
                    problem = said_of.get(resource.ref)
                if problem is None and (found := told.get((resource.kind, resource.name))) is not None:
                    said, seen = found, True
                elif problem is None and resource.kind not in _CONDITIONAL:
                    said, seen = {"conditions": [_taken(self._date(value, "True", "", kept))]}, True
            if problem is None and not document and value.get("status") and resource is not None and resource.kind in _CONDITIONAL:
                continue  # what was said last stays until a router says something
            date = self._date(value, "False", problem.message, kept) if problem is not None else ""
            made.append((value, custom_status(value, unit, said, seen=seen, problem=problem, date=date)))
        self._since = kept
        return made

    def _date(self, value: Object, status: str, message: str, kept: dict[tuple[str, str], str]) -> str:
        """Since when Ready is so: as this controller knows, else as the object says already."""
        key = (str(value["metadata"].get("uid")), status + message)
        conditions = (value.get("status") or {}).get("conditions") or []
        alike = [c for c in conditions if (c.get("type"), c.get("status"), c.get("message")) == ("Ready", status, message)]
        known = str(alike[0].get("lastTransitionTime") or "") if alike else ""
        kept[key] = self._since.get(key) or known or rfc3339(self._clock())
        return kept[key]

    def _is_sent(self, value: Object, status: Object, now: float) -> bool:
        sent, until = self._sent.get(str(value["metadata"].get("uid")), ({}, 0.0))
        if sent == status and now < until:
            self.deadline = min(self.deadline, until)
            return True
        return False

    async def _send(self, copies: Copies, value: Object, status: Object) -> None:
        kind, metadata = CUSTOM_KINDS[value["kind"]], value["metadata"]
        body = {"metadata": {"name": metadata["name"], "uid": metadata["uid"]}, "status": status}
        await copies.send(apply(kind, copies.namespace, body, subresource="status"))
        self._sent[metadata["uid"]] = status, trio.current_time() + OVERLAY


def _resources(units: Mapping[str, Unit]) -> list[Resource]:
    return [resource for unit in units.values() for resource in unit.resources]


def _problems(document: Doc) -> list[Doc]:
    return [p for p in document.get("problems") or [] if isinstance(p, dict)]


def _with_site(resource: Resource, status: Doc, document: Doc) -> Doc:
    site = document.get("site") or {}
    return {**status, "id": site.get("id"), "linkedSites": site.get("linkedSites")} if resource.kind == "Site" else status


def _taken(date: str) -> Doc:
    """Of a kind of which routers say nothing unless something is wrong."""
    about = {"status": "True", "reason": "Ok", "message": "", "next": "", "since": date}
    return {"type": "Ready", **about}
