"""
Ask a running site. Blocking sockets of the standard library and a deadline over the whole call: ``van status`` starts fast, never hangs.

Nothing runs there: ``NotReady``. No answer in time: ``DeadlineExceeded``. What the site refuses is raised as the class that it raised.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from vanrouter.admin.path import socket_name
from vanrouter.admin.protocol import MAX_ANSWER, decode_reply, encode_request
from vanrouter.errors import ConfigError, DeadlineExceeded, LocalProtocolError, NotReady

__all__ = ["Connection", "NotRunning", "call"]


class NotRunning(NotReady):
    """Nobody serves this directory now; a running site that is not ready answers so itself, with a hint of its own."""


def call(directory: Path | str, method: str, params: dict[str, Any] | None = None, *, timeout: float = 10.0) -> Any:
    """One call to the site whose directory this is."""
    with Connection(directory, timeout=timeout) as connection:
        return connection.call(method, params)


class Connection:
    """Several calls, one after the other. ``timeout`` is for each of them."""

    def __init__(self, directory: Path | str, *, timeout: float = 10.0) -> None:
        self.directory = Path(directory)
        self.timeout = max(timeout, 0.05)
        self._buffer = b""
        self._fds: list[int] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(self.timeout)
        try:
            self._connect(self.directory / "run" / "admin.sock")
        except BaseException:
            self._socket.close()
            raise

    def _connect(self, path: Path) -> None:
        start = f"start it: vanrouter run {self.directory}"
        try:
            with socket_name(path) as name:
                self._socket.connect(name)
        except (FileNotFoundError, NotADirectoryError):
            if not self.directory.is_dir():
                raise NotRunning(f"there is no site in {self.directory}", hint="create it: van init --site-name NAME") from None
            raise NotRunning(f"the site in {self.directory} is not running: it has no {path.name}", hint=start) from None
        except ConnectionRefusedError:
            raise NotRunning(f"the site in {self.directory} is not running: nobody answers on {path}", hint=start) from None
        except PermissionError:
            raise ConfigError(f"this user may not talk to the site in {self.directory}", hint="run it as the user who owns it") from None
        except TimeoutError:
            raise self._too_late("connect") from None

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Raises NotReady when the site ends while it is asked."""
        deadline = time.monotonic() + self.timeout
        try:
            self._socket.settimeout(self.timeout)
            self._socket.sendall(encode_request(method, params or {}))
            return decode_reply(self._read_line(deadline))
        except TimeoutError:
            raise self._too_late(method) from None
        except ConnectionError:
            raise self._gone(method) from None

    def take_sockets(self) -> list[int]:
        """The file descriptors that came with the answers so far. The caller's to close."""
        fds, self._fds = self._fds, []
        return fds

    def _read_line(self, deadline: float) -> bytes:
        parts, size = [self._buffer], len(self._buffer)
        while b"\n" not in parts[-1]:
            if size > MAX_ANSWER:
                raise LocalProtocolError(f"the running site sent more than {MAX_ANSWER} bytes in a line")
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            data = self._receive()
            if not data:
                raise ConnectionResetError
            parts.append(data)
            size += len(data)
        line, _, self._buffer = b"".join(parts).partition(b"\n")
        return line

    def _receive(self) -> bytes:
        size = array.array("i").itemsize
        data, ancillary, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(253 * size), socket.MSG_CMSG_CLOEXEC)
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(value[: len(value) - len(value) % size])
                self._fds.extend(fds)
        return data

    def _too_late(self, method: str) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the site in {self.directory} did not answer {method!r} within {self.timeout:.3g} s",
            hint=f"look at {self.directory / 'run' / 'router.log'}; a longer time: --timeout",
        )

    def _gone(self, method: str) -> NotRunning:
        return NotRunning(
            f"the site in {self.directory} ended while it was asked for {method!r}", hint=f"see {self.directory / 'run' / 'router.log'}"
        )

    def close(self) -> None:
        for fd in self.take_sockets():
            with contextlib.suppress(OSError):
                os.close(fd)
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
