"""When a certificate is to be renewed: a function of its dates and of now. Decides; asks nobody and changes nothing."""

from __future__ import annotations

import enum
from typing import Final

from cryptography import x509

__all__ = ["RENEWABLE_AFTER_EXPIRY", "Renewal", "renew_at", "renewal_state"]

RENEWABLE_AFTER_EXPIRY: Final = 90 * 86_400.0
"""An expired leaf may still renew for this long, and do nothing else: a site that slept comes back without a new token."""


class Renewal(enum.Enum):
    FRESH = "fresh"  # nothing to do before renew_at
    DUE = "due"  # good, and past two thirds of its life: renew
    EXPIRED = "expired"  # good for renewal only
    LOST = "lost"  # expired for more than 90 days: a new token is needed
    NOT_YET = "not_yet"  # begins in the future: a clock is wrong


def renew_at(certificate: x509.Certificate, *, jitter: float = 0.0) -> float:
    """Two thirds of its life; ``jitter`` in 0..1 makes it up to a twentieth later, so that sites do not all renew at once."""
    begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return begin + (end - begin) * (2 / 3 + jitter / 20)


def renewal_state(certificate: x509.Certificate, now: float, *, jitter: float = 0.0) -> Renewal:
    end = certificate.not_valid_after_utc.timestamp()
    if now < certificate.not_valid_before_utc.timestamp():
        return Renewal.NOT_YET
    if now < renew_at(certificate, jitter=jitter):
        return Renewal.FRESH
    if now < end:
        return Renewal.DUE
    return Renewal.EXPIRED if now < end + RENEWABLE_AFTER_EXPIRY else Renewal.LOST
