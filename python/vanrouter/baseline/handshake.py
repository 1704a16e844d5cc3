"""
HELLO: who is at the other end of a lane, and what it allows us (``docs/wire-protocol.md`` sections 2 and 4).

Sans-IO: the hash of the leaf key that the TLS handshake proved and the wall-clock time are arguments. ``check_hello_untrusted``
is the only place where a site id comes from.
"""

from __future__ import annotations

import hashlib
import re
import struct
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vanrouter.baseline.frame import decode_attributes_untrusted, encode_attributes
from vanrouter.errors import PeerRejected, RemoteProtocolError
from vanrouter.model import WIRE_VERSION, RouterId, site_id_of_key

__all__ = ["LEAST_CONTROL_CREDIT", "Credits", "Hello", "check_hello_untrusted", "encode_hello", "leaf_key_hash"]

VERSION: Final = WIRE_VERSION
LEAST_CONTROL_CREDIT: Final = 65_540
MAX_LABEL: Final = 63
MAX_SIBLINGS: Final = 64
MAX_COST: Final = 1_000_000
EDGE: Final = 1  # the role; 0 and unknown ones are interior
STATEMENT_PREFIX: Final = b"vanrouter identity statement v1\0"

_SITE_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,61}[a-z0-9])?")
_REQUIRED: Final = {1: "identity key", 2: "identity statement", 3: "boot number", 4: "site name", 5: "lanes wanted", 6: "credit"}


class Credits(msgspec.Struct, frozen=True):
    control: int
    opens: int
    early: int


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    identity_key: bytes
    statement: bytes
    boot: int
    site_name: str
    lanes_wanted: int
    credits: Credits
    siblings: list[int] = []
    cost: int = 1
    link_name: str = ""
    software: str = ""
    features: int = 0
    edge: bool = False

    @property
    def router(self) -> RouterId:
        return RouterId(site_id_of_key(self.identity_key), self.boot)


def encode_hello(hello: Hello) -> bytes:
    attributes = [
        (1, hello.identity_key),
        (2, hello.statement),
        (3, hello.boot.to_bytes(8, "big")),
        (4, hello.site_name.encode()),
        (5, hello.lanes_wanted.to_bytes(2, "big")),
        (6, struct.pack(">III", hello.credits.control, hello.credits.opens, hello.credits.early)),
        (8, hello.cost.to_bytes(4, "big")),
    ]
    if hello.siblings:
        attributes.append((7, struct.pack(f">{len(hello.siblings[:MAX_SIBLINGS])}Q", *hello.siblings[:MAX_SIBLINGS])))
    if hello.link_name:
        attributes.append((9, hello.link_name.encode()[:MAX_LABEL]))
    if hello.software:
        attributes.append((10, hello.software.encode()[:MAX_LABEL]))
    if hello.features:
        attributes.append((11, hello.features.to_bytes(8, "big")))
    if hello.edge:
        attributes.append((12, bytes([EDGE])))
    return bytes([VERSION]) + encode_attributes(attributes)


def check_hello_untrusted(payload: memoryview, *, leaf: bytes, now: float) -> Hello:
    """
    Parse a HELLO and verify its identity statement.

    Args:
      leaf: SHA-256 of the SubjectPublicKeyInfo of the leaf that the TLS handshake proved.
      now: wall-clock seconds since the epoch.

    Raises:
      RemoteProtocolError: malformed, or another version.
      PeerRejected: well-formed, but it does not prove that this leaf speaks for that site.
    """
    hello = _decode_hello_untrusted(payload)
    _check_statement_untrusted(hello.statement, hello.identity_key, leaf=leaf, now=now)
    return hello


