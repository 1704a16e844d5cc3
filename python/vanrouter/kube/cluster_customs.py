"""
Custom resources of the whole cluster, split by namespace: one look at what kinds there are, and one watch for each, whoever many ask.

``CustomView`` is the part of one namespace, and looks like a ``CustomWatch`` of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import trio

from vanrouter.kube.calls import Object
from vanrouter.kube.client import KubeClient
from vanrouter.kube.custom import custom_where
from vanrouter.kube.following import CustomWatch
from vanrouter.kube.listwatch import Change
from vanrouter.stores.resources import Problem

__all__ = ["ClusterCustoms", "CustomView"]


class ClusterCustoms(CustomWatch):
    """``told`` gets the namespaces of which something changed; empty: of all, or what is known of the kinds."""

    def __init__(self, client: KubeClient, *, told: Callable[[set[str]], None], rng: random.Random) -> None:
        super().__init__(client, "", heard=self._heard_of_all, rng=rng)
        self._told_namespaces = told
        self._parts: dict[str, dict[str, Object]] | None = None  # by namespace; None: to be made anew

    def part(self, namespace: str) -> Mapping[str, Object]:
        """By ``listeners.vanrouter.io/web``."""
        return self.parts().get(namespace, {})

    def parts(self) -> Mapping[str, Mapping[str, Object]]:
        if self._parts is None:
            self._parts = {}
            for kind in self._kept.keys() | self._watchers.keys():
                for (namespace, _name), value in self.of_kind(kind).items():
                    self._parts.setdefault(namespace, {})[custom_where(value)] = value
        return self._parts

    def of_kind(self, kind: str) -> Mapping[tuple[str, str], Object]:
        """By namespace and name; of one that we may no longer list what there was."""
        kept = {(str(v["metadata"].get("namespace")), str(v["metadata"]["name"])): v for v in self._kept.get(kind, ())}
        found = self._watchers.get(kind)
        return found[0].objects if found is not None and not kept else {**kept, **(found[0].objects if found is not None else {})}

    def is_current(self, kind: str) -> bool:
        found = self._watchers.get(kind)
        return found is not None and found[0].current

    def _heard_of_all(self, changes: Sequence[Change]) -> None:
        self._parts = None
        self._told_namespaces({change.key[0] for change in changes})


class CustomView:
    """The part of ``namespace``."""

    def __init__(self, whole: ClusterCustoms, namespace: str) -> None:
        self._whole, self._namespace = whole, namespace

    @property
    def synced(self) -> bool:
        return self._whole.synced

    @property
    def current(self) -> bool:
        return self._whole.current

    @property
    def objects(self) -> Mapping[str, Object]:
        return self._whole.part(self._namespace)

    @property
    def unseen(self) -> list[str]:
        return self._whole.unseen

    @property
    def problems(self) -> list[Problem]:
        return self._whole.problems

    async def wait_synced(self) -> None:
        await self._whole.wait_synced()

    async def run(self) -> None:
        """Somebody else runs the watch."""
        await trio.sleep_forever()
