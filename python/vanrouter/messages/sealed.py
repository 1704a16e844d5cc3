"""
Signed messages: advertisements and withdrawals carry the key of their site, its admissions and a signature over their bytes.

Refuses to decide who is let in: `open_untrusted` says who signed, and that what is claimed matches the key; whether that site is joined to
us (by a link, by a chain of admissions) is the caller's question. What was signed is kept as bytes, so that forwarding changes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vanrouter.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from vanrouter.messages.scan import check_shape_untrusted
from vanrouter.messages.types import MAX_FRAGMENT, Fragment, Withdrawal
from vanrouter.model import RouterId, parse_name, parse_routing_key, site_id_of_key

__all__ = ["MAX_ADMISSION", "MAX_ADMISSIONS", "Sealed", "Sign", "Verify", "open_untrusted", "seal", "verify_signature"]

Sign = Callable[[bytes], bytes]
"""Sign a message with the site's identity key: `vanrouter.pki.IdentityKey.sign`."""

Verify = Callable[[bytes, bytes, bytes], bool]
"""(public key as SubjectPublicKeyInfo DER, message, signature): does it hold? Must not raise."""

MAX_ADMISSIONS: Final = 8
MAX_ADMISSION: Final = 512
DOMAINS: Final[dict[type, bytes]] = {Fragment: b"vanrouter advertisement v1\0", Withdrawal: b"vanrouter withdrawal v1\0"}


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The map of a signed message. ``body`` is the MessagePack map that ``signature`` (over the domain and ``body``) covers."""

    body: Annotated[bytes, msgspec.Meta(max_length=MAX_FRAGMENT)]
    identity: Annotated[bytes, msgspec.Meta(max_length=256)]
    signature: Annotated[bytes, msgspec.Meta(max_length=80)]
    admissions: Annotated[list[Annotated[bytes, msgspec.Meta(max_length=MAX_ADMISSION)]], msgspec.Meta(max_length=MAX_ADMISSIONS)] = []


class Sealed(msgspec.Struct, frozen=True):
    """A signed message that was read and whose signature holds."""

    content: Fragment | Withdrawal
    router: RouterId
    identity: bytes
    admissions: list[bytes]
    wire: bytes  # as it came, to be forwarded as it is


_encode = msgspec.msgpack.Encoder().encode
_decode_envelope = msgspec.msgpack.Decoder(Envelope).decode
_decode_body: Final[dict[type, msgspec.msgpack.Decoder[Any]]] = {kind: msgspec.msgpack.Decoder(kind) for kind in DOMAINS}


def seal(content: Fragment | Withdrawal, *, identity: bytes, sign: Sign, admissions: Sequence[bytes] = ()) -> bytes:
    """The map of the message (without version and type). Raises LocalProtocolError for what no receiver would take."""
    body = _encode(content)
    envelope = Envelope(
        body=body, identity=identity, signature=sign(DOMAINS[type(content)] + body), admissions=list(admissions[:MAX_ADMISSIONS])
    )
    out = _encode(envelope)
    if len(out) + 2 > MAX_FRAGMENT:
        raise LocalProtocolError(f"a fragment of {len(out) + 2} bytes was made; {MAX_FRAGMENT} are the most")
    return out


def open_untrusted(wire: bytes, kind: type[Fragment] | type[Withdrawal], *, verify: Verify) -> Sealed:
    """Read a signed message (with version and type). Raises RemoteProtocolError and nothing else."""
    if len(wire) > MAX_FRAGMENT:
        raise RemoteProtocolError(f"a signed message has {len(wire)} bytes; {MAX_FRAGMENT} are the most")
    check_shape_untrusted(wire[2:])
    try:
        envelope = _decode_envelope(wire[2:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise RemoteProtocolError(f"a signed message does not decode: {err}") from None
    if not verify(envelope.identity, DOMAINS[kind] + envelope.body, envelope.signature):
        raise RemoteProtocolError("the signature of an advertisement does not hold")
    check_shape_untrusted(envelope.body)
    try:
        content: Fragment | Withdrawal = _decode_body[kind].decode(envelope.body)
        router = RouterId.parse(content.origin)
        if isinstance(content, Fragment):
            _check_fragment(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ConfigError) as err:
        raise RemoteProtocolError(f"an advertisement does not decode: {err}") from None
    if router.site != site_id_of_key(envelope.identity):
        raise RemoteProtocolError(f"an advertisement claims to be of site {router.site}, but another site's key signed it")
    return Sealed(content, router, envelope.identity, envelope.admissions, wire)


def _check_fragment(fragment: Fragment) -> None:
    if fragment.sequence == 0:
        raise RemoteProtocolError("a fragment has sequence 0")
    for name in (fragment.name, *(leaf.name for leaf in fragment.edges)):
        if name:
            parse_name(name, "site name")
    if not fragment.version.isprintable():
        raise RemoteProtocolError("the version of an advertisement holds control characters")
    for info in fragment.keys:
        parse_routing_key(info.key)
        for service in info.services:
            service.check()
    for router in (*(neighbour.router for neighbour in fragment.neighbours), *(leaf.router for leaf in fragment.edges)):
        RouterId.parse(router)
    if len({info.key for info in fragment.keys}) != len(fragment.keys):
        raise RemoteProtocolError("a fragment lists a key twice")
    if len({n.router for n in fragment.neighbours}) != len(fragment.neighbours):
        raise RemoteProtocolError("a fragment lists a neighbour twice")
    if len({leaf.router for leaf in fragment.edges}) != len(fragment.edges):
        raise RemoteProtocolError("a fragment lists an edge twice")


@functools.lru_cache(maxsize=1024)
def _public_key_untrusted(identity: bytes) -> ec.EllipticCurvePublicKey | None:
    if len(identity) > 256:
        return None
    try:
        key = serialization.load_der_public_key(identity)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if not (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)):
        return None
    canonical = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key if canonical == identity else None  # otherwise one key would have several site ids


def verify_signature(identity: bytes, message: bytes, signature: bytes) -> bool:
    """ECDSA P-256 with SHA-256, as identity keys sign. Raises nothing."""
    key = _public_key_untrusted(identity)
    if key is None:
        return False
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
