"""
The leaves that a site shows of itself, signed by its own CA: where it is linked to, and where its routers link with each other.

On a host they are made here, each for a new key that never leaves this process. A router in a pod has no CA key: it shows what the
controller gave (``state/own.json``), and is told when there is something newer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from cryptography import x509

from vanrouter.errors import ConfigError
from vanrouter.model import SiteId
from vanrouter.pki import CertificateAuthority, PrivateKey, certificates_to_pem, renew_at
from vanrouter.pki.pem import load_certificates
from vanrouter.stores import StateFiles

__all__ = ["OWN_FILE", "GivenLeaves", "Leaves", "MadeLeaves", "Shown"]

OWN_FILE = "own.json"


class Shown(msgspec.Struct, frozen=True):
    """A leaf and its key, as PEM. ``renew_at``: wall clock; never, when somebody else renews it."""

    certificate: bytes
    key: bytes
    renew_at: float = math.inf

    def __repr__(self) -> str:
        return "Shown(***)"


class Leaves(Protocol):
    def ca_pem(self) -> bytes: ...

    def trust(self) -> list[x509.Certificate]:
        """What others check our leaves with."""

    def server(self, hosts: Sequence[str], /, *, now: float, lifetime: float, jitter: float) -> Shown:
        """For a link access that is reached under these hosts. Raises ConfigError, StoreError."""

    def client(self, *, now: float, lifetime: float, jitter: float) -> Shown:
        """For links with other routers of this site. Raises ConfigError, StoreError."""


class MadeLeaves:
    """By our own CA."""

    def __init__(self, authority: CertificateAuthority, site: SiteId) -> None:
        self._authority, self._site = authority, site

    def ca_pem(self) -> bytes:
        return self._authority.certificate_pem()

    def trust(self) -> list[x509.Certificate]:
        return [self._authority.certificate]

    def server(self, hosts: Sequence[str], /, *, now: float, lifetime: float, jitter: float) -> Shown:
        return self._shown(lambda key: self._authority.issue_server(key, self._site, hosts, now=now, lifetime=lifetime), jitter)

    def client(self, *, now: float, lifetime: float, jitter: float) -> Shown:
        return self._shown(lambda key: self._authority.issue_client(key, self._site, now=now, lifetime=lifetime), jitter)

    @staticmethod
    def _shown(issue: Callable[[bytes], x509.Certificate], jitter: float) -> Shown:
        key = PrivateKey.generate()
        leaf = issue(key.public_der)
        return Shown(certificates_to_pem([leaf]), key.pem().reveal(), renew_at(leaf, jitter=jitter))


class GivenLeaves:
    """By the controller. What the state has now: read each time."""

    def __init__(self, state: StateFiles) -> None:
        self._state = state

    def ca_pem(self) -> bytes:
        return self._state.read("ca.crt") or b""

    def trust(self) -> list[x509.Certificate]:
        return load_certificates(self.ca_pem(), "ca.crt")

    def server(self, _hosts: Sequence[str], /, **_when: float) -> Shown:
        return self._given("server")

    def client(self, **_when: float) -> Shown:
        return self._given("client")

    def _given(self, which: str) -> Shown:
        try:
            own = msgspec.json.decode(self._state.read(OWN_FILE) or b"{}", type=dict[str, str])
        except msgspec.DecodeError:
            own = {}
        certificate, key = own.get(f"{which}.crt", ""), own.get(f"{which}.key", "")
        if not certificate or not key or not self.ca_pem():
            raise ConfigError(
                f"Secret/van-router-keys has no own__{which}.crt with its key, or no ca.crt",
                hint="the controller makes them: look at its pod (kubectl logs deployment/van-controller)",
            )
        return Shown(certificate.encode(), key.encode())
