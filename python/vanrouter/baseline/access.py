"""
The port where links, visitors and health checks arrive, and what strangers may cost there.

Not yet handshaken connections are counted before TLS starts: at most ``MOST_STRANGERS``, and a few per source; at a cap the
oldest is closed and the new one served, so that silence never keeps a link out. Handshakes are paced per source and in all.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import socket
import ssl
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import trio

from vanrouter.baseline.bind import Port
from vanrouter.baseline.frame import FrameType, GoAwayCode, encode, encode_class_and_reason
from vanrouter.baseline.lane import GOODBYE, Lane, tune_lane
from vanrouter.baseline.tls import (
    ALPN_HTTP,
    ALPN_JOIN,
    ALPN_LINK,
    TlsStream,
    TlsTransport,
    check_admitted,
    check_dates,
    server_context,
)
from vanrouter.errors import ConfigError, PeerRejected
from vanrouter.plane import Access, Credential, Visitor

if TYPE_CHECKING:
    from vanrouter.baseline.plane import BaselinePlane

__all__ = ["HANDSHAKE_DEADLINE", "AccessServer", "Doorkeeper"]

logger = logging.getLogger("vanrouter.baseline")

HANDSHAKE_DEADLINE: Final = 5.0
MOST_STRANGERS: Final = 256
MOST_VISITORS: Final = 64
VISIT: Final = 30.0
HANDSHAKES_PER_SECOND: Final = 200  # of the whole process
MOST_SOURCES: Final = 4_096
FIRST_BYTES: Final = 4_096
TLS_HANDSHAKE: Final = 0x16


class _Bucket:
    """A token bucket: ``rate`` per second, with a burst of twice that."""

    __slots__ = ("_rate", "_since", "_tokens")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._tokens = 2 * rate
        self._since = now

    def take(self, now: float) -> bool:
        self._tokens = min(2 * self._rate, self._tokens + (now - self._since) * self._rate)
        self._since = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Doorkeeper:
    """Who may wait at the door, and for how long. ``now`` is an argument; scopes are cancelled to close."""

    def __init__(self, *, per_source: int, handshakes_per_second: int, now: float) -> None:
        self._per_source = per_source
        self._rate = handshakes_per_second
        self._strangers: OrderedDict[object, str] = OrderedDict()
        self._close: dict[object, trio.CancelScope] = {}
        self._waiting: dict[str, OrderedDict[object, None]] = {}
        self._all = _Bucket(HANDSHAKES_PER_SECOND, now)
        self._sources: OrderedDict[str, _Bucket] = OrderedDict()

    def enter(self, source: str, scope: trio.CancelScope) -> object:
        """Closes the oldest stranger when there are too many. Returns what ``leave`` wants."""
        stranger = object()
        mine = self._waiting.setdefault(source, OrderedDict())
        if self._per_source and len(mine) >= self._per_source:
            self._turn_away(next(iter(mine)))
            mine = self._waiting.setdefault(source, OrderedDict())
        if len(self._strangers) >= MOST_STRANGERS:
            self._turn_away(next(iter(self._strangers)))
            mine = self._waiting.setdefault(source, OrderedDict())
        mine[stranger] = None
        self._strangers[stranger] = source
        self._close[stranger] = scope
        return stranger

    def leave(self, stranger: object) -> None:
        source = self._strangers.pop(stranger, None)
        if source is not None:
            del self._close[stranger]
            del self._waiting[source][stranger]
            if not self._waiting[source]:
                del self._waiting[source]

    def _turn_away(self, stranger: object) -> None:
        self._close[stranger].cancel()
        self.leave(stranger)

    def may_handshake(self, source: str, now: float) -> bool:
        if self._rate:
            bucket = self._sources.pop(source, None) or _Bucket(self._rate, now)
            self._sources[source] = bucket
            while len(self._sources) > MOST_SOURCES:
                self._sources.popitem(last=False)
            if not bucket.take(now):
                return False
        return self._all.take(now)


def source_of(address: str) -> str:
    """The address, or the /64 of an IPv6 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


