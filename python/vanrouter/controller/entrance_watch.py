"""
Finds which kinds the chosen link access takes, in the version that the cluster serves, and follows ours of each. Drives; decides nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Final

import trio

from vanrouter.controller.access import Seen
from vanrouter.controller.copies import Copies
from vanrouter.errors import ConfigError
from vanrouter.kube.calls import Kind, discover, is_served
from vanrouter.kube.entrances import ACCESS_NAME, entrance, kinds_in_front
from vanrouter.kube.errors import Forbidden, KubeError, NoSuchKind, NotFound
from vanrouter.kube.kinds import ROUTES
from vanrouter.kube.rights import Right, ask, is_allowed
from vanrouter.resources.kinds import SiteSpec

__all__ = ["EntranceWatch"]

log: Final = logging.getLogger("vanrouter.controller")

FIRST_LOOK: Final = 3.0  # for the first list, so that no pass decides without it
AGAIN: Final = 30.0  # an API may be installed later
SOON: Final = 1.0


class EntranceWatch:
    """``look`` before each decision; then ``seen`` is what there is."""

    def __init__(self, copies: Copies) -> None:
        self._copies = copies
        self._wanted: list[Sequence[Kind]] = []
        self._found: dict[str, Kind] = {}
        self._routes: bool | None = None  # whether those of OpenShift are the default
        self._missing = ""
        self._looked = -math.inf

    @property
    def deadline(self) -> float:
        if self._missing:
            return self._looked + AGAIN
        return self._looked + SOON if self._unsettled() else math.inf

    async def look(self, spec: SiteSpec) -> None:
        """Raises KubeError while the cluster does not say what it has."""
        if spec.link_access == "default" and self._routes is None:
            self._routes = await self._has_routes()
        try:
            wanted = kinds_in_front(entrance(spec, routes=bool(self._routes)))
        except ConfigError:
            wanted = []
        now = trio.current_time()
        if wanted == self._wanted and not (self._missing and now >= self._looked + AGAIN):
            self._looked = max(self._looked, now) if self._unsettled() else self._looked
            return
        found, missing = {}, ""
        for alternatives in wanted:
            kind = await self._served(alternatives)
            if kind is None:
                first = alternatives[0]
                missing = f"the cluster has no {first.kind} ({first.group}/{', '.join(k.version for k in alternatives)})"
            else:
                found[kind.kind] = kind
        await self._leave([kind for name, kind in self._found.items() if found.get(name) != kind])
        self._wanted, self._found, self._missing, self._looked = wanted, found, missing, now
        for kind in found.values():
            self._copies.begin(kind, ACCESS_NAME)
        with trio.move_on_after(FIRST_LOOK):
            for kind in found.values():
                await self._copies.follow(kind, ACCESS_NAME)

    def seen(self, told: list[tuple[str, int]]) -> Seen:
        """``told``: the endpoints that were told last."""
        problem, todo = self._missing, "install it, or choose another: van update --link-access TYPE" if self._missing else ""
        copies = {}
        for name, kind in self._found.items():
            if (found := self._copies.of(kind).get(ACCESS_NAME)) is not None:
                copies[name] = found
            trouble = self._copies.problem(kind)
            if isinstance(trouble, Forbidden) and not problem:
                problem, todo = str(trouble), "the Role of the controller is for another link access; make it anew: van update"
        return Seen(self._found, copies, self._routes, problem, todo, told, self._unsettled())

    def _unsettled(self) -> bool:
        return any(not self._copies.is_synced(kind) for kind in self._found.values())

    async def _has_routes(self) -> bool:
        if await self._served([ROUTES]) is None:
            return False
        return is_allowed(await self._copies.client.call(ask(Right(ROUTES.group, ROUTES.plural, "create"), self._copies.namespace)))

    async def _served(self, alternatives: Sequence[Kind]) -> Kind | None:
        for kind in alternatives:
            try:
                if is_served(kind, await self._copies.client.call(discover(kind))):
                    return kind
            except (NotFound, NoSuchKind):
                continue
        return None

    async def _leave(self, kinds: Sequence[Kind]) -> None:
        """Another link access was chosen: what the last one made goes. Who chose it may have taken the right to do that already."""
        for kind in kinds:
            known = self._copies.of(kind).get(ACCESS_NAME)
            try:
                if known is not None and (known["metadata"].get("labels") or {}).get("app.kubernetes.io/part-of") == "vanrouter":
                    await self._copies.remove(kind, ACCESS_NAME)
            except KubeError as exc:
                log.warning("a former link access stays", extra={"object": f"{kind.kind}/{ACCESS_NAME}", "reason": str(exc)})
            self._copies.unfollow(kind)
