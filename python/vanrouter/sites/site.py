"""
A running site: its parts, the tasks that drive them, and the order in which they start and end.

    plane                                                  ends last: lanes closed with GOAWAY, streams reset
      └ visitors                                           each bounded in time
          └ events, timers, watch, names, renewals         what is decided goes to the plane from here
                                                           ends first

Stopping: leave (others are preferred) ▸ grace ▸ refuse (no new streams) ▸ drain until nothing is left or the deadline ▸ say goodbye ▸ end.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from vanrouter.addresses import LocalConnector
from vanrouter.addresses.table import SYNC_LINGER
from vanrouter.conditions import Conditions
from vanrouter.errors import ConfigError, StoreError
from vanrouter.plane import (
    AccessState,
    AnyEvent,
    ConnectorState,
    DialResult,
    Incoming,
    InForce,
    LinkState,
    Listener,
    ListenerState,
    Message,
    MessagesReset,
    Ref,
    StreamEnd,
    Visitor,
)
from vanrouter.resources import to_yaml
from vanrouter.sites.accesses import Accesses
from vanrouter.sites.app_tls import AppTls
from vanrouter.sites.bench import Bench
from vanrouter.sites.context import Context
from vanrouter.sites.insight import Insight
from vanrouter.sites.joining import Joining
from vanrouter.sites.leaving import Leaving
from vanrouter.sites.links import Links
from vanrouter.sites.logs import AccessLog
from vanrouter.sites.services import Services
from vanrouter.sites.starting import Starting
from vanrouter.sites.wanted import InNamespace, Wanted, compute_wanted
from vanrouter.stores.resources import Loaded, Problem

if TYPE_CHECKING:
    from vanrouter.kube.feeder import Fed

__all__ = ["RunningSite"]

log = logging.getLogger("vanrouter.sites")

SHORTEST_SLEEP: Final = 0.002  # a deadline that is not met by being handled must not spin
GOODBYE: Final = 0.2  # how long the last messages have to leave
DRAIN_POLL: Final = 0.05
INCOMING_WAITING: Final = 128


def _order(event: AnyEvent) -> int:
    """Who reached whom, then that there is a link, then what is said on it: messages of an unknown link would be lost."""
    return 0 if isinstance(event, DialResult) else 1 if isinstance(event, LinkState) else 2


@contextlib.contextmanager
def _bugs(what: str) -> Iterator[None]:
    """A bug of ours in one event or one change is logged, and costs nothing else: the data plane goes on with what it has."""
    try:
        yield
    except Exception:
        log.exception("a bug in the control plane", extra={"doing": what})


class _Stop(msgspec.Struct):
    grace: float
    drain: float


class RunningSite:
    """Make it, then ``run`` it. Everything else may be called while it runs, from tasks of the same trio loop."""

    def __init__(self, context: Context, loaded: Loaded, *, inherited: Iterable[Listener] = (), measured: bool = False) -> None:
        """``inherited``: the automatic listeners of a predecessor, kept until the sites that they come from are linked again. ``measured``:
        `van bench` may be used on it."""
        self.context = context
        self._inherited = [entry.name for entry in inherited]
        self._inherited_until = context.now() + SYNC_LINGER if self._inherited else math.inf
        context.forwarding.change(put=inherited)
        self.loaded = loaded
        self.wanted: Wanted = compute_wanted(loaded.resources, edge=context.edge, within=self._within(), site=context.site_name)
        self.conditions = Conditions()
        self.accesses = Accesses(context)
        self.links = Links(context)
        self.app_tls = AppTls(context)
        self.joining = Joining(context, self.accesses, stored=self._credential_stored)
        self.joining.start()
        self.services = Services(context, self.wanted.site_spec)
        self.insight = Insight(self)
        self.bench = Bench(self)
        self._measured = measured
        self._stop = _Stop(context.timing.grace, context.timing.drain)
        self._stopping = trio.Event()
        self._refused = False
        self._has_successor = False
        self._writers = trio.CancelScope()  # what may write to the directory: ends when leaving begins
        self._faults: dict[tuple[str, str], tuple[str, float]] = {}
        self._store_problem: Problem | None = None
        self._embedded: dict[str, trio.MemorySendChannel[Incoming]] = {}
        self._tokens: set[str] = set()  # of the resources: being redeemed
        self._background: trio.Nursery | None = None
        self._writing: trio.Nursery | None = None
        self._announced = False
        self.refused_sites: frozenset[str] = frozenset()
        self._access_log = AccessLog()
        self._starting = Starting(self, now=context.now()) if context.in_pod is not None else None

    # ---- Running -------------------------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> bool:
        """Until stopped. True: every stream had ended by then."""
        async with trio.open_nursery() as planes:
            await planes.start(self.context.plane.run)
            async with trio.open_nursery() as visitors:
                async with trio.open_nursery() as control:
                    self._background = visitors
                    for task in (self._events, self._timers, self.context.names.run, self.services.probes.run, self._write):
                        control.start_soon(task)
                    if self._measured:
                        control.start_soon(self.bench.run)
                    self.reconcile()
                    task_status.started()
                    await self._stopping.wait()
                    is_clean = await self._drain()
                    control.cancel_scope.cancel()
                visitors.cancel_scope.cancel()
            self._background = None
            self.joining.close()
            planes.cancel_scope.cancel()
        return is_clean

    def stop(self, *, grace: float | None = None, drain: float | None = None) -> None:
        """Begin to leave. Said again, it can only become shorter."""
        if self._stopping.is_set():
            self._stop.grace = min(self._stop.grace, math.inf if grace is None else grace)
            self._stop.drain = min(self._stop.drain, math.inf if drain is None else drain)
            return
        self._stop.grace = self._stop.grace if grace is None else grace
        self._stop.drain = self._stop.drain if drain is None else drain
        log.info("leaving", extra={"grace": self._stop.grace, "drain": self._stop.drain})
        now = self.context.now()
        self.conditions.set("Ready", "False", "Leaving", "this router is leaving; its streams go on until the deadline", now=now)
        self.context.plane.leave()
        self.services.set_draining()
        self._writers.cancel()
        self._stopping.set()

    def give_way(self, *, drain: float | None = None) -> None:
        """A successor has our sockets: what is new is its from now on. Other sites are not told that this router ends, so that they keep
        the listeners for what it offered until the successor offers it."""
        self._has_successor = True
        self.accesses.close()  # first: who hears that we leave dials at once, and is to find the successor
        self.stop(grace=0.0, drain=drain)
        self.refuse()

    @property
    def leaving(self) -> bool:
        return self._stopping.is_set()

    def refuse(self) -> None:
        """The end of the grace: no new streams. Said again, nothing happens."""
        if not self._refused:
            self._refused = True
            self.context.plane.set_ready(False)
            self.context.plane.refuse()

    def _streams(self) -> int:
        """What would be cut if this router ended now: streams of its own applications, and those that cross it."""
        counters = self.context.plane.counters()
        return counters.streams_open + counters.transit_open

    def _another_is_ready(self) -> bool:
        in_pod = self.context.in_pod
        return in_pod is not None and any(pod.ready for pod in in_pod.others())

    async def _drain(self) -> bool:
        start = self.context.now()
        leaving = Leaving(now=start)
        while not leaving.is_over(now=self.context.now(), grace=self._stop.grace, another_is_ready=self._another_is_ready()):  # noqa: ASYNC110
            await trio.sleep(min(DRAIN_POLL, self._stop.grace))
        self.refuse()
        start = self.context.now()
        while (left := self._streams()) and self.context.now() < start + self._stop.drain:  # noqa: ASYNC110
            await trio.sleep(DRAIN_POLL)
        self.links.stop()
        if self.links.states and not self._has_successor:
            self.services.leave()
            await trio.sleep(GOODBYE)
        if left:
            log.warning("streams were cut at the deadline", extra={"streams": left, "drain": self._stop.drain})
        return not left

    # ---- What is wanted ------------------------------------------------------------------------------------------------------------------

    def reconcile(self) -> list[Problem]:
        """Read the resources and hand what changed to the parts. Doing it twice changes nothing."""
        try:
            self.loaded = self.context.home.resources.load()
            self._store_problem = None
        except StoreError as exc:
            self._store_problem = Problem(str(self.context.home.resources.directory), str(exc), exc.hint)
        wanted = compute_wanted(self.loaded.resources, edge=self.context.edge, within=self._within(), site=self.context.site_name)
        if wanted.site is None:
            # The site's own resource is gone or was never good: what it said stays in force.
            wanted.problems.append(Problem("Site", "there is no Site among the resources; the last one stays in force", "put it back"))
            wanted.site, wanted.accesses = self.wanted.site, {**self.wanted.accesses, **wanted.accesses}
        elif wanted.site.name != self.context.site_name:
            text = f"the name changed to {wanted.site.name}; this router started as {self.context.site_name} and keeps that name"
            wanted.problems.append(Problem(f"{wanted.site.ref}: metadata.name", text, "restart the router to take the new name"))
        if wanted.site is not None and wanted.site.spec.edge != self.context.edge:
            kind = "an edge" if self.context.edge else "an interior"
            text = f"spec.edge changed; this router started as {kind} and stays that"
            wanted.problems.append(Problem(f"{wanted.site.ref}: spec.edge", text, "restart the router to change it"))
        self.wanted = wanted
        self.accesses.reconcile(wanted.accesses, wanted.secrets)
        self._refuse_sites(wanted)
        self.app_tls.reconcile(wanted)
        self.services.reconcile(wanted.site_spec, wanted.listeners, wanted.connectors, self.accesses.reserved())
        self.app_tls.settle()
        self.context.forwarding.begin()
        self.links.reconcile(wanted.links, wanted.secrets)
        for state in self.links.states.values():
            self.services.handle(self.links.priced(state))
        self.services.flush()
        self._redeem_tokens()
        self._describe()
        return self.problems()

    def _refuse_sites(self, wanted: Wanted) -> None:
        """Cut the links of sites that are refused now, and keep them out: no lane, no certificate, and nothing that they advertise."""
        refused = frozenset(wanted.site_spec.refused_sites)
        if self.context.keys.site_id in refused:
            text = "refusedSites names this very site; that counts for nothing"
            wanted.problems.append(Problem("Site: spec.refusedSites", text, "take it out: van status -o json shows the id of this site"))
            refused -= {self.context.keys.site_id}
        if refused == self.refused_sites:
            return
        self.refused_sites = self.joining.refused_sites = refused
        self.context.plane.set_refused(sorted(refused))
        self.services.set_refused(refused)
        for router in list(self.links.states):
            self._cut_if_refused(router)
        self.links.set_refused(refused)

    def _cut_if_refused(self, router: str) -> bool:
        if router.partition("/")[0] not in self.refused_sites:
            return False
        log.warning("the link of a refused site is cut", extra={"router": router})
        self.context.plane.cut(router, "this site is refused here")
        return True

    def _within(self) -> InNamespace | None:
        in_pod = self.context.in_pod
        if in_pod is None:
            return None
        siblings = {pod.name: pod.address for pod in in_pod.siblings()}
        site_id = str(self.context.keys.site_id)
        return InNamespace(any_host=in_pod.any_host, link_port=in_pod.link_port, pods=in_pod.pods, siblings=siblings, site_id=site_id)

    def fed(self, fed: Fed) -> None:
        """What the feeder of a pod wrote."""
        if self.context.in_pod is None or self._refused:
            return
        if fed.own:
            self.accesses.leaf_changed()
            self.links.leaf_changed()
        for name in fed.credentials:
            self._credential_stored(name)
        if fed.ports:
            self.context.in_pod.read()
            self.services.places_changed()
        with _bugs("reconcile"):
            self.reconcile()

    def problems(self) -> list[Problem]:
        stored = [self._store_problem] if self._store_problem is not None else []
        fault = self.services.faults.get(("Site", "serviceAddress"))
        address = [Problem("Site: spec.serviceAddress", fault.message, fault.next)] if fault is not None else []
        loaded = self.loaded.problems
        if (in_pod := self.context.in_pod) is not None:  # it names ConfigMaps and keys, where the files' names mean nothing to people
            feeder = in_pod.feeder
            loaded = [*feeder.problems, *feeder.customs.problems, *([feeder.problem] if feeder.problem is not None else [])]
            loaded += in_pod.problems()
            loaded += [Problem("API server", text, "what was heard before stays in force") for text in feeder.troubles()]
        return [*stored, *loaded, *self.wanted.problems, *self.app_tls.problems(), *address, *self.joining.problems.values()]

    def fault_since(self, kind: str, name: str) -> float:
        reason, now = f"{self.wanted.faults.get((kind, name))}{self.services.faults.get((kind, name))}", self.context.now()
        known = self._faults.get((kind, name))
        if known is None or known[0] != reason:
            self._faults[kind, name] = known = (reason, now)
        return known[1]

    def _redeem_tokens(self) -> None:
        for ref in [r for r in self.joining.problems if r and r not in self.wanted.tokens]:
            del self.joining.problems[ref]
        for ref, secret in self.wanted.tokens.items():
            text = to_yaml(secret)
            if text not in self._tokens and self._writing is not None:
                self._tokens.add(text)
                self._writing.start_soon(self.joining.redeem_resource, ref, text)

    def _credential_stored(self, name: str) -> None:
        self.links.credential_changed(name)
        self.services.admissions_changed()
        self.context.wanted.wake()

    # ---- Tasks ---------------------------------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Everything that writes to the directory: a successor may own it as soon as we leave."""
        with self._writers:
            async with trio.open_nursery() as nursery:
                self._writing = nursery
                nursery.start_soon(self._watch)
                if self.context.in_pod is None:  # else the controller renews and redeems
                    nursery.start_soon(self.joining.run_renewals)
                    nursery.start_soon(self.joining.resume)
                self._redeem_tokens()

    async def _watch(self) -> None:
        while True:
            with trio.move_on_after(self.context.timing.poll_resources) as waiting:
                await self.context.wanted.wait_until(math.inf)
            if not waiting.cancelled_caught or self.context.home.resources.changed():
                with _bugs("reconcile"):
                    self.reconcile()

    async def _timers(self) -> None:
        while True:
            self.context.timers.clear()
            deadline = min(self.links.deadline, self.services.deadline, self.accesses.deadline, self._inherited_until)
            if self._starting is not None:
                deadline = min(deadline, self._starting.deadline)
            await self.context.timers.wait_until(max(deadline, self.context.now() + SHORTEST_SLEEP))
            with _bugs("timers"):
                self.links.handle_timeout()
                self.accesses.handle_timeout()
                self.services.handle_timeout()
                self.services.flush()
                if self.context.now() >= self._inherited_until:
                    self._disinherit()
                if self._starting is not None and not self._starting.is_over:
                    self._describe()

    def _disinherit(self) -> None:
        """What no site came back for: nobody offers it any more."""
        known = {status.name for status in self.services.table.listener_statuses()}
        self.context.forwarding.change(drop=[Ref("listener", name) for name in self._inherited if name not in known])
        self._inherited, self._inherited_until = [], math.inf

    async def _events(self) -> None:
        while True:
            for event in sorted(await self.context.plane.next_events(), key=_order):
                with _bugs("event"):
                    self._handle(event)
            with _bugs("flush"):
                self.services.flush()
                self._describe()

    def _handle(self, event: AnyEvent) -> None:
        match event:
            case StreamEnd():
                self._access_log.log(event, now=self.context.now())
            case Message():
                if not self.insight.handle_message(event):
                    self.services.handle_message(event)
                    for site, endpoints in self.services.exchange.take_endpoints():
                        self.links.learn(site, endpoints)
            case LinkState():
                self.links.handle_link_state(event)
                if not (event.lanes and self._cut_if_refused(event.router)):
                    self.services.handle(self.links.priced(event))
            case InForce() | ListenerState() | ConnectorState() | MessagesReset():
                self.services.handle(event)
            case DialResult():
                self.links.handle_dial_result(event)
            case AccessState():
                self.accesses.handle_access_state(event)
            case Visitor():
                self._receive(event)
            case Incoming():
                self._deliver(event)

    def _receive(self, visitor: Visitor) -> None:
        if self._background is not None:
            self._background.start_soon(self._serve_visitor, visitor)

    async def _serve_visitor(self, visitor: Visitor) -> None:
        with _bugs("visitor"):
            await self.joining.receive(visitor, self._takes_what_is_new)

    # ---- How it is -----------------------------------------------------------------------------------------------------------------------

    def is_ready(self) -> bool:
        ready = self.conditions.get("Ready")
        return ready is not None and ready.status == "True"

    def _takes_what_is_new(self) -> bool:
        """What probes see: as `is_ready`; one that leaves is ready for as long as it serves, so that nobody is led to no router at all."""
        return self._announced and not self._refused if self.leaving else self.is_ready()

    def _describe(self) -> None:
        now, forwarding = self.context.now(), self.context.forwarding
        self._describe_names(now)
        access = self.accesses.condition()
        if access is not None:
            self.conditions.set("LinkAccess", access.status, access.reason, access.message, now=now, next=access.next)
        elif self.conditions.get("LinkAccess") is not None:
            self.conditions.set("LinkAccess", "True", "None", "this site has no link access", now=now)
        if self.leaving:
            return
        if not forwarding.in_force:
            self.conditions.set("Ready", "False", "Starting", "the data plane has not taken the configuration yet", now=now)
        elif access is not None and access.status != "True" and access.reason != "AdmitsNobody":
            self.conditions.set("Ready", "False", f"LinkAccess{access.reason}", access.message, now=now, next=access.next)
        elif self._starting is not None and (why := self._starting.waits_for(now)):
            self.conditions.set("Ready", "False", "Starting", why, now=now)
        else:
            self.conditions.set("Ready", "True", "Ready", f"site {self.context.site_name} is ready", now=now)
        if self.is_ready() != self._announced:
            self._announced = self.is_ready()
            self.context.plane.set_ready(self._announced)
            log.info("site is ready" if self._announced else "site is not ready", extra={"site": self.context.site_name})

    def _describe_names(self, now: float) -> None:
        """Two sites of one name work, because ids are identity; people mix them up."""
        ids: dict[str, set[str]] = {self.context.site_name: {self.context.keys.site_id}}
        for site_id, name in self.services.table.site_names().items():
            ids.setdefault(name, set()).add(site_id)
        twice = sorted(name for name, sites in ids.items() if len(sites) > 1)
        if twice:
            whose = "this site and another one of the network" if self.context.site_name in twice else "two sites of the network"
            name = self.context.site_name if self.context.site_name in twice else twice[0]
            who = ", ".join(sorted(i[:12] for i in ids[name]))
            text = f"{whose} are both called {name} (ids {who}); everything works, but people may mix them up"
            self.conditions.set("UniqueName", "False", "DuplicateName", text, now=now, next="create one of them anew under another name")
        elif self.conditions.get("UniqueName") is not None:
            self.conditions.set("UniqueName", "True", "Unique", "no other site has this name", now=now)

    # ---- Embedding -----------------------------------------------------------------------------------------------------------------------

    def serve(self, routing_key: str, *, name: str = "") -> trio.MemoryReceiveChannel[Incoming]:
        """Streams for ``routing_key`` come here until ``unserve``."""
        name = name or f"embedded-{routing_key}"
        if name in self._embedded:
            raise ConfigError(f"{routing_key} is served by this process already")
        receive = self.receive(name)
        self.services.embed(LocalConnector(name=name, routing_key=routing_key, embedded=True))
        return receive

    def receive(self, name: str) -> trio.MemoryReceiveChannel[Incoming]:
        """Streams of the embedded connector of that name."""
        send, receive = trio.open_memory_channel[Incoming](INCOMING_WAITING)
        self._embedded[name] = send
        return receive

    def unserve(self, routing_key: str, *, name: str = "") -> None:
        name = name or f"embedded-{routing_key}"
        channel = self._embedded.pop(name, None)
        if channel is not None:
            channel.close()
            self.services.unembed(name)

    def _deliver(self, incoming: Incoming) -> None:
        channel = self._embedded.get(incoming.connector)
        if channel is not None:
            with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                channel.send_nowait(incoming)
                return
        incoming.stream.reset("nobody takes this stream")
