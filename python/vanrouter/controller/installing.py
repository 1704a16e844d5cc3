"""
Keeps the routers of one namespace installed: the very objects that ``van init`` makes, apart from the controller. Drives; decides nothing.

What is not so is put right; what somebody else changes again and again is left alone and named (``rivals``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Final

import trio

from vanrouter.controller.copies import Copies
from vanrouter.controller.report import Doc
from vanrouter.controller.rivals import Rivals
from vanrouter.controller.shared import Look
from vanrouter.errors import ConfigError
from vanrouter.kube.calls import Kind, Object, apply, create
from vanrouter.kube.drift import drifted
from vanrouter.kube.kinds import DEPLOYMENTS, POD_DISRUPTION_BUDGETS, ROLE_BINDINGS, ROLES, SERVICE_ACCOUNTS
from vanrouter.kube.manifests import OPTIONAL, ROUTER, Manifest, router_manifests
from vanrouter.kube.names import PART_OF
from vanrouter.kube.plan import plan
from vanrouter.resources.kinds import Site
from vanrouter.stores.resources import Problem

__all__ = ["INSTALLED", "Installing"]

log: Final = logging.getLogger("vanrouter.controller")

INSTALLED: Final[Sequence[tuple[Kind, str]]] = tuple(
    (kind, f"{PART_OF}=vanrouter") for kind in (SERVICE_ACCOUNTS, ROLES, ROLE_BINDINGS, POD_DISRUPTION_BUDGETS, DEPLOYMENTS)
)
"""What an install consists of, and the selector of ours."""


class Installing:
    """A chore of one namespace. ``image``: where the Site names none. ``controller``: where routers find theirs."""

    name = "install"

    def __init__(self, *, image: str, controller: str) -> None:
        self._image, self._controller = image, controller
        self._rivals = Rivals()
        self._made: tuple[Site, tuple[Object, ...], list[Manifest]] | None = None
        self._problems: list[Problem] = []
        self.deadline = math.inf
        self.said: Mapping[tuple[str, str], Doc] = {}

    @property
    def problems(self) -> list[Problem]:
        return self._problems

    async def do(self, look: Look) -> None:
        copies, now = look.copies, trio.current_time()
        made = self._wanted(look)
        changed: list[Manifest] = []
        for manifest in made:
            known = copies.get(manifest.kind, manifest.name)
            if known is None and not copies.current(manifest.kind):
                continue  # it may be there
            if known is not None and not _is_ours(known):
                raise ConfigError(
                    f"there is a {manifest.ref} in {copies.namespace} that is not ours; it is left alone",
                    hint=f"rename it, or delete it: kubectl delete {manifest.kind.plural} {manifest.name}",
                )
            holds = known is not None and not drifted(manifest.value, known) and _is_owned(manifest.value, known)
            if self._rivals.may_write(manifest.ref, manifest.value, known, holds=holds, now=now):
                changed.append(manifest)
        self.deadline = self._rivals.deadline(now)
        self._problems = [_said(rivalry.what, rivalry.who, is_left=rivalry.is_left) for rivalry in self._rivals.current(now)]
        # One after the other, in their order: a pod finds its account, and that its rights.
        for manifest in changed:
            if copies.get(manifest.kind, manifest.name) is None:
                await self._make(copies, manifest)
            else:
                await copies.send(apply(manifest.kind, copies.namespace, manifest.value))
        kept = {(manifest.kind, manifest.name) for manifest in made}
        for kind, name in OPTIONAL:
            known = copies.get(kind, name)
            if (kind, name) not in kept and name.startswith(ROUTER) and known is not None and _is_ours(known):
                await copies.remove(kind, name)

    async def _make(self, copies: Copies, manifest: Manifest) -> None:
        """The copies have what has our label only: one of somebody else may be there, and stays as it is.

        An account has no field about which the server would see a conflict.
        """
        is_account = manifest.kind is SERVICE_ACCOUNTS
        value, namespace = manifest.value, copies.namespace
        call = create(manifest.kind, namespace, value) if is_account else apply(manifest.kind, namespace, value, force=False)
        if await copies.send(call) is None and copies.get(manifest.kind, manifest.name) is None:
            text = f"there is a {manifest.ref} in {namespace} that is not ours; it is left alone"
            hint = f"rename it, or delete it: kubectl delete {manifest.kind.plural} {manifest.name}"
            self._problems.append(Problem(manifest.ref, text, hint))

    def _wanted(self, look: Look) -> list[Manifest]:
        """Raises InvalidResource for settings that are wrong: what is there stays."""
        if self._made is None or self._made[:2] != (look.site, look.owners):
            chosen = plan(look.site, image=self._image)
            made = router_manifests(chosen, look.copies.namespace, owners=look.owners, controller=self._controller)
            self._made = look.site, look.owners, made
        return self._made[2]


def _is_ours(value: Object) -> bool:
    return (value["metadata"].get("labels") or {}).get(PART_OF) == "vanrouter"


def _is_owned(wish: Object, known: Object) -> bool:
    owners = {o.get("uid") for o in known["metadata"].get("ownerReferences") or []}
    return {o["uid"] for o in wish["metadata"].get("ownerReferences") or []} <= owners


def _said(what: str, who: str, *, is_left: bool) -> Problem:
    by = who or "somebody else"
    if is_left:
        return Problem(
            what, f"{what} is changed by {by} again and again; it is left as it is until nobody did for ten minutes", "make it stop"
        )
    return Problem(what, f"{what} was changed by {by} and is put right again", "change the Site instead: spec.settings")
