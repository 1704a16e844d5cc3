"""Keys, PEM in all the forms that users bring, and secrets that never print."""

from __future__ import annotations

import copy
import logging
import pickle

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from vanrouter.errors import ConfigError
from vanrouter.model import site_id_of_key
from vanrouter.pki import CertificateAuthority, IdentityKey, PrivateKey, Secret, certificates_from_der, load_certificates

PEM = serialization.Encoding.PEM
PLAIN = serialization.NoEncryption()
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65_537, 2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()
PKCS8 = serialization.PrivateFormat.PKCS8
TRADITIONAL = serialization.PrivateFormat.TraditionalOpenSSL


def test_a_secret_shows_nothing_however_it_is_printed(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(b"canary-7431")
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("t").warning("%s %r %s", secret, secret, [secret], extra={"secret": secret})
    shown = f"{secret} {secret!r} {secret!s:>20} {[secret]} { ({'k': secret}) }" + caplog.text
    assert "canary" not in shown
    assert repr(secret) == "***"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(secret)
    assert secret.reveal() == b"canary-7431"
    assert secret == Secret(b"canary-7431")
    assert secret != Secret(b"canary-7432")


def test_no_key_object_prints_its_private_half() -> None:
    identity, key = IdentityKey.generate(), PrivateKey.generate()
    ca = CertificateAuthority.create("north", identity.site_id, now=1e9, key=key)
    number = str(key.object.private_numbers().private_value)  # type: ignore[union-attr]
    shown = f"{identity!r} {key!r} {ca!r} {identity} {key} {vars(key)} {key.pem()} {key.der()} {ca.key_pem()}"
    assert number not in shown
    assert "PRIVATE KEY" not in shown


def test_an_identity_key_survives_the_disk_and_keeps_its_site_id() -> None:
    identity = IdentityKey.generate()
    again = IdentityKey.load(identity.pem().reveal())
    assert again.site_id == identity.site_id == site_id_of_key(identity.public_der)
    assert again.sign(b"x") == identity.sign(b"x"), "signatures are deterministic"


@pytest.mark.parametrize("key", [RSA_KEY, ED_KEY, ec.generate_private_key(ec.SECP384R1())])
def test_an_identity_key_of_another_kind_is_refused(key: serialization.PrivateFormat) -> None:
    with pytest.raises(ConfigError, match=r"identity\.key|identity key") as caught:
        IdentityKey.load(key.private_bytes(PEM, PKCS8, PLAIN))  # type: ignore[attr-defined]
    assert "new one would be a new site" in caught.value.hint


@pytest.mark.parametrize(
    ("pem", "kind"),
    [
        (EC_KEY.private_bytes(PEM, PKCS8, PLAIN), "EC secp256r1"),
        (EC_KEY.private_bytes(PEM, TRADITIONAL, PLAIN), "EC secp256r1"),
        (
            b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
            + EC_KEY.private_bytes(PEM, TRADITIONAL, PLAIN),
            "EC secp256r1",
        ),
        (b"Bag Attributes\r\n  friendlyName: x\r\n" + EC_KEY.private_bytes(PEM, PKCS8, PLAIN).replace(b"\n", b"\r\n"), "EC secp256r1"),
        (RSA_KEY.private_bytes(PEM, PKCS8, PLAIN), "RSA 2048"),
        (RSA_KEY.private_bytes(PEM, TRADITIONAL, PLAIN), "RSA 2048"),
        (ED_KEY.private_bytes(PEM, PKCS8, PLAIN), "Ed25519"),
    ],
    ids=["pkcs8", "sec1", "sec1 behind parameters", "bag attributes and CRLF", "rsa pkcs8", "rsa pkcs1", "ed25519"],
)
def test_users_keys_load_in_every_usual_form(pem: bytes, kind: str) -> None:
    key = PrivateKey.load(pem)
    assert key.kind == kind
    assert PrivateKey.load(key.pem().reveal()) == key


@pytest.mark.parametrize(
    ("pem", "says"),
    [
        (b"", "no private key"),
        (b"hello", "no private key"),
        (EC_KEY.private_bytes(PEM, PKCS8, PLAIN) * 2, "2 private keys"),
        (EC_KEY.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"x")), "passphrase"),
        (EC_KEY.private_bytes(PEM, TRADITIONAL, serialization.BestAvailableEncryption(b"x")), "passphrase"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "damaged"),
        (rsa.generate_private_key(65_537, 1024).private_bytes(PEM, PKCS8, PLAIN), "1024 bits"),
        (dsa.generate_private_key(2048).private_bytes(PEM, PKCS8, PLAIN), "kind"),
        (ec.generate_private_key(ec.SECP256K1()).private_bytes(PEM, PKCS8, PLAIN), "kind"),
    ],
    ids=["empty", "text", "two", "encrypted", "encrypted traditional", "damaged", "rsa-1024", "dsa", "secp256k1"],
)
def test_unusable_keys_are_refused_with_the_reason_and_what_to_do(pem: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        PrivateKey.load(pem, "tls.key")
    assert "tls.key" in str(caught.value)
    assert caught.value.hint


@given(noise=st.binary(max_size=300), framed=st.booleans())
def test_no_bytes_raise_anything_but_config_error(noise: bytes, framed: bool) -> None:
    for label, load in ((b"PRIVATE KEY", PrivateKey.load), (b"CERTIFICATE", load_certificates)):
        text = b"-----BEGIN " + label + b"-----\n" + noise + b"\n-----END " + label + b"-----\n" if framed else noise
        with pytest.raises(ConfigError):
            load(text)
    with pytest.raises(ConfigError):
        certificates_from_der([noise])
