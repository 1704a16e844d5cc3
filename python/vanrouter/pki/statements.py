"""
What an identity key signs: identity statements, admissions and proofs. Each has its own domain, so that none can pass for another.

    identity statement   leaf 32 | not_after u64 | signature over "vanrouter identity statement v1\\0" leaf not_after
    admission            version u8 = 1 | site 32 | not_after u64 | key length u16 | issuer's key | signature over
                         "vanrouter admission v1\\0" site not_after key
    proof                signature over "vanrouter redemption v1\\0" (or renewal) issuer's site id 32, SHA-256 of the certificate request

Integers are big-endian, keys are SubjectPublicKeyInfo DER, signatures ECDSA P-256 with SHA-256 in DER. Verifying reads bytes from
strangers: it raises ``PeerRejected`` and nothing else.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import struct
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vanrouter.errors import PeerRejected
from vanrouter.model import SiteId, site_id_of_key, site_id_to_bytes
from vanrouter.pki.keys import IdentityKey, ecdsa_sha256
from vanrouter.pki.pem import DECODE_ERRORS

__all__ = [
    "Admission",
    "Purpose",
    "make_admission",
    "make_proof",
    "make_statement",
    "verify_admission_untrusted",
    "verify_proof_untrusted",
    "verify_statement_untrusted",
]

STATEMENT_DOMAIN: Final = b"vanrouter identity statement v1\0"
ADMISSION_DOMAIN: Final = b"vanrouter admission v1\0"
MAX_STATEMENT: Final = 32 + 8 + 80
MAX_ADMISSION: Final = 512


class Purpose(enum.Enum):
    """What a proof is for. The value is its domain."""

    REDEMPTION = b"vanrouter redemption v1\0"
    RENEWAL = b"vanrouter renewal v1\0"


# ---- Identity statement --------------------------------------------------------------------------------------------------------------


def make_statement(identity: IdentityKey, leaf_public_der: bytes, *, not_after: float) -> bytes:
    """HELLO attribute 2: the leaf with this public key speaks for our site until ``not_after``."""
    body = hashlib.sha256(leaf_public_der).digest() + struct.pack(">Q", int(not_after))
    return body + identity.sign(STATEMENT_DOMAIN + body)


def verify_statement_untrusted(statement: bytes, *, identity_key: bytes, leaf_public_der: bytes, now: float) -> SiteId:
    """The site for which the leaf that the TLS handshake proved speaks. Raises PeerRejected."""
    if not 40 < len(statement) <= MAX_STATEMENT:
        raise PeerRejected(f"the identity statement has {len(statement)} bytes")
    body, signature = statement[:40], statement[40:]
    _verify(identity_key, STATEMENT_DOMAIN + body, signature, "identity statement")
    if body[:32] != hashlib.sha256(leaf_public_der).digest():
        raise PeerRejected("the identity statement speaks of another certificate's key than the one used for TLS")
    (not_after,) = struct.unpack(">Q", body[32:])
    if not_after < now:
        raise PeerRejected(
            f"the identity statement ended {int(now) - not_after} s ago by our clock",
            hint="if the peer is well, compare the clocks of both machines",
        )
    return site_id_of_key(identity_key)


# ---- Admission -------------------------------------------------------------------------------------------------------------------------


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """That ``issuer`` lets ``site`` join, until ``not_after`` (seconds since the epoch)."""

    site: SiteId
    issuer: SiteId
    issuer_key: bytes
    not_after: int


def make_admission(identity: IdentityKey, site: SiteId, *, not_after: float) -> bytes:
    """Our signed statement that ``site`` may join."""
    key = identity.public_der
    body = site_id_to_bytes(site) + struct.pack(">Q", int(not_after))
    signature = identity.sign(ADMISSION_DOMAIN + body + key)
    return b"\x01" + body + struct.pack(">H", len(key)) + key + signature


def verify_admission_untrusted(admission: bytes, *, now: float | None = None) -> Admission:
    """Decode and check the signature, and with ``now`` the end. Who the issuer is to us is the caller's question. Raises PeerRejected."""
    if not 43 < len(admission) <= MAX_ADMISSION:
        raise PeerRejected(f"the admission has {len(admission)} bytes")
    version, site, not_after, length = struct.unpack(">B32sQH", admission[:43])
    if version != 1:
        raise PeerRejected(f"the admission has version {version}; version 1 is understood")
    key, signature = admission[43 : 43 + length], admission[43 + length :]
    if len(key) != length:
        raise PeerRejected("the admission is cut off")
    _verify(key, ADMISSION_DOMAIN + admission[1:41] + key, signature, "admission")
    if now is not None and not_after < now:
        raise PeerRejected(
            f"the admission ended {int(now) - not_after} s ago", hint="the site must renew its certificate, or redeem a new token"
        )
    return Admission(site=_site_text(site), issuer=site_id_of_key(key), issuer_key=key, not_after=not_after)


# ---- Proof ------------------------------------------------------------------------------------------------------------------------------


def make_proof(identity: IdentityKey, purpose: Purpose, *, issuer: SiteId, csr: bytes) -> bytes:
    """Our identity key's word that this certificate request, to this issuer, is ours."""
    return identity.sign(_proof_message(purpose, issuer, csr))


def verify_proof_untrusted(proof: bytes, purpose: Purpose, *, identity_key: bytes, issuer: SiteId, csr: bytes) -> SiteId:
    """The site that proved itself. Raises PeerRejected."""
    _verify(identity_key, _proof_message(purpose, issuer, csr), proof, "proof")
    return site_id_of_key(identity_key)


def _proof_message(purpose: Purpose, issuer: SiteId, csr: bytes) -> bytes:
    return purpose.value + site_id_to_bytes(issuer) + hashlib.sha256(csr).digest()


def _verify(key_der: bytes, message: bytes, signature: bytes, what: str) -> None:
    if len(key_der) > 256:
        raise PeerRejected(f"the identity key of the {what} has {len(key_der)} bytes")
    try:
        key = serialization.load_der_public_key(key_der)
    except DECODE_ERRORS:
        raise PeerRejected(f"the identity key of the {what} does not decode") from None
    if not (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)):
        raise PeerRejected(f"the identity key of the {what} is not an EC key on P-256")
    canonical = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if canonical != key_der:
        # Otherwise one key would have several site ids (compressed points, parameters spelled out).
        raise PeerRejected(f"the identity key of the {what} is not in its canonical form")
    try:
        key.verify(signature, message, ecdsa_sha256)
    except InvalidSignature:
        raise PeerRejected(f"the signature of the {what} does not hold") from None


def _site_text(raw: bytes) -> SiteId:
    return SiteId(base64.b32encode(raw).decode().rstrip("=").lower())
