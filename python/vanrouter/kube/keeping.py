"""
Writing beside others: a field that another manager keeps is not taken from it.

A GitOps tool that owns a field writes it again whenever it looks, so whoever overwrites it only starts a fight. What a person changed with
kubectl is the person's own, and whoever runs ``van`` speaks for the same person: that is overwritten.
"""

from __future__ import annotations

import re
from typing import Final

from vanrouter.errors import ConfigError
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Kind, Object, apply
from vanrouter.kube.errors import Conflict

__all__ = ["apply_beside"]

_MANAGER: Final = re.compile(r'conflicts? with "([^"]+)"')
_BY_HAND: Final = ("kubectl", "before-first-apply", "vanrouter")


def apply_beside(client: BlockingClient, kind: Kind, namespace: str, value: Object, *, force: bool = False) -> Object:
    """Server-side apply. Raises ConfigError, with nothing changed, for fields that another manager keeps, unless ``force``."""
    if force:
        return client.call(apply(kind, namespace, value))
    try:
        return client.call(apply(kind, namespace, value, force=False))
    except Conflict as conflict:
        named = _MANAGER.findall(str(conflict))
        keepers = sorted({name for name in named if not name.startswith(_BY_HAND)})
        if named and not keepers:
            return client.call(apply(kind, namespace, value))
        fields = ", ".join(dict.fromkeys(re.findall(r"\s(\.[^\s,]+)", str(conflict)))) or "a field"
        who = ", ".join(keepers) or "another manager"  # a server that says it in other words
        raise ConfigError(
            f"{kind.kind}/{value['metadata']['name']} in namespace {namespace}: {who} keeps {fields}, with another value",
            hint=f"change it where {who} takes it from; to take it over, until it puts it back: van apply -f FILE --force-conflicts",
        ) from conflict
