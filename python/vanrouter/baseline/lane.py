"""
Drives one lane: a TLS connection, the state machine ``mux.Mux``, and the owners of its streams.

    reader: ciphertext ──▶ frames ──▶ events ──▶ owners        writer: woken by ``kick``, writes batches until nothing is left
    ticker: liveness, ten times a second

When one of the three ends, the lane ends, and each of its streams ends with class ``link``.
"""

from __future__ import annotations

import fcntl
import logging
import socket
import ssl
import struct
import termios
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import trio

from vanrouter.baseline.far import LaneFar
from vanrouter.baseline.frame import GoAwayCode, Open
from vanrouter.baseline.handshake import Hello, check_hello_untrusted, leaf_key_hash
from vanrouter.baseline.liveness import Health, Others
from vanrouter.baseline.mux import Mux
from vanrouter.baseline.mux_events import (
    Accepted,
    CameOver,
    Data,
    Event,
    Finished,
    GoneAway,
    HelloReceived,
    LateReset,
    LeaveAsked,
    MessageReceived,
    Opened,
    Refused,
    WasReset,
    Writable,
)
from vanrouter.baseline.sockets import Signal
from vanrouter.baseline.stream import Stream
from vanrouter.errors import LinkError, PeerRejected, RemoteProtocolError
from vanrouter.model import RouterId, StreamClass

if TYPE_CHECKING:
    from vanrouter.baseline.credit import Budget
    from vanrouter.baseline.far import Owner
    from vanrouter.baseline.tls import TlsTransport
    from vanrouter.plane import PlaneConfig

__all__ = ["Lane", "LaneEvents", "OwnRouter", "tune_lane"]

logger = logging.getLogger("vanrouter.baseline")

BATCH: Final = 256 * 1024
TICK: Final = 0.1
HELLO_DEADLINE: Final = 5.0
GOODBYE: Final = 1.0  # to write GOAWAY before the connection closes
NOTSENT_LOWAT: Final = 128 * 1024  # more would sit in the kernel ahead of a small urgent frame
TCP_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 25)


