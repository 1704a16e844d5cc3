"""The site CA, what it issues, and what a certificate request cannot smuggle in (K-7)."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import ssl
import tempfile
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from vanrouter.errors import ConfigError, PeerRejected
from vanrouter.pki import (
    CertificateAuthority,
    IdentityKey,
    PrivateKey,
    Renewal,
    certificates_from_der,
    certificates_to_pem,
    make_csr,
    public_key_of_csr_untrusted,
    renew_at,
    renewal_state,
    spki_of,
)

NOW = 1_800_000_000.0
DAY = 86_400.0
NORTH = IdentityKey.generate()
SOUTH = IdentityKey.generate()
CA = CertificateAuthority.create("north", NORTH.site_id, now=NOW)
KEY = PrivateKey.generate()


E = TypeVar("E", bound=x509.ExtensionType)


def extension(certificate: x509.Certificate, kind: type[E]) -> E:
    return certificate.extensions.get_extension_for_class(kind).value


def test_the_ca_carries_the_sites_name_signs_only_leaves_and_lives_ten_years() -> None:
    certificate = CA.certificate
    assert [n.value for n in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["north"]
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert (basic.value.ca, basic.value.path_length) == (True, 0)
    assert certificate.not_valid_before_utc.timestamp() == NOW - 300
    assert certificate.not_valid_after_utc.timestamp() == NOW + 3650 * DAY


def test_a_ca_of_the_longest_site_name_can_be_made() -> None:
    CertificateAuthority.create("n" * 63, NORTH.site_id, now=NOW)


def test_a_renewed_ca_vouches_for_what_was_issued_before() -> None:
    leaf = CA.issue_client(KEY.public_der, SOUTH.site_id, now=NOW)
    renewed = CA.renewed(now=NOW + 3000 * DAY)
    assert renewed.issued(leaf)
    assert CA.issued(renewed.issue_client(KEY.public_der, SOUTH.site_id, now=NOW + 3000 * DAY))
    assert renewed.certificate.not_valid_after_utc > CA.certificate.not_valid_after_utc
    other = CertificateAuthority.create("north", NORTH.site_id, now=NOW)
    assert not other.issued(leaf), "another CA of the same name is another CA"


def test_a_client_leaf_names_the_site_and_serves_clients_only() -> None:
    leaf = CA.issue_client(KEY.public_der, SOUTH.site_id, now=NOW)
    assert leaf.subject.rfc4514_string() == f"CN={SOUTH.site_id}"
    assert list(extension(leaf, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not extension(leaf, x509.BasicConstraints).ca
    assert spki_of(leaf.public_key()) == KEY.public_der
    assert leaf.not_valid_before_utc.timestamp() == NOW - 300
    assert leaf.not_valid_after_utc.timestamp() == NOW + 90 * DAY


def test_a_server_leaf_is_good_for_its_hosts_and_the_sites_own_name() -> None:
    leaf = CA.issue_server(KEY.public_der, NORTH.site_id, ["127.0.0.1", "::1", "van.example", "127.0.0.1"], now=NOW)
    names = extension(leaf, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == [f"{NORTH.site_id}.van", "van.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    assert list(extension(leaf, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.SERVER_AUTH]


@pytest.mark.parametrize("host", ["", "a b", "https://x", "x:1", "ü.example", "x" * 300])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="neither an IP address nor a DNS name"):
        CA.issue_server(KEY.public_der, NORTH.site_id, [host], now=NOW)


def test_the_same_arguments_give_the_same_certificate() -> None:
    first, second = (CA.issue_client(KEY.public_der, SOUTH.site_id, now=NOW, serial=7) for _ in range(2))
    assert first.public_bytes(serialization.Encoding.DER) == second.public_bytes(serialization.Encoding.DER)


def test_no_leaf_outlives_its_ca_and_an_expired_ca_issues_nothing() -> None:
    end = CA.certificate.not_valid_after_utc
    assert CA.issue_client(KEY.public_der, SOUTH.site_id, now=end.timestamp() - DAY).not_valid_after_utc == end
    with pytest.raises(ConfigError, match="CA expired"):
        CA.issue_client(KEY.public_der, SOUTH.site_id, now=end.timestamp())


def test_a_ca_loads_from_its_files_and_not_from_a_mixed_pair() -> None:
    again = CertificateAuthority.load(CA.certificate_pem(), CA.key_pem().reveal())
    assert again.certificate == CA.certificate
    with pytest.raises(ConfigError, match=r"ca\.key does not belong to ca\.crt"):
        CertificateAuthority.load(CA.certificate_pem(), KEY.pem().reveal())
    leaf = CA.issue_client(KEY.public_der, SOUTH.site_id, now=NOW)
    with pytest.raises(ConfigError, match="not a CA"):
        CertificateAuthority.load(certificates_to_pem([leaf]), KEY.pem().reveal())


@pytest.mark.parametrize("strict", [False, True])
def test_openssl_accepts_the_chains_each_for_its_own_use(strict: bool) -> None:
    """The judge is the TLS library, strict mode included: no leaf works in the other role."""
    now = dt.datetime.now(dt.UTC).timestamp()
    ca = CertificateAuthority.create("north", NORTH.site_id, now=now)
    for use, fits in (("server", True), ("client", False)):
        issue = ca.issue_server(KEY.public_der, NORTH.site_id, ["127.0.0.1"], now=now) if use == "server" else None
        leaf = issue or ca.issue_client(KEY.public_der, NORTH.site_id, now=now)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if strict:
            client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
        client.load_verify_locations(cadata=ca.certificate_pem().decode())
        assert handshake(client, leaf, f"{NORTH.site_id}.van") is fits


def handshake(client: ssl.SSLContext, leaf: x509.Certificate, name: str) -> bool:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(KEY.pem().reveal() + certificates_to_pem([leaf]))
        file.flush()
        server.load_cert_chain(file.name)
    a, b, c, d = ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO()
    left, right = client.wrap_bio(a, b, server_hostname=name), server.wrap_bio(c, d, server_side=True)
    try:
        for _ in range(5):
            for end in (left, right):
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
                a.write(d.read())
                c.write(b.read())
    except ssl.SSLCertVerificationError:
        return False
    return True


# ---- Certificate requests -------------------------------------------------------------------------------------------------------------


def forged_csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """All that a requester might try: names, CA:TRUE, usages, a victim's SAN."""
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(
            x509.Name(
                [x509.NameAttribute(NameOID.COMMON_NAME, NORTH.site_id), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters")]
            )
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{NORTH.site_id}.van"), x509.DNSName("victim.example")]), critical=False)
    )
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()).public_bytes(
        serialization.Encoding.DER
    )


