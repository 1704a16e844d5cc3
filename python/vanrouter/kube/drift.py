"""
Where an object is not as we would apply it: the paths that differ. Pure. What others added, and what the server fills in, is no difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vanrouter.kube.calls import Object

__all__ = ["drifted"]

_QUANTITIES = ("requests", "limits")  # the server writes them its own way: 1000m is 1


def drifted(wish: Object, known: Object) -> list[str]:
    """Like ``spec.replicas``, ``rules[1].verbs``. Of metadata only labels and annotations; of what we do not say nothing."""
    metadata = {key: wish["metadata"][key] for key in ("labels", "annotations") if wish["metadata"].get(key)}
    content = {key: value for key, value in wish.items() if key not in ("apiVersion", "kind", "metadata")}
    return list(_differences({"metadata": metadata, **content}, known, ""))


def _differences(wish: Any, known: Any, path: str) -> Iterator[str]:
    if isinstance(wish, Mapping):
        if path.rpartition(".")[2] in _QUANTITIES:
            if not isinstance(known, Mapping) or wish.keys() != known.keys():
                yield path
            return
        for key, value in wish.items():
            inner = known.get(key) if isinstance(known, Mapping) else None
            if inner is None and value in ({}, [], "", None, 0, False):
                continue
            yield from _differences(value, inner, f"{path}.{key}" if path else str(key))
    elif isinstance(wish, list):
        if not isinstance(known, list) or len(known) != len(wish):
            yield path
            return
        for n, value in enumerate(wish):
            yield from _differences(value, known[n], f"{path}[{n}]")
    elif wish != known:
        yield path
