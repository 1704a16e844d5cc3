"""
What the routers say of themselves, merged into one document and into the status of each resource. Pure.

The document is the one of ``docs/architecture.md``, as a host's router would give it; ``site.routers`` names each router. What the routers
cannot know (grants, the Service of the link access, foreign Services) is the controller's to add.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from vanrouter.conditions import Condition
from vanrouter.controller.services import Note
from vanrouter.kube.names import SIBLING
from vanrouter.kube.records import StatusRecord, hash_of, spec_hash
from vanrouter.resources import Resource
from vanrouter.resources.kinds import Site

__all__ = ["Doc", "Said", "condition_doc", "merge_documents", "rfc3339", "slots_by_resources", "slots_of", "status_records"]

Doc = dict[str, Any]

_LISTS: Final = {
    "Link": "links",
    "Listener": "listeners",
    "MultiKeyListener": "multiKeyListeners",
    "Connector": "connectors",
}


def merge_documents(documents: Mapping[str, Doc]) -> Doc:
    """``documents`` by pod. Of one and the same element the first router counts where it is well; an element is where any router has it."""
    order = sorted(documents, key=lambda pod: (not _is_ready(documents[pod]), pod))
    if not order:
        return {}
    merged = dict(documents[order[0]])  # what is in it is not changed
    for name in (*_LISTS.values(), "services"):
        elements: dict[tuple[str, str], Doc] = {}
        for pod in order:
            for element in documents[pod].get(name) or []:
                key = (str(element.get("name")), str(element.get("direction", "")))
                known = elements.get(key)
                if known is None or (_is_well(element) and not _is_well(known)):
                    elements[key] = element
        merged[name] = [elements[key] for key in sorted(elements)]
    merged["links"] = [x for x in merged["links"] if not _is_sibling(x, merged)]
    merged["problems"] = _unique(p for pod in order for p in documents[pod].get("problems") or [])
    site = merged["site"] = dict(merged.get("site") or {})
    site["ready"] = any(_is_ready(documents[pod]) for pod in order)
    sites = [documents[pod].get("site") or {} for pod in order]
    said = ("router", "version", "wire", "ready")
    site["routers"] = [{"pod": pod, **{key: s.get(key) for key in said}} for pod, s in zip(order, sites, strict=True)]
    merged["problems"] += [p for pod in order for p in _apart(pod, documents[pod])]
    site["linkedSites"] = max((int(s.get("linkedSites") or 0) for s in sites), default=0)
    return merged


def _is_sibling(link: Doc, document: Doc) -> bool:
    """A link between two routers of this site, which nobody made and nobody can delete."""
    own = (document.get("site") or {}).get("id")
    is_ours = str(link.get("name")).startswith(SIBLING) or link.get("direction") == "incoming"
    return is_ours and bool(own) and link.get("remoteSiteId") == own


def _apart(pod: str, document: Doc) -> Iterator[Doc]:
    """Routers of this site that ``pod`` does not get through to."""
    for link in document.get("links") or []:
        if _is_sibling(link, document) and not link.get("active"):
            other = str(link["name"]).removeprefix(SIBLING)
            why = next((c.get("message") for c in link.get("conditions") or [] if c.get("status") == "False" and c.get("message")), "")
            text = f"router {pod} is not linked with router {other} of this site" + (f": {why}" if why else "")
            todo = f"do NetworkPolicies let them? van doctor, kubectl logs {pod}"
            yield {"path": f"pod {pod}", "message": text, "hint": todo}


def slots_of(document: Doc) -> set[tuple[str, int]]:
    """(address, port) of the listeners that service sync made: they are named after it."""
    found: set[tuple[str, int]] = set()
    for listener in document.get("listeners") or []:
        host, _, port = str(listener.get("name", "")).rpartition(":")
        if listener.get("automatic") and host and port.isdigit():
            found.add((host, int(port)))
    return found


def slots_by_resources(document: Doc) -> set[tuple[str, int]]:
    """(host, port) of the listeners that resources say."""
    listed = [*(document.get("listeners") or []), *(document.get("multiKeyListeners") or [])]
    said = [(x.get("host"), x.get("port")) for x in listed if not x.get("automatic")]
    return {(host, port) for host, port in said if isinstance(host, str) and host and isinstance(port, int)}


class Said:
    """A document by kind and name: there may be a thousand of each."""

    def __init__(self, document: Doc) -> None:
        self.document = document
        self._elements: dict[str, dict[str, Doc]] = {}

    def of(self, resource: Resource) -> Doc | None:
        """The first of this name; an incoming link is nobody's resource."""
        elements = self._elements.get(resource.kind)
        if elements is None:
            elements = self._elements[resource.kind] = {}
            for element in self.document.get(_LISTS.get(resource.kind, "")) or []:
                if element.get("direction") != "incoming":
                    elements.setdefault(str(element.get("name")), element)
        return elements.get(resource.name)


def status_records(
    resources: Iterable[Resource], said: Said, notes: Mapping[str, Note], *, since: Callable[[str, str], str]
) -> list[StatusRecord]:
    """Of each resource what the routers say of it. ``spec_hash`` is of the spec that they apply: another one they have not seen yet.

    ``since`` gives the date since when a resource has a note for this reason, as RFC 3339.
    """
    return [_record(resource, said, notes, since) for resource in resources]


def _record(resource: Resource, said: Said, notes: Mapping[str, Note], since: Callable[[str, str], str]) -> StatusRecord:
    if isinstance(resource, Site):
        status = {"conditions": (said.document.get("site") or {}).get("conditions") or []}
        return StatusRecord(kind=resource.kind, name=resource.name, spec_hash=spec_hash(resource), status=status)
    found = said.of(resource)
    if found is None:
        return StatusRecord(kind=resource.kind, name=resource.name, spec_hash="")
    status = {key: value for key, value in found.items() if key not in ("name", "spec")}
    applied = hash_of(found.get("spec") or {})
    note = notes.get(str(found.get("host", ""))) if resource.kind in ("Listener", "MultiKeyListener") else None
    if note is not None:
        status["conditions"] = [*status.get("conditions", []), _note(note, since(resource.ref, note.reason))]
    return StatusRecord(kind=resource.kind, name=resource.name, spec_hash=applied, status=status)


def condition_doc(condition: Condition, date: str) -> Doc:
    c = condition
    return {"type": c.type, "status": c.status, "reason": c.reason, "message": c.message, "since": date, "next": c.next}


def rfc3339(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _note(note: Note, date: str) -> Doc:
    return {"type": "Service", "status": "False", "reason": note.reason, "message": note.message, "since": date, "next": note.next}


def _is_ready(document: Doc) -> bool:
    return bool((document.get("site") or {}).get("ready"))


def _is_well(element: Doc) -> bool:
    conditions = element.get("conditions") or []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions if isinstance(c, dict))


def _unique(problems: Iterable[Doc]) -> list[Doc]:
    found: dict[str, Doc] = {}
    for problem in problems:
        found.setdefault(json.dumps(problem, sort_keys=True), problem)
    return list(found.values())
