"""
What the parts of a running site share: who it is, its plane, its clocks, and a way to wake its timers. Holds; decides nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from vanrouter.model import RouterId
from vanrouter.plane import DataPlane
from vanrouter.settings import Timing
from vanrouter.sites.forwarding import Forwarding
from vanrouter.sites.keys import SiteKeys
from vanrouter.sites.resolver import Names
from vanrouter.stores import SiteHome

if TYPE_CHECKING:
    from vanrouter.sites.in_pod import InPod

__all__ = ["Context", "Waker"]


class Waker:
    """Wake one waiting task; a wake before the wait counts, unless it is cleared."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def wake(self) -> None:
        self._event.set()

    def clear(self) -> None:
        """Before looking at what a wake would announce."""
        self._event = trio.Event()

    async def wait_until(self, deadline: float) -> None:
        with trio.move_on_at(deadline):
            await self._event.wait()
        self._event = trio.Event()


class Context:
    """``edge``: this site is a leaf, for the life of this router. ``in_pod``: the router is in a pod, and its site is a namespace. ``wall``
    gives seconds since the epoch, for the dates of certificates and tokens. Everything else goes by the monotonic clock.
    """

    def __init__(
        self,
        *,
        home: SiteHome,
        keys: SiteKeys,
        site_name: str,
        own: RouterId,
        plane: DataPlane,
        timing: Timing,
        wall: Callable[[], float],
        rng: random.Random,
        edge: bool = False,
        in_pod: InPod | None = None,
    ) -> None:
        self.home, self.keys, self.site_name, self.own = home, keys, site_name, own
        self.plane, self.timing, self.wall, self.rng = plane, timing, wall, rng
        self.edge, self.in_pod = edge, in_pod
        self.forwarding = Forwarding(plane)
        self.timers = Waker()  # a deadline may have moved
        self.wanted = Waker()  # what is wanted may have changed: reconcile
        self.names = Names(timeout=timing.resolver_timeout, again=timing.resolve_again, changed=self.wanted.wake)

    @staticmethod
    def now() -> float:
        return trio.current_time()
