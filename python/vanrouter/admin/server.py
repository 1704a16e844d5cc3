"""
Answer operators on ``run/admin.sock``: same user or root, one call at a time per connection, each with a deadline.

The socket appears under its name only when it listens, and replaces the one of a predecessor in one step. A connection that says nothing
for a minute or sends a line of more than 1 MiB is closed; at most 32 are served. A call whose caller has left is carried to its end.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from vanrouter.admin.path import socket_name
from vanrouter.admin.protocol import MAX_LINE, decode_request_untrusted, encode_error, encode_result
from vanrouter.errors import ConfigError, DeadlineExceeded, VanrouterError
from vanrouter.stores.files import store_error

__all__ = ["Handler", "Reply", "serve_admin"]

log = logging.getLogger("vanrouter.admin")

MAX_CONNECTIONS: Final = 32
IDLE: Final = 60.0
CALL: Final = 30.0
FDS_PER_MESSAGE: Final = 250  # the kernel takes 253


class Reply(msgspec.Struct, frozen=True):
    """A result that comes with open files. They are closed once sent."""

    result: Any
    fds: list[int]


Handler = Callable[[str, dict[str, Any]], Awaitable[Any]]


async def serve_admin(path: Path, handler: Handler, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve until cancelled. ``handler`` returns the result (or a ``Reply``), or raises a VanrouterError."""
    listening = _bind(path)
    spare = _Spare()
    told = False  # that it cannot accept; once each time
    try:
        inode = os.stat(path).st_ino
        limit = trio.CapacityLimiter(MAX_CONNECTIONS)
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                try:
                    connection, _ = await listening.accept()
                except OSError as exc:
                    if not spare.give():  # else: now there is room for one
                        if not told:
                            log.warning("admin socket cannot accept", extra={"error": str(exc)})
                        told = True
                        await trio.sleep(0.1)
                    continue
                spare.take()
                told = False
                nursery.start_soon(_serve, connection, handler, limit)
    finally:
        spare.give()
        listening.close()
        with contextlib.suppress(OSError):
            if os.stat(path).st_ino == inode:
                os.unlink(path)


class _Spare:
    """One file descriptor put by, so that an operator gets in when there is none left."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self.take()

    def take(self) -> None:
        if self._fd is None:
            with contextlib.suppress(OSError):
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def give(self) -> bool:
        """Whether there was one."""
        if self._fd is None:
            return False
        os.close(self._fd)
        self._fd = None
        return True


def _bind(path: Path) -> trio.socket.SocketType:
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        with socket_name(temporary) as name:
            plain.bind(name)
        os.chmod(temporary, 0o600)
        plain.listen(128)
        os.rename(temporary, path)
    except OSError as exc:
        plain.close()
        raise store_error("listen on", path, exc) from exc
    return trio.socket.from_stdlib_socket(plain)


async def _serve(connection: trio.socket.SocketType, handler: Handler, limit: trio.CapacityLimiter) -> None:
    with connection:
        if not _may_call(connection):
            return
        try:
            limit.acquire_on_behalf_of_nowait(connection)
        except trio.WouldBlock:
            return
        try:
            await _converse(connection, handler)
        except (OSError, trio.TooSlowError):
            pass  # the caller left, or does not read: its affair
        finally:
            limit.release_on_behalf_of(connection)


def _may_call(connection: trio.socket.SocketType) -> bool:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    if uid in (0, os.geteuid()):
        return True
    log.warning("admin socket refused another user", extra={"uid": uid, "pid": pid})
    return False


async def _converse(connection: trio.socket.SocketType, handler: Handler) -> None:
    buffer = b""
    while True:
        with trio.fail_after(IDLE):
            while b"\n" not in buffer:
                data = await connection.recv(65536)
                if not data:
                    return
                buffer += data
                if len(buffer) > MAX_LINE and b"\n" not in buffer[: MAX_LINE + 1]:
                    await _send(connection, encode_error(ConfigError(f"the request is longer than {MAX_LINE} bytes")), [])
                    return
        line, _, buffer = buffer.partition(b"\n")
        reply, fds = await _answer(line, handler)
        try:
            with trio.fail_after(CALL):
                await _send(connection, reply, fds)
        finally:
            for fd in fds:
                os.close(fd)


async def _answer(line: bytes, handler: Handler) -> tuple[bytes, list[int]]:
    method = "?"
    try:
        method, params = decode_request_untrusted(line)
        with trio.fail_after(CALL):
            result = await handler(method, params)
    except VanrouterError as exc:
        return encode_error(exc), []
    except trio.TooSlowError:
        return encode_error(DeadlineExceeded(f"{method} took longer than {CALL:.0f} s in the running site")), []
    except Exception as exc:
        log.exception("admin call failed", extra={"method": method})
        return encode_error(exc), []
    if isinstance(result, Reply):
        return encode_result(result.result), result.fds
    return encode_result(result), []


async def _send(connection: trio.socket.SocketType, data: bytes, fds: list[int]) -> None:
    """The files travel with the first bytes, at most 250 with one byte."""
    sent = 0
    for start in range(0, len(fds), FDS_PER_MESSAGE):
        rights = array.array("i", fds[start : start + FDS_PER_MESSAGE])
        sent += await connection.sendmsg([data[sent : sent + 1]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    rest = memoryview(data)[sent:]
    while rest:
        rest = rest[await connection.send(rest) :]
