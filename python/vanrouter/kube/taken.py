"""
Somebody's Service that points at the router's pods: what it was before is kept in an annotation, so that anybody can give it back. Pure.
"""

from __future__ import annotations

import json
from typing import Any, Final

from vanrouter.kube.calls import Object

__all__ = ["CONTROLLED", "SAVED", "giving_back", "is_taken_over", "is_unchanged"]

CONTROLLED: Final = "vanrouter.io/controlled"
SAVED: Final = "vanrouter.io/saved"


def is_taken_over(service: Object) -> bool:
    return SAVED in _annotations(service)


def is_unchanged(service: Object) -> bool:
    """Selector and ports are still those that were set when it was taken over: nobody else has a say in them now."""
    was, spec = _saved(service).get("set") or {}, service.get("spec") or {}
    return (spec.get("selector") or {}) == (was.get("selector") or {}) and _ports(spec.get("ports")) == _ports(was.get("ports"))


def giving_back(service: Object) -> Object:
    """The merge patch that undoes it, under the Service's resourceVersion. What somebody changed meanwhile stays; the annotations go."""
    patch: Object = {"metadata": {"annotations": {SAVED: None, CONTROLLED: None}}}
    saved = _saved(service)
    if saved and is_unchanged(service):
        now = (service.get("spec") or {}).get("selector") or {}
        selector: dict[str, Any] = dict.fromkeys(now) | (saved.get("selector") or {})
        patch["spec"] = {"selector": selector, "ports": saved.get("ports") or []}
    return patch


def _saved(service: Object) -> dict[str, Any]:
    try:
        value = json.loads(_annotations(service).get(SAVED, "{}"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _annotations(service: Object) -> dict[str, str]:
    return (service.get("metadata") or {}).get("annotations") or {}


def _ports(ports: Any) -> list[tuple[Any, ...]]:
    """What is ours to say of a port, with the server's defaults."""
    return [(p.get("name", ""), p.get("port"), p.get("targetPort", p.get("port")), p.get("protocol", "TCP")) for p in ports or ()]
