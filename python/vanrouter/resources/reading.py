"""
Plain values to resources, and what is wrong with them to ``InvalidResource`` with the path of it.

One document is one resource; a ``List`` of resources counts as its items. ``status`` and the fields of ``metadata`` that only a cluster
writes are dropped, so that the output of ``kubectl get -o yaml`` is readable. Nothing else is ignored.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from vanrouter.errors import ConfigError, InvalidResource
from vanrouter.model import parse_name
from vanrouter.resources.kinds import API_VERSION, KINDS, SKUPPER_API_VERSION, Resource, Secret

__all__ = ["read_document", "read_resources"]

_ACCEPTED: Final = (API_VERSION, SKUPPER_API_VERSION)
_OF_THE_CLUSTER: Final = (
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "ownerReferences",
    "selfLink",
    "finalizers",
)
_MESSAGE: Final = re.compile(r"(?P<what>.*?)(?: - at `(?P<at>(?:key in )?\$[^`]*)`)?", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `([^`]+)`")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `([^`]+)`")


def read_resources(text: str | bytes, *, source: str = "input") -> list[Resource]:
    """All resources of a YAML or JSON text. Raises ConfigError (not YAML) or InvalidResource (the first that is wrong)."""
    from vanrouter.resources.yamls import load_documents  # PyYAML takes its time to import

    found: list[Resource] = []
    for document in load_documents(text, source=source):
        if isinstance(document, dict) and str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list):
            found.extend(read_document(item) for item in document["items"])
        else:
            found.append(read_document(document))
    return found


def read_document(document: Any) -> Resource:
    """One resource from plain values. Raises InvalidResource."""
    if not isinstance(document, dict):
        raise InvalidResource("document", f"expected a resource with apiVersion, kind, metadata and spec, got {_kind_of(document)}")
    kind, ref = _kind_and_ref(document)
    shape = KINDS[kind]
    values = {key: value for key, value in document.items() if key not in ("apiVersion", "kind", "status")}
    if isinstance(values.get("metadata"), dict):
        values["metadata"] = {key: value for key, value in values["metadata"].items() if key not in _OF_THE_CLUSTER}
    if values.get("spec", ...) is None:
        values["spec"] = {}
    if shape is Secret:
        values = _secret_values(values, ref)
    elif kind == "Link":
        _number_ports(values)
    try:
        resource = msgspec.convert(values, shape)
    except msgspec.ValidationError as exc:
        raise _explain(exc, ref, shape) from exc
    for path, message, hint in resource.check():
        raise InvalidResource(f"{ref}: {path}", message, hint=hint)
    return resource


def _kind_and_ref(document: dict[str, Any]) -> tuple[str, str]:
    kind, metadata = document.get("kind"), document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    shown = f"{kind if isinstance(kind, str) else '?'}/{name if isinstance(name, str) else '?'}"
    if not isinstance(kind, str):
        raise InvalidResource(f"{shown}: kind", "is missing", hint=f"one of {', '.join(KINDS)}")
    if kind not in KINDS:
        close = _close(kind, KINDS)
        raise InvalidResource(
            f"{shown}: kind", f"{kind!r} is not known", hint=f"did you mean {close[0]}?" if close else f"one of {', '.join(KINDS)}"
        )
    version = document.get("apiVersion")
    expected = ("v1",) if kind == "Secret" else _ACCEPTED
    if version not in expected:
        raise InvalidResource(f"{shown}: apiVersion", f"{version!r} is not known for a {kind}", hint=f"use {expected[0]}")
    if not isinstance(name, str):
        raise InvalidResource(f"{shown}: metadata.name", "is missing" if name is None else "is not text", hint="give it a name")
    try:
        parse_name(name)
    except ConfigError as exc:
        raise InvalidResource(f"{shown}: metadata.name", str(exc), hint=exc.hint) from exc
    return kind, shown


def _secret_values(values: dict[str, Any], ref: str) -> dict[str, Any]:
    """``data`` (base64) and ``stringData`` as bytes."""
    out: dict[str, bytes] = {}
    for field in ("data", "stringData"):
        given = values.pop(field, None)
        if given is None:
            continue
        if not isinstance(given, dict):
            raise InvalidResource(f"{ref}: {field}", f"expected an object, got {_kind_of(given)}")
        for key, value in given.items():
            if not isinstance(value, str):
                raise InvalidResource(f"{ref}: {field}[{key}]", f"expected text, got {_kind_of(value)}")
            try:
                out[key] = base64.b64decode("".join(value.split()), validate=True) if field == "data" else value.encode()
            except (binascii.Error, ValueError):
                raise InvalidResource(f"{ref}: {field}[{key}]", "is not base64", hint="put plain text under stringData") from None
    values.pop("immutable", None)
    return {**values, "data": out}


def _number_ports(values: dict[str, Any]) -> None:
    """The incumbent writes the ports of a link's endpoints as text."""
    spec = values.get("spec")
    endpoints = spec.get("endpoints") if isinstance(spec, dict) else None
    if isinstance(spec, dict) and isinstance(endpoints, list):
        values["spec"] = {**spec, "endpoints": [_number_port(e) for e in endpoints]}


def _number_port(endpoint: Any) -> Any:
    if isinstance(endpoint, dict) and re.fullmatch(r"\d{1,5}", str(endpoint.get("port", ""))):
        return {**endpoint, "port": int(endpoint["port"])}
    return endpoint


def _explain(exc: msgspec.ValidationError, ref: str, shape: type[Resource]) -> InvalidResource:
    match = _MESSAGE.fullmatch(str(exc))
    what, at = (match["what"], match["at"] or "$") if match else (str(exc), "$")
    path = at.removeprefix("key in ").removeprefix("$").removeprefix(".")
    if missing := _MISSING.fullmatch(what):
        return InvalidResource(f"{ref}: {_join(path, missing[1])}", "is missing", hint="it is required")
    if unknown := _UNKNOWN.fullmatch(what):
        fields = _fields_at(shape, path)
        close = _close(unknown[1], fields)
        hint = f"did you mean {close[0]}?" if close else f"the fields here are: {', '.join(fields)}" if fields else "remove it"
        return InvalidResource(f"{ref}: {_join(path, unknown[1])}", "is not a field of this resource", hint=hint)
    what = what.replace("`", "")
    return InvalidResource(f"{ref}: {path or 'document'}", what[:1].lower() + what[1:])


def _close(word: str, words: Iterable[str]) -> list[str]:
    import difflib  # only where something is wrong

    return difflib.get_close_matches(word, list(words), 1)


def _join(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field


def _fields_at(shape: type[Resource], path: str) -> list[str]:
    """The YAML names of the fields of the object at ``path``; nothing when it is not one of ours."""
    info: Any = msgspec.inspect.type_info(shape)
    for step in filter(None, re.sub(r"\[[^\]]*\]", ".[]", path).split(".")):
        info = _object_in(info)
        if step == "[]":
            info = getattr(info, "item_type", None)
            continue
        fields = {field.encode_name: field.type for field in getattr(info, "fields", ())}
        info = fields.get(step)
    return [field.encode_name for field in getattr(_object_in(info), "fields", ())]


def _object_in(info: Any) -> Any:
    if isinstance(info, msgspec.inspect.UnionType):
        return next((t for t in info.types if not isinstance(t, msgspec.inspect.NoneType)), None)
    return info


def _kind_of(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
