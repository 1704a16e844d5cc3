"""Programs that speak TLS through the routers: clients and servers that end halves, show certificates, or leave without a word."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio
from applications import Server, served
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from site_credentials import Authority, der

from vanrouter.plane import Tls

__all__ = ["Shown", "TlsPeer", "Truncated", "client_context", "entry", "server_context", "tls_client", "tls_served"]


class Truncated(Exception):
    """The connection ended without close_notify."""


class TlsPeer:
    """One end of a TLS connection, whose halves end one after the other."""

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext, *, server: bool, name: str | None = None) -> None:
        self.stream = stream
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=name)

    async def handshake(self) -> None:
        while True:
            try:
                self.ssl.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError:
                await self._flush()
                raise
            else:
                return await self._flush()

    async def send(self, data: bytes) -> None:
        for at in range(0, len(data), 1 << 17):
            self.ssl.write(data[at : at + (1 << 17)])
            await self._flush()

    async def end(self) -> None:
        """close_notify; the connection stays."""
        with suppress(ssl.SSLWantReadError):  # the peer has not said it
            self.ssl.unwrap()
        await self._flush()

    async def receive(self, size: int = 65_536) -> bytes:
        """``b""``: close_notify. Raises Truncated, or trio.BrokenResourceError for a reset."""
        while True:
            try:
                return self.ssl.read(size)
            except ssl.SSLWantReadError:
                await self._fill()
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLEOFError as error:
                raise Truncated from error

    async def receive_all(self) -> bytes:
        got = bytearray()
        while data := await self.receive():
            got += data
        return bytes(got)

    async def _flush(self) -> None:
        if self._out.pending:
            await self.stream.send_all(self._out.read())

    async def _fill(self) -> None:
        data = await self.stream.receive_some(65_536)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()


class Shown:
    """A key with a certificate for a name."""

    def __init__(self, authority: Authority, name: str = "localhost", *, begins: float | None = None, ends: float | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.leaf = authority.leaf(self.key, name, begins=begins, ends=ends, dns=name)

    @property
    def der_key(self) -> bytes:
        return self.key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    def load(self, context: ssl.SSLContext) -> None:
        pem = self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "shown.pem")
            path.write_bytes(pem + self.leaf.public_bytes(serialization.Encoding.PEM))
            context.load_cert_chain(path)


def entry(name: str, *, shown: Shown | None = None, trust: Authority | None = None, **terms: object) -> Tls:
    return Tls(
        name=name,
        certificates=[der(shown.leaf)] if shown else [],
        private_key=shown.der_key if shown else b"",
        trust=[der(trust.certificate)] if trust else [],
        **terms,  # type: ignore[arg-type]
    )


def server_context(shown: Shown, *, wants: Authority | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.load(context)
    if wants is not None:
        context.load_verify_locations(cadata=der(wants.certificate))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(trust: Authority, *, shown: Shown | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=der(trust.certificate))
    if shown is not None:
        shown.load(context)
    return context


@asynccontextmanager
async def tls_served(handler: Callable[[TlsPeer], Awaitable[None]], context: ssl.SSLContext) -> AsyncIterator[Server]:
    """As ``served``; a handshake that fails and a missing close_notify are endings "reset"."""

    async def handle(stream: trio.SocketStream) -> None:
        peer = TlsPeer(stream, context, server=True)
        try:
            await peer.handshake()
            await handler(peer)
        except (Truncated, ssl.SSLError) as error:
            raise trio.BrokenResourceError from error

    async with served(handle) as server:
        yield server


async def tls_client(stream: trio.SocketStream, context: ssl.SSLContext, *, name: str = "localhost") -> TlsPeer:
    peer = TlsPeer(stream, context, server=False, name=name)
    await peer.handshake()
    return peer
