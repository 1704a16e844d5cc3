"""Sites with keys and certificates for the tests, made with ``cryptography`` alone; also the bad ones that a router must refuse."""

from __future__ import annotations

import datetime as dt
import hashlib
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from vanrouter.model import boot_number, site_id_of_key
from vanrouter.plane import Credential, PlaneConfig

__all__ = ["Authority", "Site", "der", "spki"]


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _at(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


class Authority:
    """A CA. ``now`` shifts what it signs in time."""

    def __init__(self, name: str = "test CA") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._builder(self.name, self.key, time.time() - 400 * 86_400, time.time() + 4000 * 86_400, ca=True).sign(
            self.key, hashes.SHA256()
        )

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, begins: float, ends: float, *, ca: bool
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_at(begins))
            .not_valid_after(_at(ends))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not ca,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=ca,
                    crl_sign=ca,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )

    def leaf(
        self, key: ec.EllipticCurvePrivateKey, name: str, *, begins: float | None = None, ends: float | None = None, dns: str = "localhost"
    ) -> x509.Certificate:
        begins = time.time() - 300 if begins is None else begins
        ends = time.time() + 90 * 86_400 if ends is None else ends
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return (
            self._builder(subject, key, begins, ends, ca=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False)
            .sign(self.key, hashes.SHA256())
        )


class Site:
    """An identity, and credentials from any authority."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.identity = ec.generate_private_key(ec.SECP256R1())
        self.identity_key = spki(self.identity)
        self.id = site_id_of_key(self.identity_key)

    def config(self, **changes: object) -> PlaneConfig:
        return PlaneConfig(
            identity_key=self.identity_key,
            boot=boot_number(int(time.time() * 1000)),
            site_name=self.name,
            **changes,  # type: ignore[arg-type]
        )

    def statement(
        self, leaf_key: ec.EllipticCurvePrivateKey, *, not_after: float | None = None, signer: ec.EllipticCurvePrivateKey | None = None
    ) -> bytes:
        ends = int(time.time() + 90 * 86_400 if not_after is None else not_after)
        said = hashlib.sha256(spki(leaf_key)).digest() + ends.to_bytes(8, "big")
        return said + (signer or self.identity).sign(b"vanrouter identity statement v1\0" + said, ec.ECDSA(hashes.SHA256()))

    def credential(
        self,
        authority: Authority,
        *,
        name: str = "main",
        trust: Authority | None = None,
        begins: float | None = None,
        ends: float | None = None,
        statement: bytes | None = None,
        verify_host: bool = False,
        admit: list[str] | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Credential:
        key = key or ec.generate_private_key(ec.SECP256R1())
        leaf = authority.leaf(key, self.id[:20], begins=begins, ends=ends)
        return Credential(
            name=name,
            certificates=[der(leaf)],
            private_key=key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
            trust=[der((trust or authority).certificate)],
            statement=self.statement(key) if statement is None else statement,
            verify_host=verify_host,
            admit=admit,
        )
