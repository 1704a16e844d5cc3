"""
Label selectors as Kubernetes writes them: ``app=backend,tier in (a, b),!old``. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from vanrouter.errors import ConfigError

__all__ = ["Selector", "parse_selector", "selector_text"]

Operator = Literal["in", "notin", "exists", "absent"]

_KEY: Final = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9.]*[A-Za-z0-9])?/)?[A-Za-z0-9](?:[-_.A-Za-z0-9]*[A-Za-z0-9])?"
_VALUE: Final = r"(?:[A-Za-z0-9](?:[-_.A-Za-z0-9]*[A-Za-z0-9])?)?"
_EQUALS: Final = re.compile(rf"({_KEY})\s*(==|=|!=)\s*({_VALUE})")
_SET: Final = re.compile(rf"({_KEY})\s+(in|notin)\s*\(\s*({_VALUE}(?:\s*,\s*{_VALUE})*)\s*\)")
_EXISTS: Final = re.compile(rf"(!?)\s*({_KEY})")
_HINT: Final = "write it as kubectl does, for example app=backend,tier in (a,b)"
_BETWEEN: Final = re.compile(r",(?![^(]*\))")  # commas outside parentheses


class Requirement(msgspec.Struct, frozen=True):
    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        match self.operator:
            case "in":
                return self.key in labels and labels[self.key] in self.values
            case "notin":
                return labels.get(self.key) not in self.values
            case "exists":
                return self.key in labels
            case "absent":
                return self.key not in labels


class Selector(msgspec.Struct, frozen=True):
    """All requirements must hold."""

    requirements: tuple[Requirement, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(requirement.key for requirement in self.requirements))


def parse_selector(text: str) -> Selector:
    """Raises ConfigError. An empty selector would be everything, and is refused."""
    parts = [part.strip() for part in _BETWEEN.split(text.strip())]
    return Selector(tuple(_requirement(part, text) for part in parts))


def _requirement(part: str, text: str) -> Requirement:
    if found := _SET.fullmatch(part):
        values = tuple(value.strip() for value in found[3].split(","))
        return Requirement(found[1], "in" if found[2] == "in" else "notin", values)
    if found := _EQUALS.fullmatch(part):
        return Requirement(found[1], "notin" if found[2] == "!=" else "in", (found[3],))
    if found := _EXISTS.fullmatch(part):
        return Requirement(found[2], "absent" if found[1] else "exists")
    where = f"{part!r} in " if part != text else ""
    raise ConfigError(f"{where}{text!r} is not a label selector", hint=_HINT)


def selector_text(given: Mapping[str, Any]) -> str:
    """The ``selector`` of a workload (``matchLabels``, ``matchExpressions``) as text, keys in order; empty: it selects nothing."""
    parts = [f"{key}={value}" for key, value in (given.get("matchLabels") or {}).items()]
    for expression in given.get("matchExpressions") or ():
        key, operator, values = expression["key"], expression["operator"], ",".join(expression.get("values") or ())
        parts.append({"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key, "DoesNotExist": f"!{key}"}[operator])
    return ",".join(sorted(parts))
