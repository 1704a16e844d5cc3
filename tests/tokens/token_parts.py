"""An issuer's site (``north``), redeemers, and a ledger in memory; time is a number."""

from __future__ import annotations

import threading
from typing import Any

from vanrouter.pki import CertificateAuthority, IdentityKey
from vanrouter.tokens import AccessGrant, AccessToken, Endpoint, Issuer, Pending, Versioned, prepare

NOW = 1_800_000_000.0
NORTH = IdentityKey.generate()
AUTHORITY = CertificateAuthority.create("north", NORTH.site_id, now=NOW)
SOUTH = IdentityKey.generate()


class MemoryLedger:
    """The seam at its plainest."""

    def __init__(self) -> None:
        self.rows: dict[str, Versioned] = {}
        self.swaps = 0
        self._lock = threading.Lock()

    def load(self, grant_id: str) -> Versioned | None:
        return self.rows.get(grant_id)

    def swap(self, grant_id: str, expected: str | None, grant: AccessGrant | None) -> bool:
        with self._lock:
            held = self.rows.get(grant_id)
            if (held.version if held else None) != expected:
                return False
            self.swaps += 1
            if grant is None:
                self.rows.pop(grant_id, None)
            else:
                self.rows[grant_id] = Versioned(grant, str(self.swaps))
            return True

    def grants(self) -> list[AccessGrant]:
        return [held.grant for held in self.rows.values()]


def make_issuer(ledger: Any, **more: Any) -> Issuer:
    arguments: dict[str, Any] = {
        "ledger": ledger,
        "identity": NORTH,
        "site_name": "north",
        "authority": AUTHORITY,
        "endpoints": [Endpoint("127.0.0.1", 7001)],
        "failures_per_minute": 0,
    }
    return Issuer(**(arguments | more))


def ask_for(token: AccessToken, site_name: str = "south", identity: IdentityKey | None = None) -> Pending:
    """A prepared redemption, by a site of its own unless told."""
    return prepare(token, site_name=site_name, identity=identity or IdentityKey.generate())
