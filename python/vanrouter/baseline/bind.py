"""
A port that is ours: bound when its entry comes, listening only while that makes sense.

Bound and not listening, the kernel refuses clients, and nobody else can take the port. ``shutdown`` on a listening socket
(Linux) stops the listening and keeps the port. SO_REUSEADDR is on only while the socket listens: with it on both sides, two
bound sockets that do not listen could share a port, and the second one would learn of it too late.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from typing import Final

import trio

from vanrouter.plane import BindStatus

__all__ = ["Port"]

logger = logging.getLogger("vanrouter.baseline")

BACKLOG: Final = 1_024
ACCEPT_BATCH: Final = 32
PAUSE_WITHOUT_FDS: Final = 0.1
EPHEMERAL_TRIES: Final = 16


class Port:
    """``status`` and ``error`` say how it went; ``retry`` may be called again after a failure."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self._wanted = port
        self.port = port
        self.sock: socket.socket | None = None
        self.status = BindStatus.FAILED
        self.error = ""
        self.is_shared = False  # a successor has it too: never un-listen it
        self._accepting: trio.CancelScope | None = None

    def adopt(self, sock: socket.socket) -> None:
        """A socket that a predecessor handed over."""
        sock.setblocking(False)
        self.sock, self.port = sock, sock.getsockname()[1]
        is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        self.status = BindStatus.LISTENING if is_listening else BindStatus.BOUND

    def bind(self) -> None:
        try:
            self.sock = _bound(self.host, self._wanted)
        except OSError as error:
            self.status = {
                errno.EADDRINUSE: BindStatus.IN_USE,
                errno.EACCES: BindStatus.DENIED,
                errno.EADDRNOTAVAIL: BindStatus.DENIED,
            }.get(error.errno or 0, BindStatus.FAILED)
            self.error = f"{self.host} port {self._wanted}: {error.strerror}"
            return
        self.sock.setblocking(False)
        self.port = self.sock.getsockname()[1]
        self.status, self.error = BindStatus.BOUND, ""

    def listen(self) -> None:
        if self.sock is None or self.status is BindStatus.LISTENING:
            return
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.sock.listen(BACKLOG)
        except OSError as error:
            self.status = BindStatus.IN_USE if error.errno == errno.EADDRINUSE else BindStatus.FAILED
            self.error = f"{self.host} port {self.port}: {error.strerror}"
            return
        self.status = BindStatus.LISTENING

    def unlisten(self) -> None:
        """Clients are refused from now on; the port stays ours."""
        if self.sock is not None and self.status is BindStatus.LISTENING and not self.is_shared:
            self.stop_accepting()
            self.sock.shutdown(socket.SHUT_RDWR)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            self.status = BindStatus.BOUND

    async def accept(self, serve: Callable[[socket.socket, str], None]) -> None:
        """Hand each connection to ``serve``, until ``stop_accepting``."""
        if self._accepting is not None or self.sock is None:
            return
        with trio.CancelScope() as self._accepting:
            while True:
                await trio.lowlevel.wait_readable(self.sock)
                try:
                    for _ in range(ACCEPT_BATCH):
                        connection, address = self.sock.accept()
                        serve(connection, address[0])
                except BlockingIOError:
                    pass
                except OSError as error:
                    if error.errno not in (errno.ECONNABORTED, errno.EPROTO):
                        logger.warning("cannot accept", extra={"port": self.port, "error": str(error)})
                        await trio.sleep(PAUSE_WITHOUT_FDS)
                await trio.lowlevel.checkpoint()

    def stop_accepting(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None

    def close(self) -> None:
        self.stop_accepting()
        if self.sock is not None:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()
            self.sock = None


def _bound(host: str, port: int) -> socket.socket:
    if port:
        return _bound_to(host, port)
    for _ in range(EPHEMERAL_TRIES):
        # A port that the kernel chose is lost when the socket stops listening; one that was asked for is not.
        with socket.socket(_family(host)) as probe:
            probe.bind((host, 0))
            free = probe.getsockname()[1]
        try:
            return _bound_to(host, free)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "no free port was found")


def _bound_to(host: str, port: int) -> socket.socket:
    sock = socket.socket(_family(host), socket.SOCK_STREAM)
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            # Perhaps only old connections in TIME_WAIT are in the way.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except BaseException:
        sock.close()
        raise
    return sock


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
