"""
Resources to plain values, YAML and JSON. Fields that have their default are left out; reading the result gives an equal resource.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

import msgspec

from vanrouter.resources.kinds import API_VERSION, Resource, Secret

__all__ = ["to_dict", "to_json", "to_yaml"]


def to_dict(resource: Resource, *, api_version: str = API_VERSION) -> dict[str, Any]:
    """Plain values, in the order in which people write them. A Secret's data is base64, as everywhere."""
    if isinstance(resource, Secret):
        return {
            "apiVersion": "v1",
            "kind": resource.KIND,
            "metadata": msgspec.to_builtins(resource.metadata),
            "type": resource.type,
            "data": {key: base64.b64encode(value).decode() for key, value in resource.data.items()},
        }
    values: dict[str, Any] = msgspec.to_builtins(resource)
    return {"apiVersion": api_version, "kind": resource.KIND, "metadata": values["metadata"], "spec": values.get("spec", {})}


def to_yaml(resources: Resource | Iterable[Resource]) -> str:
    """One document per resource."""
    from vanrouter.resources.yamls import dump  # PyYAML takes its time to import

    return dump([to_dict(r) for r in ([resources] if isinstance(resources, Resource) else resources)])


def to_json(resources: Resource | Iterable[Resource]) -> str:
    """One resource as an object; several as a ``List``."""
    if isinstance(resources, Resource):
        return json.dumps(to_dict(resources), indent=2)
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [to_dict(r) for r in resources]}, indent=2)
