"""
Permission to join: grants, the tokens that carry them, and their exchange for link credentials.

    issuer                                             redeemer
    AccessGrant (uses, expiry) ── AccessToken file ──▶ prepare ──▶ Pending (kept: key and request)
      in a Ledger                                         │ POST /redeem, ALPN van-join/1
        compare-and-set, then sign ◀── desk ◀─────────────┘
                                     certificate, CA, endpoints, admission ──▶ LinkCredential

What the package promises: a grant of N uses gives at most N certificates with distinct keys, also with several issuers at once and when
one is killed between any two instructions; the same key asking again within ten minutes gets the same certificate; private keys never
travel; refusals look alike on the wire, while the person who holds the token is told how to find out more; no secret prints.

Deciding modules (no clock, socket or file): ``token`` ``ledger`` ``wire`` ``attempts`` ``issuer`` ``pending``.
Driving modules: ``files`` ``sqlite_ledger`` ``desk`` ``redeem``; import those by name.
"""

from vanrouter.tokens.issuer import Answer, Issuer
from vanrouter.tokens.ledger import AccessGrant, GrantStatus, Ledger, Redemption, Versioned
from vanrouter.tokens.pending import LinkCredential, Pending, prepare, refuse_if_redeemed
from vanrouter.tokens.token import AccessToken, Endpoint, format_token, parse_token

__all__ = [
    "AccessGrant",
    "AccessToken",
    "Answer",
    "Endpoint",
    "GrantStatus",
    "Issuer",
    "Ledger",
    "LinkCredential",
    "Pending",
    "Redemption",
    "Versioned",
    "format_token",
    "parse_token",
    "prepare",
    "refuse_if_redeemed",
]
