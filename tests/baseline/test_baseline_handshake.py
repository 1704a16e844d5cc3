"""HELLO: written and read back, and never anything but a refusal for what is wrong with it."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from vanrouter.baseline.handshake import Credits, Hello, check_hello_untrusted, encode_hello
from vanrouter.errors import PeerRejected, RemoteProtocolError
from vanrouter.model import site_id_of_key

KEY = ec.generate_private_key(ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
LEAF = hashlib.sha256(b"leaf").digest()
NOW = 1_000_000.0


def statement(*, leaf: bytes = LEAF, not_after: int = 2_000_000, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    said = leaf + not_after.to_bytes(8, "big")
    return said + key.sign(b"vanrouter identity statement v1\0" + said, ec.ECDSA(hashes.SHA256()))


def hello(**changes: object) -> Hello:
    fields: dict[str, object] = {
        "identity_key": SPKI,
        "statement": statement(),
        "boot": 2**64 - 1,
        "site_name": "north.example",
        "lanes_wanted": 4,
        "credits": Credits(65_540, 16, 65_536),
        "siblings": [1, 2**64 - 1],
        "cost": 7,
        "link_name": "to-south",
        "software": "test 1",
        **changes,
    }
    return Hello(**fields)  # type: ignore[arg-type]


def check(payload: bytes, now: float = NOW) -> Hello:
    return check_hello_untrusted(memoryview(payload), leaf=LEAF, now=now)


def test_a_hello_is_read_as_it_was_written() -> None:
    said = hello()
    assert check(encode_hello(said)) == said
    assert said.router.site == site_id_of_key(SPKI)


def test_a_statement_holds_until_its_last_second() -> None:
    assert check(encode_hello(hello()), now=2_000_000.0)
    with pytest.raises(PeerRejected, match="ended"):
        check(encode_hello(hello()), now=2_000_001.0)


def test_a_statement_about_another_leaf_or_by_another_key_is_rejected() -> None:
    with pytest.raises(PeerRejected, match="another certificate"):
        check(encode_hello(hello(statement=statement(leaf=bytes(32)))))
    with pytest.raises(PeerRejected, match="not signed"):
        check(encode_hello(hello(statement=statement(key=ec.generate_private_key(ec.SECP256R1())))))


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()])
def test_an_identity_key_on_another_curve_is_refused(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(RemoteProtocolError, match="P-256"):
        check(encode_hello(hello(identity_key=spki, statement=statement(key=key))))


def test_an_identity_key_in_another_encoding_is_refused() -> None:
    """Or one key would have many site ids."""
    compressed = KEY.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    spki = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + compressed
    with pytest.raises(RemoteProtocolError, match=r"canonical|DER"):
        check(encode_hello(hello(identity_key=spki)))


GOOD = encode_hello(hello(statement=statement()[:40] + bytes(70)))  # of one length, as a signature is not


@given(st.data())
def test_a_damaged_hello_raises_only_what_it_may(data: st.DataObject) -> None:
    payload = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)))
    with contextlib.suppress(RemoteProtocolError, PeerRejected):
        check(bytes(payload[:cut]))


@given(st.binary(max_size=200))
def test_noise_raises_only_what_it_may(noise: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError, PeerRejected):
        check(b"\x01" + noise)
