"""
A site's CA: it decides who may open a link to the site, and names whom it lets in.

The issuer sets every name; a certificate request gives only a public key, and its signature proves that the requester holds the key.
Client leaves carry the site id as CN; server leaves carry ``SITE-ID.van`` and the endpoints' hosts. Signing is a function of its
arguments: the same key, names, time and serial give the same certificate, byte for byte.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
from collections.abc import Iterable
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vanrouter.errors import ConfigError, PeerRejected
from vanrouter.model import SiteId
from vanrouter.pki.keys import PrivateKey, spki_of
from vanrouter.pki.pem import DECODE_ERRORS, certificates_to_pem, load_certificates
from vanrouter.pki.secret import Secret

__all__ = [
    "BACKDATE",
    "CA_LIFETIME",
    "LEAF_LIFETIME",
    "CertificateAuthority",
    "backdated",
    "make_csr",
    "public_key_of_csr_untrusted",
    "van_name",
]

DAY: Final = 86_400.0
CA_LIFETIME: Final = 3_650 * DAY
LEAF_LIFETIME: Final = 90 * DAY
BACKDATE: Final = 300.0
"""notBefore lies this far in the past, so that a peer whose clock is up to five minutes behind accepts a fresh certificate."""

MAX_CSR: Final = 4_096


def van_name(site: SiteId) -> str:
    """The DNS name that stands for a site in SNI and in its server leaf."""
    return f"{site}.van"


def guest_name(site: SiteId | str, issuer: SiteId) -> str:
    """The name of whoever ``issuer`` gave a certificate to, by which an access with a CA of the user's admits it; ``*``: of all of them."""
    return f"{site}.{issuer}.van"


def names_of(leaf: x509.Certificate) -> list[str]:
    """The hosts for which a leaf is good: its alternative names that are addresses or whole DNS names."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    hosts = [*names.get_values_for_type(x509.DNSName), *(str(a) for a in names.get_values_for_type(x509.IPAddress))]
    return [host for host in hosts if "*" not in host]


def backdated(now: float) -> float:
    return now - BACKDATE


def random_serial() -> int:
    return secrets.randbits(127) | 1


class CertificateAuthority:
    """A CA certificate and its key. Immutable: ``renewed`` gives another one."""

    def __init__(self, certificate: x509.Certificate, key: PrivateKey) -> None:
        if spki_of(certificate.public_key()) != key.public_der:
            raise ConfigError("ca.key does not belong to ca.crt", hint="restore the pair that was made together, or remove both")
        try:
            is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            is_ca = False
        if not is_ca:
            raise ConfigError("ca.crt is not a CA certificate (CA:TRUE is missing)", hint="give the certificate of the CA, not a leaf")
        self.certificate: Final = certificate
        self.key: Final = key

    @classmethod
    def create(
        cls, site_name: str, site: SiteId, *, now: float, key: PrivateKey | None = None, serial: int | None = None
    ) -> CertificateAuthority:
        """Make the CA of a site: P-256, ten years, only leaves below it. The name is a label, the site id tells two of one name apart."""
        key = key or PrivateKey.generate()
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "vanrouter site CA"),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, site),
                x509.NameAttribute(NameOID.COMMON_NAME, site_name),
            ]
        )
        return cls(_ca_certificate(subject, key, now, serial), key)

    @classmethod
    def load(cls, certificate_pem: bytes, key_pem: bytes) -> CertificateAuthority:
        """From ca.crt (the first certificate in it) and ca.key. Raises ConfigError."""
        return cls(load_certificates(certificate_pem, "ca.crt")[0], PrivateKey.load(key_pem, "ca.key"))

    def renewed(self, *, now: float, serial: int | None = None) -> CertificateAuthority:
        """The same key and name for another ten years: what was issued before stays valid under both certificates."""
        return CertificateAuthority(_ca_certificate(self.certificate.subject, self.key, now, serial), self.key)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def certificate_pem(self) -> bytes:
        return certificates_to_pem([self.certificate])

    def key_pem(self) -> Secret:
        return self.key.pem()

    def issue_client(
        self,
        public_key: bytes,
        site: SiteId,
        *,
        now: float,
        lifetime: float = LEAF_LIFETIME,
        serial: int | None = None,
        issuer: SiteId | None = None,
    ) -> x509.Certificate:
        """A leaf with which ``site`` opens links to us. ``issuer``, who we are, gives it ``guest_name`` as a second name."""
        names = [x509.DNSName(name) for name in (van_name(site), *((guest_name(site, issuer),) if issuer is not None else ()))]
        return self._issue(public_key, site, names, ExtendedKeyUsageOID.CLIENT_AUTH, now, lifetime, serial)

    def issue_guest(
        self, public_key: bytes, name: str, issuer: SiteId, *, now: float, lifetime: float, serial: int | None = None
    ) -> x509.Certificate:
        """A leaf with which any site opens links to us: ``name`` is a label, and never passes for the id of a site."""
        names = [x509.DNSName(guest_name(name, issuer))]
        return self._issue(public_key, f"link {name}", names, ExtendedKeyUsageOID.CLIENT_AUTH, now, lifetime, serial)

    def issue_server(
        self,
        public_key: bytes,
        site: SiteId,
        hosts: Iterable[str],
        *,
        now: float,
        lifetime: float = LEAF_LIFETIME,
        serial: int | None = None,
    ) -> x509.Certificate:
        """A leaf for our own link access, good for ``SITE-ID.van`` and the hosts (IP literals and DNS names) of its endpoints."""
        names: list[x509.GeneralName] = [x509.DNSName(van_name(site))]
        names += [_general_name(host) for host in dict.fromkeys(hosts) if host != van_name(site)]
        return self._issue(public_key, site, names, ExtendedKeyUsageOID.SERVER_AUTH, now, lifetime, serial)

    def issued(self, certificate: x509.Certificate) -> bool:
        """Whether our key signed this certificate (whatever its dates)."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, *DECODE_ERRORS):
            return False
        return True

    def _issue(
        self,
        public_key: bytes,
        subject: str,
        names: Iterable[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        now: float,
        lifetime: float,
        serial: int | None,
    ) -> x509.Certificate:
        key = serialization.load_der_public_key(public_key)
        ca_end = self.certificate.not_valid_after_utc.timestamp()
        if ca_end <= now:
            raise ConfigError(
                f"the site's CA expired on {self.certificate.not_valid_after_utc:%Y-%m-%d}: nothing can be issued",
                hint="renew it (van update), or correct this machine's clock",
            )
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(self.certificate.subject)
            .public_key(key)  # type: ignore[arg-type]  # the callers checked the kind
            .serial_number(random_serial() if serial is None else serial)
            .not_valid_before(_utc(backdated(now)))
            .not_valid_after(_utc(min(now + lifetime, ca_end)))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)  # type: ignore[arg-type]
            .add_extension(_authority_key_identifier(self.certificate), critical=False)
        )
        return _sign(builder, self.key)

    def __repr__(self) -> str:
        return f"<CertificateAuthority {self.certificate.subject.rfc4514_string()} ***>"


