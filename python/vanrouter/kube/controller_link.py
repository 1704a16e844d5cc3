"""
The router's end of the connection to its controller: dialled again whenever it ends.

A controller has several places: the addresses of its pods, its Service by address, its Service by name. They are tried beside each other,
each a moment after the one before: an answer of the DNS that is lost, or a node that does not know the Service yet, holds nothing up.
Whoever answers must be of this site.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import os
import random
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from vanrouter.errors import NotReady, VanrouterError
from vanrouter.kube.channel import ASK_SECONDS, Channel, Handler, Leaf, one_error, peer_address, shake_hands
from vanrouter.pki.authority import van_name

__all__ = ["ControllerLink", "Place"]

log: Final = logging.getLogger("vanrouter.kube")

FIRST_DELAY: Final = 0.25
CAP: Final = 5.0
STAGGER: Final = 0.25  # before the next place is tried beside the one that does not answer
ADDRESS_SECONDS: Final = 5.0
NAME_SECONDS: Final = 16.0  # a resolver whose question is lost asks again after 5 s, twice

Params = dict[str, Any]
Place = tuple[str, int]


class ControllerLink:
    """``run`` it; the rest may be called meanwhile.

    ``places`` is asked for each attempt, the likeliest first, and ``leaf`` too, so that renewed keys are used; None: there are none yet.
    ``greet`` gives the params of ``hello``; ``connected`` is called after each answered ``hello``: the time to tell the latest status.
    ``handler`` gets the controller's questions.
    """

    def __init__(
        self,
        places: Callable[[], Sequence[Place]],
        *,
        leaf: Callable[[], Leaf | None],
        greet: Callable[[], Params],
        handler: Handler,
        connected: Callable[[], None] = lambda: None,
        rng: random.Random,
    ) -> None:
        self._places = places
        self._leaf, self._greet, self._handler, self._connected, self._rng = leaf, greet, handler, connected, rng
        self._channel: Channel | None = None
        self._arrived = trio.Event()
        self._look = trio.Event()  # there are other places than those that are tried
        self._tried: tuple[Place, ...] = ()
        self._refused: Place | None = None  # hands were shaken, and it came to nothing: next time the others first
        self.problem = "not tried yet"  # why there is no connection; empty: there is one

    @property
    def is_connected(self) -> bool:
        return self._channel is not None

    @property
    def peer(self) -> Params:
        """What the controller answered to ``hello``."""
        return self._channel.peer if self._channel is not None else {}

    def places_changed(self) -> None:
        """Perhaps. New ones are tried at once, unless there is a connection."""
        if tuple(self._places()) != self._tried:
            self._look.set()

    async def ask(self, method: str, params: Params | None = None, *, seconds: float = ASK_SECONDS) -> Any:
        """Raises NotReady when there is no controller within ``seconds``, else as ``Channel.ask``."""
        until = trio.current_time() + seconds
        with trio.move_on_at(until):
            while self._channel is None:
                await self._arrived.wait()
        if self._channel is None:
            raise NotReady(f"no connection to the controller: {self.problem}", hint="look at its pod")
        return await self._channel.ask(method, params, seconds=max(until - trio.current_time(), 0.05))

    async def tell(self, method: str, params: Params | None = None) -> None:
        """Raises NotReady at once when there is no connection."""
        if self._channel is None:
            raise NotReady(f"no connection to the controller: {self.problem}")
        await self._channel.tell(method, params)

    async def run(self) -> None:
        """Until cancelled."""
        delay = 0.0
        while True:
            began, self._look = math.inf, trio.Event()
            place: Place | None = None
            try:
                with one_error():
                    place, channel = await self._dial()
                    async with trio.open_nursery() as nursery:
                        await nursery.start(channel.run)
                        channel.peer = await channel.ask("hello", self._greet())
                        self._channel, self.problem, began = channel, "", trio.current_time()
                        self._refused = None
                        self._arrived.set()
                        log.info("connected to the controller", extra={"at": _text(place)})
                        self._connected()
                self._lost("the controller closed the connection")
            except (VanrouterError, OSError) as exc:
                self._lost(str(exc))
            except BaseException:
                self._lost("this router ends")
                raise
            if began == math.inf:
                self._refused = place
            delay = 0.0 if trio.current_time() - began > CAP else min(max(FIRST_DELAY, delay * 2), CAP)
            with trio.move_on_after((delay or FIRST_DELAY) * self._rng.uniform(0.5, 1.0)):
                await self._look.wait()
                delay = 0.0

    def _lost(self, why: str) -> None:
        if self._channel is not None or self.problem != why:
            log.info("no connection to the controller", extra={"reason": why})
        if self._channel is not None:
            self._channel, self._arrived = None, trio.Event()
        self.problem = why

    # ---- Dialling ------------------------------------------------------------------------------------------------------------------------

    async def _dial(self) -> tuple[Place, Channel]:
        """The first place where an end of our site answers."""
        leaf = self._leaf()
        if leaf is None:
            raise NotReady("there are no keys to show yet")
        context = leaf.context(server_side=False)
        self._tried = tuple(self._places())
        places = sorted(self._tried, key=lambda place: place == self._refused)
        found: list[tuple[Place, Channel]] = []
        failed = [trio.Event() for _ in places]
        why: dict[Place, str] = {}

        async def attempt(place: Place, over: trio.Event) -> None:
            try:
                channel = await self._answering(place, leaf, context)
            except (VanrouterError, OSError) as exc:
                why[place] = _reason(exc)
                over.set()
                return
            if found:
                await channel.aclose()
                return
            found.append((place, channel))
            nursery.cancel_scope.cancel()

        async def watch() -> None:
            await self._look.wait()
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                for place, over in zip(places, failed, strict=True):
                    nursery.start_soon(attempt, place, over)
                    with trio.move_on_after(STAGGER):
                        await over.wait()
                for over in failed:
                    await over.wait()
                nursery.cancel_scope.cancel()
        except BaseException:  # this router ends at the moment at which one answered
            for _, channel in found:
                await channel.aclose()
            raise
        if not found:
            tried = "; ".join(f"{_text(place)}: {why.get(place, 'no answer yet')}" for place in places)
            raise NotReady(tried or "it is not known where it is", hint="look at its pod")
        return found[0]

    async def _answering(self, place: Place, leaf: Leaf, context: ssl.SSLContext) -> Channel:
        seconds = ADDRESS_SECONDS if _is_address(place[0]) else NAME_SECONDS
        with trio.move_on_after(seconds) as scope:
            sock = await trio.open_tcp_stream(*place)
        if scope.cancelled_caught:
            raise NotReady(f"nobody answered within {seconds:g} s")
        stream = trio.SSLStream(sock, context, server_hostname=van_name(leaf.site), https_compatible=True)  # type: ignore[arg-type]
        try:
            await shake_hands(stream, lambda: leaf.site)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return Channel(stream, self._handler, address=peer_address(sock))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _reason(error: Exception) -> str:
    cause: BaseException = error.__cause__ if isinstance(error, OSError) and error.__cause__ is not None else error
    while isinstance(cause, BaseExceptionGroup):  # one for each address of the name
        cause = cause.exceptions[0]
    if isinstance(cause, OSError) and (cause.errno or 0) > 0:
        return os.strerror(cause.errno or 0)
    return str(cause) or type(cause).__name__


def _text(place: Place) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
