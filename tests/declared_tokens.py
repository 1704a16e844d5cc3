"""AccessTokens as text, of a site that is not there."""

from __future__ import annotations

import time
from pathlib import Path

from vanrouter.pki import CertificateAuthority, IdentityKey
from vanrouter.resources import AccessToken, Metadata, to_yaml
from vanrouter.resources.kinds import AccessTokenSpec
from vanrouter.tokens import Endpoint, Issuer
from vanrouter.tokens.declared import declared_id
from vanrouter.tokens.issuer import Shown
from vanrouter.tokens.sqlite_ledger import SqliteLedger


def north(directory: Path) -> Issuer:
    """Of a site whose ledger is in this directory."""
    key, ledger = IdentityKey.generate(), SqliteLedger(directory / "north.sqlite")
    authority = CertificateAuthority.create("north", key.site_id, now=time.time())
    return Issuer(ledger=ledger, identity=key, site_name="north", authority=authority, endpoints=[Endpoint("127.0.0.1", 7001)])


def shown_by(issuer: Issuer, *, uses: int = 1) -> Shown:
    """What the status of an AccessGrant says; the issuer's ledger has its grant."""
    grant_id = declared_id(issuer.identity.site_id, "uid-1", "AccessGrant/g", "spec")
    grant = issuer.declare(grant_id, "g", source="somewhere", code="", now=time.time(), uses=uses, lifetime=900.0)
    return issuer.shown(grant, "")


def access_token(shown: Shown, *, name: str = "from-north", cost: int = 1) -> str:
    """As a person copies it."""
    spec = AccessTokenSpec(url=shown.url, code=shown.code, ca=shown.ca, link_cost=cost)
    return to_yaml(AccessToken(metadata=Metadata(name=name), spec=spec))
