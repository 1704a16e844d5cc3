"""
Workloads that are scaled to 0, in the words of ``van status``: routers see pods only, and say that a selector matches none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

from vanrouter.kube.calls import Kind, Object
from vanrouter.kube.errors import Forbidden
from vanrouter.kube.kinds import DEPLOYMENTS, STATEFUL_SETS
from vanrouter.resources.selectors import selector_text

__all__ = ["name_idle"]

Doc = dict[str, Any]
ABSENT: Final = "its selector matches no pod"


def name_idle(connectors: list[Doc], objects: Callable[[Kind], list[Object]]) -> None:
    """Put into the conditions of each connector that means no pod whose pods those would be, and how there are some. Asks only then."""
    lacking = [c for c in connectors if (c.get("spec") or {}).get("selector") and any(map(_is_absent, c.get("conditions") or ()))]
    if not lacking:
        return
    idle: dict[str, str] = {}
    for kind in (DEPLOYMENTS, STATEFUL_SETS):
        with contextlib.suppress(Forbidden):
            for value in objects(kind):
                spec = value.get("spec") or {}
                if spec.get("replicas") == 0:
                    idle[selector_text(spec.get("selector") or {})] = f"{kind.kind.lower()}/{value['metadata']['name']}"
    for connector in lacking:
        if (workload := idle.get(connector["spec"]["selector"])) is None:
            continue
        for said in filter(_is_absent, connector["conditions"]):
            before, _, _ = said["message"].partition(ABSENT)
            said["message"] = f"{before}{workload.replace('/', ' ')} is scaled to 0"
            said["next"] = f"start some of its pods: kubectl scale {workload} --replicas 1"


def _is_absent(said: Doc) -> bool:
    return said.get("status") == "False" and ABSENT in str(said.get("message"))
