"""Ledgers of every kind, an issuer on each, and the files of a site (``token_parts``)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from token_parts import NORTH, MemoryLedger, make_issuer

from vanrouter.pki import CertificateAuthority
from vanrouter.tokens import Issuer
from vanrouter.tokens.sqlite_ledger import SqliteLedger


@pytest.fixture(params=["memory", "sqlite", pytest.param("secrets", marks=pytest.mark.api_server)])
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


@pytest.fixture
def issuer(ledger: Any) -> Issuer:
    return make_issuer(ledger)


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
