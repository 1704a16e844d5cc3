"""
What the plane tells the control plane: one slot per thing for states, bounded queues for what must not be merged.

``put`` never waits. A slow reader misses intermediate states, never the last one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from vanrouter.plane import (
    AccessState,
    AnyEvent,
    ConnectorState,
    DialResult,
    Incoming,
    InForce,
    LinkState,
    ListenerState,
    MessagesReset,
    StreamEnd,
)

__all__ = ["Mailbox"]

RING: Final = 10_000


class Mailbox:
    def __init__(self) -> None:
        self._slots: dict[tuple[str, str], AnyEvent] = {}
        self._queue: deque[AnyEvent] = deque()  # visitors and incoming streams, which their makers bound
        self._incoming: dict[str, int] = {}
        self._ends: deque[StreamEnd] = deque(maxlen=RING)
        self._something = trio.Event()
        self.take_messages: Callable[[], list[AnyEvent]] = list  # waiting control messages; set by the plane
        self.dropped = 0

    def put(self, event: AnyEvent) -> None:
        if isinstance(event, StreamEnd):
            self.dropped += len(self._ends) == RING
            self._ends.append(event)
        elif isinstance(event, Incoming):
            self._incoming[event.connector] = self._incoming.get(event.connector, 0) + 1
            self._queue.append(event)
        elif (slot := _slot(event)) is None:
            self._queue.append(event)
        else:
            self._slots.pop(slot, None)  # the latest state goes to the end: events keep their order
            self._slots[slot] = event
        self.notify()

    def waiting_for(self, connector: str) -> int:
        return self._incoming.get(connector, 0)

    def notify(self) -> None:
        self._something.set()

    async def take(self) -> list[AnyEvent]:
        while True:
            await self._something.wait()
            self._something = trio.Event()
            events = [*self._slots.values(), *self._queue, *self._ends]
            self._slots.clear()
            self._queue.clear()
            self._incoming.clear()
            self._ends.clear()
            messages = self.take_messages()
            if messages:
                self.notify()  # more may wait than one call hands out
            if events or messages:
                return events + messages


def _slot(event: AnyEvent) -> tuple[str, str] | None:
    match event:
        case InForce():
            return ("in_force", "")
        case ListenerState() | AccessState() | ConnectorState():
            return (type(event).__name__, event.name)
        case LinkState() | MessagesReset():
            return (type(event).__name__, event.router)
        case DialResult():
            return ("dial", str(event.id))
    return None
