"""
Taking over from the router that runs on this directory now: its listening sockets, then its place.

Two steps, so that a successor that dies after the first one takes nothing with it: ``take_sockets`` (the old router serves on), then
``take_place`` (it takes no new streams, gives up the lock, and drains what it has).
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import trio

from vanrouter.admin.client import Connection
from vanrouter.errors import ConfigError, LocalProtocolError, NotReady, VanrouterError
from vanrouter.plane import Listener
from vanrouter.stores import SiteHome

__all__ = ["Predecessor"]

LOCK_POLL = 0.02


class Predecessor:
    """The router that holds the lock. Blocking calls run in a thread."""

    def __init__(self, home: SiteHome, *, timeout: float) -> None:
        self._home, self._timeout = home, timeout
        self._connection: Connection | None = None

    async def take_sockets(self) -> tuple[list[tuple[str, int, int]], list[Listener]]:
        """(host, port, fd), and the listeners that it made for other sites' services. Raises ConfigError when it does not hand over."""
        try:
            self._connection = await trio.to_thread.run_sync(lambda: Connection(self._home.directory, timeout=self._timeout))
            answer = await self._call("handover", {})
        except NotReady as exc:
            raise ConfigError(
                f"another router holds {self._home.run / 'lock'}, but does not answer: {exc}",
                hint=f"it may be starting or ending: try again in a moment; else look for it: fuser -v {self._home.run / 'lock'}",
            ) from exc
        fds = self._connection.take_sockets()
        described = answer.get("sockets", [])
        if len(fds) != len(described):
            for fd in fds:
                os.close(fd)
            raise LocalProtocolError(f"the running router announced {len(described)} sockets and sent {len(fds)}")
        listeners = [
            Listener(name=str(x["name"]), routing_key=str(x["routingKey"]), host=str(x["host"]), port=int(x["port"]))
            for x in answer.get("listeners", [])
        ]
        return [(str(s["host"]), int(s["port"]), fd) for s, fd in zip(described, fds, strict=True)], listeners

    async def take_place(self) -> None:
        """The lock is ours when this returns."""
        with contextlib.suppress(NotReady):  # it ended meanwhile: so much the better
            await self._call("stop", {"handover": True})
        self.close()
        with trio.move_on_after(self._timeout):
            while not self._home.lock():  # noqa: ASYNC110 - a lock file has no event
                await trio.sleep(LOCK_POLL)
        if not self._home.locked:
            raise ConfigError(
                f"the running router did not give up {self._home.run / 'lock'}", hint="stop it first: van -p linux delete, or kill it"
            )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _call(self, method: str, params: dict[str, Any]) -> Any:
        connection = self._connection
        if connection is None:
            raise NotReady("the running router is gone")
        try:
            return await trio.to_thread.run_sync(lambda: connection.call(method, params))
        except VanrouterError:
            self.close()
            raise
