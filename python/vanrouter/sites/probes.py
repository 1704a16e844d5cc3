"""
Makes the checks of targets: TCP connects and HTTP requests, each bounded in time, as `Health` says when.

A TCP check is not a connection to the server's program: the last packet of the handshake is held back and the connection reset, so that the
kernel at the other end answers for the listening socket and the program accepts nothing. Servers that log, count or ban connections which
say nothing (sshd, MySQL, mail servers), or serve only one, do not notice. (Where there is no TCP_QUICKACK it is a connection that is closed
at once.) One that speaks TLS is greeted: its program sees a handshake and a clean end. Refuses to judge: what an answer means is the
business of `addresses/health.py`. Writes no log line per check.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from typing import Final

import trio

from vanrouter.addresses.health import Health, Outcome, Probe
from vanrouter.app_tls import in_words
from vanrouter.plane import Tls
from vanrouter.resources.shapes import format_host_port
from vanrouter.sites.encrypted import greet, shake_hands

__all__ = ["Probes", "make_check"]

log = logging.getLogger("vanrouter.sites")

SHORTEST_SLEEP: Final = 0.002
MAX_HEAD: Final = 4096  # bytes until the status line must have ended
MAX_BODY: Final = 1 << 16  # bytes read of an answer, so that small ones end without a reset
BODY_TIME: Final = 0.2
LATE: Final = 0.5  # seconds after its deadline that a check may end and still blame the target: more, and this router stood still
_OURS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.EAGAIN}
_NOTHING_THERE: Final = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN}
_RESET: Final = struct.pack("ii", 1, 0)
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)[ \r\n]")


class Probes:
    """``changed`` is called after each answer, from the task that runs ``run``'s nursery."""

    def __init__(self, health: Health, *, changed: Callable[[], None]) -> None:
        self._health, self._changed = health, changed
        self._wake = trio.Event()

    def wake(self) -> None:
        """Something may be due sooner than it was."""
        self._wake.set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                now = trio.current_time()
                for probe in self._health.take_due(now):
                    nursery.start_soon(self._make, probe)
                with trio.move_on_at(max(self._health.deadline, now + SHORTEST_SLEEP)):
                    await self._wake.wait()

    async def _make(self, probe: Probe) -> None:
        try:
            outcome = await make_check(probe)
        except Exception:
            log.exception("a bug in a check", extra={"connector": probe.name})
            outcome = Outcome(kind="void", error="a bug in this router; see its log")
        self._health.handle_outcome(probe, outcome, now=trio.current_time())
        self._changed()
        self.wake()


async def make_check(probe: Probe) -> Outcome:
    """One check, to its end or its deadline."""
    deadline = trio.current_time() + probe.check.timeout
    try:
        with trio.move_on_at(deadline) as scope:
            return await (_http(probe) if probe.check.type == "http" else _tcp(probe))
    except OSError as error:
        text = os.strerror(error.errno) if error.errno else error.strerror or str(error)
        if error.errno in _OURS:
            return Outcome(kind="void", error=text)
        return Outcome(kind="failed", error=text, refused=error.errno in _NOTHING_THERE)
    assert scope.cancelled_caught
    if trio.current_time() - deadline > LATE:
        return Outcome(kind="void", error="this router stood still")
    return Outcome(kind="failed", error=f"no answer within {probe.check.timeout:.3g} s")


async def _tcp(probe: Probe) -> Outcome:
    if (tls := _tls_of(probe)) is not None:
        await greet(await _connected(probe), tls, probe.host, patience=probe.check.timeout / 3)
        return Outcome(kind="passed")
    with await _connected(probe, silently=True) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return Outcome(kind="passed")


async def _http(probe: Probe) -> Outcome:
    check = probe.check
    host = check.host or format_host_port(probe.host, probe.port)
    request = f"GET {check.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: vanrouter-check\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    stream = await _stream(probe)
    async with stream:
        head = b""
        with _as_os_error():
            await stream.send_all(request.encode())
            while b"\n" not in head and len(head) < MAX_HEAD:
                part = await stream.receive_some(MAX_HEAD)
                if not part:
                    break
                head += part
        found = _STATUS.match(head)
        if found is None:
            said = "nothing before it closed the connection" if not head else f"{head[:40]!r}"
            return Outcome(kind="failed", error=f"GET {check.path} is answered with {said}, which is not HTTP")
        with contextlib.suppress(trio.BrokenResourceError), trio.move_on_after(BODY_TIME):
            left = MAX_BODY
            while left > 0 and (part := await stream.receive_some(left)):
                left -= len(part)
        if check.accepts(status := int(found[1])):
            return Outcome(kind="passed")
        return Outcome(kind="failed", error=f"GET {check.path} is answered with status {status}")


async def _stream(probe: Probe) -> trio.abc.Stream:
    sock = await _connected(probe)
    if (tls := _tls_of(probe)) is not None:
        return await shake_hands(sock, tls, probe.host)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


def _tls_of(probe: Probe) -> Tls | None:
    """A health port beside the target's own speaks as such ports do: in clear."""
    return None if probe.check.port else probe.check.tls


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        if isinstance(cause, ssl.SSLError):
            raise in_words(cause) from error
        raise (cause if isinstance(cause, OSError) else ConnectionResetError(str(error))) from error


async def _connected(probe: Probe, *, silently: bool = False) -> socket.socket:
    """A connected socket. Raises OSError. ``silently``: the target's program has not been given the connection; reset it at once."""
    sock = socket.socket(socket.AF_INET6 if ":" in probe.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if silently and hasattr(socket, "TCP_QUICKACK"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        number = sock.connect_ex((probe.host, probe.port))
        if number == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))  # noqa: TRY301 - closed right below
    except BaseException:
        sock.close()
        raise
    return sock
