"""
The Rust core as a ``DataPlane``. The only importer of ``vanrouter._core``.

Converts and delegates: entries and events cross as MessagePack, and an eventfd wakes trio. Python never touches payload here, except that
a stream whose end is in this process (``connect``, embedded connectors) is one end of a socket pair whose other end a worker owns.
"""

from __future__ import annotations

import errno
import os
import socket

import msgspec
import trio

from vanrouter._core import Plane as _Core
from vanrouter.errors import LocalProtocolError, StreamRefused, StreamReset
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
)

__all__ = ["NativePlane"]

_RECEIVE_SIZE = 65_536


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
    return trio.SocketStream(_unix_socket(fd))


def _unix_socket(fd: int) -> trio.socket.SocketType:
    return trio.socket.from_stdlib_socket(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd))


class _OneAtATime:
    """Two tasks at once in one method are a bug of the program: the second one is told."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._busy = False

    def __enter__(self) -> None:
        if self._busy:
            raise trio.BusyResourceError(self._message)
        self._busy = True

    def __exit__(self, *_: object) -> None:
        self._busy = False


class _Stream(PlaneStream):
    """The inside end of a socket pair. Its end counts as an end only when the core has confirmed a FIN."""

    def __init__(self, core: _Core, id: int, fd: int, routing_key: str, source: str) -> None:
        self.routing_key = routing_key
        self.source = source
        self._core = core
        self._id = id
        self._socket = _unix_socket(fd)
        self._sending = _OneAtATime("another task is sending on this stream")
        self._sent_eof = False
        self._got_eof = False
        self._closed = False

    def _broken(self) -> trio.BrokenResourceError:
        _, word = self._core.stream_end(self._id)
        word = word or "link"
        broken = trio.BrokenResourceError(f"the stream of {self.routing_key!r} was reset (class {word})")
        broken.__cause__ = StreamReset(f"reset by {word}", stream_class=word)
        return broken

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._sending:
            if self._closed or self._sent_eof:
                raise trio.ClosedResourceError("this end of the stream is closed")
            await trio.lowlevel.checkpoint()
            view = memoryview(data).cast("B")
            try:
                while view:
                    view = view[await self._socket.send(view) :]
            except OSError as error:
                raise self._send_failed(error) from self._broken().__cause__

    def _send_failed(self, error: OSError) -> Exception:
        if self._closed or error.errno == errno.EBADF:
            return trio.ClosedResourceError("this stream was closed while it sent")
        return self._broken()

    async def wait_send_all_might_not_block(self) -> None:
        with self._sending:
            if self._closed:
                raise trio.ClosedResourceError("this stream is closed")
            await trio.lowlevel.wait_writable(self._socket.fileno())

    async def send_eof(self) -> None:
        with self._sending:
            if self._closed:
                raise trio.ClosedResourceError("this stream is closed")
            await trio.lowlevel.checkpoint()
            if not self._sent_eof:
                self._sent_eof = True
                try:
                    self._socket.shutdown(socket.SHUT_WR)
                except OSError as error:
                    raise self._send_failed(error) from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be >= 1")
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")
        if self._got_eof:
            await trio.lowlevel.checkpoint()
            return b""
        try:
            data = await self._socket.recv(max_bytes or _RECEIVE_SIZE)
        except OSError as error:
            if self._closed or error.errno == errno.EBADF:
                raise trio.ClosedResourceError("this stream was closed while it received") from error
            raise self._broken() from error
        if data:
            return bytes(data)
        fin, _ = self._core.stream_end(self._id)
        if not fin:
            raise self._broken()
        self._got_eof = True
        return b""

    def reset(self, reason: str = "") -> None:  # noqa: ARG002 - the wire has room for a reason, the socket pair has not
        if not self._closed:
            self._core.reset_stream(self._id)
            self._close()

    async def aclose(self) -> None:
        if not self._closed:
            if not self._sent_eof:
                self._core.reset_stream(self._id)
            # After an end of ours everything that was sent still arrives; what the other end sends from now on gets a reset.
            self._close()
        await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        self._closed = True
        self._socket.close()
        self._core.forget_stream(self._id)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self._core.reset_stream(self._id)
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
            raise StreamRefused(f"no stream to {routing_key!r}: {opened.reason} (class {opened.class_})")
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
