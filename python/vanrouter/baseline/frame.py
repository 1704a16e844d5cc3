"""
Frames of the VAN link protocol: bytes to frames and back (``docs/wire-protocol.md`` sections 3 and 5).

Sans-IO and stateless but for the bytes of one unfinished frame. What a frame *means* is decided in ``mux.py``. Everything that
ends in ``_untrusted`` is fed by the network and raises only ``RemoteProtocolError``.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

import msgspec

from vanrouter.errors import ConfigError, RemoteProtocolError
from vanrouter.model import RouterId, StreamClass, parse_routing_key, site_id_from_bytes

__all__ = [
    "DEFAULT_HOP_LIMIT",
    "HEADER_SIZE",
    "MAX_PAYLOAD",
    "MOST_OPEN_ATTRIBUTES",
    "Frame",
    "FrameDecoder",
    "FrameType",
    "GoAwayCode",
    "Open",
    "decode_attributes_untrusted",
    "decode_class_and_reason_untrusted",
    "decode_open_untrusted",
    "decode_u32s_untrusted",
    "decode_u64_untrusted",
    "encode",
    "encode_attributes",
    "encode_class_and_reason",
    "encode_open",
    "header",
]

HEADER_SIZE: Final = 8
MAX_PAYLOAD: Final = 16_376  # with its header one full TLS record
MAX_REASON: Final = 255
MOST_OPEN_ATTRIBUTES: Final = 1_024  # bytes: they count against no credit
MOST_ATTRIBUTES: Final = MOST_OPEN_ATTRIBUTES // 4  # in one payload: as many as fit into an OPEN
DEFAULT_HOP_LIMIT: Final = 32
FIRST_SKIPPABLE_TYPE: Final = 0x80

_HEADER: Final = struct.Struct(">II")  # stream id; length u24 and type u8 in one
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
_ATTRIBUTE: Final = struct.Struct(">HH")
_OPEN: Final = struct.Struct(">32sQ32sQ16sIBB")


class FrameType(enum.IntEnum):
    HELLO = 0x01
    OPEN = 0x02
    OPEN_OK = 0x03
    OPEN_ERR = 0x04
    DATA = 0x05
    CREDIT = 0x06
    CREDIT_RETURN = 0x07
    FIN = 0x08
    RESET = 0x09
    PING = 0x0B
    PONG = 0x0C
    GOAWAY = 0x0D
    MOVE = 0x0E
    EARLY = 0x0F


_KNOWN: Final = frozenset(int(t) for t in FrameType)


class GoAwayCode(enum.IntEnum):
    DRAIN = 0
    CLOSED = 1
    REPLACED = 2
    PROTOCOL = 3
    POLICY = 4
    SHUTDOWN = 5

    @classmethod
    def _missing_(cls, _value: object) -> GoAwayCode:
        return cls.REPLACED  # unknown codes read as replaced


class Frame(msgspec.Struct, gc=False):
    """One frame. ``type`` may be an unknown one from 0x80 up, which is to be skipped."""

    stream: int
    type: int
    payload: memoryview


class FrameDecoder:
    """
    Cut the byte stream of a lane into frames, however it was chunked.

    At most one unfinished frame is stored; whole frames are views of the chunk that carried them. The cost is linear in
    the bytes, also when they come one by one.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = HEADER_SIZE

    def feed_untrusted(self, chunk: bytes | memoryview, frames: list[Frame]) -> None:
        """Append the frames that ``chunk`` completes. Those before a violation are in the list when this raises."""
        view = memoryview(chunk)
        rest = self._rest
        while rest and view:
            missing = self._needed - len(rest)
            rest += view[:missing]
            view = view[missing:]
            if len(rest) < self._needed:
                return
            if self._needed == HEADER_SIZE:
                self._needed += self._payload_size_untrusted(rest)
            if len(rest) == self._needed:
                whole = bytes(rest)
                rest.clear()
                self._needed = HEADER_SIZE
                self._cut_untrusted(memoryview(whole), frames)
        self._cut_untrusted(view, frames)

    def _cut_untrusted(self, view: memoryview, frames: list[Frame]) -> None:
        at, end = 0, len(view)
        while end - at >= HEADER_SIZE:
            stream, word = _HEADER.unpack_from(view, at)
            size, kind = word >> 8, word & 0xFF
            self._check_header_untrusted(size, kind)
            after = at + HEADER_SIZE + size
            if after > end:
                self._needed = HEADER_SIZE + size
                break
            frames.append(Frame(stream, kind, view[at + HEADER_SIZE : after]))
            at = after
        if at < end:
            self._rest += view[at:]

    def _payload_size_untrusted(self, head: bytearray) -> int:
        word: int = _HEADER.unpack_from(head)[1]
        self._check_header_untrusted(word >> 8, word & 0xFF)
        return word >> 8

    @staticmethod
    def _check_header_untrusted(size: int, kind: int) -> None:
        if size > MAX_PAYLOAD:
            raise RemoteProtocolError(f"a frame of {size} bytes; at most {MAX_PAYLOAD} are allowed")
        if kind not in _KNOWN and kind < FIRST_SKIPPABLE_TYPE:
            raise RemoteProtocolError(f"unknown frame type {kind:#04x}")


# ---- Encoding -----------------------------------------------------------------------------------------------------------


def header(stream: int, kind: int, size: int) -> bytes:
    return _HEADER.pack(stream, size << 8 | kind)


def encode(stream: int, kind: int, payload: bytes | memoryview = b"") -> bytes:
    """One whole frame."""
    return _HEADER.pack(stream, len(payload) << 8 | kind) + payload


