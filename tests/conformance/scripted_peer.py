"""
A peer with good credentials and bad manners: TLS by hand, frames by hand.

It shares no code with the planes but the constants of ``docs/wire-protocol.md``, written down here once more.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import struct
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from site_credentials import Authority, Site

from vanrouter.model import RouterId, boot_number, site_id_to_bytes
from vanrouter.plane import Credential

HELLO, OPEN, OPEN_OK, OPEN_ERR, DATA, CREDIT, CREDIT_RETURN, FIN, RESET, ACK, PING, PONG, GOAWAY, MOVE, EARLY = range(1, 16)
NAMES = {value: name for name, value in list(globals().items()) if name.isupper() and isinstance(value, int)}
MAX_PAYLOAD = 16_376
PROTOCOL, POLICY = 3, 4


def frame(stream: int, kind: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """One frame; ``length`` is what the header says, if that shall be a lie."""
    size = len(payload) if length is None else length
    return struct.pack(">II", stream, size << 8 | kind) + payload


def attributes(*pairs: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack(">HH", kind, len(value)) + value for kind, value in pairs)


def u32(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


def u64(number: int) -> bytes:
    return struct.pack(">Q", number)


def router_bytes(router: str) -> bytes:
    """The 40 bytes of a router id."""
    id_ = RouterId.parse(router)
    return site_id_to_bytes(id_.site) + u64(id_.boot)


class OpenFrame(NamedTuple):
    """An OPEN, taken apart."""

    stream: int
    destination: bytes  # site and boot number
    source: bytes
    uuid: bytes
    credit: int
    hop_limit: int
    key: bytes
    attributes: bytes
    early: bytes


def taken_apart(stream: int, payload: bytes) -> OpenFrame:
    at = 102 + payload[101]
    size = int.from_bytes(payload[at : at + 2], "big")
    return OpenFrame(
        stream=stream,
        destination=payload[:40],
        source=payload[40:80],
        uuid=payload[80:96],
        credit=int.from_bytes(payload[96:100], "big"),
        hop_limit=payload[100],
        key=payload[102:at],
        attributes=payload[at + 2 : at + 2 + size],
        early=payload[at + 2 + size :],
    )


def _context(credential: Credential, *, server: bool, alpn: list[str] | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED if server else ssl.CERT_NONE
    context.load_verify_locations(cadata=b"".join(credential.trust))
    key = serialization.load_der_private_key(credential.private_key, None)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for raw in credential.certificates:
        pem += x509.load_der_x509_certificate(raw).public_bytes(serialization.Encoding.PEM)
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "pem")
        with open(path, "wb") as file:
            file.write(pem)
        context.load_cert_chain(path)
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    return context


def client_context(credential: Credential | None, *, alpn: list[str] | None) -> ssl.SSLContext:
    if credential is not None:
        return _context(credential, server=False, alpn=alpn)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    return context


class ScriptedPeer:
    """One lane. ``received`` are the frames that came: (stream, type, payload)."""

    def __init__(self, site: Site, credential: Credential, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self.site = site
        self.credential = credential
        self.boot = boot_number(int(time.time() * 1000))
        self._stream = stream
        self._buffer = bytearray()
        self._sending = trio.Lock()  # a test may speak while a task of it answers

    @property
    def id(self) -> str:
        return str(RouterId(self.site.id, self.boot))

    def hello_attributes(self) -> dict[int, bytes]:
        return {
            1: self.site.identity_key,
            2: self.credential.statement,
            3: u64(self.boot),
            4: self.site.name.encode(),
            5: struct.pack(">H", 1),
            6: u32(65_540, 16, 65_536),
        }

    def hello(self, changes: dict[int, bytes | None] | None = None, *, version: int = 1, tail: bytes = b"") -> bytes:
        values: dict[int, bytes | None] = {**self.hello_attributes(), **(changes or {})}
        pairs = [(kind, value) for kind, value in values.items() if value is not None]
        return frame(0, HELLO, bytes([version]) + attributes(*pairs) + tail)

    def open(
        self,
        stream: int,
        key: str = "k",
        *,
        credit: int = 65_536,
        early: bytes = b"",
        source: bytes | None = None,
        destination: str = "",
        hop_limit: int = 8,
        uuid: bytes = b"",
        attributes: bytes = b"",
    ) -> bytes:
        """``destination``: a router id as text; none: whoever gets it."""
        raw = key.encode()
        payload = router_bytes(destination) if destination else bytes(40)
        payload += (source or site_id_to_bytes(self.site.id)) + u64(self.boot) + (uuid or os.urandom(16)) + u32(credit)
        payload += bytes([hop_limit, len(raw)]) + raw + struct.pack(">H", len(attributes)) + attributes + early
        return frame(stream, OPEN, payload)

    async def send(self, *frames: bytes) -> None:
        async with self._sending:
            with contextlib.suppress(trio.BrokenResourceError):  # the victim closed: ``the_end`` says how
                await self._stream.send_all(b"".join(frames))

    async def frame(self) -> tuple[int, int, bytes] | None:
        """The next frame; None when the connection ended, cleanly or not."""
        while True:
            if len(self._buffer) >= 8:
                stream, word = struct.unpack_from(">II", self._buffer)
                size = word >> 8
                if len(self._buffer) >= 8 + size:
                    payload = bytes(self._buffer[8 : 8 + size])
                    del self._buffer[: 8 + size]
                    return stream, word & 0xFF, payload
            try:
                data = await self._stream.receive_some(65_536)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._buffer += data

    async def until(self, kind: int, stream: int | None = None, within: float = 3.0) -> bytes:
        """Skip frames until one of this type; its payload."""
        with trio.fail_after(within):
            while True:
                got = await self.frame()
                assert got is not None, f"the lane ended before {NAMES[kind]}"
                if got[1] == PING:
                    await self.send(frame(0, PONG, got[2]))
                if got[1] == kind and stream in (None, got[0]):
                    return got[2]

    async def until_open(self, within: float = 3.0) -> OpenFrame:
        """Skip frames until an OPEN."""
        with trio.fail_after(within):
            while True:
                got = await self.frame()
                assert got is not None, "the lane ended before OPEN"
                if got[1] == PING:
                    await self.send(frame(0, PONG, got[2]))
                if got[1] == OPEN:
                    return taken_apart(got[0], got[2])

    async def until_opens_are_back(self, credit: int, most: int, within: float = 5.0) -> None:
        """
        Until of the OPENs that it permitted at once (``most``) it permits half again, when none is unanswered.

        The victim may keep the other half for a CREDIT frame that is worth it: what it owes is never more.
        """
        with trio.fail_after(within):
            while 2 * credit < most:
                credit += struct.unpack(">III", await self.until(CREDIT, 0, within))[1]

    async def the_end(self, within: float = 3.0) -> tuple[int | None, list[tuple[int, int, bytes]]]:
        """Wait until the lane is closed. The code of the GOAWAY that said why, and every frame before the end."""
        code, frames = None, []
        with trio.fail_after(within):
            while (got := await self.frame()) is not None:
                frames.append(got)
                if got[1] == GOAWAY:
                    code = got[2][0]
        return code, frames

    async def greet(self, changes: dict[int, bytes | None] | None = None) -> None:
        await self.send(self.hello(changes))
        await self.until(HELLO)

    async def hang_up(self) -> None:
        """Gone without a word."""
        await self._stream.transport_stream.aclose()

    async def is_alive(self) -> None:
        """The lane answers."""
        probe = os.urandom(8)
        await self.send(frame(0, PING, probe))
        with trio.fail_after(3):
            while True:
                if await self.until(PONG) == probe:
                    return


@asynccontextmanager
async def dialled_in(port: int, site: Site, credential: Credential) -> AsyncIterator[ScriptedPeer]:
    """A scripted peer that dialled the access on this port. It has said nothing yet."""
    transport = await trio.open_tcp_stream("127.0.0.1", port)
    stream = trio.SSLStream(transport, client_context(credential, alpn=["van/1"]), https_compatible=True)
    async with transport:
        await stream.do_handshake()
        yield ScriptedPeer(site, credential, stream)


@asynccontextmanager
async def waiting_for_a_dial(
    site: Site, authority: Authority, credential: Credential | None = None
) -> AsyncIterator[tuple[int, trio.MemoryReceiveChannel[ScriptedPeer]]]:
    """A port where a scripted peer waits to be dialled, and the channel where it comes out."""
    credential = credential or site.credential(authority)
    context = _context(credential, server=True, alpn=["van/1"])
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    send, receive = trio.open_memory_channel[ScriptedPeer](8)

    async def handle(transport: trio.SocketStream) -> None:
        stream = trio.SSLStream(transport, context, server_side=True, https_compatible=True)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            return
        await send.send(ScriptedPeer(site, credential, stream))
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield listeners[0].socket.getsockname()[1], receive
        nursery.cancel_scope.cancel()
