"""
The ledger of grants: what is recorded about each, the store seam, and the changes that a redemption makes to the record.

The store is a seam with one strong operation, compare-and-set on one grant: SQLite on a host, a Secret under its resourceVersion on
Kubernetes. What a redemption may do is decided here, by pure functions from record to record, so that every store is right in the
same way. A use is taken *before* anything is signed. Only the SHA-256 of a token's secret is ever stored.

A grant belongs to the ledger in which it was made. Several routers of one site have copies of one directory, so a grant may lie in the
ledgers of all; each of them could give its uses once more. Only the one whose `place` the grant has gives any.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from typing import Final, Protocol

import msgspec

from vanrouter.errors import StoreError
from vanrouter.model import SiteId
from vanrouter.pki.secret import Secret

__all__ = [
    "MAX_USES",
    "RETRY_WINDOW",
    "AccessGrant",
    "GrantStatus",
    "Ledger",
    "Redeemer",
    "Redemption",
    "Refusal",
    "Versioned",
    "decode_grant",
    "encode_grant",
    "settle",
    "status_of",
    "take",
]

RETRY_WINDOW: Final = 600.0
"""The same key asking again so long after its use was taken gets the same certificate: a lost reply is not a lost token."""

MAX_USES: Final = 1_000
"""A record stays far below the 1 MiB of a Kubernetes Secret: about 300 bytes per use."""


class Redemption(msgspec.Struct, frozen=True, kw_only=True):
    """One use of a grant, recorded before its certificate is signed."""

    key_hash: bytes  # SHA-256 of the public key that the certificate is for
    site: SiteId
    site_name: str
    taken_at: float
    certificate: bytes = b""  # DER, once signed; dropped when the retry window is over


class AccessGrant(msgspec.Struct, frozen=True, kw_only=True):
    """Permission to join: ``uses`` sites, until ``expires``. This is the record; the token is its twin outside."""

    id: str
    name: str
    secret_hash: bytes
    uses: int
    created: float
    expires: float
    cost: int = 1
    redemptions: list[Redemption] = []
    place: str = ""  # of the ledger in which it was made; empty: there is only one, which all routers of the site share
    source: str = ""  # where the resource stands that wants it: the grant stays as long as that does

    def proves(self, secret: Secret) -> bool:
        """Whether this is the token's secret. Constant time."""
        return hmac.compare_digest(hashlib.sha256(secret.reveal()).digest(), self.secret_hash)


class Redeemer(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks: the key to be certified, and the site that proved that the request is its own."""

    key_hash: bytes
    site: SiteId
    site_name: str


class Refusal(enum.Enum):
    """Why a use is not given. For the log and the status of the issuer, never for the wire."""

    EXPIRED = "expired"
    USED = "used"
    TOO_LATE = "same key, but later than ten minutes"
    OTHER_SITE = "same key, but another site"


class GrantStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A grant as shown to its owner."""

    id: str
    name: str
    state: str  # active, used, expired; elsewhere: it was made by another router of this site, and lies in a copy of its ledger here
    uses: int
    used: int
    created: float
    expires: float
    cost: int
    redeemed_by: list[tuple[SiteId, str, float]]  # site id, its name, when
    source: str = ""  # where the resource stands that wants it


class Versioned(msgspec.Struct, frozen=True):
    """A record and the store's word for the state that it was read in."""

    grant: AccessGrant
    version: str


class Ledger(Protocol):
    """Where grants live.

    Any method may be called from any thread, and raises StoreError when the store fails; the old state is intact then.
    """

    def load(self, grant_id: str) -> Versioned | None: ...

    def swap(self, grant_id: str, expected: str | None, grant: AccessGrant | None) -> bool:
        """Durably replace the record if it is still in version ``expected``, and say whether that was so.

        ``expected`` None: there must be none yet. ``grant`` None: delete it.
        """
        ...

    def grants(self) -> list[AccessGrant]: ...


def take(grant: AccessGrant, redeemer: Redeemer, now: float) -> tuple[AccessGrant, Redemption] | Refusal:
    """Give ``redeemer`` a use of the grant, or the one that its key already has. The record is unchanged for the latter."""
    for redemption in grant.redemptions:
        if redemption.key_hash == redeemer.key_hash:
            if redemption.site != redeemer.site:
                return Refusal.OTHER_SITE
            return (grant, redemption) if now < redemption.taken_at + RETRY_WINDOW else Refusal.TOO_LATE
    if now >= grant.expires:
        return Refusal.EXPIRED
    if len(grant.redemptions) >= grant.uses:
        return Refusal.USED
    redemption = Redemption(key_hash=redeemer.key_hash, site=redeemer.site, site_name=redeemer.site_name, taken_at=now)
    kept = [_without_old_certificate(r, now) for r in grant.redemptions]
    return msgspec.structs.replace(grant, redemptions=[*kept, redemption]), redemption


def settle(grant: AccessGrant, key_hash: bytes, certificate: bytes) -> tuple[AccessGrant, bytes]:
    """Record the certificate of a use, unless one is recorded: the first wins. Returns the one that counts; unknown key: ``b""``."""
    for index, redemption in enumerate(grant.redemptions):
        if redemption.key_hash == key_hash:
            if redemption.certificate:
                return grant, redemption.certificate
            settled = msgspec.structs.replace(redemption, certificate=certificate)
            redemptions = [*grant.redemptions[:index], settled, *grant.redemptions[index + 1 :]]
            return msgspec.structs.replace(grant, redemptions=redemptions), certificate
    return grant, b""


def status_of(grant: AccessGrant, now: float, *, place: str = "") -> GrantStatus:
    used = len(grant.redemptions)
    state = "used" if used >= grant.uses else "expired" if now >= grant.expires else "active"
    if state == "active" and grant.place != place:
        state = "elsewhere"
    return GrantStatus(
        id=grant.id,
        name=grant.name,
        state=state,
        uses=grant.uses,
        used=used,
        created=grant.created,
        expires=grant.expires,
        cost=grant.cost,
        redeemed_by=[(r.site, r.site_name, r.taken_at) for r in grant.redemptions],
        source=grant.source,
    )


def encode_grant(grant: AccessGrant) -> bytes:
    """JSON, so that a person with the store's own tools can read what was granted."""
    return msgspec.json.encode(grant)


def decode_grant(raw: bytes) -> AccessGrant:
    try:
        return _DECODER.decode(raw)
    except msgspec.DecodeError as err:
        raise StoreError(f"a grant in the ledger does not decode: {err}", hint="delete the grant and make a new token") from None


_DECODER: Final = msgspec.json.Decoder(AccessGrant)


def _without_old_certificate(redemption: Redemption, now: float) -> Redemption:
    if redemption.certificate and now >= redemption.taken_at + RETRY_WINDOW:
        return msgspec.structs.replace(redemption, certificate=b"")
    return redemption