def tune_lane(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class OwnRouter(PeerRejected):
    """The lane leads to ourselves."""


class LaneEvents(Protocol):
    """What a lane tells the plane."""

    def greeted(self, lane: Lane) -> None:
        """The peer's HELLO is good. Raises PeerRejected to refuse it."""

    def opened(self, lane: Lane, far: LaneFar, open_: Open) -> None:
        """The peer opened a stream: give ``far`` an owner, and answer it."""

    def message(self, lane: Lane, data: bytes) -> None: ...

    def leave_asked(self, lane: Lane, stream: Stream, name: int) -> None:
        """The peer wants a stream to leave the lane."""

    def take_parked(self, lane: Lane, name: int) -> Stream | None:
        """The stream that the peer puts on the lane."""

    def late_reset(self, lane: Lane, id_: int, stream_class: StreamClass, reason: str) -> None:
        """RESET for a stream that is not on the lane any more."""

    def changed(self, lane: Lane) -> None:
        """Health or GOAWAY."""

    def others(self, lane: Lane) -> Others:
        """How the other lanes to its router are."""


class Lane:
    def __init__(
        self,
        transport: TlsTransport,
        *,
        dialler: bool,
        hello: bytes,
        config: PlaneConfig,
        budget: Budget,
        events: LaneEvents,
        link: str = "",
        expected_site: str = "",
        access: str = "",
        cost: int = 1,
    ) -> None:
        self._transport = transport
        self._events = events
        leaf = leaf_key_hash(transport.certificates[0])
        self.mux = Mux(
            dialler=dialler,
            hello=hello,
            check_hello_untrusted=lambda payload: check_hello_untrusted(payload, leaf=leaf, now=time.time()),
            budget=budget,
            suspect_after=config.suspect_after,
            dead_after=config.dead_after,
            now=trio.current_time(),
        )
        self.mux.take_parked = lambda name: events.take_parked(self, name)
        self.link = link
        self.expected_site = expected_site
        self.access = access
        self.cost = cost
        self.hello: Hello | None = None
        self.peer_leaving: GoAwayCode | None = None
        self.error = ""
        self.failure: LinkError | None = None
        self._is_over = False
        self._health = Health.ALIVE
        self._kicked = Signal()
        self._is_kicked = False
        self._scope = trio.CancelScope()
        peer = transport.sock.getpeername()
        self.peer: tuple[str, int] = (peer[0], peer[1])
        self.is_retired = False  # it closes with its last stream
        self._is_done = False  # retired, and what was read last left no stream
        self.address = f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"

    # ---- For the plane -----------------------------------------------------------------------------------------------------

    @property
    def router(self) -> RouterId:
        assert self.hello is not None
        return self.hello.router

    @property
    def is_suspect(self) -> bool:
        return self._health is not Health.ALIVE

    @property
    def takes_streams(self) -> bool:
        return not self._is_over and not self.is_retired and self.mux.may_open and self.peer_leaving in (None, GoAwayCode.DRAIN)

    def open(self, open_: Open, owner: Owner, early: bytes, *, origin: str = "") -> LaneFar | None:
        """``origin``: the neighbour that it came from. None: no room in the budget, or the lane is gone."""
        if self._is_over:
            return None
        stream = self.mux.open(open_, None, early, trio.current_time(), origin=origin)
        if stream is None:
            return None
        far = LaneFar(self, stream, owner)
        stream.owner = far
        self.kick()
        return far

    def kick(self) -> None:
        """There may be something to write."""
        if not self._is_kicked:
            self._is_kicked = True
            self._kicked.set()

    def retire(self) -> None:
        """Others have taken its place: no new streams."""
        if not self.is_retired:
            self.is_retired = True
            self.go_away(GoAwayCode.REPLACED, "its address goes")
            self._events.changed(self)

    def go_away(self, code: GoAwayCode, reason: str) -> None:
        self.mux.go_away(code, reason)
        self.kick()

    def close(self, code: GoAwayCode, reason: str) -> None:
        """Say GOAWAY if that is still possible, and end the lane."""
        if not self._is_over:
            self.error = self.error or reason
            self.mux.go_away(code, reason)
            self._scope.cancel()

    async def run(self, greeted: Callable[[], None] = lambda: None) -> None:
        """Until the lane is over. ``greeted`` is called after the peer's HELLO was accepted. Never raises for a peer's fault."""
        self._on_greeted = greeted
        try:
            with self._scope:
                await self._serve()
        except trio.Cancelled:
            self.error = self.error or "the router stops"
            self.mux.go_away(GoAwayCode.SHUTDOWN, self.error)
            raise
        finally:
            await self._end()

    async def _serve(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._tick)
                nursery.start_soon(self._greet_in_time)
                await self._read()
                nursery.cancel_scope.cancel()
        except* LinkError as group:
            self._blame(_first(group))
        except* OSError as group:  # ssl.SSLError is one, too
            self.error = self.error or f"the connection broke: {_first(group)}"

    def _blame(self, failure: LinkError) -> None:
        self.failure = failure
        self.error = self.error or str(failure)
        code = GoAwayCode.POLICY if isinstance(failure, PeerRejected) else GoAwayCode.PROTOCOL
        self.mux.go_away(code, self.error)

    async def _end(self) -> None:
        self._is_over = True
        last_words = self.mux.data_to_send(BATCH, trio.current_time())
        reason = f"the link was lost: {self.error or 'closed by the peer'}"
        for stream in self.mux.close():
            self._lost(stream, reason)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + GOODBYE):
            try:
                if last_words:
                    await self._transport.send(last_words)
                    await self._transport.drain()
            except (OSError, ssl.SSLError):
                pass  # then it has to do without
        self._transport.close()

    @staticmethod
    def _lost(stream: Stream, reason: str) -> None:
        far: LaneFar | None = stream.owner
        if far is None:
            return
        if far.answer is not None:
            far.answer.refuse(StreamClass.LINK, reason, lost=True)
        else:
            far.owner.was_reset(StreamClass.LINK, reason)

    # ---- The three tasks -----------------------------------------------------------------------------------------------------

    async def _greet_in_time(self) -> None:
        await trio.sleep(HELLO_DEADLINE)
        if self.hello is None:
            raise RemoteProtocolError(f"no HELLO within {HELLO_DEADLINE:.0f} s")

    async def _read(self) -> None:
        while True:
            chunks = await self._transport.receive()
            if not chunks:
                return
            self._act(self.mux.receive_untrusted(chunks, trio.current_time()))
            self._is_done = self.is_retired and not self.mux.stream_count
            self._close_if_done()
            if self.mux.has_data_to_send:
                self.kick()

    async def _write(self) -> None:
        mux = self.mux
        while True:
            self._is_kicked = False
            chunks = mux.data_to_send(BATCH, trio.current_time())
            if not chunks:
                await self._kicked.wait()
                continue
            await self._transport.send(chunks)
            for stream in mux.progressed():
                if stream.owner is not None:
                    stream.owner.owner.writable()
            self._close_if_done()
            await trio.lowlevel.checkpoint()

    def _close_if_done(self) -> None:
        """Not ahead of the answer with which its last stream left."""
        if self._is_done and not self.mux.stream_count and not self.mux.has_data_to_send:
            self.close(GoAwayCode.SHUTDOWN, "replaced")

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK)
            self.mux.tick(trio.current_time(), kernel_holds=self._kernel_holds(), others=self._events.others(self))
            health = self.mux.health
            if health is Health.DEAD:
                self.error = "nothing was heard for too long"
                raise RemoteProtocolError(self.error)
            if health is not self._health:
                self._health = health
                self._events.changed(self)
                if health is Health.SUSPECT:
                    self._give_up_on_answers()
            for stream in self.mux.overdue(trio.current_time()):
                if stream.owner is not None and stream.owner.answer is not None:
                    stream.owner.answer.waited_too_long()
            if self.mux.has_data_to_send:
                self.kick()

    def _kernel_holds(self) -> bool:
        """Bytes that were written and not acknowledged by the other end's kernel."""
        raw = fcntl.ioctl(self._transport.sock, termios.TIOCOUTQ, b"\0\0\0\0")
        return bool(struct.unpack("i", raw)[0])

    def _give_up_on_answers(self) -> None:
        """An OPEN without data that is unanswered on a suspect lane is opened elsewhere."""
        for stream in self.mux.streams:
            far: LaneFar | None = stream.owner
            if far is not None and far.answer is not None and not far.has_sent_early:
                far.answer.refuse(StreamClass.LINK, "the link does not answer")

    # ---- Events ------------------------------------------------------------------------------------------------------------

    def _act(self, events: list[Event]) -> None:
        touched: dict[Owner, None] = {}
        for event in events:
            if type(event) is Data:
                far: LaneFar = event.stream.owner
                far.owner.data(event.data)
                touched[far.owner] = None
            else:
                for owner in touched:
                    owner.flush()
                touched.clear()
                self._act_on(event)
        for owner in touched:
            owner.flush()

    def _act_on(self, event: Event) -> None:
        match event:
            case Writable(stream):
                stream.owner.owner.writable()
            case Finished(stream):
                stream.owner.owner.finished()
            case WasReset(stream, stream_class, reason):
                stream.owner.owner.was_reset(stream_class, reason)
                if stream.owner.answer is not None:
                    stream.owner.answer.refuse(stream_class, reason)
            case Opened(stream, open_):
                far = LaneFar(self, stream, _NOBODY)
                stream.owner = far
                self._events.opened(self, far, open_)
            case Accepted(stream):
                answer, stream.owner.answer = stream.owner.answer, None
                answer.accept()
                stream.owner.owner.writable()
            case Refused(stream, stream_class, reason):
                stream.owner.answer.refuse(stream_class, reason)
            case LeaveAsked(stream, name):
                if stream.is_gone or stream.is_away:
                    return  # by what came before it in the same piece
                self._events.leave_asked(self, stream, name)
            case CameOver(stream):
                stream.owner.go_on(self)
            case LateReset(id_, stream_class, reason):
                self._events.late_reset(self, id_, stream_class, reason)
            case MessageReceived(data):
                self._events.message(self, data)
            case GoneAway(code, reason):
                self._gone_away(code, reason)
            case HelloReceived(hello):
                self.hello = hello
                self._events.greeted(self)
                self._on_greeted()

    def _gone_away(self, code: GoAwayCode, reason: str) -> None:
        if code in (GoAwayCode.PROTOCOL, GoAwayCode.POLICY, GoAwayCode.SHUTDOWN):
            self.error = f"the peer closed it ({code.name.lower()}): {reason}"
            self.failure = PeerRejected(self.error) if code is GoAwayCode.POLICY else None
        self.peer_leaving = code
        self._events.changed(self)


class _Nobody:
    """Owner of a stream that has none yet. ``opened`` replaces it before anything else happens."""

    def data(self, data: memoryview) -> None: ...

    def flush(self) -> None: ...

    def finished(self) -> None: ...

    def was_reset(self, stream_class: StreamClass, reason: str) -> None: ...

    def writable(self) -> None: ...


_NOBODY: Final = _Nobody()


E = TypeVar("E", bound=Exception)


def _first(group: ExceptionGroup[E]) -> E:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, ExceptionGroup) else inner
