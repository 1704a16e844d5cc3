"""From users' files to the credential of a data plane."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from vanrouter.errors import ConfigError
from vanrouter.pki import (
    CertificateAuthority,
    IdentityKey,
    PrivateKey,
    build_credential,
    certificates_to_pem,
    renewed_statement,
    verify_statement_untrusted,
)

NOW = 1_800_000_000.0
SITE = IdentityKey.generate()
CA = CertificateAuthority.create("north", SITE.site_id, now=NOW)
KEY = PrivateKey.generate()
LEAF = CA.issue_server(KEY.public_der, SITE.site_id, ["127.0.0.1"], now=NOW)
LEAF_PEM = certificates_to_pem([LEAF])


def test_a_credential_has_all_that_a_plane_needs() -> None:
    credential = build_credential("access", certificate_pem=LEAF_PEM, key_pem=KEY.pem(), trust_pem=CA.certificate_pem(), identity=SITE)
    assert credential.certificates == [LEAF.public_bytes(serialization.Encoding.DER)]
    assert credential.trust == [CA.der]
    assert serialization.load_der_private_key(credential.private_key, None) is not None
    arguments = {"identity_key": SITE.public_der, "leaf_public_der": KEY.public_der}
    assert verify_statement_untrusted(credential.statement, now=NOW, **arguments) == SITE.site_id
    assert (credential.verify_host, credential.admit) == (False, None)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(credential), type=type(credential)) == credential


def test_a_corporate_leaf_with_an_rsa_key_and_an_intermediate_speaks_for_the_site() -> None:
    """Any leaf will do: the statement binds its key to the identity."""
    key = rsa.generate_private_key(65_537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gw.corp.example")])
    utc = dt.datetime.fromtimestamp(NOW, dt.UTC)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(CA.certificate.subject)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(utc)
        .not_valid_after(utc + dt.timedelta(days=3650))
        .sign(CA.key.object, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    credential = build_credential(
        "corp",
        certificate_pem=certificates_to_pem([leaf, CA.certificate]),
        key_pem=pem,
        trust_pem=CA.certificate_pem(),
        identity=SITE,
        verify_host=True,
        admit=["*.corp.example"],
        statement_until=NOW + 1000,
    )
    assert len(credential.certificates) == 2
    assert credential.admit == ["*.corp.example"]
    assert int.from_bytes(credential.statement[32:40], "big") == NOW + 1000, "a long-lived leaf does not make a long-lived statement"
    later = renewed_statement(credential, SITE, until=NOW + 2000)
    assert int.from_bytes(later.statement[32:40], "big") == NOW + 2000
    assert later.certificates == credential.certificates


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"key_pem": PrivateKey.generate().pem()}, r"tls\.key does not belong"),
        ({"certificate_pem": certificates_to_pem([CA.certificate, LEAF])}, r"tls\.key does not belong"),
        ({"certificate_pem": b"x"}, r"tls\.crt holds no certificate"),
        ({"trust_pem": b""}, r"ca\.crt holds no certificate"),
        ({"certificate_pem": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, r"tls\.crt is damaged"),
        ({"trust_pem": CA.certificate_pem() * 65}, "at most 64"),
    ],
    ids=["another key", "leaf not first", "no certificate", "no CA", "damaged", "too many"],
)
def test_pieces_that_do_not_fit_are_named(change: dict[str, bytes], says: str) -> None:
    files = {"certificate_pem": LEAF_PEM, "key_pem": KEY.pem(), "trust_pem": CA.certificate_pem()} | change
    with pytest.raises(ConfigError, match=says):
        build_credential("x", identity=SITE, **files)  # type: ignore[arg-type]
