"""
The keys of a site: its identity and its CA. Made on the first start, read afterwards, refused when others may read them.

A start that was killed between two files is continued: a CA key without a certificate gets one. Nothing is ever replaced.
"""

from __future__ import annotations

import msgspec

from vanrouter.errors import ConfigError
from vanrouter.model import SiteId
from vanrouter.pki import CertificateAuthority, IdentityKey, PrivateKey
from vanrouter.sites.leaves import GivenLeaves, Leaves, MadeLeaves
from vanrouter.stores import StateFiles

__all__ = ["SiteKeys", "load_given_keys", "load_or_create_keys"]


class SiteKeys(msgspec.Struct, frozen=True):
    """``authority`` is None where somebody else has the CA's key: in a pod, the controller."""

    identity: IdentityKey
    leaves: Leaves
    authority: CertificateAuthority | None = None

    @property
    def site_id(self) -> SiteId:
        return self.identity.site_id


def load_or_create_keys(state: StateFiles, site_name: str, *, now: float) -> SiteKeys:
    """``now`` is wall-clock seconds, for the dates of a new CA. Raises ConfigError, StoreError."""
    identity_pem = state.read("identity.key")
    if identity_pem is None:
        if state.read("ca.crt") is not None:
            raise ConfigError(
                f"{state.path('identity.key')} is gone, but the site had one",
                hint="restore it from a backup; a new key would be a new site. For that, delete the site and create it again",
            )
        identity = IdentityKey.generate()
        state.write("identity.key", identity.pem().reveal())
    else:
        identity = IdentityKey.load(identity_pem, str(state.path("identity.key")))
    authority = _authority(state, site_name, identity.site_id, now)
    return SiteKeys(identity, MadeLeaves(authority, identity.site_id), authority)


def load_given_keys(state: StateFiles) -> SiteKeys:
    """What the controller of the namespace gave. Raises ConfigError, StoreError."""
    pem = state.read("identity.key")
    if pem is None:
        raise ConfigError(f"there is no {state.path('identity.key')} yet", hint="the controller makes it: look at its pod")
    return SiteKeys(IdentityKey.load(pem, str(state.path("identity.key"))), GivenLeaves(state))


def _authority(state: StateFiles, site_name: str, site: SiteId, now: float) -> CertificateAuthority:
    key_pem, certificate_pem = state.read("ca.key"), state.read("ca.crt")
    if key_pem is None and certificate_pem is not None:
        raise ConfigError(
            f"{state.path('ca.key')} is gone, but {state.path('ca.crt')} is there",
            hint="restore it from a backup, or remove ca.crt too: then a new CA is made and every link to this site needs a new token",
        )
    if key_pem is None:
        key = PrivateKey.generate()
        state.write("ca.key", key.pem().reveal())
    else:
        key = PrivateKey.load(key_pem, str(state.path("ca.key")))
    if certificate_pem is not None:
        return CertificateAuthority.load(certificate_pem, key.pem().reveal())
    authority = CertificateAuthority.create(site_name, site, now=now, key=key)
    state.write("ca.crt", authority.certificate_pem())
    return authority
