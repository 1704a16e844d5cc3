"""
What a router in a pod says to the controller of its namespace, and what it answers.

    router ── hello, status when it changed, visitors' requests ──▶ controller
           ◀── network, trace, simulate, status (for the CLI) ──

Nothing here is needed for streams, links or fail-over: a controller that is away is dialled again, and told the latest when it is back.
"""

from __future__ import annotations

import base64
import binascii
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

import vanrouter
from vanrouter.errors import ConfigError, NotReady, StoreError, VanrouterError
from vanrouter.kube.channel import Channel, Leaf
from vanrouter.kube.controller_link import ControllerLink, Place
from vanrouter.kube.status_parts import difference, slices
from vanrouter.plane import Visitor
from vanrouter.sites.operator import Operator
from vanrouter.sites.site import RunningSite
from vanrouter.tokens.issuer import Answer
from vanrouter.tokens.wire import BUSY

__all__ = ["Controlled"]

log: Final = logging.getLogger("vanrouter.sites")

ASKABLE: Final = ("network", "trace", "simulate", "status")
PUSH_EVERY: Final = 0.25  # a change that follows another one waits so long
LOOK_EVERY: Final = 0.1  # where something happens all the time; and a twentieth of the time at most goes into looking and telling
SETTLE: Final = 0.02  # changes come in bunches
JOIN_WAIT: Final = 3.0  # for a controller
JOIN_ANSWER: Final = 9.0  # of one that is there; whoever redeems waits for 10 s

Params = dict[str, Any]


class Controlled:
    """``run`` it while the site runs."""

    def __init__(self, site: RunningSite, *, places: Callable[[], Sequence[Place]], pod: str, rng: random.Random) -> None:
        self._site, self._pod = site, pod
        self._operator = Operator(site, released=lambda: None)
        self._told: Params | None = None  # the document that the controller has, over this connection
        self._is_refused = False  # the status is too long, and that is said
        self._connections = 0
        self._anew = trio.Event()
        self.link = ControllerLink(places, leaf=self._leaf, greet=self._greet, handler=self._answer, connected=self._connected, rng=rng)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.link.run)
            nursery.start_soon(self._push)

    async def join(self, visitor: Visitor, method: str, path: str, body: bytes) -> Answer:
        """The controller's answer to one request of ``van-join/1``; without a controller: try later."""
        request: Params = {"method": method, "path": path, "body": base64.b64encode(body).decode()}
        request["certificates"] = [base64.b64encode(certificate).decode() for certificate in visitor.certificates]
        asked = "renew" if path == "/renew" else "join"
        try:
            seconds = JOIN_ANSWER if self.link.is_connected else JOIN_WAIT
            reply = await self.link.ask(asked, {"visitor": visitor.address, "request": request}, seconds=seconds)
            return Answer(int(reply["status"]), base64.b64decode(reply["body"], validate=True))
        except VanrouterError as exc:
            log.warning("a visitor is asked to come later", extra={"visitor": visitor.address, "asked": asked, "reason": str(exc)})
        except (KeyError, TypeError, ValueError, binascii.Error):
            log.warning("the controller's answer is not understood", extra={"visitor": visitor.address, "asked": asked})
        return Answer(*BUSY)

    # ---- Inside --------------------------------------------------------------------------------------------------------------------------

    def _leaf(self) -> Leaf | None:
        keys = self._site.context.keys
        try:
            shown = keys.leaves.client(now=0.0, lifetime=0.0, jitter=0.0)
        except (ConfigError, StoreError):
            return None
        return Leaf(str(keys.site_id), shown.certificate, shown.key, keys.leaves.ca_pem())

    def _greet(self) -> Params:
        return {"router": str(self._site.context.own), "pod": self._pod, "version": vanrouter.__version__}

    def _connected(self) -> None:
        self._told, self._connections = None, self._connections + 1
        self._anew.set()

    async def _answer(self, _channel: Channel, method: str, params: Params) -> Any:
        if method not in ASKABLE:
            raise ConfigError(f"a router is not asked for {method!r}", hint=f"it answers: {', '.join(ASKABLE)}")
        return await self._operator.handle(method, params)

    async def _push(self) -> None:
        """The latest status, when it is another one than was told: whole, then what changed of it."""
        self._site.services.flushed = lambda: self._anew.set()
        while True:
            await self._anew.wait()
            await trio.sleep(SETTLE)
            self._anew = trio.Event()
            if not self.link.is_connected:
                continue
            began, told = time.perf_counter(), False
            document = await self._operator.handle("status", {})
            document["site"].pop("controller", None)
            if document != self._told:
                told = True
                await self._tell(document)
            spent = time.perf_counter() - began
            await trio.sleep(max(PUSH_EVERY if told else LOOK_EVERY, 20 * spent))

    async def _tell(self, document: Params) -> None:
        connection, peer = self._connections, self.link.peer
        in_parts = self._told is not None and peer.get("parts") is True
        params = difference(self._told or {}, document) if in_parts else {"document": document}
        try:
            for message in slices(params) if peer.get("slices") is True else [params]:
                if connection != self._connections:
                    return  # the new one is told the whole
                await self.link.tell("status", message)
        except NotReady:
            return  # it is told anew when the controller is back
        except VanrouterError as exc:
            if not self._is_refused:
                todo = "split the site: it has too much to say" if peer.get("slices") is True else "update the controller: van update"
                log.warning("status not told to the controller", extra={"reason": str(exc), "hint": todo})
            self._is_refused = True
            return
        self._is_refused = False
        if connection == self._connections:
            self._told = document
