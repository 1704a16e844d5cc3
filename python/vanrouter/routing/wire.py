"""
The two messages of flooding, and a first look at a signed one. Everything else on the wire is in `vanrouter.messages`.

    16 summary   first, last: bytes 40     records: the peer's (origin 40, number u16, sequence u64) in that range of origins, complete
    17 relayed   age: seconds              record: the signed message as its origin made it, byte for byte

An origin is site id (32 bytes) and boot number (8); a withdrawal stands in a summary as number 65,535. A plain signed message counts as one
relayed at age 0. Refuses to verify: `head_untrusted` says what a record *claims*, so that one which is not newer costs no signature check.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from vanrouter.errors import ConfigError, RemoteProtocolError
from vanrouter.messages import MAX_FRAGMENT, MAX_MESSAGE, VERSION, check_shape_untrusted
from vanrouter.model import RouterId, site_id_to_bytes

__all__ = [
    "FIRST",
    "FRAGMENT",
    "LAST",
    "MAX_RECORDS",
    "RELAYED",
    "SUMMARY",
    "WITHDRAWAL",
    "WITHDRAWN",
    "Head",
    "Summary",
    "encode_relayed",
    "encode_summary",
    "head_untrusted",
    "origin_key",
    "relayed_untrusted",
    "summary_untrusted",
]

FRAGMENT: Final = 2  # types of `vanrouter.messages`
WITHDRAWAL: Final = 3
SUMMARY: Final = 16
RELAYED: Final = 17
WITHDRAWN: Final = 0xFFFF  # the number that stands for a withdrawal
FIRST: Final = bytes(40)
LAST: Final = b"\xff" * 40
_RECORD: Final = struct.Struct(">40sHQ")
MAX_RECORDS: Final = 1_200  # of one summary: 60,000 bytes

Key = Annotated[bytes, msgspec.Meta(min_length=40, max_length=40)]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """All that the sender has of origins from ``first`` to ``last``."""

    first: Key
    last: Key
    records: Annotated[bytes, msgspec.Meta(max_length=MAX_RECORDS * _RECORD.size)]

    def items(self) -> dict[tuple[bytes, int], int]:
        return {(origin, number): sequence for origin, number, sequence in _RECORD.iter_unpack(self.records)}


class _Relayed(msgspec.Struct, frozen=True, kw_only=True):
    age: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
    record: Annotated[bytes, msgspec.Meta(min_length=2, max_length=MAX_FRAGMENT)]


class _Body(msgspec.Struct, frozen=True):
    body: Annotated[bytes, msgspec.Meta(max_length=MAX_FRAGMENT)]


class Head(msgspec.Struct, frozen=True):
    """What a signed message claims to be. Nothing here is proved."""

    origin: Annotated[str, msgspec.Meta(min_length=69, max_length=69)]
    number: Annotated[int, msgspec.Meta(ge=0, lt=WITHDRAWN)] = WITHDRAWN  # a withdrawal has none
    sequence: Annotated[int, msgspec.Meta(ge=0)] = 0


_encode = msgspec.msgpack.Encoder().encode
_summary = msgspec.msgpack.Decoder(Summary).decode
_relayed = msgspec.msgpack.Decoder(_Relayed).decode
_body = msgspec.msgpack.Decoder(_Body).decode
_head = msgspec.msgpack.Decoder(Head).decode
_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def origin_key(router: str) -> bytes:
    """The 40 bytes of a router id. Raises ConfigError."""
    parsed = RouterId.parse(router)
    return site_id_to_bytes(parsed.site) + parsed.boot.to_bytes(8)


def encode_summary(first: bytes, last: bytes, records: Iterable[tuple[bytes, int, int]]) -> bytes:
    packed = b"".join(_RECORD.pack(*record) for record in records)
    return bytes((VERSION, SUMMARY)) + _encode(Summary(first=first, last=last, records=packed))


def summary_untrusted(data: bytes) -> Summary:
    """Raises RemoteProtocolError and nothing else."""
    _check_size(data, MAX_MESSAGE)
    try:
        check_shape_untrusted(data[2:])
        summary = _summary(data[2:])
    except _ERRORS as err:
        raise RemoteProtocolError(f"a summary does not decode: {err}") from None
    if len(summary.records) % _RECORD.size:
        raise RemoteProtocolError("a summary ends within a record")
    return summary


def encode_relayed(record: bytes, age: float) -> bytes:
    return bytes((VERSION, RELAYED)) + _encode(_Relayed(age=min(0xFFFF, max(0, int(age))), record=record))


def relayed_untrusted(data: bytes) -> tuple[bytes, int]:
    """(signed message, its age). Raises RemoteProtocolError and nothing else."""
    _check_size(data, MAX_FRAGMENT + 64)
    try:
        check_shape_untrusted(data[2:])
        relayed = _relayed(data[2:])
    except _ERRORS as err:
        raise RemoteProtocolError(f"a relayed record does not decode: {err}") from None
    return relayed.record, relayed.age


def head_untrusted(record: bytes) -> Head:
    """What a fragment or withdrawal (with version and type) claims. Raises RemoteProtocolError and nothing else."""
    _check_size(record, MAX_FRAGMENT)
    if record[0] != VERSION or record[1] not in (FRAGMENT, WITHDRAWAL):
        raise RemoteProtocolError(f"a record of version {record[0]} and type {record[1]} is neither a fragment nor a withdrawal")
    try:
        head = _head(_body(record[2:]).body)
        RouterId.parse(head.origin)
    except (*_ERRORS, ConfigError) as err:
        raise RemoteProtocolError(f"a record does not decode: {err}") from None
    if record[1] == WITHDRAWAL:
        return Head(head.origin)
    if head.number == WITHDRAWN or head.sequence == 0:
        raise RemoteProtocolError("a fragment lacks its number or sequence")
    return head


def _check_size(data: bytes, most: int) -> None:
    if not 2 <= len(data) <= most:
        raise RemoteProtocolError(f"a routing message has {len(data)} bytes; {most} are the most")
