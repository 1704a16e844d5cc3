"""
Calls of many namespaces through one client, each in its turn.

A namespace has ``EACH`` calls at a time and all together have ``ALL``, first come first served: whoever has a thousand things to write
waits for itself. The time in which a call waits for its turn is not of its deadline.
"""

from __future__ import annotations

from typing import Final, Protocol

import trio

from vanrouter.kube.calls import Call, Object
from vanrouter.kube.client import KubeClient

__all__ = ["ALL", "EACH", "Calling", "TurnClient"]

EACH: Final = 8
ALL: Final = 24
"""The client has 64 connections, of which watches take about 25."""


class Calling(Protocol):
    """What of a ``KubeClient`` those need who do not watch."""

    async def call(self, call: Call, *, deadline: float | None = None) -> Object: ...


class TurnClient:
    """Of one namespace. ``everybody`` is of all of them."""

    def __init__(self, client: KubeClient, everybody: trio.Semaphore) -> None:
        self._client, self._everybody = client, everybody
        self._own = trio.Semaphore(EACH)

    async def call(self, call: Call, *, deadline: float | None = None) -> Object:
        async with self._own, self._everybody:
            return await self._client.call(call, deadline=deadline)
