"""
The controller of the whole cluster: one ``Controller`` for each namespace that has a Site, begun and ended as Sites come and go.

    Site (custom resource), no Deployment van-controller of ours, not being deleted ──▶ an instance: installs, and controls
    any of these no longer so                                                       ──▶ none

What was taken over in a namespace whose Site is gone is given back also when nobody was there to see it go (``leftovers``).
What fails in a namespace fails in its instance alone, which is begun again after a while; why stands in the status of the Site.
"""

from __future__ import annotations

import logging
import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from vanrouter.controller.attaching import AttachedHere, Attaching
from vanrouter.controller.installing import INSTALLED, Installing
from vanrouter.controller.leftovers import Leftovers
from vanrouter.controller.report import rfc3339
from vanrouter.controller.run import Controller
from vanrouter.controller.shared import Chore, Door, Shared
from vanrouter.errors import ConfigError, VanrouterError
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Object, apply
from vanrouter.kube.channel import CONTROL_PORT, serve_sites
from vanrouter.kube.client import KubeClient
from vanrouter.kube.cluster_customs import ClusterCustoms
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.custom import custom_stamp, custom_status, read_custom
from vanrouter.kube.errors import KubeError
from vanrouter.kube.kinds import DEPLOYMENTS, NAMESPACES
from vanrouter.kube.listwatch import Change
from vanrouter.kube.manifests import CONTROLLER
from vanrouter.kube.sharing import SharedWatches
from vanrouter.kube.turns import ALL, TurnClient
from vanrouter.pki.authority import LEAF_LIFETIME
from vanrouter.stores.resources import Problem

__all__ = ["ClusterController"]

log: Final = logging.getLogger("vanrouter.controller")

FIRST_DELAY: Final = 1.0
CAP: Final = 60.0
SETTLED: Final = 60.0  # an instance that ran for so long had no trouble starting


class _Instance:
    def __init__(self, scope: trio.CancelScope) -> None:
        self.scope = scope
        self.controller: Controller | None = None

    @property
    def sees_it(self) -> bool:
        """Whether it notices by itself that the Site goes, and gives back what was taken over."""
        return self.controller is not None and self.controller.has_site


