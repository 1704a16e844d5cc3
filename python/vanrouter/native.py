"""
The Rust core as a ``DataPlane``. The only importer of ``vanrouter._core``.

Converts and delegates: entries and events cross as MessagePack, and an eventfd wakes trio. Python never touches payload here, except that
a stream whose end is in this process (``connect``, embedded connectors) is one end of a socket pair whose other end a worker owns.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from typing import Final

import msgspec
import trio

from vanrouter._core import Plane as _Core
from vanrouter.errors import LocalProtocolError, StreamReset, refusal
from vanrouter.plane import (
    AccessState,
    AnyEvent,
    Changes,
    ConnectorState,
    Counters,
    Dial,
    DialResult,
    Incoming,
    InForce,
    LinkState,
    ListenerState,
    Message,
    MessagesReset,
    PlaneConfig,
    PlaneStream,
    Snapshot,
    StreamEnd,
    Visitor,
    Waits,
)

__all__ = ["NativePlane"]

_RECEIVE_SIZES: Final = (65_536, 262_144)  # the second after a read that filled the first: bulk
_SENDS: Final = "another task is sending on this stream"


class _RawEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    pass


class _RawVisitor(_RawEvent, frozen=True, kw_only=True, tag="visitor"):
    access: str
    alpn: str
    fd: int
    certificates: list[bytes]
    address: str


class _RawIncoming(_RawEvent, frozen=True, kw_only=True, tag="incoming"):
    connector: str
    stream: int
    fd: int
    routing_key: str
    source: str


class _RawOpened(_RawEvent, frozen=True, kw_only=True, tag="opened"):
    stream: int
    class_: str = msgspec.field(name="class")
    reason: str


_Wire = (
    InForce
    | ListenerState
    | AccessState
    | ConnectorState
    | LinkState
    | DialResult
    | Message
    | MessagesReset
    | StreamEnd
    | _RawVisitor
    | _RawIncoming
    | _RawOpened
)

_events = msgspec.msgpack.Decoder(list[_Wire])
_counters = msgspec.msgpack.Decoder(Counters)
_encode = msgspec.msgpack.Encoder().encode


def _unix_stream(fd: int) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(_unix_socket(fd)))


def _unix_socket(fd: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)
    sock.setblocking(False)
    return sock


class _TrioWaits:
    """The plane's own loop: every call is a checkpoint."""

    before = staticmethod(trio.lowlevel.checkpoint_if_cancelled)
    after = staticmethod(trio.lowlevel.cancel_shielded_checkpoint)
    readable = staticmethod(trio.lowlevel.wait_readable)
    writable = staticmethod(trio.lowlevel.wait_writable)
    closing = staticmethod(trio.lowlevel.notify_closing)


