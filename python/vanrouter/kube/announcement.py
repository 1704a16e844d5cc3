"""
How an owner of a namespace learns that one controller serves the whole cluster: from a ClusterRole that everybody may read.

It gives the right to read itself, by its name, and nothing else, and its annotation says where the controller is. (He may see neither the
namespace of the controller nor anything else outside of his own.) Pure.
"""

from __future__ import annotations

from typing import Final

from vanrouter.kube.calls import Object, get
from vanrouter.kube.kinds import CLUSTER_ROLES

__all__ = ["ANNOUNCEMENT", "READ", "READ_BY_ALL", "WHERE", "announced_in"]

ANNOUNCEMENT: Final = "vanrouter-cluster"
WHERE: Final = "vanrouter.io/controller"
READ_BY_ALL: Final[list[Object]] = [
    {"apiGroups": [CLUSTER_ROLES.group], "resources": [CLUSTER_ROLES.plural], "resourceNames": [ANNOUNCEMENT], "verbs": ["get"]}
]


READ: Final = get(CLUSTER_ROLES, "", ANNOUNCEMENT)  # NotFound, Forbidden: nobody says that there is one


def announced_in(value: Object) -> str:
    """Where the controller of the cluster is, HOST:PORT; empty: it does not say."""
    return str((value["metadata"].get("annotations") or {}).get(WHERE) or "")
