"""
Who wrote an object, as the API server keeps it in ``managedFields``. Pure.
"""

from __future__ import annotations

from vanrouter.kube.calls import FIELD_MANAGER, Object

__all__ = ["manager_of"]


def manager_of(value: Object) -> str:
    """Who wrote it last, apart from us, and from what only writes its status."""
    fields = [f for f in value["metadata"].get("managedFields") or [] if isinstance(f, dict) and not f.get("subresource")]
    others = [f for f in fields if f.get("manager") != FIELD_MANAGER]
    return str(max(others, key=lambda f: str(f.get("time", "")), default={}).get("manager", ""))
