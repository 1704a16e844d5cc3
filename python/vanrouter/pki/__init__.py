"""
Keys, certificates and the three signed statements that trust rests on.

Everything here is pure: bytes and wall-clock seconds (``now``) come in, bytes go out. Only new keys and serial numbers are drawn
at random. Nothing reads a file, a clock or a socket. Private keys leave only inside a ``Secret``, which never prints.

    IdentityKey ── hash of its public key ──▶ site id
        │ signs   identity statement: "the TLS leaf with this key speaks for my site until ..."      (HELLO attribute 2)
        │ signs   admission:          "I let this site join until ..."                              (kept, and shown to third sites)
        └ signs   proof:              "this certificate request is mine"                            (redemption, renewal)

    CertificateAuthority ── server leaves (SITE-ID.van, the endpoints' hosts) and client leaves (CN is the site id, 90 days)

A CA only decides who may open a link to its site; who somebody *is* comes from the identity key alone. Operators' mistakes (a key that
does not fit, a file that is not PEM) raise ``ConfigError``; what came from the network and is wrong raises ``PeerRejected``, and functions
that take such bytes end in ``_untrusted``.
"""

from vanrouter.pki.authority import CertificateAuthority, backdated, make_csr, public_key_of_csr_untrusted
from vanrouter.pki.credentials import build_credential, renewed_statement
from vanrouter.pki.keys import IdentityKey, PrivateKey, spki_of
from vanrouter.pki.pem import certificates_from_der, certificates_to_pem, load_certificates
from vanrouter.pki.renewal import Renewal, renew_at, renewal_state
from vanrouter.pki.secret import Secret
from vanrouter.pki.statements import (
    Admission,
    Purpose,
    make_admission,
    make_proof,
    make_statement,
    verify_admission_untrusted,
    verify_proof_untrusted,
    verify_statement_untrusted,
)

__all__ = [
    "Admission",
    "CertificateAuthority",
    "IdentityKey",
    "PrivateKey",
    "Purpose",
    "Renewal",
    "Secret",
    "backdated",
    "build_credential",
    "certificates_from_der",
    "certificates_to_pem",
    "load_certificates",
    "make_admission",
    "make_csr",
    "make_proof",
    "make_statement",
    "public_key_of_csr_untrusted",
    "renew_at",
    "renewal_state",
    "renewed_statement",
    "spki_of",
    "verify_admission_untrusted",
    "verify_proof_untrusted",
    "verify_statement_untrusted",
]
