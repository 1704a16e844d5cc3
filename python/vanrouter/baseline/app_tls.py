"""
TLS toward applications: an ``AppSocket`` whose bytes are encrypted on their way to the kernel.

Links have rules of their own (``tls.py``). Here the other end is somebody's program: TLS 1.2 and 1.3, the user's certificates and CAs. A
direction ends with close_notify; a connection that ends without it is broken, after what came before.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable, Iterator
from socket import SHUT_WR, socket
from typing import TYPE_CHECKING, Final

import trio

from vanrouter.app_tls import client_context, in_words, server_context
from vanrouter.baseline.sockets import CONNECT_TIMEOUT, AbortWatch, AppSocket, connect_tcp
from vanrouter.baseline.table import Table
from vanrouter.errors import ConfigError
from vanrouter.plane import Connector, Listener, Tls

if TYPE_CHECKING:
    from vanrouter.baseline.plane import BaselinePlane

__all__ = ["GaveWay", "Legs"]

GREETING_DEADLINE: Final = 10.0
MOST_GREETING: Final = 1_024  # handshakes under way per listener; beyond it the oldest gives way, so that silence keeps nobody out
READ_SIZE: Final = 65_536  # of ciphertext; what it decrypts to may wait here
WRITE_SIZE: Final = 32_768  # plaintext that is encrypted at once, and may wait for a slow application beside its credit
LAST_WORDS: Final = 60.0  # an application may take so long to read the end of a stream that is over


class GaveWay(OSError):
    """The handshake of a client whose place a newer one has."""


class Legs:
    """Makes the sockets of applications, with or without TLS, as their entries say."""

    def __init__(self, plane: BaselinePlane, table: Table) -> None:
        self._plane = plane
        self._table = table
        self._contexts: dict[tuple[str, bool], tuple[Tls, ssl.SSLContext]] = {}
        self._greeting: dict[str, dict[trio.CancelScope, None]] = {}  # by listener, the oldest first

    async def accept(self, listener: Listener, sock: socket) -> AppSocket:
        """Raises OSError with what went wrong, and the socket is closed."""
        try:
            context, _ = self._context(listener.tls, server_side=True)
        except BaseException:
            sock.close()
            raise
        leg = TlsSocket(sock, self._plane.abort_watch, context, spawn=self._plane.spawn, server_side=True)
        try:
            with self._one_more(listener.name):
                await leg.handshake(within=GREETING_DEADLINE)
        except BaseException as error:
            if isinstance(error, OSError) and not isinstance(error, GaveWay):
                AppSocket.close(leg)  # so that the alert, which says why, arrives
            else:
                leg.reset()
            raise
        return leg

    @contextlib.contextmanager
    def _one_more(self, listener: str) -> Iterator[None]:
        """Of a listener's handshakes; the oldest of too many is cancelled, and raises GaveWay."""
        greeting = self._greeting.setdefault(listener, {})
        if len(greeting) >= MOST_GREETING:
            oldest = next(iter(greeting))
            del greeting[oldest]
            oldest.cancel()
        try:
            with trio.CancelScope() as scope:
                greeting[scope] = None
                yield
        finally:
            greeting.pop(scope, None)
            if not greeting:
                self._greeting.pop(listener, None)
        if scope.cancelled_caught:
            raise GaveWay(None, "TLS: it gave way to new clients: too many have not finished their handshake")

    async def connect(self, connector: Connector) -> AppSocket:
        """Connected, its handshake included. Raises OSError."""
        if not connector.tls:
            return AppSocket(await connect_tcp(connector.host, connector.port), self._plane.abort_watch)
        context, entry = self._context(connector.tls, server_side=False)
        sock = await connect_tcp(connector.host, connector.port)
        name = entry.server_name or connector.host
        leg = TlsSocket(sock, self._plane.abort_watch, context, spawn=self._plane.spawn, server_side=False, server_hostname=name)
        try:
            await leg.handshake(within=CONNECT_TIMEOUT)
        except BaseException:
            leg.reset()
            raise
        return leg

    def _context(self, name: str, *, server_side: bool) -> tuple[ssl.SSLContext, Tls]:
        """Of the entry as it is now: a rotation reaches the next connection. Raises OSError: never on without TLS."""
        entry = self._table.get("tls", name)
        if not isinstance(entry, Tls):
            raise ConnectionRefusedError(None, f"TLS: there is no credential {name} now")
        known = self._contexts.get((name, server_side))
        if known is None or known[0] != entry:
            try:
                known = (entry, (server_context if server_side else client_context)(entry))
            except (ssl.SSLError, ValueError, ConfigError) as error:
                raise ConnectionRefusedError(None, f"TLS: credential {name}: {error}") from error
            self._contexts[name, server_side] = known
        return known[1], entry


