"""
Certificates for a pair, made anew for each cell: a CA, and for each end a P-256 leaf and an identity (`docs/wire-protocol.md`, section 2).

The same leaves serve every peer (as PEM files for those that read files), so that no peer pays for another kind of key.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Authority", "End"]

_LIFETIME: Final = datetime.timedelta(days=2)
_BACKDATED: Final = datetime.timedelta(minutes=5)
_STATEMENT: Final = b"vanrouter identity statement v1\0"


@dataclass(frozen=True)
class End:
    """One end of a pair: its leaf and its identity."""

    name: str
    leaf: x509.Certificate
    leaf_key: ec.EllipticCurvePrivateKey
    identity_key: bytes  # SubjectPublicKeyInfo DER
    statement: bytes
    authority: x509.Certificate

    @property
    def host_name(self) -> str:
        return f"{self.name}.bench.van"

    @property
    def leaf_der(self) -> bytes:
        return self.leaf.public_bytes(serialization.Encoding.DER)

    @property
    def leaf_key_pkcs8(self) -> bytes:
        return self.leaf_key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    @property
    def trust_der(self) -> bytes:
        return self.authority.public_bytes(serialization.Encoding.DER)

    def write_pem(self, directory: Path) -> tuple[Path, Path]:
        """The leaf with its key in one file, and the CA: what proxies read."""
        key = self.leaf_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        bundle, trust = directory / f"{self.name}.pem", directory / "ca.pem"
        bundle.touch(mode=0o600)
        bundle.write_bytes(self.leaf.public_bytes(serialization.Encoding.PEM) + key)
        trust.write_bytes(self.authority.public_bytes(serialization.Encoding.PEM))
        return bundle, trust


class Authority:
    """Issues both ends of one pair."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench CA")])
        self._certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, name: str) -> End:
        leaf_key, identity = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.DNSName(f"{name}.bench.van"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        leaf = (
            self._builder(subject, leaf_key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        not_after = int(leaf.not_valid_after_utc.timestamp()).to_bytes(8, "big")
        proved = hashlib.sha256(_spki(leaf_key.public_key())).digest()
        signature = identity.sign(_STATEMENT + proved + not_after, ec.ECDSA(hashes.SHA256()))
        return End(
            name=name,
            leaf=leaf,
            leaf_key=leaf_key,
            identity_key=_spki(identity.public_key()),
            statement=proved + not_after + signature,
            authority=self._certificate,
        )

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + _LIFETIME)
        )


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
