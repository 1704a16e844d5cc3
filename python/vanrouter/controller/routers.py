"""
The routers that are connected: their latest status documents, and questions to and from them.

While no router is connected, what they said last counts: nothing is concluded from silence.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec
import trio

from vanrouter.controller.report import Doc, merge_documents, slots_by_resources, slots_of
from vanrouter.errors import ConfigError, NotReady, RemoteProtocolError
from vanrouter.kube.channel import Channel
from vanrouter.kube.conversation import Size
from vanrouter.kube.status_parts import MAX_STATUS, MAX_VALUES, heard_untrusted

__all__ = ["Routers"]

Params = dict[str, Any]

SILENT: Final = 15.0  # so long after the last router left, the site's status says that there is none
REFUSED_FOR: Final = 60.0  # so long one refusal stands for all
ASK_SECONDS: Final = 10.0
MOST: Final = Size(MAX_STATUS, MAX_VALUES)  # of a router's status: 100 MiB in memory at worst
MOST_OF_SITE: Final = Size(2 * MAX_STATUS, 2 * MAX_VALUES)  # of all its routers, which say much the same: many sites may share a controller
ASKABLE: Final = ("network", "trace", "simulate", "status")


class Routers:
    """``join`` answers visitors' requests; it is set when there is an issuer."""

    def __init__(self, *, wake: Callable[[], None], hello: Callable[[], Params]) -> None:
        self._wake, self._hello = wake, hello
        self._channels: dict[Channel, Doc | None] = {}
        self._begun: dict[Channel, Doc] = {}  # statuses of which more comes
        self._told: dict[Channel, Size] = {}  # of which the status of each was made: more than it has
        self._last: dict[str, Doc] = {}
        self._alone_since = trio.current_time()
        self._merged: Doc | None = None
        self._why_none = ""
        self._refused_at = -math.inf
        self.join: Callable[[Params], Awaitable[Params]] | None = None

    # ---- Their status --------------------------------------------------------------------------------------------------------------------

    def document(self) -> Doc:
        """Merged over the routers; empty: none has said anything since this controller started."""
        if self._merged is None:
            self._merged = merge_documents(self._documents())
        return self._merged

    def slots(self) -> set[tuple[str, int]]:
        return {slot for document in self._documents().values() for slot in slots_of(document)}

    def slots_by_resources(self) -> set[tuple[str, int]]:
        return {slot for document in self._documents().values() for slot in slots_by_resources(document)}

    @property
    def are_certain(self) -> bool:
        """Whether what no router says is not there: one that has started up says what there is."""
        return any((d or {}).get("site", {}).get("ready") for d in self._channels.values())

    @property
    def has_any(self) -> bool:
        return bool(self._channels)

    @property
    def are_silent(self) -> bool:
        return not self._channels and trio.current_time() >= self._alone_since + SILENT

    @property
    def why_none(self) -> str:
        """Why no router is connected, as far as this end knows."""
        return self._why_none or "none has come to this controller yet, or what comes does not get through"

    @property
    def deadline(self) -> float:
        until = self._alone_since + SILENT
        return until if not self._channels and trio.current_time() < until else math.inf

    def _documents(self) -> dict[str, Doc]:
        here = {_pod(channel): document for channel, document in self._channels.items() if document is not None}
        return here or self._last

    # ---- Channels ------------------------------------------------------------------------------------------------------------------------

    def changed(self, channel: Channel, is_here: bool) -> None:
        if is_here:
            self._channels[channel] = None
            self._why_none, self._refused_at = "the last one went", -math.inf
        else:
            self._last = self._documents()
            self._channels.pop(channel, None)
            self._begun.pop(channel, None)
            self._told.pop(channel, None)
            self._alone_since = trio.current_time()
        self._merged = None
        self._wake()

    def refused(self, address: str, why: str) -> None:
        """Somebody came from there, and was sent away. One of many is said: what strangers do writes little."""
        if trio.current_time() < self._refused_at + REFUSED_FOR:
            return
        self._refused_at = trio.current_time()
        self._why_none = f"one that came, from {address.rpartition(':')[0]}, was refused: {why}"
        if self.are_silent:
            self._wake()

    async def handle(self, channel: Channel, method: str, params: Params) -> Any:
        if method == "hello":
            channel.peer = {key: str(params.get(key, "")) for key in ("router", "pod", "version")}
            return {**self._hello(), "parts": True, "slices": True}
        if method == "status" and channel in self._channels:
            self._hear(channel, params)
            return {}
        if method in ("join", "renew") and self.join is not None:
            return await self.join(params)
        raise ConfigError(f"there is no method {method!r}", hint="the router may be newer than the controller: compare their versions")

    def _hear(self, channel: Channel, params: Params) -> None:
        """Of a status in slices nothing counts before the last one came. Raises RemoteProtocolError."""
        document = heard_untrusted(self._begun.pop(channel, self._channels[channel]), params)
        before = Size() if "document" in params else self._told.get(channel, Size())
        self._told[channel] = told = before.plus(channel.told)
        if told.exceeds(MOST):
            self._told[channel] = told = _size(document)
        if told.exceeds(MOST):
            raise RemoteProtocolError(f"a status of {told}; at most {MOST} are read")
        if _together(self._told.values()).exceeds(MOST_OF_SITE):
            all_known = {**self._channels, **self._begun, channel: document}
            self._told = {one: _size(known) for one, known in all_known.items() if known is not None}
            if (site := _together(self._told.values())).exceeds(MOST_OF_SITE):
                raise RemoteProtocolError(f"{told} of {site} that the routers of this site say; at most {MOST_OF_SITE} are read")
        if params.get("more") is True:
            self._begun[channel] = document
            return
        if document != self._channels[channel]:
            self._channels[channel] = document
            self._last, self._merged = self._documents(), None
            self._wake()

    async def ask(self, method: str, params: Params) -> Any:
        """One of the routers, that which is most ready. Raises NotReady, and what the router raises."""
        if method not in ASKABLE:
            raise ConfigError(f"there is no method {method!r}", hint=f"this site knows: {', '.join(ASKABLE)}")
        order = sorted(self._channels, key=lambda c: (not ((self._channels[c] or {}).get("site") or {}).get("ready"), _pod(c)))
        if not order:
            raise NotReady("no router of this site is connected to its controller", hint="look at the pods: kubectl get pods")
        return await order[0].ask(method, params, seconds=ASK_SECONDS)


def _together(sizes: Iterable[Size]) -> Size:
    return functools.reduce(Size.plus, sizes, Size())


def _size(document: Doc) -> Size:
    return Size.of(msgspec.json.encode(document))


def _pod(channel: Channel) -> str:
    return channel.peer.get("pod") or channel.address
