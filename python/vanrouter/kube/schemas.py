"""
The structural schema of a resource, from its definition in ``vanrouter.resources``. Pure.

Types, enumerations, required fields and bounds come from the definition itself. What ``check`` demands of one field's form is told here
once more, as a pattern or a bound, because a program cannot read it out of code; ``tests/kube/test_kube_crds.py`` holds both against each
other. Patterns are RE2, as the API server has it.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import inspect

from vanrouter.kube.calls import Object
from vanrouter.resources.fields import FIELDS
from vanrouter.resources.kinds import KINDS

__all__ = ["spec_schema"]

_LABEL: Final = "[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?"
_NAMED: Final = "[A-Za-z0-9_]([-A-Za-z0-9_.]{0,251}[A-Za-z0-9_.])?"
_ADDRESS: Final = r"[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(%[^\s\]]+)?"
_IN_BRACKETS: Final = rf"\[{_ADDRESS}\]"
_HOST: Final = f"({_NAMED}|{_ADDRESS}|{_IN_BRACKETS})"
_DURATION: Final = r"([0-9]+(\.[0-9]+)?|([0-9]+(\.[0-9]+)?(ms|h|m|s|d))+)"
_STATUS: Final = r"\s*[1-5][0-9][0-9](-[1-5][0-9][0-9])?\s*"
_KEY: Final = {"minLength": 1, "maxLength": 255, "pattern": r"^[^\s\x00-\x1f\x7f]+$"}
_NEEDED_HOST: Final = {"pattern": f"^{_HOST}$", "maxLength": 255}


def _whole(pattern: str, *, empty: bool = False) -> Object:
    return {"pattern": f"^({pattern})?$" if empty else f"^({pattern})$"}


def _one_of(first: str, second: str) -> str:
    return f"(has(self.{first}) && self.{first} != '') != (has(self.{second}) && self.{second} != '')"


_FORMS: Final[dict[tuple[str, str], Object]] = {
    ("SiteSpec", "linkAccess"): {"pattern": r"^([^:]*|.+:[0-9]{1,5})$"},
    ("SiteSpec", "serviceAddress"): _NEEDED_HOST,
    ("SiteSpec", "refusedSites"): {"items": {"type": "string", "pattern": "^[a-z2-7]{52}$"}},
    ("LinkSpec", "endpoints"): {"minItems": 1, "maxItems": 16},
    ("Endpoint", "host"): _NEEDED_HOST,
    # The incumbent writes this port as text.
    ("Endpoint", "port"): {"type": None, "format": None, "x-kubernetes-int-or-string": True, "pattern": "^[0-9]{1,5}$"},
    ("RouterAccessSpec", "roles"): {"minItems": 1},
    ("RouterAccessSpec", "bindHost"): _whole(_HOST, empty=True),
    ("RouterAccessSpec", "subjectAlternativeNames"): {"items": {"type": "string", **_NEEDED_HOST}},
    ("AccessGrantSpec", "redemptionsAllowed"): {"minimum": 1, "maximum": 1_000},
    ("AccessGrantSpec", "expirationWindow"): _whole(_DURATION),
    ("AccessTokenSpec", "url"): {"pattern": "^https://"},
    ("ListenerSpec", "routingKey"): _KEY,
    ("ListenerSpec", "host"): _NEEDED_HOST,
    ("ConnectorSpec", "routingKey"): _KEY,
    ("ConnectorSpec", "host"): _whole(_HOST, empty=True),
    ("Expose", "address"): _whole(_LABEL, empty=True),
    ("HealthCheck", "interval"): _whole(_DURATION),
    ("HealthCheck", "timeout"): _whole(_DURATION, empty=True),
    ("HealthCheck", "failureThreshold"): {"minimum": 1, "maximum": 10},
    ("HealthCheck", "successThreshold"): {"minimum": 1, "maximum": 10},
    ("HealthCheck", "port"): {"minimum": 0, "maximum": 65535},
    ("HealthCheck", "path"): {"maxLength": 1024, **_whole("/[!-~]*", empty=True)},
    ("HealthCheck", "status"): _whole(f"{_STATUS}(,{_STATUS})*", empty=True),
    ("MultiKeyListenerSpec", "host"): _NEEDED_HOST,
    ("Priority", "routingKeys"): {"minItems": 1, "maxItems": 256, "items": {"type": "string", **_KEY}, "x-kubernetes-list-type": "set"},
    ("Weighted", "routingKeys"): {
        "minProperties": 1,
        "maxProperties": 256,
        "additionalProperties": {"type": "integer", "format": "int32", "minimum": 1},
    },
    ("AttachedConnectorBindingSpec", "routingKey"): _KEY,
}
"""Beside what the type says; None removes."""

_RULES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "SiteSpec": (
        ("!(has(self.edge) && self.edge && has(self.ha) && self.ha)", "an edge site cannot have several routers; set one of edge and ha"),
    ),
    "ConnectorSpec": ((_one_of("host", "selector"), "exactly one of host and selector is needed"),),
    "Strategy": (("has(self.priority) != has(self.weighted)", "exactly one of priority and weighted is needed"),),
    "HealthCheck": (
        (
            "(has(self.type) && self.type == 'http') || "
            + " && ".join(f"(!has(self.{name}) || self.{name} == '')" for name in ("path", "host", "status")),
            "path, host and status are for checks of type http",
        ),
    ),
}


def spec_schema(kind: str) -> tuple[Object, bool]:
    """The schema of ``spec`` of this kind, and whether a resource needs one."""
    shape = inspect.type_info(KINDS[kind])
    assert isinstance(shape, inspect.StructType)
    spec = next(field for field in shape.fields if field.encode_name == "spec")
    return _schema(spec.type), spec.required


def _schema(info: inspect.Type) -> Object:
    if isinstance(info, inspect.StructType):
        return _object(info)
    if isinstance(info, inspect.UnionType):
        (some,) = (t for t in info.types if not isinstance(t, inspect.NoneType))
        return {**_schema(some), "nullable": True}
    if isinstance(info, inspect.ListType):
        return {"type": "array", "items": _schema(info.item_type)}
    if isinstance(info, inspect.DictType):
        return {"type": "object", "additionalProperties": _schema(info.value_type)}
    if isinstance(info, inspect.LiteralType):
        return {"type": "string", "enum": list(info.values)}
    if isinstance(info, inspect.IntType):
        bounds = {"minimum": info.ge, "maximum": info.le}
        return {"type": "integer", "format": "int32", **{key: value for key, value in bounds.items() if value is not None}}
    if isinstance(info, inspect.BoolType):
        return {"type": "boolean"}
    assert isinstance(info, inspect.StrType), f"no schema for {info}"
    return {"type": "string"}


def _object(info: inspect.StructType) -> Object:
    name = info.cls.__name__
    properties: dict[str, Any] = {}
    for field in info.fields:
        key = (name, field.encode_name)
        made = {"description": FIELDS[key], **_schema(field.type), **_FORMS.get(key, {})}
        properties[field.encode_name] = {word: value for word, value in made.items() if value is not None}
    schema: Object = {"type": "object", "properties": properties}
    if required := [field.encode_name for field in info.fields if field.required]:
        schema["required"] = required
    if rules := _RULES.get(name):
        schema["x-kubernetes-validations"] = [{"rule": rule, "message": message} for rule, message in rules]
    return schema