class _Stream(PlaneStream):
    """The inside end of a socket pair. Its end counts as an end only when the core has confirmed a FIN."""

    def __init__(self, core: _Core, id: int, fd: int, routing_key: str, source: str) -> None:
        self.routing_key = routing_key
        self.source = source
        self._core = core
        self._id = id
        self._process = os.getpid()
        self._socket = _unix_socket(fd)
        self._waits: Waits = _TrioWaits()
        self._size = _RECEIVE_SIZES[0]
        self._sending = self._receiving = False
        self._sent_eof = False
        self._got_eof = False
        self._closed = False

    def wait_with(self, waits: Waits) -> bool:
        self._waits = waits
        return True

    def _broken(self) -> trio.BrokenResourceError:
        _, word = self._core.stream_end(self._id)
        word = word or "link"
        broken = trio.BrokenResourceError(f"the stream of {self.routing_key!r} was reset (class {word})")
        broken.__cause__ = StreamReset(f"reset by {word}", stream_class=word)
        return broken

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._sending:
            raise trio.BusyResourceError(_SENDS)
        if self._closed or self._sent_eof:
            raise trio.ClosedResourceError("this end of the stream is closed")
        self._sending = True
        try:
            await self._waits.before()
            try:
                sent = self._socket.send(data) if data else 0
            except BlockingIOError:
                sent = 0
            if sent == memoryview(data).nbytes:
                await self._waits.after()
            else:
                await self._send_rest(data, sent)
        except OSError as error:
            raise self._send_failed(error) from self._broken().__cause__
        finally:
            self._sending = False

    async def _send_rest(self, data: bytes | bytearray | memoryview, at: int) -> None:
        with memoryview(data) as given, given.cast("B") as view:
            while at < len(view):
                await self._waits.writable(self._socket)
                with contextlib.suppress(BlockingIOError), view[at:] as rest:
                    at += self._socket.send(rest)

    def _send_failed(self, error: OSError) -> Exception:
        if self._closed or error.errno == errno.EBADF:
            return trio.ClosedResourceError("this stream was closed while it sent")
        return self._broken()

    async def wait_send_all_might_not_block(self) -> None:
        if self._sending:
            raise trio.BusyResourceError(_SENDS)
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")
        self._sending = True
        try:
            await self._waits.writable(self._socket)
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        if self._sending:
            raise trio.BusyResourceError(_SENDS)
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")
        await self._waits.before()
        if not self._sent_eof:
            self._sent_eof = True
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                raise self._send_failed(error) from error
        await self._waits.after()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be >= 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")
        self._receiving = True
        try:
            await self._waits.before()
            if self._got_eof:
                await self._waits.after()
                return b""
            return await self._receive(max_bytes)
        finally:
            self._receiving = False

    async def _receive(self, max_bytes: int | None) -> bytes:
        waited = False
        while True:
            try:
                data = self._socket.recv(max_bytes or self._size)
                break
            except BlockingIOError:
                await self._waits.readable(self._socket)
                waited = True
            except OSError as error:
                if self._closed or error.errno == errno.EBADF:
                    raise trio.ClosedResourceError("this stream was closed while it received") from error
                raise self._broken() from error
        if not waited:
            await self._waits.after()
        if data:
            if max_bytes is None:
                self._size = _RECEIVE_SIZES[len(data) == self._size]
            return data
        fin, _ = self._core.stream_end(self._id)
        if not fin:
            raise self._broken()
        self._got_eof = True
        return b""

    def is_readable(self) -> bool:
        if self._closed:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def reset(self, reason: str = "") -> None:  # noqa: ARG002 - the wire has room for a reason, the socket pair has not
        if not self._closed:
            self._want_reset()
            self._close()

    async def aclose(self) -> None:
        if not self._closed:
            if not self._sent_eof:
                self._want_reset()
            # After an end of ours everything that was sent still arrives; what the other end sends from now on gets a reset.
            self._close()
        await self._waits.before()
        await self._waits.after()

    def _close(self) -> None:
        self._closed = True
        if self._sending or self._receiving:
            self._waits.closing(self._socket)
        self._socket.close()
        if self._process == os.getpid():  # the copy in a fork is only closed: the core's locks are its parent's
            self._core.forget_stream(self._id)

    def _want_reset(self) -> None:
        if self._process == os.getpid():
            self._core.reset_stream(self._id)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self._want_reset()
            self._sending = self._receiving = False
            self._close()


