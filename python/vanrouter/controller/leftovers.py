"""
Services that the controller of the cluster took over, in namespaces whose Site is gone: given back, whoever was not there when it went.

While an instance serves a namespace, that gives back. What is left here: the Site went while no controller ran, or the one that ran was
ended before it was done. A namespace is concluded to have no Site from a list of its own, in the moment of the question.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
import trio

from vanrouter.controller.services import give_back, is_taken
from vanrouter.errors import VanrouterError
from vanrouter.kube.calls import list_page
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.errors import Conflict, Denied, Invalid, KubeError, NoSuchKind, NotFound
from vanrouter.kube.kinds import CONFIG_MAPS, SERVICES
from vanrouter.kube.listwatch import Change, Changed
from vanrouter.kube.names import RESOURCE, TYPE
from vanrouter.kube.records import Records
from vanrouter.kube.sharing import SharedWatches
from vanrouter.kube.turns import Calling
from vanrouter.kube.workloads import SAVED
from vanrouter.resources.kinds import Site

__all__ = ["Leftovers", "Taken"]

log: Final = logging.getLogger("vanrouter.controller")

FIRST_DELAY: Final = 1.0
CAP: Final = 300.0
MARK: Final = SAVED.encode()
SITE_MAP: Final = "van.site."  # as `van init` names them


class Taken:
    """Which Services of the cluster are taken over, and when to look at a namespace of theirs again. Pure."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}  # by namespace
        self._failed: dict[str, tuple[float, float]] = {}  # namespace -> (not before, delay)

    def heard(self, changes: Iterable[Change]) -> bool:
        """Whether there is one more. Values are packed, as ``SharedWatches`` keeps them."""
        more = False
        for change in changes:
            namespace, name = change.key
            if isinstance(change, Changed) and MARK in change.object and is_taken(msgspec.json.decode(change.object)):
                more = more or name not in self._names.get(namespace, ())
                self._names.setdefault(namespace, set()).add(name)
            elif name in self._names.get(namespace, ()):
                self._names[namespace].remove(name)
                if not self._names[namespace]:
                    del self._names[namespace]
                    self._failed.pop(namespace, None)
        return more

    def due(self, now: float, is_served: Callable[[str], bool]) -> list[tuple[str, list[str]]]:
        """Namespaces that nobody serves, and their Services."""
        return [
            (namespace, sorted(names))
            for namespace, names in sorted(self._names.items())
            if now >= self._failed.get(namespace, (0.0, 0.0))[0] and not is_served(namespace)
        ]

    def tried(self, namespace: str, now: float) -> None:
        """Look at it later again: what is left may be because of a failure, or because somebody else's Site is there."""
        delay = min(max(FIRST_DELAY, self._failed.get(namespace, (0.0, 0.0))[1] * 2), CAP)
        self._failed[namespace] = now + delay, delay

    def deadline(self, is_served: Callable[[str], bool]) -> float:
        return min((at for namespace, (at, _) in self._failed.items() if not is_served(namespace)), default=math.inf)


class Leftovers:
    """``run`` it. ``is_served``: there is a Site, or an instance, or it is not ours; ``woken`` when that may have changed: ``wake``."""

    def __init__(self, client: Calling, watches: SharedWatches, *, is_served: Callable[[str], bool]) -> None:
        self._client, self._is_served = client, is_served
        self._taken = Taken()
        self._said: dict[str, str] = {}  # why not, by namespace
        self._woken = trio.Event()
        self._share = watches.follow(SERVICES, "", heard=self._heard, keep=msgspec.json.encode)

    def wake(self) -> None:
        self._woken.set()

    def _heard(self, changes: Sequence[Change]) -> None:
        if self._taken.heard(changes):
            self.wake()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._share.run)
            await self._share.wait_synced()
            while True:
                self._woken = trio.Event()
                for namespace, names in self._taken.due(trio.current_time(), self._is_served):
                    self._taken.tried(namespace, trio.current_time())
                    try:
                        await self._give_back(namespace, names)
                    except VanrouterError as error:
                        self._say(namespace, names, error)
                    except Exception:
                        log.exception("a bug in the controller", extra={"namespace": namespace})
                with trio.move_on_at(self._taken.deadline(self._is_served)):
                    await self._woken.wait()

    def _say(self, namespace: str, names: Sequence[str], error: VanrouterError) -> None:
        if self._said.get(namespace) != str(error):
            self._said[namespace] = str(error)
            fields = {"namespace": namespace, "services": names, "reason": str(error), "hint": error.hint}
            log.warning("Services that were taken over are not given back yet", extra=fields)

    async def _give_back(self, namespace: str, names: Sequence[str]) -> None:
        """Raises the first failure, when all were tried that the server would take."""
        if await self._has_site(namespace):
            return
        failed: Exception | None = None
        for name in names:
            packed = self._share.objects.get((namespace, name))
            if packed is None or self._is_served(namespace):
                continue
            try:
                call, note = give_back(namespace, msgspec.json.decode(packed))
                if call is None:
                    continue
                await self._client.call(call)
            except (Conflict, NotFound):  # somebody writes it just now: the watch brings it
                continue
            except Exception as error:
                if isinstance(error, KubeError) and not isinstance(error, Denied | Invalid):
                    raise
                failed = failed or error  # of this one alone: also what its annotation says is for anybody to write
                continue
            reason = note.message if note is not None else ""
            log.info("gave back what was taken over", extra={"namespace": namespace, "service": name, "reason": reason})
        if failed is not None:
            raise failed

    async def _has_site(self, namespace: str) -> bool:
        """Of any kind: also that of a controller of the namespace which is not there at the moment."""
        try:
            customs = await self._client.call(list_page(CUSTOM_KINDS["Site"], namespace, limit=1))
        except NoSuchKind:
            customs = {}
        if customs.get("items"):
            return True
        maps = (await self._client.call(list_page(CONFIG_MAPS, namespace, labels=f"{TYPE}={RESOURCE}", limit=0))).get("items") or []
        if any(value["metadata"]["name"].startswith(SITE_MAP) for value in maps):
            return True  # whatever stands in it
        return any(isinstance(located.resource, Site) for located in Records().feed(maps).resources.values())
