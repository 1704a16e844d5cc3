"""
What routers show: ``van-router-keys``, composed whole. Decides; writes nothing.

The site's own leaves are kept while they are fresh and right, else made anew for a new key. Credentials of links come as they are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec
from cryptography import x509

from vanrouter.errors import ConfigError
from vanrouter.kube.leaf_dates import LeafDates
from vanrouter.model import SiteId
from vanrouter.pki import (
    CertificateAuthority,
    IdentityKey,
    PrivateKey,
    Renewal,
    certificates_to_pem,
    load_certificates,
    renew_at,
    renewal_state,
)
from vanrouter.pki.authority import LEAF_LIFETIME, names_of, van_name

__all__ = ["RouterKeys", "SiteKeys", "compose_keys"]

LEAST_LIFE: Final = 60.0


class SiteKeys(msgspec.Struct, frozen=True):
    identity: IdentityKey
    authority: CertificateAuthority

    @property
    def site_id(self) -> SiteId:
        return self.identity.site_id


class RouterKeys(msgspec.Struct, frozen=True):
    """The files, and when (wall clock) they are to be looked at again."""

    files: dict[str, bytes]
    look_at: float
    dates: LeafDates  # of the own leaf that ends first


def compose_keys(
    current: Mapping[str, bytes],
    keys: SiteKeys,
    *,
    hosts: Iterable[str],
    credentials: Mapping[str, Mapping[str, bytes]],
    now: float,
    lifetime: float = LEAF_LIFETIME,
) -> RouterKeys:
    """``current``: what the Secret has. ``hosts``: under which the link access is reached; its certificate is for these."""
    authority, site = keys.authority, keys.site_id
    wanted = list(dict.fromkeys(hosts))

    def server(public: bytes) -> x509.Certificate:
        return authority.issue_server(public, site, wanted, now=now, lifetime=lifetime)

    def client(public: bytes) -> x509.Certificate:
        return authority.issue_client(public, site, now=now, lifetime=lifetime)

    files = {"ca.crt": authority.certificate_pem()}
    look_at = math.inf
    all_dates = []
    for which, issue, names in (("server", server, wanted), ("client", client, [])):
        certificate, key, at, dates = _leaf(current, f"own__{which}", issue, {van_name(site), *(n.lower() for n in names)}, keys, now)
        files |= {f"own__{which}.crt": certificate, f"own__{which}.key": key}
        look_at = min(look_at, at)
        all_dates.append(dates)
    for name, content in sorted(credentials.items()):
        files |= {f"credentials__{name}__{file}": data for file, data in sorted(content.items())}
    return RouterKeys(files, look_at, min(all_dates, key=lambda dates: dates.end))


def _leaf(
    current: Mapping[str, bytes], name: str, issue: Callable[[bytes], x509.Certificate], names: set[str], keys: SiteKeys, now: float
) -> tuple[bytes, bytes, float, LeafDates]:
    certificate, key = current.get(f"{name}.crt", b""), current.get(f"{name}.key", b"")
    try:
        leaf = load_certificates(certificate, f"{name}.crt")[0]
        fits = keys.authority.issued(leaf) and set(names_of(leaf)) == names
        if fits and PrivateKey.load(key, f"{name}.key").public_der and renewal_state(leaf, now) is Renewal.FRESH:
            return certificate, key, renew_at(leaf), _dates(leaf)
    except ConfigError:
        pass  # there is none, or somebody edited it: made anew
    made = PrivateKey.generate()
    leaf = issue(made.public_der)
    return certificates_to_pem([leaf]), made.pem().reveal(), max(renew_at(leaf), now + LEAST_LIFE), _dates(leaf)


def _dates(leaf: x509.Certificate) -> LeafDates:
    return LeafDates(leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp())
