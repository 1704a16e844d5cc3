"""
Identity and CA of a site in a namespace: read, or made once. Of controllers that start at the same time, all get what one of them made.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from vanrouter.controller.copies import Copies
from vanrouter.controller.keys import SiteKeys
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Object, create
from vanrouter.kube.channel import Leaf
from vanrouter.kube.kinds import SECRETS
from vanrouter.kube.names import CA_SECRET, IDENTITY_SECRET, STATE
from vanrouter.kube.state import StateSecrets, secret_of
from vanrouter.pki import CertificateAuthority, IdentityKey, PrivateKey, certificates_to_pem, renew_at

__all__ = ["controller_leaf", "establish_keys", "put_back_keys"]

log: Final = logging.getLogger("vanrouter.controller")


async def establish_keys(client: BlockingClient, namespace: str, site_name: str, owners: tuple[Object, ...], *, now: float) -> SiteKeys:
    """Raises StoreError, ConfigError. A Secret that lost its key is never replaced."""
    return await trio.to_thread.run_sync(_establish, StateSecrets(client, namespace, owners=owners), site_name, now)


def _establish(state: StateSecrets, site_name: str, now: float) -> SiteKeys:
    pem = state.read("identity.key") or state.establish({"identity.key": IdentityKey.generate().pem().reveal()})["identity.key"]
    identity = IdentityKey.load(pem, "Secret/van-identity")
    key_pem, certificate_pem = state.read("ca.key"), state.read("ca.crt")
    if key_pem is None or certificate_pem is None:
        made = CertificateAuthority.create(site_name, identity.site_id, now=now, key=PrivateKey.generate())
        files = state.establish({"ca.key": made.key_pem().reveal(), "ca.crt": made.certificate_pem()})
        key_pem, certificate_pem = files["ca.key"], files["ca.crt"]
    return SiteKeys(identity, CertificateAuthority.load(certificate_pem, key_pem))


def controller_leaf(keys: SiteKeys, *, now: float, lifetime: float) -> tuple[Leaf, float]:
    """What the controller shows to routers, for a key that never leaves this process, and when (wall clock) to make another one."""
    key = PrivateKey.generate()
    leaf = keys.authority.issue_server(key.public_der, keys.site_id, [], now=now, lifetime=lifetime)
    return Leaf(keys.site_id, certificates_to_pem([leaf]), key.pem().reveal(), keys.authority.certificate_pem()), renew_at(leaf)


async def put_back_keys(copies: Copies, keys: SiteKeys, owners: tuple[Object, ...]) -> None:
    """What somebody deleted, as long as this controller still has it: with another identity every link of the site would be lost."""
    if not copies.current(SECRETS):
        return
    files = {
        IDENTITY_SECRET: {"identity.key": keys.identity.pem().reveal()},
        CA_SECRET: {"ca.key": keys.authority.key_pem().reveal(), "ca.crt": keys.authority.certificate_pem()},
    }
    for name in files.keys() - copies.of(SECRETS).keys():
        log.warning("a Secret that somebody deleted is put back", extra={"secret": name})
        await copies.send(create(SECRETS, copies.namespace, secret_of(name, STATE, files[name], owners=owners)))