def _decode_hello_untrusted(payload: memoryview) -> Hello:
    if len(payload) < 1 or payload[0] != VERSION:
        raise RemoteProtocolError(f"HELLO of version {payload[0] if len(payload) else 'none'}; this router speaks version {VERSION}")
    attributes = decode_attributes_untrusted(payload[1:], "HELLO")
    for number, word in _REQUIRED.items():
        if number not in attributes:
            raise RemoteProtocolError(f"HELLO without attribute {number} ({word})")
    name = _text_untrusted(attributes[4], "site name")
    if not _SITE_NAME.fullmatch(name):
        raise RemoteProtocolError("HELLO: malformed site name")
    siblings = attributes.get(7, b"")
    if len(siblings) % 8 or len(siblings) > 8 * MAX_SIBLINGS:
        raise RemoteProtocolError(f"HELLO: {len(siblings)} bytes of sibling boot numbers")
    credits_ = Credits(*_numbers_untrusted(attributes[6], ">III", "credit"))
    (lanes_wanted,) = _numbers_untrusted(attributes[5], ">H", "lanes wanted")
    (cost,) = _numbers_untrusted(attributes.get(8, b"\0\0\0\1"), ">I", "cost")
    if lanes_wanted < 1:
        raise RemoteProtocolError("HELLO: wants no lanes")
    if not 1 <= cost <= MAX_COST:
        raise RemoteProtocolError(f"HELLO: cost {cost} is not in 1..{MAX_COST}")
    if credits_.control < LEAST_CONTROL_CREDIT:
        raise RemoteProtocolError(f"HELLO: control credit {credits_.control} is below {LEAST_CONTROL_CREDIT}")
    if max(credits_.control, credits_.opens, credits_.early) > 2**31 - 1:
        raise RemoteProtocolError("HELLO: credit beyond 2^31 - 1")
    return Hello(
        identity_key=attributes[1],
        statement=attributes[2],
        boot=_numbers_untrusted(attributes[3], ">Q", "boot number")[0],
        site_name=name,
        lanes_wanted=lanes_wanted,
        credits=credits_,
        siblings=list(struct.unpack(f">{len(siblings) // 8}Q", siblings)),
        cost=cost,
        link_name=_text_untrusted(attributes.get(9, b""), "link name"),
        software=_text_untrusted(attributes.get(10, b""), "software"),
        features=_numbers_untrusted(attributes.get(11, bytes(8)), ">Q", "features")[0],
        edge=_numbers_untrusted(attributes.get(12, b"\0"), ">B", "role")[0] == EDGE,
    )


def _numbers_untrusted(raw: bytes, form: str, what: str) -> tuple[int, ...]:
    try:
        return struct.unpack(form, raw)
    except struct.error:
        raise RemoteProtocolError(f"HELLO: {what} of {len(raw)} bytes") from None


def _text_untrusted(raw: bytes, what: str) -> str:
    if len(raw) > MAX_LABEL:
        raise RemoteProtocolError(f"HELLO: {what} of {len(raw)} bytes; at most {MAX_LABEL} are allowed")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError(f"HELLO: {what} is not UTF-8") from None
    if not text.isprintable():  # it will stand in logs and on terminals
        raise RemoteProtocolError(f"HELLO: {what} has control characters")
    return text


def _check_statement_untrusted(statement: bytes, identity_key: bytes, *, leaf: bytes, now: float) -> None:
    if len(statement) <= 40:
        raise RemoteProtocolError(f"identity statement of {len(statement)} bytes")
    try:
        key = serialization.load_der_public_key(identity_key)
    except (ValueError, UnsupportedAlgorithm):
        raise RemoteProtocolError("the identity key is not a public key in DER") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RemoteProtocolError("the identity key is not an ECDSA P-256 key")
    canonical = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if canonical != identity_key:  # or one key would have many site ids
        raise RemoteProtocolError("the identity key is not in canonical DER")
    not_after = int.from_bytes(statement[32:40], "big")
    try:
        key.verify(statement[40:], STATEMENT_PREFIX + statement[:40], ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise PeerRejected("the identity statement is not signed by the identity key that HELLO names") from None
    if statement[:32] != leaf:
        raise PeerRejected("the identity statement is about another certificate than the one that TLS proved")
    if not_after < now:
        raise PeerRejected(f"the identity statement ended {now - not_after:.0f} s ago; are both clocks right?")


def leaf_key_hash(certificate_der: bytes) -> bytes:
    """SHA-256 of the certificate's SubjectPublicKeyInfo, the ``leaf`` of an identity statement."""
    key = x509.load_der_x509_certificate(certificate_der).public_key()
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)).digest()
