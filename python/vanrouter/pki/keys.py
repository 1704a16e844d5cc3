"""
The two kinds of private key: a site's identity key, and the key of a TLS leaf or a CA.

They sign, show their public half and give their PEM as a ``Secret``; nothing else gets at the private half. Signatures with EC keys are
deterministic (RFC 6979), so that signing the same thing again gives the same bytes and no random number can leak a key.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Final, final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from vanrouter.errors import ConfigError
from vanrouter.model import SiteId, site_id_of_key
from vanrouter.pki.pem import SupportedKey, load_key_object
from vanrouter.pki.secret import Secret

__all__ = ["IdentityKey", "PrivateKey", "ecdsa_sha256", "spki_of"]

ecdsa_sha256: Final = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)


def spki_of(key: PublicKeyTypes) -> bytes:
    """SubjectPublicKeyInfo DER: the form in which public keys are hashed and travel."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


class PrivateKey:
    """The key of a TLS leaf or of a CA: EC P-256 when we make it; a user's may be another EC curve, RSA or Ed25519."""

    def __init__(self, key: SupportedKey) -> None:
        self.object: Final = key

    @classmethod
    def generate(cls) -> PrivateKey:
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def load(cls, pem: bytes, what: str = "tls.key") -> PrivateKey:
        """Read PKCS#8, SEC1 (EC) or PKCS#1 (RSA) PEM. Raises ConfigError."""
        return cls(load_key_object(pem, what))

    @cached_property
    def public_der(self) -> bytes:
        return spki_of(self.object.public_key())

    @cached_property
    def public_hash(self) -> bytes:
        """SHA-256 of the public key: what an identity statement and the ledger name."""
        return hashlib.sha256(self.public_der).digest()

    def pem(self) -> Secret:
        """PKCS#8 PEM, unencrypted: for a 0600 file."""
        return Secret(self._pkcs8(serialization.Encoding.PEM))

    def der(self) -> Secret:
        """PKCS#8 DER: for a data plane."""
        return Secret(self._pkcs8(serialization.Encoding.DER))

    def _pkcs8(self, encoding: serialization.Encoding) -> bytes:
        return self.object.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    @property
    def kind(self) -> str:
        key = self.object
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return f"EC {key.curve.name}"
        return f"RSA {key.key_size}" if isinstance(key, rsa.RSAPrivateKey) else "Ed25519"

    @property
    def is_ed25519(self) -> bool:
        return isinstance(self.object, ed25519.Ed25519PrivateKey)

    def __eq__(self, other: object) -> bool:
        return self.public_der == other.public_der if isinstance(other, PrivateKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.public_der)

    def __repr__(self) -> str:
        return f"<PrivateKey {self.kind} ***>"


@final
class IdentityKey:
    """A site's identity: ECDSA P-256, made once and kept. The site id is the hash of its public key."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(key.curve, ec.SECP256R1):
            raise ConfigError(
                f"the identity key is on curve {key.curve.name}; it must be on P-256",
                hint="restore the original identity.key; a new one would be a new site",
            )
        self._key = key

    @classmethod
    def generate(cls) -> IdentityKey:
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def load(cls, pem: bytes, what: str = "identity.key") -> IdentityKey:
        """Read it back from the PEM that ``pem`` gave. Raises ConfigError."""
        key = load_key_object(pem, what)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(
                f"{what} is not an EC P-256 key",
                hint="restore the original identity.key; a new one would be a new site",
            )
        return cls(key)

    def pem(self) -> Secret:
        """PKCS#8 PEM, unencrypted: for a 0600 file."""
        return PrivateKey(self._key).pem()

    @cached_property
    def public_der(self) -> bytes:
        return spki_of(self._key.public_key())

    @cached_property
    def site_id(self) -> SiteId:
        return site_id_of_key(self.public_der)

    def sign(self, message: bytes) -> bytes:
        """ECDSA with SHA-256, DER. The caller puts the domain in front (``statements``)."""
        return self._key.sign(message, ecdsa_sha256)

    def __repr__(self) -> str:
        return f"<IdentityKey of site {self.site_id} ***>"
