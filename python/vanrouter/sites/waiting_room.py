"""
The kubelet's probes before there is anything to run: over TLS, with a certificate made for the moment, which the kubelet does not check.

``GET /livez`` is 200, everything else 503: alive, not ready.
"""

from __future__ import annotations

import contextlib
import ssl
import tempfile
import time

import trio

from vanrouter.errors import ConfigError
from vanrouter.pki import CertificateAuthority, IdentityKey, certificates_to_pem

__all__ = ["answer_probes"]

SECONDS = 5.0  # for one probe
LIVE = b"HTTP/1.1 200 \r\ncontent-type: text/plain\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n"
NOT_READY = b"HTTP/1.1 503 \r\ncontent-type: text/plain\r\ncontent-length: 10\r\nconnection: close\r\n\r\nnot ready\n"


async def answer_probes(host: str, port: int) -> None:
    """Until cancelled; then the port is free again. ``host`` empty: on all addresses."""
    context = _context()

    async def serve(sock: trio.SocketStream) -> None:
        with trio.move_on_after(SECONDS), contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            stream = trio.SSLStream(sock, context, server_side=True, https_compatible=True)
            request = b""
            while b"\r\n" not in request and len(request) < 4096 and (data := await stream.receive_some(4096)):
                request += data
            await stream.send_all(LIVE if request.startswith(b"GET /livez ") else NOT_READY)
            await stream.aclose()
        await trio.aclose_forcefully(sock)

    async with trio.open_nursery() as nursery:
        try:
            listeners = await trio.open_tcp_listeners(port, host=host or None)
        except OSError as exc:
            raise ConfigError(f"port {port}, for links and probes, cannot be opened: {exc}", hint="does another router run here?") from None
        await trio.serve_listeners(serve, listeners, handler_nursery=nursery)


def _context() -> ssl.SSLContext:
    site, now = IdentityKey.generate().site_id, time.time()
    authority = CertificateAuthority.create("waiting", site, now=now)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    leaf = authority.issue_server(authority.key.public_der, site, [], now=now)
    with tempfile.NamedTemporaryFile(prefix="van-", suffix=".pem") as file:  # 0600
        file.write(certificates_to_pem([leaf]) + authority.key_pem().reveal())
        file.flush()
        context.load_cert_chain(file.name)
    return context
