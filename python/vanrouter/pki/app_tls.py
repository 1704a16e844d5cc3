"""
From the files of a Secret to the ``Tls`` that a data plane uses with applications, and what there is to say about its dates.

Says which file is wrong when the pieces are missing or do not fit. An expired certificate still makes one: the other end decides, and
status says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from vanrouter.errors import ConfigError
from vanrouter.pki.keys import PrivateKey, spki_of
from vanrouter.pki.pem import load_certificates
from vanrouter.plane import Tls

__all__ = ["build_tls", "dates_of"]

SOON: Final = 14 * 86_400.0  # seconds before its end that a certificate is mentioned, or a fifth of its life


def build_tls(terms: Tls, files: Mapping[str, bytes], *, shows: bool, trusts: bool) -> Tls:
    """``terms`` with the files of its credential. ``shows``: it needs certificate and key. ``trusts``: CAs. Raises ConfigError."""
    for file, why in [("tls.crt", shows), ("tls.key", shows), ("ca.crt", trusts)]:
        if why and not files.get(file):
            raise ConfigError(f"it has no {file}", hint=f"add {file}; it has {', '.join(sorted(files)) or 'nothing'}")
    if shows:
        certificates = load_certificates(files["tls.crt"], "tls.crt")
        key = PrivateKey.load(files["tls.key"], "tls.key")
        if spki_of(certificates[0].public_key()) != key.public_der:
            raise ConfigError(
                f"tls.key does not belong to the first certificate in tls.crt ({certificates[0].subject.rfc4514_string()})",
                hint="put the leaf first in tls.crt, its issuers behind it, and give the key that the leaf was made for",
            )
        terms = msgspec.structs.replace(terms, certificates=[_der(c) for c in certificates], private_key=key.der().reveal())
    if trusts:
        terms = msgspec.structs.replace(terms, trust=[_der(c) for c in load_certificates(files["ca.crt"], "ca.crt")])
    return terms


def dates_of(tls: Tls, *, now: float) -> tuple[str, str]:
    """A word and a sentence about the dates of what it shows and trusts, or nothing. ``now``: by the wall clock."""
    shown = [(x509.load_der_x509_certificate(der), "tls.crt") for der in tls.certificates[:1]]
    trusted = [(x509.load_der_x509_certificate(der), "ca.crt") for der in tls.trust]
    for certificate, file in shown:
        ends, begins = certificate.not_valid_after_utc, certificate.not_valid_before_utc
        left, life = ends.timestamp() - now, (ends - begins).total_seconds()
        if left <= 0:
            return "Expired", f"the certificate in {file} expired on {ends:%Y-%m-%d %H:%M} UTC: the other end refuses it"
        if begins.timestamp() > now:
            return "NotYetValid", f"the certificate in {file} is valid only from {begins:%Y-%m-%d %H:%M} UTC; is the clock right?"
        if left < min(SOON, life / 5):
            return "ExpiresSoon", f"the certificate in {file} expires on {ends:%Y-%m-%d %H:%M} UTC"
    if trusted and all(c.not_valid_after_utc.timestamp() <= now for c, _ in trusted):
        return "Expired", f"every CA in ca.crt has expired, the last on {max(c.not_valid_after_utc for c, _ in trusted):%Y-%m-%d %H:%M} UTC"
    return "", ""


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
