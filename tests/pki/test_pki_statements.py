"""Statements, admissions and proofs: each holds for exactly what was signed."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from vanrouter.errors import PeerRejected
from vanrouter.pki import (
    IdentityKey,
    PrivateKey,
    Purpose,
    make_admission,
    make_proof,
    make_statement,
    verify_admission_untrusted,
    verify_proof_untrusted,
    verify_statement_untrusted,
)

NOW = 1_800_000_000
NORTH = IdentityKey.generate()
SOUTH = IdentityKey.generate()
LEAF = PrivateKey.generate()
STATEMENT = make_statement(SOUTH, LEAF.public_der, not_after=NOW + 100)
ADMISSION = make_admission(NORTH, SOUTH.site_id, not_after=NOW + 100)


def check(statement: bytes = STATEMENT, key: bytes = SOUTH.public_der, leaf: bytes = LEAF.public_der, now: float = NOW) -> str:
    return verify_statement_untrusted(statement, identity_key=key, leaf_public_der=leaf, now=now)


def test_a_statement_is_what_the_wire_protocol_says() -> None:
    assert STATEMENT[:32] == hashlib.sha256(LEAF.public_der).digest()
    assert struct.unpack(">Q", STATEMENT[32:40]) == (NOW + 100,)
    key = serialization.load_der_public_key(SOUTH.public_der)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(STATEMENT[40:], b"vanrouter identity statement v1\0" + STATEMENT[:40], ec.ECDSA(hashes.SHA256()))
    assert check() == SOUTH.site_id


def test_a_statement_ends_when_it_says() -> None:
    assert check(now=NOW + 100) == SOUTH.site_id
    with pytest.raises(PeerRejected, match="ended 1 s ago"):
        check(now=NOW + 101)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: check(key=NORTH.public_der), "signature"),
        (lambda: check(leaf=PrivateKey.generate().public_der), "another certificate's key"),
        (lambda: check(make_statement(NORTH, LEAF.public_der, not_after=NOW + 100)), "signature"),
        (lambda: check(STATEMENT[:32] + struct.pack(">Q", NOW + 10**6) + STATEMENT[40:], now=NOW + 200), "signature"),
        (lambda: check(b""), "0 bytes"),
        (lambda: check(STATEMENT + bytes(200)), "bytes"),
        (
            lambda: check(
                key=ec.generate_private_key(ec.SECP384R1())
                .public_key()
                .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
            ),
            "P-256",
        ),
        (lambda: check(key=b"x"), "decode"),
        (lambda: check(key=bytes(300)), "300 bytes"),
    ],
    ids=["key of another site", "another leaf", "signed by another", "later end", "empty", "long", "P-384", "no key", "long key"],
)
def test_a_wrong_statement_is_refused(wrong: Callable[[], str], says: str) -> None:
    with pytest.raises(PeerRejected, match=says):
        wrong()


def test_one_key_has_one_site_id() -> None:
    """A compressed point is the same key with another hash: accepting it would give a site a second id."""
    key = serialization.load_der_public_key(SOUTH.public_der)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    compressed = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
    loaded = serialization.load_der_public_key(compressed)
    assert isinstance(loaded, ec.EllipticCurvePublicKey)
    assert loaded.public_numbers() == key.public_numbers()
    with pytest.raises(PeerRejected, match="canonical"):
        check(key=compressed)


def test_an_admission_says_who_admits_whom_until_when() -> None:
    admission = verify_admission_untrusted(ADMISSION, now=NOW)
    assert (admission.issuer, admission.site, admission.not_after) == (NORTH.site_id, SOUTH.site_id, NOW + 100)
    assert admission.issuer_key == NORTH.public_der
    with pytest.raises(PeerRejected, match="ended 1 s ago"):
        verify_admission_untrusted(ADMISSION, now=NOW + 101)


def test_an_admission_cannot_be_turned_to_another_site_or_issuer() -> None:
    third = IdentityKey.generate()
    with pytest.raises(PeerRejected):
        verify_admission_untrusted(ADMISSION[:1] + hashlib.sha256(third.public_der).digest() + ADMISSION[33:])
    with pytest.raises(PeerRejected):
        verify_admission_untrusted(ADMISSION.replace(NORTH.public_der, third.public_der))
    with pytest.raises(PeerRejected, match="version 2"):
        verify_admission_untrusted(b"\x02" + ADMISSION[1:])


def test_a_proof_holds_for_one_purpose_issuer_and_request() -> None:
    proof = make_proof(SOUTH, Purpose.REDEMPTION, issuer=NORTH.site_id, csr=b"csr")
    assert (
        verify_proof_untrusted(proof, Purpose.REDEMPTION, identity_key=SOUTH.public_der, issuer=NORTH.site_id, csr=b"csr") == SOUTH.site_id
    )
    for purpose, key, issuer, csr in (
        (Purpose.RENEWAL, SOUTH, NORTH, b"csr"),
        (Purpose.REDEMPTION, NORTH, NORTH, b"csr"),
        (Purpose.REDEMPTION, SOUTH, SOUTH, b"csr"),
        (Purpose.REDEMPTION, SOUTH, NORTH, b"other"),
    ):
        with pytest.raises(PeerRejected, match="signature"):
            verify_proof_untrusted(proof, purpose, identity_key=key.public_der, issuer=issuer.site_id, csr=csr)


@given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_one_changed_byte_breaks_each(at: int, flip: int) -> None:
    for signed, verify in ((STATEMENT, check), (ADMISSION, verify_admission_untrusted)):
        changed = bytearray(signed)
        changed[at % len(changed)] ^= flip
        with pytest.raises(PeerRejected):
            verify(bytes(changed))


@given(st.binary(max_size=600), st.binary(max_size=300))
def test_any_bytes_raise_peer_rejected(noise: bytes, key: bytes) -> None:
    with pytest.raises(PeerRejected):
        check(noise, key)
    with pytest.raises(PeerRejected):
        verify_admission_untrusted(b"\x01" + noise)
    with pytest.raises(PeerRejected):
        verify_proof_untrusted(noise, Purpose.RENEWAL, identity_key=key, issuer=NORTH.site_id, csr=b"")
