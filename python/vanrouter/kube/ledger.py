"""
The ledger on Kubernetes: a Secret per grant, changed under its resourceVersion.

For threads. A swap that returned True is in etcd. Any number of controllers may use the namespace at once: of two changes to one version
the API server refuses the second. When it cannot be reached, or the answer to a write is lost, ``StoreError`` is raised and nothing is
given out; what was then recorded after all, the same key can ask for again.
"""

from __future__ import annotations

import secrets
from typing import Final

from vanrouter.errors import StoreError
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Object, create, delete, get, replace
from vanrouter.kube.errors import AlreadyExists, Conflict, NotFound
from vanrouter.kube.kinds import SECRETS
from vanrouter.kube.names import GRANT, grant_secret, selector
from vanrouter.kube.state import files_in, secret_of
from vanrouter.kube.workloads import MADE_FROM
from vanrouter.tokens.ledger import AccessGrant, Versioned, decode_grant, encode_grant

__all__ = ["SecretLedger", "grant_in"]

KEY: Final = "grant.json"
CHANGE: Final = "vanrouter.io/change"


class SecretLedger:
    """See ``tokens.ledger.Ledger``. A version is the object's uid and resourceVersion: it never returns, also not after a deletion."""

    def __init__(self, client: BlockingClient, namespace: str, *, owners: tuple[Object, ...] = ()) -> None:
        self.namespace = namespace
        self._client, self._owners = client, owners

    def load(self, grant_id: str) -> Versioned | None:
        try:
            value = self._client.call(get(SECRETS, self.namespace, grant_secret(grant_id)))
        except NotFound:
            return None
        metadata = value["metadata"]
        return Versioned(grant_in(value), f"{metadata['uid']}/{metadata['resourceVersion']}")

    def swap(self, grant_id: str, expected: str | None, grant: AccessGrant | None) -> bool:
        name = grant_secret(grant_id)
        if expected is None:
            return self._make(name, grant) if grant is not None else self.load(grant_id) is None
        uid, _, version = expected.partition("/")
        try:
            if grant is None:
                self._client.call(delete(SECRETS, self.namespace, name, uid=uid, resource_version=version))
            else:
                value = self._secret(name, grant)
                value["metadata"] |= {"uid": uid, "resourceVersion": version}
                self._client.call(replace(SECRETS, self.namespace, value))
        except (Conflict, NotFound):
            return False
        return True

    def grants(self) -> list[AccessGrant]:
        found = self._client.pages(SECRETS, self.namespace, labels=selector(GRANT))
        return sorted((grant_in(value) for value in found), key=lambda grant: grant.id)

    def _make(self, name: str, grant: AccessGrant) -> bool:
        try:
            self._client.call(create(SECRETS, self.namespace, self._secret(name, grant)))
        except AlreadyExists:
            return False
        return True

    def _secret(self, name: str, grant: AccessGrant) -> Object:
        """Never the same twice: the API server keeps the version for an update that changes nothing, and all who ask would win."""
        value = secret_of(name, GRANT, {KEY: encode_grant(grant)}, owners=self._owners, name=grant.name)
        value["metadata"]["annotations"][CHANGE] = secrets.token_hex(8)
        if grant.source:
            value["metadata"]["annotations"][MADE_FROM] = grant.source
        return value


def grant_in(value: Object) -> AccessGrant:
    """Raises StoreError."""
    name = value["metadata"]["name"]
    raw = files_in(value).get(KEY)
    if raw is None:
        raise StoreError(f"Secret/{name} holds no grant", hint="delete it and make a new token")
    try:
        return decode_grant(raw)
    except StoreError as exc:
        raise StoreError(f"Secret/{name}: {exc}", hint=exc.hint) from None
