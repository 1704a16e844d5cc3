"""
A router's status document as it is told to the controller: whole once, then what changed of it. Pure; each end uses one half.

    {"document": {...}}                                             the whole
    {"changed": {"site": {...}, "links": [...]},                    members that are told whole (None: gone)
     "lists": {"services": {"put": [{"name": "a", ...}], "gone": ["b"]}}}   elements by their names

What arrives is checked: of another version's elements those that are not understood are left out, and everything behind this may take the
rest for what ``docs/architecture.md`` says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from vanrouter.errors import RemoteProtocolError

__all__ = ["difference", "heard_untrusted"]

Doc = dict[str, Any]

BY_NAME: Final = ("listeners", "multiKeyListeners", "connectors", "services")
NAMED: Final = (*BY_NAME, "links")


def difference(before: Doc, after: Doc) -> Doc:
    """What to tell whoever knows ``before``. Not for equal ones."""
    changed: Doc = dict.fromkeys(before.keys() - after.keys())
    lists: Doc = {}
    for key, value in after.items():
        known = before.get(key)
        if key in before and known == value:
            continue
        old, new = (_by_name(known), _by_name(value)) if key in BY_NAME else (None, None)
        if old is None or new is None:
            changed[key] = value
            continue
        put = [element for name, element in new.items() if old.get(name) != element]
        lists[key] = {"put": put, "gone": [name for name in old if name not in new]}
    return {"changed": changed, "lists": lists}


def heard_untrusted(before: Doc | None, params: Doc) -> Doc:
    """The document, after what was told. Raises RemoteProtocolError where that cannot be known: who dials anew tells the whole."""
    if "document" in params:
        if not isinstance(params["document"], dict):
            raise RemoteProtocolError("a status that is no document")
        return _checked({str(key): value for key, value in params["document"].items()})
    changed, lists = params.get("changed"), params.get("lists")
    if before is None or not isinstance(changed, dict) or not isinstance(lists, dict):
        raise RemoteProtocolError("a part of a status, and the whole was never told")
    whole = {**before, **_checked({str(key): value for key, value in changed.items() if value is not None})}
    for key in [key for key, value in changed.items() if value is None]:
        whole.pop(key, None)
    for key, part in lists.items():
        elements = _by_name(before.get(key) or [])
        if key not in BY_NAME or elements is None or not isinstance(part, dict):
            raise RemoteProtocolError(f"a part of {str(key)[:40]!r} that fits to nothing")
        for name in _list(part.get("gone")):
            if isinstance(name, str):
                elements.pop(name, None)
        for element in _elements(str(key), part.get("put")):
            elements[element["name"]] = element
        whole[key] = list(elements.values())
    return whole


def _by_name(elements: Any) -> dict[str, Doc] | None:
    """None: their names do not tell them apart."""
    if not isinstance(elements, list):
        return None
    found = {e["name"]: e for e in elements if isinstance(e, dict) and isinstance(e.get("name"), str)}
    return found if len(found) == len(elements) else None


# ---- Of an end that may be another version ----------------------------------------------------------------------------------------------


def _checked(document: Doc) -> Doc:
    found = dict(document)
    if "site" in found:
        found["site"] = _site(found["site"])
    for key in NAMED:
        if key in found:
            found[key] = list(_elements(key, found[key]))
    for key in ("grants", "problems"):
        if key in found:
            found[key] = _dicts(found[key])
    return found


def _site(value: Any) -> Doc:
    site = dict(value) if isinstance(value, dict) else {}
    site["conditions"] = _dicts(site.get("conditions"))
    if not isinstance(site.get("linkedSites", 0), int):
        del site["linkedSites"]
    return site


def _elements(key: str, values: Any) -> Iterable[Doc]:
    for value in _dicts(values):
        if not isinstance(value.get("name"), str) or (key == "services" and not _is_service(value)):
            continue
        lists: Doc = {part: _dicts(value[part]) for part in ("conditions", "learned") if part in value}
        yield {**value, **lists} if any(lists[part] != value[part] for part in lists) else value


def _is_service(value: Doc) -> bool:
    ports = value.get("ports")
    texts = isinstance(value.get("address"), str) and isinstance(value.get("protocol"), str)
    return texts and isinstance(ports, list) and all(isinstance(port, int) for port in ports)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dicts(values: Any) -> list[Doc]:
    return [value for value in _list(values) if isinstance(value, dict)]
