"""
The applications' sockets: reading, writing, ending cleanly, ending with RST, and noticing that the other end is gone.

A reset is noticed also while nothing is read: ``AbortWatch`` has an epoll of its own that reports errors only.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Final

import trio

__all__ = ["CONNECT_TIMEOUT", "AbortWatch", "AppSocket", "Signal", "connect_tcp", "tune"]

logger = logging.getLogger("vanrouter.baseline")

CONNECT_TIMEOUT: Final = 5.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close sends RST and drops what is unsent
_DELIVER_ON_CLOSE: Final = struct.pack("ii", 0, 0)


class Signal:
    """Wakes one task. Set before anyone waits, it is kept."""

    __slots__ = ("_is_set", "_task")

    def __init__(self) -> None:
        self._is_set = False
        self._task: trio.lowlevel.Task | None = None

    def set(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)
        else:
            self._is_set = True

    async def wait(self) -> None:
        if self._is_set:
            self._is_set = False
            await trio.lowlevel.checkpoint()
            return
        assert self._task is None
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


class AbortWatch:
    """Calls back when a watched socket has an error (or ended its half), also while nobody reads from it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[Callable[[OSError], None], Callable[[], None]]] = {}

    def watch(self, sock: socket.socket, broken: Callable[[OSError], None], ended: Callable[[], None]) -> None:
        fd = sock.fileno()
        if fd not in self._watched:
            # No EPOLLIN: bytes that wait are no news. Errors are always reported.
            self._epoll.register(fd, select.EPOLLET | select.EPOLLRDHUP)
        self._watched[fd] = (broken, ended)

    def forget(self, sock: socket.socket) -> None:
        fd = sock.fileno()
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def run(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for fd, _ in self._epoll.poll(0):
                if fd not in self._watched:
                    continue
                broken, ended = self._watched[fd]
                with socket.socket(fileno=os.dup(fd)) as sock:
                    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if number:
                    broken(OSError(number, os.strerror(number)))
                else:
                    ended()

    def close(self) -> None:
        self._epoll.close()


def tune(sock: socket.socket) -> None:
    """What every application socket gets: no delay, and keepalive, which finds dead peers.

    And closing sends RST, also when the kernel does it because this process was killed: what did not end cleanly must not look as if it
    had.
    """
    sock.setblocking(False)
    reset_on_close(sock)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


async def connect_tcp(host: str, port: int) -> socket.socket:
    """A tuned, connected socket. Raises OSError."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        tune(sock)
        try:
            sock.connect((host, port))
        except BlockingIOError:
            with trio.move_on_after(CONNECT_TIMEOUT) as timeout:
                await trio.lowlevel.wait_writable(sock)
            if timeout.cancelled_caught:
                raise TimeoutError(None, f"no answer within {CONNECT_TIMEOUT:.0f} s") from None
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, os.strerror(number)) from None
    except BaseException:
        # Also when whoever wanted it has gone: a server that has accepted it already must not take this for a clean end, and does not.
        sock.close()
        raise
    return sock


class AppSocket:
    """A connected, non-blocking TCP socket of an application. One task may read; writing never waits."""

    __slots__ = ("_may_have_more", "_sock", "_watch", "is_closed")

    def __init__(self, sock: socket.socket, watch: AbortWatch) -> None:
        self._sock = sock
        self._watch = watch
        self._may_have_more = True
        self.is_closed = False

    def read_now(self, size: int) -> bytes | None:
        """None: nothing is there yet. Raises OSError."""
        try:
            data = self._sock.recv(size)
        except BlockingIOError:
            self._may_have_more = False
            return None
        self._may_have_more = len(data) == size
        return data

    async def read(self, size: int) -> bytes:
        """``b""`` is the clean end. Raises OSError, or trio.ClosedResourceError when it was closed meanwhile."""
        while True:
            if self._may_have_more:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._sock)
            if self.is_closed:
                raise trio.ClosedResourceError
            data = self.read_now(size)
            if data is not None:
                return data

    def write_now(self, chunks: list[memoryview]) -> int:
        """How much the kernel took. Raises OSError."""
        try:
            return self._sock.send(chunks[0]) if len(chunks) == 1 else self._sock.sendmsg(chunks)
        except BlockingIOError:
            return 0

    async def wait_writable(self) -> None:
        await trio.lowlevel.wait_writable(self._sock)

    def watch(self, broken: Callable[[OSError], None], ended: Callable[[], None]) -> None:
        """From now on errors, and that the other end has sent its last byte, are noticed without reading."""
        if not self.is_closed:
            self._watch.watch(self._sock, broken, ended)

    def is_at_its_end(self) -> bool:
        """Nothing is left to read, and nothing will come: a clean end needs no credit. Raises OSError."""
        try:
            return not self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False

    def shutdown_write(self) -> None:
        """Our direction ends cleanly. Raises OSError."""
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """After a clean end: what is still in the kernel's hands is delivered."""
        if not self.is_closed:
            _set_linger(self._sock, _DELIVER_ON_CLOSE)
            self.reset()

    def reset(self) -> None:
        """The application sees a reset, never a clean end."""
        if not self.is_closed:
            self.is_closed = True
            self._watch.forget(self._sock)
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


def reset_on_close(sock: socket.socket) -> None:
    _set_linger(sock, _RESET_ON_CLOSE)


def _set_linger(sock: socket.socket, how: bytes) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
    except OSError as error:
        if error.errno != errno.EINVAL:  # already reset by the other end
            logger.debug("cannot set SO_LINGER", extra={"error": str(error)})
