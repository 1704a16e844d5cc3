"""
TLS 1.3 over a socket, driven by hand: ``ssl.SSLObject`` between two memory BIOs.

``trio.SSLStream`` makes a system call and a record at a time; a lane wants a quarter of a megabyte per call. Certificates'
dates are checked here and not by OpenSSL, because an expired leaf may still come to renew itself.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fnmatch
import socket
import ssl
from collections.abc import Sequence
from typing import Any, Final

import trio
from cryptography import x509
from cryptography.x509.oid import NameOID

from vanrouter.app_tls import key_file
from vanrouter.errors import ConfigError, PeerRejected
from vanrouter.plane import Credential

__all__ = [
    "ALPN_HTTP",
    "ALPN_JOIN",
    "ALPN_LINK",
    "TlsStream",
    "TlsTransport",
    "check_admitted",
    "check_dates",
    "client_context",
    "server_context",
]

ALPN_LINK: Final = "van/1"
ALPN_JOIN: Final = "van-join/1"
ALPN_HTTP: Final = "http/1.1"

READ_SIZE: Final = 256 * 1024  # the knee: fewer calls gain little, and it still fits into L2
RECORD: Final = 16_384
NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME
SKEW: Final = dt.timedelta(minutes=5)
RENEWAL_GRACE: Final = dt.timedelta(days=90)


# ---- Contexts -----------------------------------------------------------------------------------------------------------


def server_context(credential: Credential) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    _prepare(context, credential)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols([ALPN_LINK, ALPN_JOIN, ALPN_HTTP])
    return context


def client_context(credential: Credential) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = credential.verify_host
    _prepare(context, credential)
    context.set_alpn_protocols([ALPN_LINK])
    return context


def _prepare(context: ssl.SSLContext, credential: Credential) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags = ssl.VerifyFlags(context.verify_flags | NO_CHECK_TIME)
    try:
        context.load_verify_locations(cadata=b"".join(credential.trust))
        with key_file(credential.certificates, credential.private_key) as path:
            context.load_cert_chain(path)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"credential {credential.name}: the certificate, the key and the CA do not fit together ({error})") from error


# ---- What a verified chain permits ----------------------------------------------------------------------------------------


def check_dates(chain: Sequence[bytes], now: float) -> bool:
    """
    True: every certificate is valid now. False: the leaf alone has expired, lately enough to be renewed.

    Raises PeerRejected for everything else.
    """
    at = dt.datetime.fromtimestamp(now, dt.UTC)
    fresh = True
    for depth, der in enumerate(chain):
        certificate = x509.load_der_x509_certificate(der)
        what = "certificate" if depth == 0 else "CA certificate"
        if certificate.not_valid_before_utc > at + SKEW:
            raise PeerRejected(
                f"its {what} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; are both clocks right?"
            )
        if certificate.not_valid_after_utc < at:
            if depth or certificate.not_valid_after_utc + RENEWAL_GRACE < at:
                raise PeerRejected(f"its {what} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
            fresh = False
    return fresh


def check_admitted(leaf: bytes, patterns: list[str] | None) -> None:
    """Does the subject, a common name or an alternative name of the leaf match one of the patterns? ``None``: any leaf of our CA does."""
    if patterns is None:
        return
    certificate = x509.load_der_x509_certificate(leaf)
    names = [certificate.subject.rfc4514_string()] if list(certificate.subject) else []
    names += [str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    with contextlib.suppress(x509.ExtensionNotFound):
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names += [str(name.value) for name in alternatives]
    if not any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns):
        raise PeerRejected(f"its certificate ({', '.join(names) or 'without names'}) is not among those that this link access admits")


# ---- The transport ----------------------------------------------------------------------------------------------------------


class TlsTransport:
    """One TLS connection. At most one task reads, one writes. Owns the socket (non-blocking)."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None) -> None:
        self.sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname)
        self._buffer = memoryview(bytearray(RECORD))
        self._may_have_more = False

    @property
    def alpn(self) -> str | None:
        return self._ssl.selected_alpn_protocol()

    @property
    def certificates(self) -> list[bytes]:
        """The verified chain, leaf first, without a root that only we hold; empty: the peer showed none."""
        if self._ssl.getpeercert(binary_form=True) is None:
            return []
        if hasattr(self._ssl, "get_verified_chain"):  # Python 3.13
            return list(self._ssl.get_verified_chain())
        raw: Any = self._ssl._sslobj  # type: ignore[attr-defined]
        return [certificate.public_bytes(2) for certificate in raw.get_verified_chain()]  # 2: DER

    async def handshake(self, first: bytes = b"") -> None:
        """``first``: bytes that were read already. Raises ssl.SSLError, or OSError."""
        self._incoming.write(first)
        while True:
            try:
                self._ssl.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._fill():
                    raise ConnectionResetError("closed during the TLS handshake") from None
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    await self._flush()  # the alert says why
                raise
            else:
                await self._flush()
                self._buffer = memoryview(bytearray(READ_SIZE))
                return

    async def receive(self) -> list[bytes]:
        """
        Whatever came, decrypted, record by record; empty: the connection ended, cleanly or not.

        Nothing can be decrypted before a record is whole, but each part of it is a sign of life: one empty chunk says so.
        """
        chunks: list[bytes] = []
        has_come = False
        read = self._ssl.read
        while True:
            try:
                while True:
                    chunk = read(RECORD)
                    if not chunk:
                        return chunks
                    chunks.append(chunk)
            except ssl.SSLWantReadError:
                if chunks or has_come:
                    return chunks or [b""]
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return chunks
            has_come = await self._fill()
            if not has_come:
                return chunks

    async def send(self, chunks: Sequence[bytes | memoryview]) -> None:
        self._ssl.write(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        await self._flush()

    async def drain(self) -> None:
        """
        End our direction and read until the peer has ended its own.

        Closing with bytes unread would send RST, which destroys what the peer has not read yet: the reason why we close.
        """
        self.sock.shutdown(socket.SHUT_WR)
        while True:
            await trio.lowlevel.wait_readable(self.sock)
            if not self.sock.recv_into(self._buffer):
                return

    async def _fill(self) -> bool:
        """Read ciphertext. False: end of file."""
        while True:
            if self._may_have_more:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self.sock)
            try:
                size = self.sock.recv_into(self._buffer)
            except BlockingIOError:
                self._may_have_more = False
                continue
            self._may_have_more = size == len(self._buffer)
            if size == 0:
                self._incoming.write_eof()
                return False
            self._incoming.write(self._buffer[:size])
            return True

    async def _flush(self) -> None:
        if not self._outgoing.pending:
            return
        data = memoryview(self._outgoing.read())
        while True:
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
            await trio.lowlevel.wait_writable(self.sock)

    def close(self) -> None:
        trio.lowlevel.notify_closing(self.sock)
        self.sock.close()


class TlsStream(trio.abc.Stream):
    """The plaintext of a connection that is not a link, for the control plane."""

    def __init__(self, transport: TlsTransport) -> None:
        self._transport = transport
        self._received = bytearray()
        self._ended = False
        self._closed = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._check_open()
        try:
            await trio.lowlevel.checkpoint()
            if data:
                await self._transport.send([bytes(data)])
        except (OSError, ssl.SSLError) as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def wait_send_all_might_not_block(self) -> None:
        self._check_open()
        await trio.lowlevel.wait_writable(self._transport.sock)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self._check_open()
        await trio.lowlevel.checkpoint()
        while not self._received and not self._ended:
            try:
                chunks = await self._transport.receive()
            except (OSError, ssl.SSLError) as error:
                raise trio.BrokenResourceError(str(error)) from error
            self._ended = not chunks
            self._received += b"".join(chunks)
        size = len(self._received) if max_bytes is None else max_bytes
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    async def aclose(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._transport.close()
        await trio.lowlevel.checkpoint()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise trio.ClosedResourceError("this connection was closed")