def make_csr(key: PrivateKey) -> bytes:
    """A certificate request (DER) that says nothing but the public key, and proves that we hold its other half."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if isinstance(key.object, ec.EllipticCurvePrivateKey):
        csr = builder.sign(key.object, hashes.SHA256(), ecdsa_deterministic=True)
    else:
        csr = builder.sign(key.object, None if key.is_ed25519 else hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.DER)


def public_key_of_csr_untrusted(csr: bytes) -> bytes:
    """The public key (SubjectPublicKeyInfo DER) of a request whose own signature holds. Names, extensions, attributes: ignored.

    Only P-256 and P-384, so that a stranger cannot make us do RSA. Raises PeerRejected, nothing else.
    """
    if len(csr) > MAX_CSR:
        raise PeerRejected(f"the certificate request has {len(csr)} bytes; at most {MAX_CSR} are read")
    try:
        request = x509.load_der_x509_csr(csr)
        key = request.public_key()
        if not (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)):
            raise PeerRejected("the certificate request is not for an EC key on P-256 or P-384")
        valid = request.is_signature_valid
    except (InvalidSignature, *DECODE_ERRORS):
        raise PeerRejected("the certificate request does not decode") from None
    if not valid:
        raise PeerRejected("the certificate request is not signed by the key that it asks for")
    return spki_of(key)


def _ca_certificate(subject: x509.Name, key: PrivateKey, now: float, serial: int | None) -> x509.Certificate:
    public = key.object.public_key()
    ski = x509.SubjectKeyIdentifier.from_public_key(public)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(random_serial() if serial is None else serial)
        .not_valid_before(_utc(backdated(now)))
        .not_valid_after(_utc(now + CA_LIFETIME))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(ski, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski), critical=False)
    )
    return _sign(builder, key)


def _sign(builder: x509.CertificateBuilder, key: PrivateKey) -> x509.Certificate:
    if isinstance(key.object, ec.EllipticCurvePrivateKey):
        return builder.sign(key.object, hashes.SHA256(), ecdsa_deterministic=True)
    if isinstance(key.object, rsa.RSAPrivateKey):
        return builder.sign(key.object, hashes.SHA256(), rsa_padding=padding.PKCS1v15())
    return builder.sign(key.object, None)


def _authority_key_identifier(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        ski = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        if not host or len(host) > 253 or any(c.isspace() or c in "/:@" for c in host):
            raise ValueError(host)  # noqa: TRY301 - one place says what is wrong
        return x509.DNSName(host.encode("ascii").decode().lower())
    except ValueError:
        raise ConfigError(f"{host!r} is neither an IP address nor a DNS name", hint="give host without port or scheme") from None


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _utc(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC)
