"""
A router's status document as it is told to the controller: whole once, then what changed of it. Pure; each end uses one half.

    {"document": {...}}                                             the whole
    {"changed": {"site": {...}, "links": [...]},                    members that are told whole (None: gone)
     "lists": {"services": {"put": [{"name": "a", ...}], "gone": ["b"]}}}   elements by their names
    {..., "append": {"links": [...]}, "more": true}                 a slice of either that is too long for one message: what goes on in the
                                                                    next ones, and counts when the last one came, which has no ``more``

What arrives is checked: of another version's elements those that are not understood are left out, and everything behind this may take the
rest for what ``docs/architecture.md`` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from vanrouter.errors import LocalProtocolError, RemoteProtocolError
from vanrouter.kube.conversation import Size

__all__ = ["MAX_STATUS", "MAX_VALUES", "SLICE", "difference", "heard_untrusted", "slices"]

Doc = dict[str, Any]

BY_NAME: Final = ("listeners", "multiKeyListeners", "connectors", "services")
NAMED: Final = (*BY_NAME, "links")
SLICE: Final = 512 << 10  # of a message: many sites share a controller, which reads long ones in turn
UNCUT: Final = (4 << 20) - SLICE - 1024  # a line of a conversation has 4 MiB
MAX_STATUS: Final = 16 << 20  # about 25,000 services: ten times that in memory, which a controller may have once
MAX_VALUES: Final = 1 << 20  # of it: half as many again as such a one has


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


def slices(params: Doc, *, size: int = SLICE, most: int = MAX_STATUS) -> list[Doc]:
    """What to tell, in messages of about ``size`` bytes. Raises LocalProtocolError for more than ``most``, or what cannot be cut."""
    total = Size.of(msgspec.json.encode(params))
    if total.length <= size:
        return [params]
    if total.exceeds(bound := Size(most, MAX_VALUES)):
        raise LocalProtocolError(f"a status of {total}; a controller is told {bound} at most")
    is_whole = "document" in params
    messages, left = [_empty(is_whole=is_whole)], size
    for part, key, value in _atoms(params):
        taken = len(msgspec.json.encode(value)) + len(key) + 8
        if taken > UNCUT:
            raise LocalProtocolError(f"a status with {key} of {taken} bytes in one piece; a controller reads {UNCUT} at most")
        if taken > left and left < size:
            messages.append(_empty(is_whole=False))
            left = size
        left -= taken
        message = messages[-1]
        if part == "member":
            message["document" if "document" in message else "changed"][key] = value
        elif part == "append":
            message.setdefault("append", {}).setdefault(key, []).append(value)
        else:
            message["lists"].setdefault(key, {"put": [], "gone": []})[part].append(value)
    for message in messages[:-1]:
        message["more"] = True
    return messages


def _empty(*, is_whole: bool) -> Doc:
    return {"document": {}} if is_whole else {"changed": {}, "lists": {}}


def _atoms(params: Doc) -> Iterator[tuple[str, str, Any]]:
    """What cannot be cut, in the order in which it is heard."""
    for key, value in (params["document"] if "document" in params else params["changed"]).items():
        if isinstance(value, list):
            yield "member", key, []
            yield from (("append", key, element) for element in value)
        else:
            yield "member", key, value
    for key, part in params.get("lists", {}).items():
        for what in ("gone", "put"):
            yield from ((what, key, element) for element in part[what])


def heard_untrusted(before: Doc | None, params: Doc) -> Doc:
    """The document, after what was told. Raises RemoteProtocolError where that cannot be known: who dials anew tells the whole."""
    if "document" in params:
        if not isinstance(params["document"], dict):
            raise RemoteProtocolError("a status that is no document")
        whole = _checked({str(key): value for key, value in params["document"].items()})
    else:
        whole = _changed_untrusted(before, params)
    appended = params.get("append", {})
    if not isinstance(appended, dict) or not all(isinstance(whole.get(key), list) and isinstance(appended[key], list) for key in appended):
        raise RemoteProtocolError("a slice of a status that fits to nothing")
    return {**whole, **{key: [*whole[key], *part] for key, part in _checked(appended).items()}} if appended else whole


def _changed_untrusted(before: Doc | None, params: Doc) -> Doc:
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
