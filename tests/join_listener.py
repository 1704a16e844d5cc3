"""
A small TLS listener that hands visitors to the desk, as a data plane does; for tests only.

It runs in the test's own process, or by itself (``python listener.py CONFIG.json``) where a test wants an issuer that it can kill.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from vanrouter.pki import CertificateAuthority, IdentityKey, PrivateKey, certificates_to_pem
from vanrouter.plane import Visitor
from vanrouter.tokens import AccessGrant, Endpoint, Issuer, Ledger, Versioned
from vanrouter.tokens.desk import serve_health, serve_join
from vanrouter.tokens.redeem import _as_file
from vanrouter.tokens.sqlite_ledger import SqliteLedger

NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: an expired leaf may still renew

Handler = Callable[[Visitor], Awaitable[None]]


def server_context(certificate_pem: bytes, key_pem: bytes, trust_pem: bytes, alpn: list[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0
    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    context.load_verify_locations(cadata=trust_pem.decode())
    with _as_file(key_pem + certificate_pem) as path:
        context.load_cert_chain(path)
    context.set_alpn_protocols(alpn)
    return context


def context_of(
    identity: IdentityKey,
    authority: CertificateAuthority,
    now: float,
    hosts: tuple[str, ...] = ("127.0.0.1",),
    alpn: tuple[str, ...] = ("van-join/1", "http/1.1"),
    lifetime: float = 90 * 86_400.0,
) -> ssl.SSLContext:
    key = PrivateKey.generate()
    leaf = authority.issue_server(key.public_der, identity.site_id, hosts, now=now, lifetime=lifetime)
    return server_context(certificates_to_pem([leaf]), key.pem().reveal(), authority.certificate_pem(), list(alpn))


async def listen(
    context: ssl.SSLContext, handler: Handler, port: int = 0, *, task_status: trio.TaskStatus[Endpoint] = trio.TASK_STATUS_IGNORED
) -> None:
    async def visit(tcp: trio.SocketStream) -> None:
        peer = tcp.socket.getpeername()
        stream = trio.SSLStream(tcp, context, server_side=True, https_compatible=True)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.do_handshake()
            der = stream.getpeercert(binary_form=True)
            visitor = Visitor(
                access="access",
                alpn=stream.selected_alpn_protocol() or "",
                stream=stream,
                certificates=[der] if der else [],
                address=f"{peer[0]}:{peer[1]}",
            )
            with trio.move_on_after(30):
                await handler(visitor)

    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1", backlog=512)
    task_status.started(Endpoint("127.0.0.1", listeners[0].socket.getsockname()[1]))
    await trio.serve_listeners(visit, listeners)


class DyingLedger:
    """A ledger whose process is killed (SIGKILL, by itself) right before or after its n-th swap."""

    def __init__(self, inner: Ledger, *, swap: int, after: bool) -> None:
        self._inner, self._left, self._after = inner, swap, after

    def load(self, grant_id: str) -> Versioned | None:
        return self._inner.load(grant_id)

    def grants(self) -> list[AccessGrant]:
        return self._inner.grants()

    def swap(self, grant_id: str, expected: str | None, grant: AccessGrant | None) -> bool:
        self._left -= 1
        if self._left == 0 and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        done = self._inner.swap(grant_id, expected, grant)
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return done


def ledger_of(config: dict[str, str]) -> Ledger:
    if "kubeconfig" not in config:
        return SqliteLedger(config["ledger"])
    from vanrouter.kube.blocking import BlockingClient
    from vanrouter.kube.kubeconfig import load_access
    from vanrouter.kube.ledger import SecretLedger

    return SecretLedger(BlockingClient(load_access(kubeconfig=config["kubeconfig"])), config["namespace"])


def issuer_of(config: dict[str, str]) -> Issuer:
    ledger = ledger_of(config)
    if "die" in config:
        when, _, swap = config["die"].partition(" ")
        ledger = DyingLedger(ledger, swap=int(swap), after=when == "after")
    return Issuer(
        ledger=ledger,
        identity=IdentityKey.load(Path(config["identity"]).read_bytes()),
        site_name="north",
        authority=CertificateAuthority.load(Path(config["ca_crt"]).read_bytes(), Path(config["ca_key"]).read_bytes()),
        endpoints=[],
        failures_per_minute=0,
    )


async def _main(issuer: Issuer) -> None:
    """One issuer process on a shared ledger. Prints its port."""

    async def handler(visitor: Visitor) -> None:
        if visitor.alpn == "van-join/1":
            await serve_join(visitor, issuer)
        else:
            await serve_health(visitor, lambda: True)

    async with trio.open_nursery() as nursery:
        endpoint = await nursery.start(listen, context_of(issuer.identity, issuer.authority, time.time()), handler)
        issuer.endpoints = [endpoint]
        os.write(1, f"{endpoint.port}\n".encode())


if __name__ == "__main__":
    trio.run(_main, issuer_of(json.loads(Path(sys.argv[1]).read_text())))
