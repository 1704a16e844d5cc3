"""An issuer's site (``north``), redeemers, and a ledger in memory; time is a number."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vanrouter.pki import CertificateAuthority, IdentityKey
from vanrouter.tokens import AccessGrant, AccessToken, Endpoint, Issuer, Pending, Versioned, prepare
from vanrouter.tokens.sqlite_ledger import SqliteLedger

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


@pytest.fixture(params=["memory", "sqlite", "secrets"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """What is promised holds on every ledger."""
    if request.param == "memory":
        yield MemoryLedger()
    elif request.param == "secrets":
        from vanrouter.kube.blocking import BlockingClient
        from vanrouter.kube.ledger import SecretLedger

        namespace = request.getfixturevalue("namespace")
        with BlockingClient(request.getfixturevalue("cluster")) as client:
            yield SecretLedger(client, namespace)
    else:
        with SqliteLedger(tmp_path / "ledger.sqlite") as made:
            yield made


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


@pytest.fixture
def issuer(ledger: Any) -> Issuer:
    return make_issuer(ledger)


def ask_for(token: AccessToken, site_name: str = "south", identity: IdentityKey | None = None) -> Pending:
    """A prepared redemption, by a site of its own unless told."""
    return prepare(token, site_name=site_name, identity=identity or IdentityKey.generate())


@pytest.fixture
def site_files(tmp_path: Path) -> Callable[..., Path]:
    """Configuration files for issuer processes that share one identity, CA and ledger."""
    (tmp_path / "identity.key").write_bytes(NORTH.pem().reveal())
    import time

    authority = CertificateAuthority.create("north", NORTH.site_id, now=time.time())
    (tmp_path / "ca.crt").write_bytes(authority.certificate_pem())
    (tmp_path / "ca.key").write_bytes(authority.key_pem().reveal())

    def make(name: str = "issuer", **more: str) -> Path:
        config = {
            "identity": str(tmp_path / "identity.key"),
            "ca_crt": str(tmp_path / "ca.crt"),
            "ca_key": str(tmp_path / "ca.key"),
            "ledger": str(tmp_path / "ledger.sqlite"),
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(config | more))
        return path

    return make
