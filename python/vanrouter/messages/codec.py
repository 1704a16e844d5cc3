"""
Bytes of one control message <-> its value: one byte of version, one of type, a MessagePack map.

Refuses to look behind the type of a signed message: `sealed` does, with the verification that the caller chose.
"""

from __future__ import annotations

from typing import Final

import msgspec

from vanrouter.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from vanrouter.messages.scan import check_shape_untrusted
from vanrouter.messages.sealed import Sealed, Sign, Verify, open_untrusted, seal, verify_signature
from vanrouter.messages.types import Applied, Fragment, Message, Problems, SiteInfo, Unknown, Withdrawal
from vanrouter.model import RouterId, parse_name

__all__ = ["MAX_MESSAGE", "VERSION", "decode_untrusted", "encode", "encode_signed"]

VERSION: Final = 1
MAX_MESSAGE: Final = 65_536

PLAIN: Final[dict[int, type[Message]]] = {1: SiteInfo, 4: Problems, 5: Applied}
SIGNED: Final[dict[int, type[Fragment] | type[Withdrawal]]] = {2: Fragment, 3: Withdrawal}

_TYPE_OF: Final[dict[type, int]] = {kind: number for table in (PLAIN, SIGNED) for number, kind in table.items()}
_DECODERS: Final = {number: msgspec.msgpack.Decoder(kind) for number, kind in PLAIN.items()}
_encode = msgspec.msgpack.Encoder().encode


def encode(message: Message) -> bytes:
    """Raises LocalProtocolError when the message is larger than any receiver would take."""
    return _framed(_TYPE_OF[type(message)], _encode(message))


def encode_signed(content: Fragment | Withdrawal, *, identity: bytes, sign: Sign, admissions: list[bytes]) -> bytes:
    return _framed(_TYPE_OF[type(content)], seal(content, identity=identity, sign=sign, admissions=admissions))


def decode_untrusted(data: bytes, *, verify: Verify = verify_signature) -> Message | Sealed | Unknown:
    """Read a peer's message. Raises RemoteProtocolError and nothing else."""
    if len(data) > MAX_MESSAGE:
        raise RemoteProtocolError(f"a control message has {len(data)} bytes; {MAX_MESSAGE} are the most")
    if len(data) < 2:
        raise RemoteProtocolError("a control message is cut off")
    version, number = data[0], data[1]
    if version != VERSION:
        raise RemoteProtocolError(f"a control message has version {version}; version {VERSION} is understood")
    if (kind := SIGNED.get(number)) is not None:
        return open_untrusted(data, kind, verify=verify)
    decoder = _DECODERS.get(number)
    if decoder is None:
        return Unknown(number, data)
    body = data[2:]
    check_shape_untrusted(body)
    try:
        message: Message = decoder.decode(body)
        _check(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ConfigError) as err:
        raise RemoteProtocolError(f"a control message of type {number} does not decode: {err}") from None
    return message


def _check(message: Message) -> None:
    if isinstance(message, SiteInfo):
        parse_name(message.name, "site name")
        for text in message.routers:
            RouterId.parse(text)
    elif isinstance(message, Applied):
        RouterId.parse(message.origin)


def _framed(number: int, body: bytes) -> bytes:
    if len(body) + 2 > MAX_MESSAGE:
        raise LocalProtocolError(f"a control message of {len(body) + 2} bytes was made; {MAX_MESSAGE} are the most")
    return bytes((VERSION, number)) + body