class ClusterController:
    """``run`` it. ``image``: of routers whose Site names none. ``address``: where they find us, HOST:PORT."""

    def __init__(
        self,
        client: KubeClient,
        blocking: BlockingClient,
        *,
        image: str,
        address: str,
        port: int = CONTROL_PORT,
        name: str = "",
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.time,
        leaf_lifetime: float = LEAF_LIFETIME,
    ) -> None:
        self._client, self._blocking, self._port, self._clock = client, blocking, port, clock
        self._image, self._address, self._lifetime = image, address, leaf_lifetime
        self.name, self._rng = name or socket.gethostname(), rng or random.SystemRandom()
        self._woken = trio.Event()
        self._turns = trio.Semaphore(ALL)
        self.watches = SharedWatches(client, rng=self._rng)
        self.customs = ClusterCustoms(client, told=self._told, rng=self._rng)
        self._namespaces = self.watches.follow(NAMESPACES, "", heard=self._heard, keep=_keep_namespace)
        self._installs = self.watches.follow(DEPLOYMENTS, "", heard=self._heard, labels=INSTALLED[-1][1])
        self._door = Door()
        self.attaching = Attaching(
            TurnClient(client, self._turns), self.customs, self.watches, is_ours=self.may_serve, wake=self._wake_one, clock=clock
        )
        self._leftovers = Leftovers(TurnClient(client, self._turns), self.watches, is_served=self._is_served)
        self._instances: dict[str, _Instance] = {}
        self.port = 0  # in which routers are served

    @property
    def controllers(self) -> dict[str, Controller]:
        """By namespace: those that run."""
        return {n: i.controller for n, i in self._instances.items() if i.controller is not None}

    def wake(self) -> None:
        self._woken.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. ``started`` when routers are served."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.watches.run)
            nursery.start_soon(self._namespaces.run)
            nursery.start_soon(self._installs.run)
            nursery.start_soon(self.customs.run)
            listeners = await trio.open_tcp_listeners(self._port)
            self.port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(serve_sites, listeners, self._door.find)
            task_status.started()
            await self._namespaces.wait_synced()
            await self._installs.wait_synced()
            await self.customs.wait_synced()
            nursery.start_soon(self.attaching.run)
            nursery.start_soon(self._leftovers.run)
            log.info("controller of the cluster runs", extra={"controller": self.name, "namespaces": len(self._namespaces.objects)})
            while True:
                self._woken = trio.Event()
                self._look(nursery)
                self._leftovers.wake()
                await self._woken.wait()

    # ---- Which namespaces ----------------------------------------------------------------------------------------------------------------

    def may_serve(self, namespace: str) -> bool:
        """Whether it is ours: there, not being deleted, and without a controller of its own."""
        return self._namespaces.objects.get(("", namespace)) is True and (namespace, CONTROLLER) not in self._installs.objects

    def _is_served(self, namespace: str) -> bool:
        """Or not ours: whether what was taken over there is no matter of the cluster's controller itself."""
        return not self.may_serve(namespace) or namespace in self._instances or namespace in self._with_site()

    def _with_site(self) -> set[str]:
        return {namespace for namespace, _ in self.customs.of_kind("Site")}

    def _look(self, nursery: trio.Nursery) -> None:
        with_site = self._with_site()
        for namespace, instance in self._instances.items():
            if not self.may_serve(namespace):
                log.info("leaves a namespace", extra={"namespace": namespace})
                instance.scope.cancel()
            elif namespace not in with_site and not instance.sees_it:
                instance.scope.cancel()
        for namespace in sorted(with_site - self._instances.keys()):
            if self.may_serve(namespace):
                instance = self._instances[namespace] = _Instance(trio.CancelScope())
                nursery.start_soon(self._serve, namespace, instance)

    def _told(self, namespaces: set[str]) -> None:
        for namespace in namespaces or set(self._instances):
            self._wake_one(namespace)
        self.attaching.wake()
        self.wake()

    def _heard(self, _changes: Sequence[Change]) -> None:
        self.attaching.wake()
        self.wake()

    def _wake_one(self, namespace: str) -> None:
        found = self._instances.get(namespace)
        if found is not None and found.controller is not None:
            found.controller.wake()

    # ---- One namespace -------------------------------------------------------------------------------------------------------------------

    async def _serve(self, namespace: str, instance: _Instance) -> None:
        """Until its Site is gone, or it is not ours any more."""
        delay = 0.0
        try:
            with instance.scope:
                while True:
                    began, before = trio.current_time(), self._stamps(namespace)
                    error = await self._serve_once(namespace, instance)
                    if error is None:
                        return
                    delay = FIRST_DELAY if trio.current_time() - began > SETTLED else min(max(FIRST_DELAY, delay * 2), CAP)
                    try:
                        await self._say(namespace, error)
                    except Exception:
                        log.exception("a bug in the controller")
                    with trio.move_on_after(delay * self._rng.uniform(0.5, 1.0)):
                        while self._stamps(namespace) == before:
                            await self._woken.wait()
        finally:
            del self._instances[namespace]
            self.attaching.wake()
            self.wake()

    async def _serve_once(self, namespace: str, instance: _Instance) -> BaseException | None:
        """What ended it; None: its Site is gone."""
        try:
            self._require_site(namespace)
            instance.controller = self._controller(namespace)
            await instance.controller.run()
        except BaseExceptionGroup as group:
            cancelled, rest = group.split(trio.Cancelled)
            if cancelled is None:
                return _first(group)
            if rest is not None:  # it is over anyway, and the others go on
                log.info("ended", extra={"namespace": namespace, "reason": str(_first(rest))})
            raise cancelled from None
        except Exception as error:
            return error
        finally:
            instance.controller = None
        return None

    def _require_site(self, namespace: str) -> None:
        """Raises ConfigError where no Site can be read: the schema takes what we do not."""
        units = [read_custom(value) for (where, _), value in self.customs.of_kind("Site").items() if where == namespace]
        if units and not any(unit.resources for unit in units):
            problem = next(unit.problem for unit in units if unit.problem is not None)
            raise ConfigError(problem.message, hint=problem.hint)

    def _stamps(self, namespace: str) -> list[tuple[str, str]]:
        """Of its Sites: another one when somebody changed one."""
        return [custom_stamp(value) for (where, _), value in self.customs.of_kind("Site").items() if where == namespace]

    def _controller(self, namespace: str) -> Controller:
        chores: list[Chore] = [
            Installing(image=self._image, controller=self._address),
            AttachedHere(self.attaching, namespace, clock=self._clock),
        ]
        shared = Shared(self.watches, self.customs, self._door, chores=chores, more=INSTALLED)
        return Controller(
            TurnClient(self._client, self._turns),
            self._blocking,
            namespace,
            name=self.name,
            rng=self._rng,
            clock=self._clock,
            leaf_lifetime=self._lifetime,
            shared=shared,
        )

    async def _say(self, namespace: str, error: BaseException) -> None:
        """In the status of its Site, because nothing else says anything there."""
        if isinstance(error, VanrouterError):
            log.warning("a namespace is not served", extra={"namespace": namespace, "reason": str(error), "hint": error.hint})
        else:
            log.error("a bug in the controller", extra={"namespace": namespace, "reason": repr(error)}, exc_info=error)
        hint = error.hint if isinstance(error, VanrouterError) else "report it, with the log of the controller"
        for (where, name), value in list(self.customs.of_kind("Site").items()):
            if where != namespace:
                continue
            problem = Problem(f"Site/{name}", f"the controller of the cluster cannot serve namespace {namespace}: {error}", hint)
            status = custom_status(value, read_custom(value), {}, seen=False, problem=problem, date=_since(value, problem, self._clock))
            if status == value.get("status"):
                continue
            body = {"metadata": {"name": name, "uid": value["metadata"]["uid"]}, "status": status}
            try:
                await TurnClient(self._client, self._turns).call(apply(CUSTOM_KINDS["Site"], namespace, body, subresource="status"))
            except KubeError as refused:
                log.info("nor can it be said there", extra={"namespace": namespace, "reason": str(refused)})


def _keep_namespace(value: Object) -> bool:
    """Whether it is there to stay."""
    return not value["metadata"].get("deletionTimestamp")


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """Of those that ended together."""
    first: BaseException = group.subgroup(VanrouterError) or group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def _since(value: Object, problem: Problem, clock: Callable[[], float]) -> str:
    conditions = (value.get("status") or {}).get("conditions") or []
    alike = [c for c in conditions if c.get("type") == "Ready" and c.get("message") == problem.message]
    return str(alike[0].get("lastTransitionTime")) if alike else rfc3339(clock())
