"""
Between a client and its API server, where TLS ends: sees each request, answers some of them itself, and holds one up while a test does
something else first. What it lets pass goes to the real server as an administrator's.
"""

from __future__ import annotations

import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import trio

MAX_HEAD = 65_536
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class Seen(NamedTuple):
    at: float
    method: str
    path: str  # with the query

    @property
    def is_watch(self) -> bool:
        return "watch=true" in self.path


async def _nothing(_: Seen) -> None:
    pass


class ApiGate:
    """``answer``: what is said instead of the server, to requests for which ``concerns`` is true. ``before``: done before one passes."""

    def __init__(self, api_server: Any) -> None:
        access = api_server.access()
        self._port, self._tls = api_server.port, access.tls(access.credentials.show())
        self._shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._shown.load_cert_chain(api_server.directory / "server.pem", api_server.directory / "server.key")
        self.port = 0
        self.seen: list[Seen] = []
        self.answer: bytes | None = None
        self.concerns: Callable[[Seen], bool] = lambda _: True
        self.before: Callable[[Seen], Awaitable[None]] = _nothing
        self._watches: list[trio.CancelScope] = []

    def count(self, since: int = 0) -> Counter[str]:
        """What was asked, by method (a watch: WATCH), from the ``since``-th request on."""
        return Counter("WATCH" if one.is_watch else one.method for one in self.seen[since:])

    def cut_watches(self) -> None:
        """In the middle of whatever they bring, without a word."""
        for scope in self._watches:
            scope.cancel()
        self._watches.clear()

    async def handle(self, raw: trio.SocketStream) -> None:
        near = trio.SSLStream(raw, self._shown, server_side=True)
        with contextlib.ExitStack() as closing:
            closing.callback(raw.socket.close)
            async with trio.open_nursery() as nursery:
                with contextlib.suppress(*GONE):
                    await self._pass_on(near, nursery, closing)
                nursery.cancel_scope.cancel()

    async def _pass_on(self, near: Any, nursery: trio.Nursery, closing: contextlib.ExitStack) -> None:
        far, rest = None, b""
        while True:
            request, rest = await _request(near, rest)
            if not request:
                return
            method, path, _ = request.split(b" ", 2)
            seen = Seen(trio.current_time(), method.decode(), path.decode())
            self.seen.append(seen)
            await self.before(seen)
            if self.answer is not None and self.concerns(seen):
                await near.send_all(self.answer)
                continue
            if far is None:
                tcp = await trio.open_tcp_stream("127.0.0.1", self._port)
                closing.callback(tcp.socket.close)
                far = trio.SSLStream(tcp, self._tls, server_hostname="127.0.0.1")
                nursery.start_soon(self._bring_back, far, near, nursery.cancel_scope)
            if seen.is_watch:
                self._watches.append(nursery.cancel_scope)
            await far.send_all(request)

    async def _bring_back(self, far: Any, near: Any, whole: trio.CancelScope) -> None:
        with contextlib.suppress(*GONE):
            while data := await far.receive_some(65_536):
                await near.send_all(data)
        whole.cancel()


async def _request(stream: Any, rest: bytes) -> tuple[bytes, bytes]:
    """One request whole, and what came after it. Empty: the visitor is gone."""
    while b"\r\n\r\n" not in rest:
        data = await stream.receive_some(65_536)
        if not data or len(rest) > MAX_HEAD:
            return b"", b""
        rest += data
    head, _, body = rest.partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        data = await stream.receive_some(65_536)
        if not data:
            return b"", b""
        body += data
    return head + b"\r\n\r\n" + body[:length], body[length:]


def refusal(status: int, *headers: str) -> bytes:
    """What a server that is too busy, or broken, says."""
    body = b'{"kind":"Status","apiVersion":"v1","status":"Failure","message":"the gate says no","code":%d}' % status
    lines = [f"HTTP/1.1 {status} No", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def api_gate(api_server: Any) -> AsyncIterator[ApiGate]:
    gate = ApiGate(api_server)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    gate.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, gate.handle, listeners)
        yield gate
        nursery.cancel_scope.cancel()