class AccessServer:
    def __init__(self, plane: BaselinePlane, entry: Access, port: Port) -> None:
        self._plane = plane
        self.entry = entry
        self.port = port
        self._credential: Credential | None = None
        self._context: ssl.SSLContext | None = None
        self._visitors = 0
        self._say_again = -math.inf  # who is refused is said once a second at most; all are counted
        self._unsaid = 0

    def use(self, credential: Credential) -> None:
        """From now on. Connections that exist are not touched. Raises ConfigError."""
        if credential != self._credential:
            self._context = server_context(credential)
            self._credential = credential

    def serve(self, sock: socket.socket, address: str) -> None:
        # Entered here, in the order of arrival: tasks may start in any order, and the oldest goes first when there are too many.
        scope = trio.CancelScope(deadline=trio.current_time() + HANDSHAKE_DEADLINE)
        stranger = self._plane.doorkeeper.enter(source_of(address), scope)
        self._plane.spawn(self._serve, sock, address, scope, stranger)

    async def _serve(self, sock: socket.socket, address: str, scope: trio.CancelScope, stranger: object) -> None:
        try:
            with scope:
                try:
                    greeted = await self._handshake(sock, address)
                finally:
                    self._plane.doorkeeper.leave(stranger)
            if scope.cancelled_caught:
                self._plane.totals.counters.handshakes_failed += 1
            elif greeted is not None:
                await self._receive(*greeted, address)
        except (OSError, ssl.SSLError, PeerRejected, ConfigError) as error:
            self._plane.totals.counters.handshakes_failed += 1
            self._say_refused(address, str(error), trio.current_time())
        finally:
            if sock.fileno() >= 0:
                trio.lowlevel.notify_closing(sock)
                sock.close()

    def _say_refused(self, address: str, reason: str, now: float) -> None:
        if now < self._say_again:
            self._unsaid += 1
            return
        fields = {"access": self.entry.name, "address": address, "reason": reason}
        logger.info("a connection to an access was refused", extra=fields | ({"others": self._unsaid} if self._unsaid else {}))
        self._say_again, self._unsaid = now + 1.0, 0

    async def _handshake(self, sock: socket.socket, address: str) -> tuple[TlsTransport, Credential] | None:
        """The credential is the one that this handshake proves: a rotation in between must not mix two."""
        tune_lane(sock)
        await trio.lowlevel.wait_readable(sock)
        try:
            first = sock.recv(FIRST_BYTES)
        except (BlockingIOError, ConnectionResetError):
            first = b""
        if not first:
            self._plane.totals.counters.probes += 1
            return None
        context, credential = self._context, self._credential
        if first[0] != TLS_HANDSHAKE or context is None or credential is None:
            raise ConnectionError("these are not the first bytes of TLS")
        if not self._plane.doorkeeper.may_handshake(source_of(address), trio.current_time()):
            raise ConnectionError("too many handshakes from there")
        transport = TlsTransport(sock, context, server_side=True)
        await transport.handshake(first)
        return transport, credential

    async def _receive(self, transport: TlsTransport, credential: Credential, address: str) -> None:
        chain = transport.certificates
        is_current = check_dates(chain, self._plane.wall_clock()) if chain else False
        if transport.alpn == ALPN_LINK:
            try:
                self._may_link(chain, is_current=is_current)
            except PeerRejected as error:
                await self._refuse(transport, str(error))
                raise
            await self._link(transport, credential)
        elif transport.alpn in (ALPN_JOIN, ALPN_HTTP):
            await self._visit(transport, chain, address)
        else:
            raise PeerRejected("it speaks no protocol of this port (ALPN)")

    def _may_link(self, chain: list[bytes], *, is_current: bool) -> None:
        if not chain:
            raise PeerRejected("a link needs a client certificate")
        if not is_current:
            raise PeerRejected("the certificate has expired: it may be renewed, but opens no link")
        assert self._credential is not None
        check_admitted(chain[0], self._credential.admit)

    @staticmethod
    async def _refuse(transport: TlsTransport, reason: str) -> None:
        """Tell the dialler why, instead of HELLO."""
        with trio.move_on_after(GOODBYE), contextlib.suppress(OSError, ssl.SSLError):
            await transport.send([encode(0, FrameType.GOAWAY, encode_class_and_reason(GoAwayCode.POLICY, reason))])
            await transport.drain()

    async def _link(self, transport: TlsTransport, credential: Credential) -> None:
        plane = self._plane
        lane = Lane(
            transport,
            dialler=False,
            hello=plane.hello(credential),
            config=plane.config,
            budget=plane.budget,
            events=plane,
            access=self.entry.name,
        )
        await plane.run_lane(lane)

    async def _visit(self, transport: TlsTransport, chain: list[bytes], address: str) -> None:
        if self._visitors >= MOST_VISITORS:
            raise ConnectionError("too many visitors at once")
        stream = TlsStream(transport)
        self._visitors += 1
        try:
            assert transport.alpn is not None
            visitor = Visitor(access=self.entry.name, alpn=transport.alpn, stream=stream, certificates=chain, address=address)
            self._plane.mailbox.put(visitor)
            with trio.move_on_after(VISIT):
                await stream.wait_closed()
        finally:
            self._visitors -= 1
