"""
Drives one ``ListWatch`` against the API server: does its steps, and tells when the copy changed.

A run ends only by cancellation: whatever the server does is a problem to show and a reason to try again.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import trio

from vanrouter.kube.calls import Kind, Object, list_page, watch
from vanrouter.kube.client import KubeClient
from vanrouter.kube.errors import Gone, KubeError, Unreachable
from vanrouter.kube.listwatch import MAX_OBJECTS, MAX_OF_ALL, Change, ListPage, ListWatch, OpenWatch

__all__ = ["Watcher"]

log: Final = logging.getLogger("vanrouter.kube")


class Watcher:
    """``heard`` is called with what changed, from ``run``; it may not block. ``objects`` is the copy, by (namespace, name)."""

    def __init__(
        self,
        client: KubeClient,
        kind: Kind,
        namespace: str,
        *,
        heard: Callable[[Sequence[Change]], None],
        rng: random.Random,
        labels: str = "",
        fields: str = "",
        keep: Callable[[Object], Any] = lambda value: value,
        idle: float | None = None,
    ) -> None:
        self._client, self._kind, self._namespace = client, kind, namespace
        self._heard, self._labels, self._fields, self._idle = heard, labels, fields, idle
        self._machine = ListWatch(rng, keep=keep, most=MAX_OBJECTS if namespace else MAX_OF_ALL)
        self._synced = trio.Event()
        self.lists = 0  # complete or not: for tests, and metrics
        self.watches = 0

    @property
    def objects(self) -> Mapping[tuple[str, str], Any]:
        return self._machine.objects

    @property
    def synced(self) -> bool:
        """Whether there was a complete list ever."""
        return self._machine.synced

    @property
    def problem(self) -> KubeError | None:
        """Why the copy may be behind."""
        return self._machine.problem

    @property
    def problem_since(self) -> float | None:
        return self._machine.problem_since

    @property
    def current(self) -> bool:
        """Whether absence from the copy proves that an object is not there."""
        return self._machine.current

    async def wait_synced(self) -> None:
        """Until the copy was complete once. Before that nothing may be concluded from it."""
        await self._synced.wait()

    async def run(self) -> None:
        while True:
            step = self._machine.next_step(trio.current_time())
            await trio.sleep_until(step.at)
            try:
                if isinstance(step.do, ListPage):
                    await self._list(step.do)
                else:
                    await self._watch(step.do)
            except KubeError as exc:
                self._fail(exc)

    async def _list(self, page: ListPage) -> None:
        call = list_page(
            self._kind,
            self._namespace,
            labels=self._labels,
            fields=self._fields,
            limit=page.limit,
            continue_token=page.continue_token,
        )
        self.lists += not page.continue_token
        answer = await self._client.call(call)
        changes = self._machine.handle_page_untrusted(answer, trio.current_time())
        if changes:
            self._heard(changes)
        if self._machine.synced and not self._synced.is_set():
            self._synced.set()

    async def _watch(self, order: OpenWatch) -> None:
        call = watch(
            self._kind,
            self._namespace,
            resource_version=order.resource_version,
            timeout=order.timeout_seconds,
            labels=self._labels,
            fields=self._fields,
        )
        self.watches += 1
        idle = self._idle or order.idle
        async with self._client.watch(call, idle=idle) as stream:
            self._machine.handle_opened(trio.current_time())
            async for event in stream:
                changes = self._machine.handle_event_untrusted(event)
                if changes:
                    self._heard(changes)
        self._machine.handle_ended(trio.current_time())

    def _fail(self, error: KubeError) -> None:
        known = self._machine.problem
        self._machine.handle_failed(error, trio.current_time())
        if isinstance(error, Gone):
            log.info("list again", extra={"kind": self._kind.resource, "namespace": self._namespace, "reason": str(error)})
        elif known is None:
            level = logging.INFO if isinstance(error, Unreachable) else logging.WARNING
            log.log(level, "watch failed", extra={"kind": self._kind.resource, "namespace": self._namespace, "reason": str(error)})
