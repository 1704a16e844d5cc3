"""
From PEM and an identity key to the ``Credential`` that a data plane uses: certificates, key, trust and the identity statement.

Says which file is wrong when the pieces do not fit. Dates are not judged here (``renewal``): an expired leaf still makes a credential,
because it may renew.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from vanrouter.errors import ConfigError
from vanrouter.pki.keys import IdentityKey, PrivateKey, spki_of
from vanrouter.pki.pem import load_certificates
from vanrouter.pki.secret import Secret
from vanrouter.pki.statements import make_statement
from vanrouter.plane import Credential

__all__ = ["build_credential", "renewed_statement"]


def build_credential(
    name: str,
    *,
    certificate_pem: bytes,
    key_pem: bytes | Secret,
    trust_pem: bytes,
    identity: IdentityKey,
    verify_host: bool = False,
    admit: Sequence[str] | None = None,
    statement_until: float | None = None,
) -> Credential:
    """Compose tls.crt (leaf first), tls.key and ca.crt. The statement ends with the leaf unless ``statement_until`` says earlier.

    Raises ConfigError when a file is unreadable or the key is not the leaf's.
    """
    certificates = load_certificates(certificate_pem, "tls.crt")
    key = PrivateKey.load(key_pem.reveal() if isinstance(key_pem, Secret) else key_pem, "tls.key")
    trust = load_certificates(trust_pem, "ca.crt")
    leaf = certificates[0]
    if spki_of(leaf.public_key()) != key.public_der:
        raise ConfigError(
            f"credential {name}: tls.key does not belong to the first certificate in tls.crt ({leaf.subject.rfc4514_string()})",
            hint="put the leaf first in tls.crt, its issuers behind it, and give the key that the leaf was made for",
        )
    not_after = leaf.not_valid_after_utc.timestamp()
    if statement_until is not None:
        not_after = min(not_after, statement_until)
    return Credential(
        name=name,
        certificates=[_der(c) for c in certificates],
        private_key=key.der().reveal(),
        trust=[_der(c) for c in trust],
        statement=make_statement(identity, key.public_der, not_after=not_after),
        verify_host=verify_host,
        admit=None if admit is None else list(admit),
    )


def renewed_statement(credential: Credential, identity: IdentityKey, *, until: float) -> Credential:
    """The same credential with a statement that ends at ``until`` (for a long-lived leaf of a user's CA)."""
    leaf = x509.load_der_x509_certificate(credential.certificates[0])
    return msgspec.structs.replace(credential, statement=make_statement(identity, spki_of(leaf.public_key()), not_after=until))


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
