"""
What is said on ``van-join/1``: two requests, one reply, and the few fixed refusals. Closed JSON schemas; bytes are base64.

Decoding what a stranger sent raises ``PeerRejected`` and nothing else. Sizes are capped before anything is decoded.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from vanrouter.errors import PeerRejected

__all__ = [
    "ALPN_JOIN",
    "BUSY",
    "LIMITED",
    "MALFORMED",
    "MAX_REPLY",
    "MAX_REQUEST",
    "REFUSED",
    "RedeemRequest",
    "RenewRequest",
    "Reply",
    "decode_untrusted",
    "encode",
]

ALPN_JOIN: Final = "van-join/1"
MAX_REQUEST: Final = 8 * 1024
MAX_REPLY: Final = 64 * 1024

# The refusals. Bad, used, expired, unknown and locked tokens get the very same bytes.
REFUSED: Final = (403, b'{"error":"refused"}')
MALFORMED: Final = (400, b'{"error":"malformed"}')
LIMITED: Final = (429, b'{"error":"too many attempts"}')
BUSY: Final = (503, b'{"error":"try later"}')


class RedeemRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    token: str  # its public id
    secret: bytes
    csr: bytes  # DER; gives the public key and nothing else
    identity: bytes  # the redeemer's identity key, SubjectPublicKeyInfo DER
    proof: bytes  # by that key, over issuer and CSR (pki.statements)
    site_name: str  # a label, for the issuer's status

    def __repr__(self) -> str:
        return f"RedeemRequest(token={self.token!r}, secret=***, site_name={self.site_name!r})"


class RenewRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    csr: bytes
    identity: bytes
    proof: bytes


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    certificates: list[bytes]  # DER, leaf first
    ca: list[bytes]  # DER: what the issuer's link access must chain to
    endpoints: list[str]
    admission: bytes
    issuer: str  # site id
    issuer_name: str
    verify_host: bool = False


S = TypeVar("S", RedeemRequest, RenewRequest, Reply)


def encode(message: RedeemRequest | RenewRequest | Reply) -> bytes:
    return msgspec.json.encode(message)


def decode_untrusted(raw: bytes, kind: type[S]) -> S:
    limit = MAX_REPLY if kind is Reply else MAX_REQUEST
    if len(raw) > limit:
        raise PeerRejected(f"the message has {len(raw)} bytes; at most {limit} are read")
    try:
        message = msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as err:
        # The error names the path and the expected type, never the value.
        raise PeerRejected(f"the message is not a {kind.__name__}: {err}") from None
    if message.version != 1:
        raise PeerRejected(f"the message has version {message.version}; version 1 is understood")
    return message
