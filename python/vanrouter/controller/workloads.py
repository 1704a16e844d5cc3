"""
Follows Deployments, StatefulSets and DaemonSets, for what annotations on them ask for.

Nothing waits for it: a Role of an older install does not have these rights, and then status says what is not seen and how to get it, while
all else goes on. The right is looked for once a minute.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Final

import trio

from vanrouter.kube.calls import Kind, list_page
from vanrouter.kube.errors import Forbidden, KubeError
from vanrouter.kube.kinds import DAEMON_SETS, DEPLOYMENTS, STATEFUL_SETS
from vanrouter.kube.listwatch import Change, Removed
from vanrouter.kube.sharing import Followed, SharedWatches, Watches
from vanrouter.kube.turns import Calling
from vanrouter.kube.workloads import Workload, keep_workload
from vanrouter.stores.resources import Problem

__all__ = ["FOLLOWED", "Workloads"]

FOLLOWED: Final = (DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS)
ASK_AGAIN: Final = 60.0  # seconds


class Workloads:
    """``run`` it. ``wake`` is called when something changed that counts here."""

    def __init__(self, client: Calling, namespace: str, *, watches: Watches | SharedWatches, wake: Callable[[], None]) -> None:
        self._client, self._namespace, self._wake = client, namespace, wake
        self._refused: dict[Kind, Forbidden] = {}
        self._seen: dict[tuple[str, str], Workload] = {}
        self._watchers = {kind: self._watcher(kind, watches) for kind in FOLLOWED}

    def _watcher(self, kind: Kind, watches: Watches | SharedWatches) -> Followed:
        heard, keep = functools.partial(self._heard, kind), functools.partial(keep_workload, kind.kind)
        return watches.follow(kind, self._namespace, heard=heard, keep=keep)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for kind in FOLLOWED:
                nursery.start_soon(self._follow, kind)

    def all(self) -> list[Workload]:
        return [workload for watcher in self._watchers.values() for workload in watcher.objects.values()]

    @property
    def known(self) -> bool:
        """Whether each kind was listed completely, or may not be: before that nothing may be concluded."""
        return all(watcher.synced or kind in self._refused for kind, watcher in self._watchers.items())

    def current(self, kind: str) -> bool:
        """Whether absence proves absence, of a kind like ``Deployment``."""
        return any(watcher.current for k, watcher in self._watchers.items() if k.kind == kind)

    @property
    def problems(self) -> list[Problem]:
        found = []
        for kind, error in self._refused.items():
            text = f"annotations on {kind.kind}s are not seen: {error}"
            found.append(Problem(f"controller: {kind.resource}", text, "give the controller the right: van update"))
        return found

    async def _follow(self, kind: Kind) -> None:
        while True:
            try:
                await self._client.call(list_page(kind, self._namespace, limit=1))
            except Forbidden as exc:
                self._refused[kind] = exc
                self._wake()
                await trio.sleep(ASK_AGAIN)
                continue
            except KubeError:  # the watch deals with it
                pass
            self._refused.pop(kind, None)
            self._wake()
            await self._watch(self._watchers[kind])

    @staticmethod
    async def _watch(watcher: Followed) -> None:
        """Until the right to it is taken away. What there was stays known."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watcher.run)
            while True:
                await trio.sleep(ASK_AGAIN)
                if isinstance(watcher.problem, Forbidden):
                    nursery.cancel_scope.cancel()

    def _heard(self, kind: Kind, changes: Sequence[Change]) -> None:
        """Most changes of a workload are of its status, and nothing to us."""
        news = False
        for change in changes:
            key = (kind.kind, change.key[1])
            if isinstance(change, Removed):
                news |= self._seen.pop(key, None) is not None
            elif self._seen.get(key) != change.object:
                self._seen[key], news = change.object, True
        if news:
            self._wake()
