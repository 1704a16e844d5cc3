"""
Watches that many namespaces share: one for each kind, of the whole cluster, split by namespace.

``Watches`` gives each namespace a watch of its own; ``SharedWatches`` gives it a ``Share``, which looks the same. Objects of namespaces
that nobody asks for are kept packed, so that they are there at once when somebody does, and cost little until then.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
import trio

from vanrouter.kube.calls import Kind, Object
from vanrouter.kube.client import KubeClient
from vanrouter.kube.errors import KubeError
from vanrouter.kube.listwatch import Change, Changed, Removed
from vanrouter.kube.watching import Watcher

__all__ = ["Followed", "Share", "SharedWatches", "Watches"]

Heard = Callable[[Sequence[Change]], None]
Key = tuple[str, str]  # namespace, name


class Followed(Protocol):
    """What of a ``Watcher`` those need who read its copy."""

    @property
    def objects(self) -> Mapping[Key, Any]: ...
    @property
    def synced(self) -> bool: ...
    @property
    def current(self) -> bool: ...
    @property
    def problem(self) -> KubeError | None: ...
    async def wait_synced(self) -> None: ...
    async def run(self) -> None: ...


class Watches:
    """A watch for each namespace that asks."""

    def __init__(self, client: KubeClient, *, rng: random.Random) -> None:
        self._client, self._rng = client, rng

    def follow(
        self, kind: Kind, namespace: str, *, heard: Heard, labels: str = "", fields: str = "", keep: Callable[[Object], Any] | None = None
    ) -> Followed:
        return Watcher(
            self._client, kind, namespace, heard=heard, rng=self._rng, labels=labels, fields=fields, keep=keep or (lambda value: value)
        )


class SharedWatches:
    """``run`` it; ``follow`` as of ``Watches``. A watch begins with the first share."""

    def __init__(self, client: KubeClient, *, rng: random.Random) -> None:
        self._client, self._rng = client, rng
        self._nursery: trio.Nursery | None = None
        self._whole: dict[tuple[Kind, str, str], _Whole] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def follow(
        self,
        kind: Kind,
        namespace: str,
        *,
        heard: Heard,
        labels: str = "",
        fields: str = "",
        keep: Callable[[Object], Any] | None = None,
        lasting: bool = True,
    ) -> Share:
        """``keep`` is the same for all shares of one kind and selector. Without ``namespace``: of all namespaces.

        ``lasting``: the watch stays when the last share ends, so that another one need not list anew.
        """
        return Share(self, (kind, labels, fields), namespace, heard, keep, lasting=lasting and not fields)

    @property
    def count(self) -> int:
        """How many watches there are."""
        return len(self._whole)

    def troubles(self) -> list[str]:
        """Why the copies may be behind, for a log."""
        return [str(whole.watcher.problem) for whole in self._whole.values() if whole.watcher.problem is not None]

    def _join(self, share: Share) -> _Whole:
        whole = self._whole.get(share.what)
        if whole is None:
            assert self._nursery is not None, "run it first"
            kind, labels, fields = share.what
            whole = self._whole[share.what] = _Whole(self._client, kind, labels, fields, keep=share.keep, rng=self._rng)
            self._nursery.start_soon(whole.run)
        return whole

    def _leave(self, share: Share) -> None:
        whole = self._whole[share.what]
        if not share.lasting and not whole.shares:
            del self._whole[share.what]
            whole.scope.cancel()


class Share:
    """The part of one namespace. It is there while ``run`` runs."""

    def __init__(
        self,
        watches: SharedWatches,
        what: tuple[Kind, str, str],
        namespace: str,
        heard: Heard,
        keep: Callable[[Object], Any] | None,
        *,
        lasting: bool,
    ) -> None:
        self.what, self.namespace, self.heard, self.keep, self.lasting = what, namespace, heard, keep, lasting
        self.objects: dict[Key, Any] = {}
        self._watches = watches
        self._whole: _Whole | None = None
        self._begun = trio.Event()

    @property
    def synced(self) -> bool:
        return self._whole is not None and self._whole.watcher.synced

    @property
    def current(self) -> bool:
        return self._whole is not None and self._whole.watcher.current

    @property
    def problem(self) -> KubeError | None:
        return self._whole.watcher.problem if self._whole is not None else None

    async def wait_synced(self) -> None:
        await self._begun.wait()
        assert self._whole is not None
        await self._whole.watcher.wait_synced()

    async def run(self) -> None:
        whole = self._watches._join(self)
        whole.shares.setdefault(self.namespace, []).append(self)
        self._whole = whole
        self._begun.set()
        try:
            if there := whole.part(self.namespace):
                self.take([Changed(key, value) for key, value in there.items()])
            await trio.sleep_forever()
        finally:
            whole.shares[self.namespace].remove(self)
            if not whole.shares[self.namespace]:
                del whole.shares[self.namespace]
            self._whole = None
            self._watches._leave(self)

    def take(self, changes: Sequence[Change]) -> None:
        """What the whole heard of this namespace."""
        unpacked: list[Change] = []
        for change in changes:
            if isinstance(change, Removed):
                self.objects.pop(change.key, None)
                unpacked.append(change)
            else:
                value = change.object if self.keep is not None else msgspec.json.decode(change.object)
                self.objects[change.key] = value
                unpacked.append(Changed(change.key, value))
        self.heard(unpacked)


class _Whole:
    """One kind in the whole cluster."""

    def __init__(
        self, client: KubeClient, kind: Kind, labels: str, fields: str, *, keep: Callable[[Object], Any] | None, rng: random.Random
    ) -> None:
        self.shares: dict[str, list[Share]] = {}
        self.scope: Final = trio.CancelScope()
        self._parts: dict[str, dict[Key, Any]] = {}
        self.watcher = Watcher(client, kind, "", heard=self._heard, rng=rng, labels=labels, fields=fields, keep=keep or msgspec.json.encode)

    async def run(self) -> None:
        with self.scope:
            await self.watcher.run()

    def part(self, namespace: str) -> Mapping[Key, Any]:
        return self._parts.get(namespace, {}) if namespace else self.watcher.objects

    def _heard(self, changes: Sequence[Change]) -> None:
        split: dict[str, list[Change]] = {}
        for change in changes:
            namespace = change.key[0]
            split.setdefault(namespace, []).append(change)
            if isinstance(change, Removed):
                part = self._parts.get(namespace, {})
                part.pop(change.key, None)
                if not part:
                    self._parts.pop(namespace, None)
            else:
                self._parts.setdefault(namespace, {})[change.key] = change.object
        for namespace, its in split.items():
            for share in list(self.shares.get(namespace, ())):
                share.take(its)
        for share in list(self.shares.get("", ())):
            share.take(changes)
