"""
Reading and writing PEM: the users' keys and certificates as they come from openssl, cert-manager, a corporate CA or Kubernetes.

Accepts private keys as PKCS#8, SEC1 (EC) and PKCS#1 (RSA), with other blocks around them; refuses encrypted and weak ones. Whatever
is wrong is a ``ConfigError`` that names the file by ``what`` and never quotes a byte of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from vanrouter.errors import ConfigError

__all__ = [
    "DECODE_ERRORS",
    "MAX_CERTIFICATES",
    "SupportedKey",
    "certificates_from_der",
    "certificates_to_pem",
    "load_certificates",
    "load_key_object",
]

SupportedKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

MAX_CERTIFICATES: Final = 64
"""A chain has two or three, a bundle of corporate CAs a few dozen."""

MIN_RSA_BITS: Final = 2048
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_KEY_BLOCK: Final = re.compile(rb"-----BEGIN (?P<label>(?:EC |RSA |ENCRYPTED )?PRIVATE KEY)-----.*?-----END (?P=label)-----", re.DOTALL)


DECODE_ERRORS: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for bytes that are not what they should be; not all of it is a ValueError."""


def load_key_object(pem: bytes, what: str) -> SupportedKey:
    blocks = list(_KEY_BLOCK.finditer(pem))
    if len(blocks) != 1:
        found = "no private key" if not blocks else f"{len(blocks)} private keys"
        raise ConfigError(f"{what} holds {found}; it must hold one, as PEM", hint="expected -----BEGIN PRIVATE KEY----- (or EC, or RSA)")
    block = blocks[0].group(0)
    if b"ENCRYPTED" in block:
        raise ConfigError(
            f"{what} is encrypted with a passphrase",
            hint="a router starts without a person: decrypt it with 'openssl pkey -in FILE -out NEW' and protect the file with mode 0600",
        )
    try:
        key = serialization.load_pem_private_key(block + b"\n", password=None)
    except DECODE_ERRORS:
        # The parser's text could quote the input; it is left out on purpose.
        raise ConfigError(f"{what} is damaged: it has the frame of a private key but does not decode", hint="copy it again") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES):
        return key
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < MIN_RSA_BITS:
            raise ConfigError(f"{what} is an RSA key of {key.key_size} bits; at least {MIN_RSA_BITS} are needed", hint="make a P-256 key")
        return key
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    raise ConfigError(f"{what} is of a kind that TLS here does not use", hint="use an EC key on P-256, P-384 or P-521, RSA or Ed25519")


def load_certificates(pem: bytes, what: str = "tls.crt") -> list[x509.Certificate]:
    """Read one or more certificates. Raises ConfigError."""
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ConfigError(f"{what} holds no certificate", hint="expected PEM with -----BEGIN CERTIFICATE-----")
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        for certificate in certificates:
            _decode_whole(certificate)
    except DECODE_ERRORS as err:
        raise ConfigError(f"{what} is damaged: a certificate in it does not decode ({err})", hint="copy it again") from None
    if len(certificates) > MAX_CERTIFICATES:
        raise ConfigError(f"{what} holds {len(certificates)} certificates; at most {MAX_CERTIFICATES} are read")
    return certificates


def certificates_to_pem(certificates: Iterable[x509.Certificate | bytes]) -> bytes:
    """PEM of certificates given as objects or DER, in order."""
    objects = [c if isinstance(c, x509.Certificate) else x509.load_der_x509_certificate(c) for c in certificates]
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in objects)


def certificates_from_der(ders: Iterable[bytes], what: str = "certificate") -> list[x509.Certificate]:
    """Decode DER certificates. Raises ConfigError."""
    try:
        certificates = [x509.load_der_x509_certificate(der) for der in ders]
        for certificate in certificates:
            _decode_whole(certificate)
    except DECODE_ERRORS as err:
        raise ConfigError(f"{what} does not decode ({err})") from None
    return certificates


def _decode_whole(certificate: x509.Certificate) -> None:
    """The library decodes most fields when they are first looked at; what is damaged must show here, not in the middle of something."""
    for field in ("subject", "issuer", "extensions", "not_valid_before_utc", "not_valid_after_utc", "signature_algorithm_oid"):
        getattr(certificate, field)
    certificate.public_key()
