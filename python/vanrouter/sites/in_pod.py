"""
What a running site knows because its router is in a pod: which port of the pod is for which listener, which pods there are, and the way to
the controller of the namespace. Holds what the feeder wrote; decides nothing.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from vanrouter.kube.feeder import ROUTER_FILE, Feeder
from vanrouter.kube.names import ROUTER_LABELS
from vanrouter.kube.pods import Pod
from vanrouter.plane import Visitor
from vanrouter.sites.machine import local_addresses
from vanrouter.stores import StateFiles
from vanrouter.stores.resources import Problem
from vanrouter.tokens import Endpoint
from vanrouter.tokens.issuer import Answer
from vanrouter.tokens.wire import BUSY

__all__ = ["InPod"]

log: Final = logging.getLogger("vanrouter.sites")

ANY4: Final = "0.0.0.0"  # noqa: S104 - a pod's ports are reached through Services


Join = Callable[[Visitor, str, str, bytes], Awaitable[Answer]]


async def _no_controller(_visitor: Visitor, _method: str, _path: str, _body: bytes) -> Answer:
    return Answer(*BUSY)


class _Given(msgspec.Struct):
    """``router.json``: what routers cannot find out."""

    generation: int = 0
    ports: dict[str, int] = {}
    endpoints: list[dict[str, Any]] = []
    learned: dict[str, list[tuple[str, int]]] = {}


class InPod:
    """``name``: of this pod."""

    def __init__(self, feeder: Feeder, state: StateFiles, *, namespace: str, name: str, link_port: int, any_host: str = "") -> None:
        self.feeder, self._state = feeder, state
        self.namespace, self.name, self.link_port = namespace, name, link_port
        self.join: Join = _no_controller
        self.is_controlled: Callable[[], bool] = lambda: False  # whether there is a connection to the controller
        self.problems: Callable[[], list[Problem]] = list  # what else is wrong, that only a router in a pod knows
        self.any_host = any_host or (ANY4 if any(":" not in address for address in local_addresses()) else "::")
        self._given = _Given()
        self._dialled: set[str] = set()  # the pods of other routers
        self.read()

    def read(self) -> None:
        """What ``router.json`` says now; a file that is broken changes nothing."""
        raw = self._state.read(ROUTER_FILE)
        if raw is None:
            return
        try:
            self._given = msgspec.json.decode(raw, type=_Given)
        except msgspec.DecodeError as exc:
            log.warning("ConfigMap/van-router is not understood; what it said before stays in force", extra={"error": str(exc)})

    def port(self, host: str, port: int) -> int:
        """Where in this pod connections to ``host:port`` arrive; 0: no port is given to it yet."""
        return self._given.ports.get(f"{host}:{port}", 0)

    @property
    def pods(self) -> Mapping[str, Pod] | None:
        return self.feeder.pods

    @property
    def endpoints(self) -> list[Endpoint]:
        """Where others reach the link access."""
        return [Endpoint(str(e.get("host", "")), int(e.get("port", 0))) for e in self._given.endpoints]

    @property
    def going(self) -> set[tuple[str, int]]:
        """Of these, those that are told for a while only, because they went."""
        return {(str(e.get("host", "")), int(e.get("port", 0))) for e in self._given.endpoints if e.get("going")}

    @property
    def learned(self) -> Mapping[str, list[tuple[str, int]]]:
        """By site: where it is linked to, as a router of this site learned it, perhaps one that is gone."""
        return self._given.learned

    def others(self) -> list[Pod]:
        """The other routers of this site that are not leaving."""
        return [pod for pod in self._routers() if not pod.leaving]

    def serving(self) -> list[Pod]:
        """The other routers of this site that serve. One that leaves does so too, for a while after it has a successor."""
        return [pod for pod in self._routers() if pod.ready]

    def siblings(self) -> list[Pod]:
        """Those that this one dials: the ones that are older, once they serve, and then for as long as they exist.

        One that waits for its keys shows a certificate that is not the site's: a link would take that for a refusal. One that leaves counts
        too: if it was the only one, it is the way to all sites until those have found this one.
        """
        pods = self.pods or {}
        if (own := pods.get(self.name)) is None:
            return []
        age = (own.created, own.name)
        found = [pod for pod in self._routers() if (pod.created, pod.name) < age]
        found = [pod for pod in found if pod.name in self._dialled or pod.ready]
        self._dialled = {pod.name for pod in found}
        return found

    def _routers(self) -> list[Pod]:
        pods = self.pods or {}
        return [pod for pod in pods.values() if _is_router(pod) and pod.name != self.name and pod.address] if self.name in pods else []


def _is_router(pod: Pod) -> bool:
    return ROUTER_LABELS.items() <= pod.labels.items()


def host_name() -> str:
    """In a pod this is the pod's name."""
    return socket.gethostname()
