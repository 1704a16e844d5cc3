"""
The loop of the controller: copies in, decisions, writes out. One task decides and writes; nothing else writes but redemptions.

    watches, routers, deadlines ──wake──▶ one pass: keys ▸ link access ▸ ports ▸ Services ▸ view ▸ status ▸ answers
                                                     each step writes only what differs from the copy

A step that fails is logged, shown in the site's status, and tried again; the others go on. When the Site is gone, what was taken over is
given back, and the process ends: whoever started it starts it again, and it waits for a Site.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import trio

import vanrouter
from vanrouter.controller.access import LinkAccess, Reached
from vanrouter.controller.answers import Answerer, answer_requests
from vanrouter.controller.attached import needs_the_cluster
from vanrouter.controller.copies import Copies
from vanrouter.controller.custom_statuses import CustomStatuses
from vanrouter.controller.entrance_watch import EntranceWatch
from vanrouter.controller.granting import Granting, tokens_in_maps
from vanrouter.controller.issuing import Issuing, grant_docs
from vanrouter.controller.keys import compose_keys
from vanrouter.controller.making import Making
from vanrouter.controller.redeeming import Redeeming, credentials_in
from vanrouter.controller.routers import Routers
from vanrouter.controller.services import ServicePlan, give_back, is_taken
from vanrouter.controller.shared import Chore, Look, Shared, watches_of
from vanrouter.controller.start import controller_leaf, establish_keys, put_back_keys
from vanrouter.controller.view import ViewKeeper
from vanrouter.controller.workloads import Workloads
from vanrouter.controller.writing import Statuses, Wishes, told_endpoints, wished, write_router_map
from vanrouter.errors import VanrouterError
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Call, Object
from vanrouter.kube.channel import CONTROL_PORT, Leaf, Served, serve_channels
from vanrouter.kube.client import KubeClient
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.kinds import CONFIG_MAPS, SECRETS, SERVICES
from vanrouter.kube.ledger import SecretLedger
from vanrouter.kube.names import KEYS, KEYS_SECRET, RESOURCE, SERVICES_MAP, STATUS, TYPE, resource_map
from vanrouter.kube.plan import most_connections
from vanrouter.kube.records import Records, owner_of
from vanrouter.kube.state import files_in, secret_of
from vanrouter.kube.turns import TurnClient
from vanrouter.pki.authority import LEAF_LIFETIME, van_name
from vanrouter.resources import Resource
from vanrouter.resources.kinds import (
    TOKEN_VALUE,
    AttachedConnector,
    AttachedConnectorBinding,
    Connector,
    Link,
    Listener,
    MultiKeyListener,
    Secret,
    Site,
)
from vanrouter.stores.resources import Loaded, Problem

__all__ = ["Controller"]

log: Final = logging.getLogger("vanrouter.controller")

SETTLE: Final = 0.02  # changes come in bunches
LONGEST_REST: Final = 2.0  # where others wait for their pass: as long as ours took
OVERDUE: Final = 0.25
AGAIN: Final = 1.0
GIVING_BACK: Final = 20.0  # what was taken over, when the Site is gone; the process ends after it
AGAIN_CAP: Final = 20.0
LONGEST: Final = 3600.0
RIGHTS: Final = 60.0  # a right that was taken away wakes nobody: it is looked for so often
PRUNE_EVERY: Final = 3600.0


class Controller:
    """``run`` it. ``name``: of the pod."""

    def __init__(
        self,
        client: KubeClient | TurnClient,
        blocking: BlockingClient,
        namespace: str,
        *,
        port: int = CONTROL_PORT,
        name: str = "",
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.time,
        leaf_lifetime: float = LEAF_LIFETIME,
        shared: Shared | None = None,
    ) -> None:
        """``shared``: what it has in common with those of other namespaces; then ``client`` is its turn, and no port is its own."""
        self._lifetime, self._shared = leaf_lifetime, shared
        self.namespace, self.name = namespace, name or socket.gethostname()
        self._blocking, self._port, self._rng, self._clock = blocking, port, rng or random.SystemRandom(), clock
        self._woken = trio.Event()
        watches, customs = watches_of(client, namespace, shared, wake=self.wake, rng=self._rng)
        more = shared.more if shared is not None else ()
        self.copies = Copies(client, namespace, watches=watches, customs=customs, wake=self.wake, more=more)
        self.routers = Routers(wake=self.wake, hello=lambda: {"controller": self.name, "version": vanrouter.__version__})
        self._workloads = Workloads(client, namespace, watches=watches, wake=self.wake)
        self._making = Making(self.copies, self._workloads)
        self._records = Records()
        self._plan = ServicePlan(namespace)
        self._view = ViewKeeper()
        self._access = LinkAccess(namespace)
        self._entrance = EntranceWatch(self.copies)
        self._statuses = Statuses(clock=clock)
        self._custom_statuses = CustomStatuses(clock=clock)
        self._wishes = Wishes()
        self._owners: tuple[Object, ...] = ()
        self._leaf: tuple[Leaf, float] | None = None
        self._keys_at = math.inf  # wall clock
        self._failing: dict[str, tuple[float, float]] = {}  # step -> (try again at, delay)
        self._grants: list[dict[str, Any]] | None = None
        self._prune_at = 0.0
        self.port = 0  # in which routers are served
        self._open_to: Callable[[Served], None] = lambda _: None
        self._connections = 0  # at most, of routers

    def wake(self) -> None:
        self._woken.set()

    @property
    def has_site(self) -> bool:
        return bool(self._owners)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until the Site is gone, or cancelled. ``started`` when routers are served."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.copies.run)
            nursery.start_soon(self._workloads.run)
            site = await self._wait_for_site()
            self._owners = self._owners_of(site)
            self.keys = await establish_keys(self._blocking, self.namespace, site.name, self._owners, now=self._clock())
            self._access.name = van_name(self.keys.site_id)
            ledger = SecretLedger(self._blocking, self.namespace, owners=self._owners)
            self._issuing = Issuing(ledger, self.keys, site.name, clock=self._clock, leaf_lifetime=self._lifetime)
            self._issuing.changed = self._forget_grants
            self._granting = Granting(self._issuing, self.copies, self.keys.site_id, clock=self._clock)
            self.routers.join = self._issuing.join
            self._redeeming = Redeeming(self.copies, self.keys, site.name, rng=self._rng, clock=self._clock)
            self._answerer = Answerer(self._issuing, self.routers)
            log.info("controller runs", extra={"namespace": self.namespace, "site": site.name, "site_id": self.keys.site_id})
            with self._place() as self._open_to:
                await self._work(nursery, task_status)
            nursery.cancel_scope.cancel()

    # ---- The loop ------------------------------------------------------------------------------------------------------------------------

    async def _work(self, nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        served = False
        while True:
            self._woken, began = trio.Event(), trio.current_time()
            try:
                if not await self._pass(nursery):
                    return
            except Exception:  # the next change, or the next try, goes on
                log.exception("a bug in the controller")
                self._failing["pass"] = (trio.current_time() + AGAIN_CAP, AGAIN_CAP)
            else:
                self._failing.pop("pass", None)
            if not served:  # routers that are connected find their keys
                await self._serve(nursery)
                task_status.started()
                served = True
            took = trio.current_time() - began
            with trio.move_on_at(self._deadline()):
                await self._woken.wait()
            await trio.sleep(SETTLE if self._shared is None else min(max(SETTLE, took), LONGEST_REST))

    async def _pass(self, nursery: trio.Nursery) -> bool:
        """Whether there is still a Site."""
        loaded = self._load()
        sites = [r.resource for r in loaded.resources.values() if isinstance(r.resource, Site)]
        site = next((site for site in sites if self._owners_of(site) == self._owners), None) or self._own_site()
        if site is None:
            if self.copies.current(CONFIG_MAPS) and self.copies.customs.current:
                await self._give_all_back()
                return False
            return True
        self._connections = most_connections(site)
        loaded.problems.extend(_second(other, site) for other in sites if other is not site)
        resources = [located.resource for located in loaded.resources.values()]
        loaded.problems.extend([*self._unattached(resources), *tokens_in_maps(loaded.resources.values())])
        links = [r for r in resources if isinstance(r, Link)]
        tokens = {r.name: r for r in resources if isinstance(r, Secret) and r.is_token}
        given = {r.name: r for r in resources if isinstance(r, Secret) and not r.is_token}
        await self._step("what is in front of the link access", lambda: self._entrance.look(site.spec))
        reached = self._look_at_access(site)
        self._issuing.set_endpoints(reached.endpoints)
        self._issuing.condition = reached.condition
        self._issuing.refused_sites = frozenset(site.spec.refused_sites)
        self._wishes = wished(
            resources, site.spec, self.routers, self._wishes, self._router_map(), now=trio.current_time(), all_seen=self._sees_listeners()
        )
        document = self.routers.document()

        for chore in self._chores:
            await self._step(chore.name, functools.partial(chore.do, Look(self.copies, site, resources, document, self._owners)))
        await self._step("identity", lambda: put_back_keys(self.copies, self.keys, self._owners))
        named = [r.spec.tls_credentials for r in resources if isinstance(r, Listener | MultiKeyListener | Connector)]
        await self._step("keys", lambda: self._write_keys(reached, links, given, named))
        await self._step("link access", lambda: self._write_access(reached))
        await self._step("ports", lambda: self._write_router_map(reached, document))
        await self._step("services", self._write_services)
        if document:
            known = document.get("services") or []
            await self._step("annotations", lambda: self._making.write(resources, known, self._owners))
            connectors = [r for r in resources if isinstance(r, Connector)]
            await self._step("view", lambda: self._write_view(connectors, known))
        located = loaded.resources.values()
        broken = {problem.path for problem in loaded.problems}
        await self._step("access grants", lambda: self._granting.look(located, lambda: self._records.stamps, broken))
        await self._step("status", lambda: self._write_status(document, reached, loaded, site))
        await self._step("answers", lambda: answer_requests(self.copies, self._answerer, nursery, clock=self._clock))
        await self._step("grants", self._prune)
        self._redeeming.look(nursery, tokens, owners=self._owners, resources=located)
        await self._step("credentials", lambda: self._redeeming.clean(links, now=trio.current_time()))
        return True

    async def _step(self, what: str, do: Callable[[], Awaitable[object]]) -> None:
        now = trio.current_time()
        at, delay = self._failing.get(what, (0.0, 0.0))
        if now < at:
            return
        try:
            await do()
        except VanrouterError as exc:
            delay = min(max(AGAIN, delay * 2), AGAIN_CAP)
            self._failing[what] = (now + delay * self._rng.uniform(0.5, 1.0), delay)
            self._statuses.problem(what, exc)
            log.warning("step failed", extra={"step": what, "reason": str(exc), "hint": exc.hint})
        except Exception as exc:
            self._failing[what] = (now + AGAIN_CAP, AGAIN_CAP)
            log.exception("a bug in the controller", extra={"step": what, "reason": repr(exc)})
        else:
            self._failing.pop(what, None)
            self._statuses.problem(what, None)

    def _deadline(self) -> float:
        now, wall = trio.current_time(), self._clock()
        leaf = self._leaf[1] if self._leaf else math.inf
        later = min(self._keys_at, self._redeeming.deadline, self._granting.deadline, self._prune_at, leaf) - wall
        times = [
            now + min(max(later, 0.05), LONGEST),
            now + RIGHTS,
            self._wishes.deadline,
            self._access.deadline,
            self._entrance.deadline,
            self._statuses.deadline,
            self._custom_statuses.deadline,
            self._redeeming.clean_at,
            self._plan.deadline(now),
            self._view.deadline(now),
            self.copies.deadline,
            *(chore.deadline for chore in self._chores),
        ]
        times += [at for at, _ in self._failing.values()]
        times.append(self.routers.deadline)
        # One that is over was not met in this pass, because its step waits for something: it is looked at again, and not all the time.
        return max(min(at if at > now else now + OVERDUE for at in times), now + SETTLE)

    # ---- Reading -------------------------------------------------------------------------------------------------------------------------

    def _load(self) -> Loaded:
        maps, secrets = self.copies.of(CONFIG_MAPS).values(), self.copies.of(SECRETS).values()
        return self._records.feed(
            [m for m in maps if _type(m) == RESOURCE],
            [s for s in secrets if _type(s) in (RESOURCE, TOKEN_VALUE)],
            statuses=[m for m in maps if _type(m) == STATUS],
            customs=self.copies.customs.objects.values(),
        )

    async def _wait_for_site(self) -> Site:
        told = False
        while True:
            self._woken = trio.Event()
            found = [r.resource for r in self._load().resources.values() if isinstance(r.resource, Site)]
            if found:  # of several the one that `van init` wrote
                return min(found, key=lambda s: (self._owners_of(s)[0]["name"] != resource_map("Site", s.name), s.name))
            if not told:
                log.info("waiting for a Site", extra={"namespace": self.namespace})
                told = True
            await self._woken.wait()

    def _own_site(self) -> Site | None:
        """That for which we run, while its object is there: another one that comes takes nothing over."""
        owner = self._owners[0]
        if owner["kind"] == "Site":
            where = f"{CUSTOM_KINDS['Site'].resource}/{owner['name']}"
            unit = self._records.custom(where)
            resources = unit.resources if unit is not None else []
        else:
            where, resources = f"ConfigMap/{owner['name']}", self._records.resources_in(owner["name"])
        if self._records.stamps.get(where, ("", ""))[0] != owner["uid"]:
            return None
        return next((r for r in resources if isinstance(r, Site)), None)

    def _owners_of(self, site: Site) -> tuple[Object, ...]:
        return owner_of(site, self._records)

    def _sees_listeners(self) -> bool:
        return not {CUSTOM_KINDS[kind].resource for kind in ("Listener", "MultiKeyListener")} & set(self.copies.customs.unseen)

    def _router_map(self) -> Object | None:
        return self.copies.get(CONFIG_MAPS, "van-router")

    def _look_at_access(self, site: Site) -> Reached:
        told = told_endpoints(self._router_map())
        service = self.copies.get(SERVICES, "van-router")
        return self._access.look(site.spec, service, owners=self._owners, now=trio.current_time(), seen=self._entrance.seen(told))

    # ---- Steps ---------------------------------------------------------------------------------------------------------------------------

    async def _write_keys(self, reached: Reached, links: list[Link], given: dict[str, Secret], named: list[str]) -> None:
        secrets = self.copies.of(SECRETS)
        current = files_in(secrets[KEYS_SECRET]) if KEYS_SECRET in secrets else {}
        credentials = credentials_in(secrets, links, given, named=named)
        hosts = [host for host, _ in reached.endpoints]
        made = compose_keys(current, self.keys, hosts=hosts, credentials=credentials, now=self._clock(), lifetime=self._lifetime)
        self._keys_at = made.look_at
        await self.copies.ensure(SECRETS, secret_of(KEYS_SECRET, KEYS, made.files, owners=self._owners), fenced=True)
        self._statuses.leaf = made.dates

    async def _write_access(self, reached: Reached) -> None:
        if reached.service is not None:
            await self.copies.ensure(SERVICES, reached.service)
            for kind, value in reached.fronts:
                await self.copies.ensure(kind, value)
        elif reached.condition is None and _type(self.copies.get(SERVICES, "van-router") or {}) == "access":
            await self.copies.remove(SERVICES, "van-router")

    async def _write_router_map(self, reached: Reached, document: dict[str, Any]) -> None:
        await write_router_map(self.copies, self._wishes, reached, self._owners, document=document, now=trio.current_time())

    async def _write_services(self) -> None:
        services = self.copies.of(SERVICES)
        wanted = self._wishes.services(self._router_map())
        current = self.copies.current(SERVICES) and self.copies.current(CONFIG_MAPS) and self.copies.customs.current
        calls = self._plan.calls(wanted, services, owners=self._owners, current=current, now=trio.current_time())
        self._statuses.notes, self._statuses.remarks = dict(self._plan.notes), dict(self._plan.remarks)
        await self._send_all(calls)

    async def _write_view(self, connectors: list[Connector], services: list[dict[str, Any]]) -> None:
        view = self._view.view(connectors, services, self._owners)
        if self._view.may_write(view, self.copies.of(CONFIG_MAPS).get(SERVICES_MAP), now=trio.current_time()):
            await self.copies.ensure(CONFIG_MAPS, view)

    async def _send_all(self, calls: list[Call]) -> None:
        await self.copies.each(calls, self.copies.send)

    async def _write_status(self, document: dict[str, Any], reached: Reached, loaded: Loaded, site: Site) -> None:
        if self._grants is None:
            self._grants = grant_docs(await self._issuing.grants())
        problems = [
            *loaded.problems,
            *self.copies.customs.problems,
            *self._redeeming.problems.values(),
            *self._granting.problems,
            *self._making.problems,
            *self._view.problems(trio.current_time()),
            *self.copies.quarrels,
            *self.copies.troubles,
            *(problem for chore in self._chores for problem in chore.problems),
        ]
        await self._statuses.write(
            self.copies,
            self._records,
            document,
            reached,
            site=site,
            grants=self._grants,
            problems=problems,
            name=self.name,
            routers=self.routers,
            root=self._owners[0],
        )
        await self._custom_statuses.write(
            self.copies,
            self._records,
            self._statuses.whole or document,
            problems=loaded.problems,
            notes=self._statuses.notes,
            since=self._statuses.since,
            own={**self._granting.said, **self._redeeming.said},
            told=None if self._shared is None else {key: said for chore in self._chores for key, said in chore.said.items()},
        )

    async def _prune(self) -> None:
        if self._clock() >= self._prune_at:
            self._prune_at = self._clock() + PRUNE_EVERY
            if await self._issuing.prune():
                self._forget_grants()

    async def _give_all_back(self) -> None:
        """One that somebody writes at the same moment is decided anew, on what the watch brings."""
        log.info("the Site is gone", extra={"namespace": self.namespace})
        why = "somebody writes them all the time"
        with trio.move_on_after(GIVING_BACK):
            while taken := [s for s in self.copies.of(SERVICES).values() if is_taken(s)]:
                self._woken = trio.Event()
                try:
                    await self._send_all([call for s in taken if (call := give_back(self.namespace, s)[0]) is not None])
                except VanrouterError as exc:
                    why = str(exc)
                with trio.move_on_after(AGAIN):
                    await self._woken.wait()
                await trio.sleep(SETTLE)
        if left := [s["metadata"]["name"] for s in self.copies.of(SERVICES).values() if is_taken(s)]:
            log.warning("not all Services were given back", extra={"services": left, "reason": why, "hint": "run: van delete"})

    def _forget_grants(self) -> None:
        self._grants = None
        self.wake()

    @property
    def _chores(self) -> Sequence[Chore]:
        return self._shared.chores if self._shared is not None else ()

    def _unattached(self, resources: Iterable[Resource]) -> Iterator[Problem]:
        """What only a controller of the whole cluster can do."""
        for resource in resources:
            if isinstance(resource, AttachedConnector | AttachedConnectorBinding) and self._shared is None:
                yield needs_the_cluster(resource)

    # ---- Routers -------------------------------------------------------------------------------------------------------------------------

    def _place(self) -> contextlib.AbstractContextManager[Callable[[Served], None]]:
        """Raises ConfigError where another namespace has the very site."""
        if self._shared is None:
            return contextlib.nullcontext(self._open_to)
        return self._shared.door.place(self.namespace, van_name(self.keys.site_id))

    async def _serve(self, nursery: trio.Nursery) -> None:
        if self._shared is not None:
            routers = self.routers
            self._open_to(Served(self._shown, routers.handle, routers.changed, routers.refused, most=lambda: self._connections))
            return
        listeners = await trio.open_tcp_listeners(self._port)
        self.port = listeners[0].socket.getsockname()[1]
        routers = self.routers
        serve = functools.partial(serve_channels, listeners, self._shown, routers.handle, changed=routers.changed, refused=routers.refused)
        nursery.start_soon(serve)

    def _shown(self) -> Leaf:
        if self._leaf is None or self._clock() >= self._leaf[1]:
            self._leaf = controller_leaf(self.keys, now=self._clock(), lifetime=self._lifetime)
        return self._leaf[0]


def _second(other: Site, site: Site) -> Problem:
    text = f"{other.ref} is not in force: this namespace is site {site.name}"
    return Problem(f"{other.ref}: metadata.name", text, "a namespace is one site: remove one of them")


def _type(value: Object) -> str:
    return str(((value.get("metadata") or {}).get("labels") or {}).get(TYPE, ""))
