"""Keys of simulated sites: real ones, or a fast stand-in that is just as unforgeable within the simulation."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Protocol

from vanrouter.errors import PeerRejected
from vanrouter.messages import Sealed, verify_signature
from vanrouter.model import SiteId, site_id_of_key
from vanrouter.pki import IdentityKey, make_admission, verify_admission_untrusted


class Keys(Protocol):
    """Every site's key. ``sign`` is for whoever has the right to that name; the liar only signs as itself."""

    def identity(self, name: str) -> bytes: ...
    def sign(self, name: str) -> Callable[[bytes], bytes]: ...
    def verify(self, identity: bytes, message: bytes, signature: bytes) -> bool: ...
    def admit(self, issuer: str, subject: SiteId) -> bytes: ...
    def issuers(self, sealed: Sealed) -> list[tuple[str, str]]: ...


class FastKeys:
    """A signature is a keyed hash whose key only this object knows."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(16)
        self.verified = 0

    def identity(self, name: str) -> bytes:
        return name.encode()

    def _tag(self, identity: bytes, message: bytes) -> bytes:
        return hashlib.blake2b(len(identity).to_bytes(2) + identity + message, key=self._secret, digest_size=16).digest()

    def sign(self, name: str) -> Callable[[bytes], bytes]:
        return lambda message: self._tag(name.encode(), message)

    def verify(self, identity: bytes, message: bytes, signature: bytes) -> bool:
        self.verified += 1
        return signature == self._tag(identity, message)

    def admit(self, issuer: str, subject: SiteId) -> bytes:
        return self._tag(issuer.encode(), b"admission" + subject.encode()) + subject.encode() + issuer.encode()

    def issuers(self, sealed: Sealed) -> list[tuple[str, str]]:
        out = []
        for raw in sealed.admissions:
            tag, subject, issuer = raw[:16], raw[16:68], raw[68:]
            if tag == self._tag(issuer, b"admission" + subject):
                out.append((str(site_id_of_key(issuer)), subject.decode()))
        return out


class RealKeys:
    """ECDSA P-256 and admissions as `vanrouter.pki` makes them."""

    def __init__(self) -> None:
        self._keys: dict[str, IdentityKey] = {}
        self.verified = 0

    def _key(self, name: str) -> IdentityKey:
        return self._keys.setdefault(name, IdentityKey.generate()) if name not in self._keys else self._keys[name]

    def identity(self, name: str) -> bytes:
        return self._key(name).public_der

    def sign(self, name: str) -> Callable[[bytes], bytes]:
        return self._key(name).sign

    def verify(self, identity: bytes, message: bytes, signature: bytes) -> bool:
        self.verified += 1
        return verify_signature(identity, message, signature)

    def admit(self, issuer: str, subject: SiteId) -> bytes:
        return make_admission(self._key(issuer), subject, not_after=4e9)

    def issuers(self, sealed: Sealed) -> list[tuple[str, str]]:
        out = []
        for raw in sealed.admissions:
            try:
                admission = verify_admission_untrusted(raw)
            except PeerRejected:
                continue
            out.append((str(admission.issuer), str(admission.site)))
        return out