def encode_attributes(attributes: list[tuple[int, bytes]]) -> bytes:
    return b"".join(_ATTRIBUTE.pack(kind, len(value)) + value for kind, value in attributes)


def encode_class_and_reason(number: int, reason: str) -> bytes:
    """The payload of OPEN_ERR, RESET and GOAWAY; the reason is cut to 255 bytes, at a character."""
    raw = reason.encode()[:MAX_REASON].decode(errors="ignore").encode()
    return bytes([number]) + raw


# ---- Decoding -----------------------------------------------------------------------------------------------------------


def decode_u32s_untrusted(payload: memoryview, count: int, what: str) -> tuple[int, ...]:
    if len(payload) != 4 * count:
        raise RemoteProtocolError(f"{what} has {len(payload)} bytes; it must have {4 * count}")
    return struct.unpack(f">{count}I", payload)


def decode_u64_untrusted(payload: memoryview, what: str) -> int:
    if len(payload) != 8:
        raise RemoteProtocolError(f"{what} has {len(payload)} bytes; it must have 8")
    value: int = _U64.unpack(payload)[0]
    return value


def decode_attributes_untrusted(payload: memoryview, what: str) -> dict[int, bytes]:
    attributes: dict[int, bytes] = {}
    at, end = 0, len(payload)
    while at < end:
        if end - at < _ATTRIBUTE.size:
            raise RemoteProtocolError(f"{what}: attribute cut off after {end - at} bytes")
        kind, size = _ATTRIBUTE.unpack_from(payload, at)
        at += _ATTRIBUTE.size
        if size > end - at:
            raise RemoteProtocolError(f"{what}: attribute {kind} of {size} bytes, but only {end - at} are left")
        if kind in attributes:
            raise RemoteProtocolError(f"{what}: attribute {kind} comes twice")
        if len(attributes) == MOST_ATTRIBUTES:
            raise RemoteProtocolError(f"{what}: more than {MOST_ATTRIBUTES} attributes")
        attributes[kind] = bytes(payload[at : at + size])
        at += size
    return attributes


def decode_class_and_reason_untrusted(payload: memoryview, what: str) -> tuple[int, str]:
    if not 1 <= len(payload) <= 1 + MAX_REASON:
        raise RemoteProtocolError(f"{what} has {len(payload)} bytes; it must have 1 to {1 + MAX_REASON}")
    try:
        return payload[0], str(payload[1:], "utf-8")
    except UnicodeDecodeError:
        raise RemoteProtocolError(f"{what}: the reason is not UTF-8") from None


def decode_stream_class(number: int) -> StreamClass:
    """An unknown class is read as ``link``."""
    try:
        return StreamClass(number)
    except ValueError:
        return StreamClass.LINK


# ---- OPEN ---------------------------------------------------------------------------------------------------------------


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of OPEN, without its early data. All zero as destination: any target of the receiver's choice."""

    routing_key: str
    source_site: bytes
    source_boot: int
    uuid: bytes
    credit: int
    destination_site: bytes = bytes(32)
    destination_boot: int = 0
    hop_limit: int = DEFAULT_HOP_LIMIT
    attributes: bytes = b""  # encoded: unknown ones are passed on as they are

    @property
    def source(self) -> RouterId:
        return RouterId(site_id_from_bytes(self.source_site), self.source_boot)

    @property
    def destination(self) -> RouterId:
        return RouterId(site_id_from_bytes(self.destination_site), self.destination_boot)


def encode_open(open_: Open) -> bytes:
    key = open_.routing_key.encode()
    fixed = _OPEN.pack(
        open_.destination_site,
        open_.destination_boot,
        open_.source_site,
        open_.source_boot,
        open_.uuid,
        open_.credit,
        open_.hop_limit,
        len(key),
    )
    return fixed + key + len(open_.attributes).to_bytes(2, "big") + open_.attributes


def decode_open_untrusted(payload: memoryview) -> tuple[Open, memoryview]:
    """The OPEN and the early data behind it. More attributes than an OPEN may have are not looked at."""
    if len(payload) < _OPEN.size:
        raise RemoteProtocolError(f"OPEN has {len(payload)} bytes; it must have at least {_OPEN.size}")
    destination_site, destination_boot, source_site, source_boot, uuid, credit, hop_limit, key_size = _OPEN.unpack_from(payload)
    at = _OPEN.size
    key = payload[at : at + key_size]
    at += key_size
    if key_size == 0 or len(key) < key_size or len(payload) < at + 2:
        raise RemoteProtocolError(f"OPEN: a routing key of {key_size} bytes does not fit into {len(payload)}")
    try:
        routing_key = parse_routing_key(str(key, "utf-8"))
    except (UnicodeDecodeError, ConfigError):
        raise RemoteProtocolError("OPEN: the routing key is malformed") from None
    size = int.from_bytes(payload[at : at + 2], "big")
    at += 2
    attributes = payload[at : at + size]
    if len(attributes) < size:
        raise RemoteProtocolError(f"OPEN: attributes of {size} bytes, but only {len(attributes)} are left")
    if size <= MOST_OPEN_ATTRIBUTES:
        decode_attributes_untrusted(attributes, "OPEN")
    open_ = Open(
        routing_key=routing_key,
        source_site=source_site,
        source_boot=source_boot,
        uuid=uuid,
        credit=credit,
        destination_site=destination_site,
        destination_boot=destination_boot,
        hop_limit=hop_limit,
        attributes=bytes(attributes),
    )
    return open_, payload[at + size :]