def test_a_request_gives_its_public_key_and_nothing_else() -> None:
    public = public_key_of_csr_untrusted(forged_csr(KEY.object))  # type: ignore[arg-type]
    assert public == KEY.public_der
    leaf = CA.issue_client(public, SOUTH.site_id, now=NOW)
    assert leaf.subject.rfc4514_string() == f"CN={SOUTH.site_id}"
    assert extension(leaf, x509.SubjectAlternativeName).get_values_for_type(x509.DNSName) == [f"{SOUTH.site_id}.van"]
    assert not extension(leaf, x509.BasicConstraints).ca
    assert list(extension(leaf, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_a_request_signed_by_another_key_is_refused() -> None:
    mine, theirs = make_csr(KEY), make_csr(PrivateKey.generate())
    loaded = x509.load_der_x509_csr(theirs)
    spliced = mine.replace(KEY.public_der, spki_of(loaded.public_key()))
    assert spliced != mine
    with pytest.raises(PeerRejected, match="not signed by the key"):
        public_key_of_csr_untrusted(spliced)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65_537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
    ],
)
def test_a_request_for_a_costly_or_odd_key_is_refused(key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(PeerRejected, match="P-256 or P-384"):
        public_key_of_csr_untrusted(forged_csr(key))


@given(at=st.integers(0, 1000), flip=st.integers(1, 255), cut=st.integers(0, 300))
@example(at=0, flip=1, cut=0)
@example(at=117, flip=1, cut=0)
def test_a_damaged_request_raises_peer_rejected_or_keeps_its_key(at: int, flip: int, cut: int) -> None:
    csr = bytearray(make_csr(KEY))
    csr[at % len(csr)] ^= flip
    try:
        key = public_key_of_csr_untrusted(bytes(csr[: len(csr) - cut]))
    except PeerRejected:
        return
    assert key == KEY.public_der  # a signature that ends in a 0 bit is the same with that bit said to be unused


@pytest.mark.parametrize("flip", [0x01, 0x02, 0x7F, 0x80, 0xFF])
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_a_change_at_any_byte_raises_nothing_but_our_errors(flip: int) -> None:
    """The library has exceptions of its own for some bytes (a version, a kind of name): all of them, at every place."""
    leaf = CA.issue_server(KEY.public_der, NORTH.site_id, ["127.0.0.1"], now=NOW, serial=5).public_bytes(serialization.Encoding.DER)
    for whole in (make_csr(KEY), leaf):
        for at in range(len(whole)):
            changed = whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
            with contextlib.suppress(PeerRejected):
                public_key_of_csr_untrusted(changed)
            with contextlib.suppress(ConfigError):
                CA.issued(certificates_from_der([changed])[0])


@given(st.binary(max_size=500))
def test_any_bytes_for_a_request_raise_peer_rejected(noise: bytes) -> None:
    with pytest.raises(PeerRejected):
        public_key_of_csr_untrusted(noise)
    with pytest.raises(PeerRejected):
        public_key_of_csr_untrusted(noise + bytes(5000))


# ---- Renewal ----------------------------------------------------------------------------------------------------------------------------


def test_a_leaf_renews_from_two_thirds_of_its_life_and_for_ninety_days_after_its_end() -> None:
    leaf = CA.issue_client(KEY.public_der, SOUTH.site_id, now=NOW)
    begin, end = NOW - 300, NOW + 90 * DAY
    two_thirds = begin + (end - begin) * 2 / 3
    assert renew_at(leaf) == pytest.approx(two_thirds)
    table = [
        (begin - 1, Renewal.NOT_YET),
        (begin, Renewal.FRESH),
        (two_thirds - 1, Renewal.FRESH),
        (two_thirds + 1, Renewal.DUE),
        (end - 1, Renewal.DUE),
        (end, Renewal.EXPIRED),
        (end + 90 * DAY - 1, Renewal.EXPIRED),
        (end + 90 * DAY, Renewal.LOST),
    ]
    assert [(now, renewal_state(leaf, now)) for now, _ in table] == table


def test_jitter_spreads_renewals_and_never_reaches_the_end() -> None:
    leaf = CA.issue_client(KEY.public_der, SOUTH.site_id, now=NOW)
    assert renew_at(leaf) < renew_at(leaf, jitter=0.5) < renew_at(leaf, jitter=1.0) < NOW + 90 * DAY * 0.75


def test_short_lives_work_the_same() -> None:
    leaf = CA.issue_client(KEY.public_der, SOUTH.site_id, now=NOW, lifetime=60)
    assert renewal_state(leaf, NOW + 61) is Renewal.EXPIRED