class TlsSocket(AppSocket):
    """What was written may be here still, encrypted; a task writes it when the application takes it, and then does what was asked since."""

    __slots__ = ("_ahead", "_closes", "_drained", "_end", "_incoming", "_is_draining", "_outgoing", "_shuts", "_spawn", "_ssl", "_unsent")

    def __init__(
        self,
        sock: socket,
        watch: AbortWatch,
        context: ssl.SSLContext,
        *,
        spawn: Callable[[Callable[[], Awaitable[object]]], None],
        server_side: bool,
        server_hostname: str | None = None,
    ) -> None:
        super().__init__(sock, watch)
        self._spawn = spawn
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname)
        self._ahead = bytearray()  # plaintext that was read to see what comes behind it
        self._end: OSError | bool = False  # True: a clean one
        self._unsent = b""
        self._drained = trio.Event()
        self._is_draining = self._shuts = self._closes = False

    async def handshake(self, *, within: float) -> None:
        """Raises OSError."""
        with trio.move_on_after(within):
            await self._shake_hands()
            return
        raise TimeoutError(None, f"TLS: no handshake within {within:.0f} s")

    async def _shake_hands(self) -> None:
        while True:
            wants_more = False
            try:
                self._ssl.do_handshake()
            except ssl.SSLWantReadError:
                wants_more = True
            except ssl.SSLError as error:
                with contextlib.suppress(OSError):
                    self._send()
                raise in_words(error) from error
            self._send()
            while self._unsent:
                await trio.lowlevel.wait_writable(self._sock)
                self._send()
            if not wants_more:
                return
            while not self._fill():
                await trio.lowlevel.wait_readable(self._sock)

    # ---- Reading -----------------------------------------------------------------------------------------------------------------

    def read_now(self, size: int) -> bytes | None:
        while True:
            data = self._plain(size)
            if data is not None:
                return data
            self._send_soon()  # what TLS itself has to say
            if not self._fill():
                return None

    async def read(self, size: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self.is_closed:
                raise trio.ClosedResourceError
            data = self.read_now(size)
            if data is not None:
                return data
            await trio.lowlevel.wait_readable(self._sock)

    def is_at_its_end(self) -> bool:
        if not self._ahead:
            data = self.read_now(1)
            if data == b"":
                return True
            self._ahead += data or b""
        return False

    def _plain(self, size: int) -> bytes | None:
        if self._ahead:
            data = bytes(self._ahead[:size])
            del self._ahead[:size]
            return data
        if self._end:
            if isinstance(self._end, OSError):
                raise self._end
            return b""
        try:
            data = self._ssl.read(size) if size else b""
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            data = b""
        except ssl.SSLError as error:
            self._end = in_words(error)
            raise self._end from error
        if not data:
            self._end = True
        return data

    def _fill(self) -> bool:
        try:
            data = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return False
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return True

    # ---- Writing -----------------------------------------------------------------------------------------------------------------

    def write_now(self, chunks: list[memoryview]) -> int:
        written = 0
        for chunk in chunks:
            for at in range(0, len(chunk), WRITE_SIZE):
                if self._unsent:
                    return written
                piece = chunk[at : at + WRITE_SIZE]
                self._ssl.write(piece)
                written += len(piece)
                self._send_soon()
        return written

    async def wait_writable(self) -> None:
        while self._unsent:
            await self._drained.wait()
        await trio.lowlevel.checkpoint()

    def _send(self) -> None:
        """As much as the kernel takes."""
        data = self._unsent + self._outgoing.read()
        while data:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                break
            data = data[sent:]
        self._unsent = data

    def _send_soon(self) -> None:
        if self._outgoing.pending or self._unsent:
            self._send()
            if self._unsent and not self._is_draining:
                self._is_draining = True
                self._spawn(self._drain)

    async def _drain(self) -> None:
        try:
            with trio.CancelScope() as scope:
                while self._unsent:
                    if self._closes:
                        scope.deadline = min(scope.deadline, trio.current_time() + LAST_WORDS)
                    await trio.lowlevel.wait_writable(self._sock)
                    self._send()
        except (OSError, trio.ClosedResourceError):
            pass  # who reads it, or watches it, learns that it broke
        finally:
            failed, self._unsent = bool(self._unsent), b""
            self._is_draining = False
            drained, self._drained = self._drained, trio.Event()
            drained.set()
            if self._closes:
                (super().reset if failed else super().close)()
            elif self._shuts and not failed and not self.is_closed:
                self._sock.shutdown(SHUT_WR)

    # ---- Ends --------------------------------------------------------------------------------------------------------------------

    def shutdown_write(self) -> None:
        # Saying close_notify makes TLS look at what came; data would be lost there.
        while not self._end:
            try:
                data = self._ssl.read(READ_SIZE)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                self._end = in_words(error)
                break
            self._end = not data
            self._ahead += data
        with contextlib.suppress(ssl.SSLError):
            self._ssl.unwrap()
        self._send_soon()
        self._shuts = True
        if not self._unsent:
            self._sock.shutdown(SHUT_WR)

    def close(self) -> None:
        if self._unsent:
            self._closes = True
        else:
            super().close()