class NativePlane:
    """The Rust core behind the contract of ``plane.DataPlane``. The threads start with ``run``."""

    name = "core"

    def __init__(self, config: PlaneConfig) -> None:
        self._config = config
        self._adopted: list[tuple[str, int, int]] = []
        self._core: _Core | None = None
        self._opening: dict[int, trio.Event] = {}
        self._opened: dict[int, _RawOpened] = {}
        self._events: list[AnyEvent] = []
        self._news = trio.Event()
        self._duplicates: list[int] = []

    def adopt(self, host: str, port: int, fd: int) -> None:
        if self._core is not None:
            raise LocalProtocolError("sockets can be adopted only before the plane runs")
        self._adopted.append((host, port, fd))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        adopted, self._adopted = self._adopted, []
        self._core = core = _Core(_encode(self._config), adopted)
        try:
            task_status.started()
            while True:
                await trio.lowlevel.wait_readable(core.event_fd())
                self._take()
        finally:
            # Joins the threads, which end at once: nothing there waits for a peer.
            core.stop()
            self._take()
            self._close_undelivered()

    def _take(self) -> None:
        core = self._running()
        for event in _events.decode(core.take_events()):
            if isinstance(event, _RawVisitor):
                self._events.append(
                    Visitor(
                        access=event.access,
                        alpn=event.alpn,
                        stream=_unix_stream(event.fd),
                        certificates=event.certificates,
                        address=event.address,
                    )
                )
            elif isinstance(event, _RawIncoming):
                stream = _Stream(core, event.stream, event.fd, event.routing_key, event.source)
                self._events.append(Incoming(connector=event.connector, stream=stream))
            elif isinstance(event, _RawOpened):
                waiting = self._opening.pop(event.stream, None)
                if waiting is not None:
                    self._opened[event.stream] = event
                    waiting.set()
            else:
                self._events.append(event)
        if self._events:
            self._news.set()

    def _close_undelivered(self) -> None:
        """Nobody will serve what came last, and nothing will be opened any more."""
        for event in self._events:
            if isinstance(event, Visitor):
                assert isinstance(event.stream, trio.SocketStream)
                event.stream.socket.close()
            elif isinstance(event, Incoming):
                event.stream.reset()
        self._events = [event for event in self._events if not isinstance(event, Visitor | Incoming)]
        for id, waiting in self._opening.items():
            self._opened[id] = _RawOpened(stream=id, class_="drain", reason="the plane stops")
            waiting.set()
        self._opening.clear()

    def _running(self) -> _Core:
        if self._core is None:
            raise LocalProtocolError("the plane does not run")
        return self._core

    def apply(self, changes: Changes | Snapshot) -> None:
        core = self._running()
        if isinstance(changes, Snapshot):
            core.snapshot(_encode(changes))
        else:
            core.apply(_encode(changes))

    def dial(self, dial: Dial) -> None:
        self._running().dial(_encode(dial))

    def cancel_dial(self, id: int) -> None:
        self._running().cancel_dial(id)

    def send_message(self, router: str, data: bytes) -> bool:
        return self._running().send_message(router, data)

    def cut(self, router: str, reason: str) -> None:
        self._running().cut(router, reason)

    def retire(self, link: str, host: str, port: int) -> None:
        self._running().retire(link, host, port)

    def set_ready(self, ready: bool) -> None:
        """Readiness is answered by whoever serves the visitors."""

    def set_siblings(self, boots: list[int]) -> None:
        self._running().set_siblings(boots)

    def set_refused(self, sites: list[str]) -> None:
        self._running().set_refused(sites)

    def set_hop_limit(self, limit: int) -> None:
        self._running().set_hop_limit(limit)

    def leave(self) -> None:
        self._running().leave()

    def refuse(self) -> None:
        self._running().refuse()

    def listening_sockets(self) -> list[tuple[str, int, int]]:
        """The descriptors are closed by the next call, or with this object: duplicate them."""
        self._close_duplicates()
        sockets = self._running().listening_sockets()
        self._duplicates = [fd for _, _, fd in sockets]
        return sockets

    def _close_duplicates(self) -> None:
        duplicates, self._duplicates = self._duplicates, []
        for fd in duplicates:
            os.close(fd)

    async def connect(self, routing_key: str) -> PlaneStream:
        core = self._running()
        id, fd = core.connect(routing_key)
        stream = _Stream(core, id, fd, routing_key, "")
        self._opening[id] = answered = trio.Event()
        try:
            await answered.wait()
        except BaseException:
            self._opening.pop(id, None)
            self._opened.pop(id, None)
            stream.reset()
            raise
        opened = self._opened.pop(id)
        if opened.class_:
            stream.reset()
            raise refusal(f"no stream to {routing_key!r}: {opened.reason} (class {opened.class_})", opened.class_)
        return stream

    async def next_events(self) -> list[AnyEvent]:
        while not self._events:
            self._news = trio.Event()
            await self._news.wait()
        events, self._events = self._events, []
        self._running().settle_events()
        return events

    def counters(self) -> Counters:
        return _counters.decode(self._running().counters())

    def __del__(self) -> None:
        self._close_duplicates()
