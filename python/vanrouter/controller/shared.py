"""
What the controllers of many namespaces have in common when one process runs all of them: watches, the port, and calls in turn.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from vanrouter.controller.copies import Copies
from vanrouter.controller.report import Doc
from vanrouter.errors import ConfigError
from vanrouter.kube.calls import Kind, Object
from vanrouter.kube.channel import Served
from vanrouter.kube.client import KubeClient
from vanrouter.kube.cluster_customs import ClusterCustoms, CustomView
from vanrouter.kube.following import CustomWatch
from vanrouter.kube.sharing import SharedWatches, Watches
from vanrouter.kube.turns import Calling
from vanrouter.resources import Resource
from vanrouter.resources.kinds import Site
from vanrouter.stores.resources import Problem

__all__ = ["Chore", "Door", "Look", "Shared", "watches_of"]


class Door:
    """One port for many sites: which is served under which name. Of two namespaces with one site the first one is."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[str, Served | None]] = {}

    def find(self, name: str) -> Served | None:
        return self._places.get(name, ("", None))[1]

    @contextlib.contextmanager
    def place(self, namespace: str, name: str) -> Iterator[Callable[[Served], None]]:
        """Call what comes to open it. Raises ConfigError where another namespace has the very site."""
        if name in self._places:
            raise ConfigError(
                f"another namespace of this cluster has the very identity of this site ({name})",
                hint="two namespaces cannot be one site: delete Secret/van-identity and Secret/van-ca where they were copied to",
            )
        self._places[name] = (namespace, None)

        def open_to(site: Served) -> None:
            self._places[name] = (namespace, site)

        try:
            yield open_to
        finally:
            _, served = self._places.pop(name)
            if served is not None:
                served.close()


class Look:
    """What one pass of a namespace sees."""

    def __init__(self, copies: Copies, site: Site, resources: Sequence[Resource], document: Doc, owners: tuple[Object, ...]) -> None:
        self.copies, self.site, self.resources, self.document, self.owners = copies, site, resources, document, owners


class Chore(Protocol):
    """What is done for a namespace beside what every controller does."""

    name: str
    said: Mapping[tuple[str, str], Doc]  # status of resources (kind, name) of which routers say nothing

    async def do(self, look: Look) -> None: ...
    @property
    def problems(self) -> list[Problem]: ...
    @property
    def deadline(self) -> float: ...


class Shared:
    """``chores``: for one namespace, made anew for each. ``more``: kinds that they need copies of, and their selectors."""

    def __init__(
        self,
        watches: SharedWatches,
        customs: ClusterCustoms,
        door: Door,
        *,
        chores: Sequence[Chore],
        more: Sequence[tuple[Kind, str]],
    ) -> None:
        self.watches, self.customs, self.door, self.chores, self.more = watches, customs, door, chores, more


def watches_of(
    client: Calling, namespace: str, shared: Shared | None, *, wake: Callable[[], None], rng: random.Random
) -> tuple[Watches | SharedWatches, CustomWatch | CustomView]:
    """Those of this namespace: its own ones, or its part of those of all."""
    if shared is not None:
        return shared.watches, CustomView(shared.customs, namespace)
    assert isinstance(client, KubeClient), "who watches alone needs the client itself"
    return Watches(client, rng=rng), CustomWatch(client, namespace, heard=lambda _: wake(), rng=rng)
