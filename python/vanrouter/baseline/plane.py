"""
The pure-Python data plane: what ``vanrouter.plane.DataPlane`` promises, put together from the parts of this package.

    run ─┬─ doors: accept loops of listeners and accesses         apply ── entries ──▶ ports, links, connectors
         ├─ lanes and dials                                        events ─ mailbox ──▶ next_events
         └─ streams: one reader per application socket

Only one task tree calls it; nothing here is shared between threads.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable

import msgspec
import trio

from vanrouter.baseline.access import Doorkeeper
from vanrouter.baseline.app_tls import GaveWay, Legs
from vanrouter.baseline.books import OUR_CREDITS
from vanrouter.baseline.credit import Budget
from vanrouter.baseline.dialling import Dialler
from vanrouter.baseline.doors import Doors
from vanrouter.baseline.egress import serve_open
from vanrouter.baseline.embedded import EmbeddedStream
from vanrouter.baseline.far import LaneFar
from vanrouter.baseline.frame import DEFAULT_HOP_LIMIT, GoAwayCode, Open
from vanrouter.baseline.handshake import Hello, encode_hello
from vanrouter.baseline.lane import Lane, OwnRouter
from vanrouter.baseline.liveness import Others
from vanrouter.baseline.mailbox import Mailbox
from vanrouter.baseline.moves import FEATURE_MOVE
from vanrouter.baseline.moving import end_parked, leave_asked
from vanrouter.baseline.opening import RETRYABLE, Opening
from vanrouter.baseline.pump import SocketPump
from vanrouter.baseline.records import StreamRecord, Totals
from vanrouter.baseline.sockets import AbortWatch, AppSocket, tune
from vanrouter.baseline.stream import Stream
from vanrouter.baseline.table import Table
from vanrouter.baseline.targets import Search, Targets, keys_of
from vanrouter.baseline.trunk import Trunk
from vanrouter.errors import ConfigError, NoSuchKey, PeerRejected, StreamRefused, refusal
from vanrouter.model import RouterId, StreamClass, site_id_of_key, site_id_to_bytes
from vanrouter.plane import (
    Access,
    AnyEntry,
    AnyEvent,
    Changes,
    Connector,
    ConnectorState,
    Counters,
    Credential,
    Dial,
    Incoming,
    InForce,
    KeyWeight,
    Kind,
    Link,
    Listener,
    PlaneConfig,
    PlaneStream,
    Snapshot,
)

__all__ = ["BaselinePlane"]

logger = logging.getLogger("vanrouter.baseline")

DEFAULT_BUDGET = 128 * 1024 * 1024
MOST_INCOMING = 128
SOFTWARE = "vanrouter baseline"


class BaselinePlane:
    name = "baseline"

    def __init__(self, config: PlaneConfig, *, wall_clock: Callable[[], float] = time.time, rng: random.Random | None = None) -> None:
        self.config = config
        self.wall_clock = wall_clock
        site = site_id_of_key(config.identity_key)
        self.router = RouterId(site, config.boot)
        self.site_bytes = site_id_to_bytes(site)
        self.budget = Budget(config.memory_budget or _default_budget())
        self.totals = Totals()
        self.mailbox = Mailbox()
        self.mailbox.take_messages = self._take_messages
        self.dials: dict[int, Dialler] = {}
        self.is_refusing = False
        self.is_running = False
        self._is_leaving = False
        self._table = Table()
        self.legs = Legs(self, self._table)
        self._doors = Doors(self)
        self._trunks: dict[str, Trunk] = {}
        self._lanes: dict[Lane, None] = {}
        self._pumps: set[SocketPump] = set()
        self.targets = Targets(self._table, self._trunks, report=self.mailbox.put, rng=rng or random.Random())  # noqa: S311
        self.hop_limit = DEFAULT_HOP_LIMIT
        self._siblings: list[int] = []
        self._refused_sites: frozenset[str] = frozenset()
        self._is_ready = False
        self._targets_changed = trio.Event()

    # ---- DataPlane: running ------------------------------------------------------------------------------------------------------

    def adopt(self, host: str, port: int, fd: int) -> None:
        self._doors.adopt(host, port, fd)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.abort_watch = AbortWatch()
        self.doorkeeper = Doorkeeper(
            per_source=self.config.per_source_limit, handshakes_per_second=self.config.handshakes_per_second, now=trio.current_time()
        )
        try:
            async with trio.open_nursery() as self._nursery:
                self.is_running = True
                self.spawn(self.abort_watch.run)
                self.spawn(self._doors.run)
                task_status.started()
                await trio.sleep_forever()
        finally:
            # The lanes have said GOAWAY on their way out and reset their streams; the others are reset here.
            self.is_running = False
            for pump in list(self._pumps):
                pump.was_reset(StreamClass.DRAIN, "the router stops")
            self._doors.close()
            self.abort_watch.close()

    def spawn(self, run: Callable[..., Awaitable[object]], *args: object) -> None:
        """A task that lives as long as the plane. A bug in it is logged and costs nobody else anything."""
        self._nursery.start_soon(self._guard, run, args)

    @staticmethod
    async def _guard(run: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        try:
            await run(*args)
        except Exception:
            logger.exception("a task of the baseline plane failed")

    # ---- DataPlane: the forwarding state -------------------------------------------------------------------------------------------

    def apply(self, changes: Changes | Snapshot) -> None:
        difference = self._table.apply(changes)
        self.targets.changed([*difference.dropped, *difference.replaced, *difference.put])
        for entry in difference.dropped:
            self._drop(entry)
        for entry in sorted(difference.put, key=_puts_first):
            self._put(entry)
        if isinstance(changes, Snapshot):
            self._doors.drop_unclaimed()
        self._matches_changed()
        self.mailbox.put(InForce(generation=self._table.generation))

    def _drop(self, entry: AnyEntry) -> None:
        match entry:
            case Listener():
                self._doors.drop_listener(entry)
                self.totals.counters.by_listener.pop(entry.name, None)
            case Access():
                self._doors.drop_access(entry)
            case Connector():
                self.totals.counters.by_connector.pop(entry.name, None)
            case Link():
                for dialler in list(self.dials.values()):
                    dialler.cancel_if_for(entry.name)
                for lane in [lane for lane in self._lanes if lane.link == entry.name]:
                    lane.close(GoAwayCode.SHUTDOWN, "the link was removed")

    def _put(self, entry: AnyEntry) -> None:
        match entry:
            case Listener():
                self._doors.put_listener(entry)
            case Access():
                self._doors.put_access(entry)
            case Credential():
                self._doors.credential_changed(entry)
            case Connector():
                self.mailbox.put(ConnectorState(name=entry.name))

    def entry(self, kind: Kind, name: str) -> AnyEntry | None:
        return self._table.get(kind, name)

    def credential(self, name: str) -> Credential:
        entry = self._table.get("credential", name)
        if not isinstance(entry, Credential):
            raise ConfigError(f"there is no credential {name!r}")
        return entry

    # ---- DataPlane: links -----------------------------------------------------------------------------------------------------------

    def dial(self, dial: Dial) -> None:
        dialler = self.dials[dial.id] = Dialler(self, dial)
        self.spawn(dialler.run)

    def cancel_dial(self, id: int) -> None:
        dialler = self.dials.get(id)
        if dialler is not None:
            dialler.cancel()

    def send_message(self, router: str, data: bytes) -> bool:
        trunk = self._trunks.get(router)
        return trunk is not None and trunk.send_message(data)

    def cut(self, router: str, reason: str) -> None:
        trunk = self._trunks.get(router)
        for lane in list(trunk.lanes) if trunk else []:
            lane.close(GoAwayCode.POLICY, reason)

    def retire(self, link: str, host: str, port: int) -> None:
        for lane in list(self._lanes):
            if lane.link == link and lane.peer == (host, port):
                lane.retire()

    def set_ready(self, ready: bool) -> None:
        self._is_ready = ready

    def set_siblings(self, boots: list[int]) -> None:
        self._siblings = list(boots)

    def set_refused(self, sites: list[str]) -> None:
        self._refused_sites = frozenset(sites)

    def set_hop_limit(self, limit: int) -> None:
        if not 1 <= limit <= 255:
            raise ConfigError(f"a hop limit of {limit} is not in 1..255")
        self.hop_limit = limit

    def leave(self) -> None:
        self._is_leaving = True
        self._doors.share()
        for lane in self._lanes:
            lane.go_away(GoAwayCode.DRAIN, "the router is leaving")

    def refuse(self) -> None:
        self.is_refusing = self._is_leaving = True
        self._doors.close_listeners()
        for lane in self._lanes:
            lane.go_away(GoAwayCode.CLOSED, "the router takes no new streams")

    def listening_sockets(self) -> list[tuple[str, int, int]]:
        return self._doors.sockets()

    # ---- DataPlane: streams and events ---------------------------------------------------------------------------------------------

    async def connect(self, routing_key: str) -> PlaneStream:
        if self.is_refusing:
            raise StreamRefused("this router is leaving and opens no new streams", stream_class="drain")
        record = self._record(routing_key)
        stream = EmbeddedStream(routing_key=routing_key, source="", record=record, blames=StreamClass.CLIENT)
        try:
            failure = await Opening(self, Search(self.targets, [KeyWeight(routing_key)], "balanced"), stream).run()
        except BaseException:
            record.end(StreamClass.CLIENT, "connect was given up")
            raise
        if failure is not None:
            record.end(failure.stream_class, failure.reason)
            if failure.nobody_serves_it:
                raise NoSuchKey(f"no site that is reachable serves {routing_key!r}", hint="is there a connector with this routing key?")
            given = StreamClass.REFUSED if failure.stream_class in RETRYABLE else failure.stream_class
            raise refusal(f"{routing_key}: {failure.reason}", given.word)
        return stream

    async def next_events(self) -> list[AnyEvent]:
        return await self.mailbox.take()

    def counters(self) -> Counters:
        counters = self.totals.counters
        counters.bytes_granted = self.budget.granted
        counters.events_dropped = self.mailbox.dropped
        counters.by_link = {trunk.text: trunk.numbers() for trunk in self._trunks.values()}
        return msgspec.convert(msgspec.to_builtins(counters), Counters)

    def _take_messages(self) -> list[AnyEvent]:
        return [message for trunk in self._trunks.values() if trunk.inbox for message in trunk.take_messages()]

    # ---- For the parts: lanes (LaneEvents) -------------------------------------------------------------------------------------------

    def hello(self, credential: Credential, *, cost: int = 1, link_name: str = "") -> bytes:
        return encode_hello(
            Hello(
                identity_key=self.config.identity_key,
                statement=credential.statement,
                boot=self.config.boot,
                site_name=self.config.site_name,
                lanes_wanted=self._lanes_wanted,
                credits=OUR_CREDITS,
                siblings=self._siblings,
                cost=cost,
                link_name=link_name,
                software=SOFTWARE,
                edge=self.config.edge,
                features=FEATURE_MOVE,
            )
        )

    @property
    def _lanes_wanted(self) -> int:
        return self.config.workers or 1  # one event loop: more lanes gain nothing here

    async def run_lane(self, lane: Lane, greeted: Callable[[], None] = lambda: None) -> None:
        self._lanes[lane] = None
        try:
            await lane.run(greeted)
        finally:
            del self._lanes[lane]
            trunk = self._trunks.get(str(lane.router)) if lane.hello is not None else None
            if trunk is not None and lane in trunk.lanes:
                trunk.remove(lane)
                if not trunk.lanes:
                    for stream in trunk.parking.take_all():
                        end_parked(stream, StreamClass.LINK, f"the link was lost: {lane.error or 'closed by the peer'}")
                    del self._trunks[trunk.text]
                self.mailbox.put(trunk.state(error="" if trunk.lanes else lane.error or "closed by the other end"))
                self._matches_changed()

    def greeted(self, lane: Lane) -> None:
        router = lane.router
        if router == self.router:
            raise OwnRouter("this endpoint leads to this very router")
        if router.site in self._refused_sites:
            raise PeerRejected(f"this site is refused here: {lane.hello.site_name if lane.hello else ''} ({router.site})")
        if lane.expected_site and lane.expected_site != router.site:
            raise PeerRejected(f"site {router.site} is there, but {lane.expected_site} was expected")
        trunk = self._trunks.get(str(router))
        if trunk is None:
            trunk = self._trunks[str(router)] = Trunk(router, lanes_wanted=self._lanes_wanted, emit=self.mailbox.put)
        trunk.add(lane)
        if self._is_leaving:
            lane.go_away(GoAwayCode.CLOSED if self.is_refusing else GoAwayCode.DRAIN, "the router is leaving")
        self.mailbox.put(trunk.state())
        self._matches_changed()

    def opened(self, lane: Lane, far: LaneFar, open_: Open) -> None:
        serve_open(self, lane, far, open_)

    def message(self, lane: Lane, data: bytes) -> None:
        trunk = self._trunks.get(str(lane.router))
        if trunk is not None:
            trunk.message(lane, data)
            self.mailbox.notify()

    def leave_asked(self, lane: Lane, stream: Stream, name: int) -> None:
        leave_asked(self, self._trunks[str(lane.router)], lane, stream, name)

    def take_parked(self, lane: Lane, name: int) -> Stream | None:
        parking = self._trunks[str(lane.router)].parking
        stream = parking.take(name)
        if stream is None:
            parking.take_back(name, trio.current_time())
        return stream

    def late_reset(self, lane: Lane, id_: int, stream_class: StreamClass, reason: str) -> None:
        stream = self._trunks[str(lane.router)].parking.take_from(lane, id_)
        if stream is not None:
            end_parked(stream, stream_class, reason)

    def changed(self, lane: Lane) -> None:
        trunk = self._trunks.get(str(lane.router)) if lane.hello is not None else None
        if trunk is not None:
            self.mailbox.put(trunk.state())
            self._matches_changed()

    def others(self, lane: Lane) -> Others:
        trunk = self._trunks.get(str(lane.router)) if lane.hello is not None else None
        return Others.WELL if trunk is None else trunk.others(lane)

    def trunk(self, router: str) -> Trunk | None:
        return self._trunks.get(router)

    # ---- For the parts: targets ------------------------------------------------------------------------------------------------------

    def serve_client(self, listener: Listener, sock: socket.socket) -> None:
        """A client was accepted."""
        try:
            tune(sock)
        except OSError:  # gone already
            sock.close()
            return
        if self.is_refusing:
            sock.close()
            return
        if listener.tls:
            self.spawn(self._greet, listener, sock)
        else:
            self._serve(listener, AppSocket(sock, self.abort_watch))

    async def _greet(self, listener: Listener, sock: socket.socket) -> None:
        """No target hears of a client before its handshake is done."""
        try:
            leg = await self.legs.accept(listener, sock)
        except OSError as error:
            refused = isinstance(error, ConnectionRefusedError)
            self.totals.counters.handshakes_failed += not refused
            record = self._record(keys_of(listener)[0].routing_key, listener=listener.name)
            fault = StreamClass.RESOURCE if isinstance(error, GaveWay) else StreamClass.CLIENT
            record.end(StreamClass.REFUSED if refused else fault, str(error.strerror or error))
        else:
            self._serve(listener, leg)

    def _serve(self, listener: Listener, sock: AppSocket) -> None:
        keys = keys_of(listener)
        record = self._record(keys[0].routing_key, listener=listener.name)
        pump = self.new_pump(record, blames=StreamClass.CLIENT)
        pump.socket = sock
        opening = Opening(self, Search(self.targets, keys, listener.strategy), pump)
        pump.read_now()
        self.spawn(self._open, opening, pump)
        self.spawn(pump.run)

    @staticmethod
    async def _open(opening: Opening, pump: SocketPump) -> None:
        failure = await opening.run()
        if failure is not None:
            pump.was_reset(failure.stream_class, failure.reason)

    def _record(self, key: str, *, listener: str = "") -> StreamRecord:
        uuid = os.urandom(16)
        return StreamRecord(self.totals, self.mailbox.put, uuid=uuid, key=key, listener=listener)

    def is_matched(self, listener: Listener) -> bool:
        return self.targets.is_matched(keys_of(listener))

    def new_pump(self, record: StreamRecord, *, blames: StreamClass, counts: bool = True) -> SocketPump:
        return SocketPump(self.spawn, self._pumps, record, blames=blames, counts=counts)

    def offer_incoming(self, connector: Connector, *, source: str, record: StreamRecord, counts: bool) -> EmbeddedStream | None:
        """A new stream for a program here. None: too many wait for it already."""
        if self.mailbox.waiting_for(connector.name) >= MOST_INCOMING:
            return None
        return EmbeddedStream(routing_key=connector.routing_key, source=source, record=record, blames=StreamClass.TARGET, counts=counts)

    def hand_over(self, connector: Connector, stream: EmbeddedStream) -> None:
        self.mailbox.put(Incoming(connector=connector.name, stream=stream))

    async def wait_for_targets(self) -> None:
        await self._targets_changed.wait()

    def _matches_changed(self) -> None:
        self._doors.refresh()
        changed, self._targets_changed = self._targets_changed, trio.Event()
        changed.set()


def _puts_first(entry: AnyEntry) -> int:
    """Credentials before the accesses that use them."""
    return 0 if isinstance(entry, Credential) else 1


def _default_budget() -> int:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdigit():
            return min(DEFAULT_BUDGET, int(text) // 2)
    return DEFAULT_BUDGET
