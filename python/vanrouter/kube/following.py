"""
Follows the custom resources of a namespace, of the kinds that the server has: one watch for each. Drives ``Discovery`` and ``Watcher``.

Without definitions it asks once in half a minute whether there are some, and that is all. A kind that we may not list is named as a
problem, is asked for again as seldom, and holds nothing back.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import trio

from vanrouter.kube.calls import Object, list_page
from vanrouter.kube.client import KubeClient
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.custom import custom_where
from vanrouter.kube.discovery import GROUP_CALL, VERSION_CALL, Discovery, kinds_in_untrusted, versions_in_untrusted
from vanrouter.kube.errors import Forbidden, KubeError, NoSuchKind
from vanrouter.kube.listwatch import Change
from vanrouter.kube.watching import Watcher
from vanrouter.stores.resources import Problem

__all__ = ["CustomWatch"]

log: Final = logging.getLogger("vanrouter.kube")


class CustomWatch:
    """``heard`` is called when objects, or what is known of them, may have changed; it may not block."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        *,
        heard: Callable[[Sequence[Change]], None],
        rng: random.Random,
        kinds: Iterable[str] = CUSTOM_KINDS,
    ) -> None:
        self._client, self._namespace, self._heard, self._rng = client, namespace, heard, rng
        self.discovery = Discovery(frozenset(kinds), rng)
        self._watchers: dict[str, tuple[Watcher, trio.CancelScope]] = {}
        self._kept: dict[str, list[Object]] = {}  # of kinds that we may no longer list: what there was
        self._changed = trio.Event()
        self.looks = 0  # for tests

    # ---- What is known -------------------------------------------------------------------------------------------------------------------

    @property
    def synced(self) -> bool:
        """Whether it is known what there is: the server said which kinds it has, and each was listed completely once."""
        return self.discovery.looked and not self._late()

    @property
    def current(self) -> bool:
        """Whether absence proves absence."""
        return self.synced and self.discovery.confirmed and all(watcher.current for watcher, _ in self._watchers.values())

    def _late(self) -> list[str]:
        begun = {kind for kind, (watcher, _) in self._watchers.items() if watcher.synced}
        return sorted(self.discovery.kinds - begun - self.discovery.denied.keys())

    @property
    def objects(self) -> dict[str, Object]:
        """By ``listeners.vanrouter.io/web``."""
        seen = [value for watcher, _ in self._watchers.values() for value in watcher.objects.values()]
        return {custom_where(value): value for value in (*(v for kept in self._kept.values() for v in kept), *seen)}

    @property
    def unseen(self) -> list[str]:
        """Of what nothing is known (yet), like ``listeners.vanrouter.io``: what was heard of it before is not contradicted."""
        if not self.discovery.confirmed:
            return [kind.resource for kind in CUSTOM_KINDS.values()]
        return [CUSTOM_KINDS[kind].resource for kind in (*self._late(), *self.discovery.denied)]

    @property
    def problems(self) -> list[Problem]:
        return self.discovery.problems

    def troubles(self) -> list[str]:
        """Why what we have may be old, for people."""
        found = [f"its {CUSTOM_KINDS[kind].resource}: {w.problem}" for kind, (w, _) in self._watchers.items() if w.problem is not None]
        failed = self.discovery.failed
        return found if failed is None or isinstance(failed, Forbidden) else [f"its custom resources: {failed}", *found]

    async def wait_synced(self) -> None:
        while not self.synced:
            await self._changed.wait()

    # ---- The task ------------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep_until(self.discovery.at)
                before, was_synced, was_confirmed = self.problems, self.synced, self.discovery.confirmed
                await self._look()
                self._keep_denied()
                for kind in sorted(self._watchers.keys() - self.discovery.kinds):
                    self._watchers.pop(kind)[1].cancel()
                    log.info("definition gone", extra={"kind": CUSTOM_KINDS[kind].resource, "namespace": self._namespace})
                    self._heard(())
                for kind in self._kept.keys() - self.discovery.kinds:
                    del self._kept[kind]
                    self._heard(())
                for kind in sorted(self.discovery.kinds - self._watchers.keys()):
                    if await self._may_list(kind):
                        self._start(nursery, kind)
                self._tell()
                if self.problems != before:
                    for problem in self.problems:
                        log.warning("not all resources count", extra={"reason": problem.message, "hint": problem.hint})
                    self._heard(())
                elif (self.synced, self.discovery.confirmed) != (was_synced, was_confirmed):
                    self._heard(())

    async def _look(self) -> None:
        self.looks += 1
        now = trio.current_time
        try:
            try:
                kinds = kinds_in_untrusted(await self._client.call(VERSION_CALL))
                self.discovery.handle_kinds(kinds, now())
            except NoSuchKind:
                try:
                    versions = versions_in_untrusted(await self._client.call(GROUP_CALL))
                except NoSuchKind:
                    versions = ()
                self.discovery.handle_kinds(frozenset(), now(), versions=versions)
        except KubeError as error:
            self.discovery.handle_failed(error, now())

    def _keep_denied(self) -> None:
        """A right that was taken away while we watched: what there was stays, and it is asked for again as if it had never been."""
        for kind, (watcher, scope) in list(self._watchers.items()):
            if isinstance(watcher.problem, Forbidden):
                self._kept[kind] = list(watcher.objects.values())
                self.discovery.handle_denied(kind, watcher.problem, trio.current_time())
                del self._watchers[kind]
                scope.cancel()

    async def _may_list(self, kind: str) -> bool:
        try:
            await self._client.call(list_page(CUSTOM_KINDS[kind], self._namespace, limit=1, metadata_only=True))
        except Forbidden as error:
            self.discovery.handle_denied(kind, error, trio.current_time())
            return False
        except KubeError:  # its watch will say so
            pass
        self.discovery.handle_granted(kind)
        return True

    def _start(self, nursery: trio.Nursery, kind: str) -> None:
        scope = trio.CancelScope()
        watcher = Watcher(self._client, CUSTOM_KINDS[kind], self._namespace, heard=self._told, rng=self._rng)
        self._watchers[kind] = watcher, scope

        async def follow() -> None:
            with scope:
                async with trio.open_nursery() as both:
                    both.start_soon(watcher.run)
                    await watcher.wait_synced()
                    self._kept.pop(kind, None)
                    self._tell()
                    self._heard(())

        nursery.start_soon(follow)

    def _told(self, changes: Sequence[Change]) -> None:
        self._tell()
        self._heard(changes)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
