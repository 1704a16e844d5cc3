"""A TCP relay that chooses by the name in the TLS handshake and opens nothing: what an OpenShift router, an Envoy or an nginx does."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Mapping

import trio


class SniRelay:
    """``ports``: by name. ``seen``: the names that were asked for, in order."""

    def __init__(self, ports: Mapping[str, int], port: int = 0, *, host: str = "127.0.0.1") -> None:
        """``host``: where these ports are."""
        self.ports, self.seen, self.port, self._host = ports, list[str](), port, host

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._handle, listeners)

    async def _handle(self, near: trio.SocketStream) -> None:
        with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            hello, name = await _client_hello(near)
            self.seen.append(name)
            if (port := self.ports.get(name)) is None:
                await near.aclose()
                return
            far = await trio.open_tcp_stream(self._host, port)
            async with near, far, trio.open_nursery() as nursery:
                await far.send_all(hello)
                nursery.start_soon(self._pass_on, near, far, nursery.cancel_scope)
                nursery.start_soon(self._pass_on, far, near, nursery.cancel_scope)

    @staticmethod
    async def _pass_on(source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                await sink.send_all(data)
        both.cancel()


async def _client_hello(stream: trio.SocketStream) -> tuple[bytes, str]:
    """The first bytes, and the name in them. The handshake goes no further: there is no certificate here."""
    names: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _tls, name, _context: names.append(name or "")
    incoming, data = ssl.MemoryBIO(), b""
    tls = context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    while not names:
        received = await stream.receive_some()
        if not received:
            break
        data += received
        incoming.write(received)
        with contextlib.suppress(ssl.SSLError):
            tls.do_handshake()
    return data, names[0] if names else ""
