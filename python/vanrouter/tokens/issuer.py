"""
The issuer: makes grants and tokens, and decides about requests to redeem and to renew. Bytes in, status and bytes out.

Sans-IO but for its ledger: time is an argument, and a ledger that fails gives 503 with nothing issued. The order is what makes it safe:

    1. decode, check the certificate request and the proof of the site id      wrong: 400, whatever the token
    2. find the grant, compare the secret, then lock, expiry, uses             wrong: 403, the same bytes for every cause
    3. record the use by compare-and-set (the key's hash, the site)            store fails: 503
    4. sign, deterministically from what was recorded
    5. record the certificate; if another one is recorded already, that one counts
    6. answer

Killed after 3, the same key asking again within ten minutes is found in the record and gets 4 to 6. Methods may be called from any thread.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vanrouter.errors import ConfigError, PeerRejected, StoreError, TokenError
from vanrouter.model import SiteId, parse_name
from vanrouter.pki.authority import LEAF_LIFETIME, CertificateAuthority, public_key_of_csr_untrusted
from vanrouter.pki.keys import IdentityKey
from vanrouter.pki.pem import DECODE_ERRORS, certificates_to_pem
from vanrouter.pki.renewal import RENEWABLE_AFTER_EXPIRY
from vanrouter.pki.secret import Secret
from vanrouter.pki.statements import Purpose, make_admission, verify_proof_untrusted
from vanrouter.tokens.attempts import Attempts, source_key
from vanrouter.tokens.declared import check_code, made_code, secret_of, url_of
from vanrouter.tokens.ledger import (
    MAX_USES,
    AccessGrant,
    GrantStatus,
    Ledger,
    Redeemer,
    Redemption,
    Refusal,
    Versioned,
    settle,
    status_of,
    take,
)
from vanrouter.tokens.token import MAX_COST, MAX_ENDPOINTS, AccessToken, Endpoint
from vanrouter.tokens.wire import BUSY, LIMITED, MALFORMED, REFUSED, RedeemRequest, RenewRequest, Reply, decode_untrusted, encode

__all__ = ["Answer", "Issuer"]

log = logging.getLogger("vanrouter.tokens")

MAX_LIFETIME: Final = 366 * 86_400.0
MAX_STATIC: Final = 5 * 366 * 86_400.0
KEEP_ENDED: Final = 7 * 86_400.0

_NO_ACCESS: Final = "give it one (van update --link-access HOST:PORT), or make the token at the other site"


class Answer(msgspec.Struct, frozen=True):
    """What to send. ``site`` is set when a certificate was issued."""

    status: int
    body: bytes
    site: SiteId | None = None


class StaticLink(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All that a Link and its Secret need, but the key, which whoever asked has."""

    certificate: str
    ca: str
    endpoints: list[str]
    issuer: str
    issuer_name: str
    expires: float
    verify_host: bool


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """Of a grant that a resource wants: what an AccessToken says again. ``code`` is a secret."""

    url: str
    code: str
    ca: str
    endpoints: list[str]

    def __repr__(self) -> str:
        return f"Shown(url={self.url!r}, code=***)"


class Issuer:
    """Issues for one site. ``authority``, ``trust``, ``endpoints`` and ``former`` may be set anew at any time, for rotation."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        place: str = "",
        identity: IdentityKey,
        site_name: str,
        authority: CertificateAuthority,
        endpoints: Sequence[Endpoint],
        trust: Sequence[x509.Certificate] | None = None,
        former: Sequence[CertificateAuthority] = (),
        verify_host: bool = False,
        revoked: Callable[[SiteId], bool] = lambda _site: False,
        leaf_lifetime: float = LEAF_LIFETIME,
        failures_per_minute: int = 20,
    ) -> None:
        self.ledger: Final = ledger
        self.place: Final = place  # only grants that were made here are redeemed here
        self.identity: Final = identity
        self.site_name = site_name
        self.authority = authority  # signs client leaves
        self.trust = trust  # what our link access chains to; None: the authority itself
        self.former = former  # authorities before a rotation: what they issued may still renew
        self.endpoints = list(endpoints)
        self.verify_host = verify_host
        self.leaf_lifetime = leaf_lifetime
        self._revoked = revoked
        self._attempts = Attempts(per_minute=failures_per_minute)
        self._guard = threading.Lock()  # of the attempts; never held across the ledger
        self._dummy = Versioned(_dummy_grant(), "0")

    # ---- Grants ------------------------------------------------------------------------------------------------------------------------

    def grant(
        self,
        name: str,
        *,
        now: float,
        uses: int = 1,
        lifetime: float = 900.0,
        cost: int = 1,
        endpoints: Sequence[Endpoint] | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> tuple[AccessGrant, AccessToken]:
        """Make a grant and its token. The secret exists in the token only. Raises TokenError, StoreError."""
        endpoints = self.endpoints if endpoints is None else endpoints
        self._check_grant(name, uses, lifetime, cost, endpoints)
        secret = random(32)
        grant = AccessGrant(
            id=base64.b32encode(random(16)).decode().rstrip("=").lower(),
            name=name,
            secret_hash=hashlib.sha256(secret).digest(),
            uses=uses,
            created=now,
            expires=float(int(now + lifetime)),
            cost=cost,
            place=self.place,
        )
        token = AccessToken(
            name=name,
            id=grant.id,
            secret=Secret(secret),
            endpoints=tuple(dict.fromkeys(endpoints)),
            ca=certificates_to_pem(self._trusted()).decode(),
            issuer=self.identity.site_id,
            issuer_name=self.site_name,
            expires=grant.expires,
            issued=float(int(now)),
            cost=cost,
            verify_host=self.verify_host,
        )
        if not self.ledger.swap(grant.id, None, grant):
            raise TokenError("the new grant's id exists already", hint="try again; if it happens twice, the random numbers are broken")
        return grant, token

    def declare(self, grant_id: str, name: str, *, source: str, code: str, now: float, uses: int, lifetime: float) -> AccessGrant:
        """The grant that a resource wants, made if there is none. ``code``: empty, one is made. Raises TokenError, StoreError.

        One whose code nobody can know any more, because the CA is another one, is made anew.
        """
        if code:
            check_code(code)
        self._check_grant(name, uses, lifetime, 1, self.endpoints)
        while True:
            held = self.ledger.load(grant_id)
            if held is not None and held.grant.proves(secret_of(self.code_of(held.grant, code))):
                return held.grant
            grant = AccessGrant(
                id=grant_id,
                name=name,
                secret_hash=b"",
                uses=uses,
                created=round(now, 3),
                expires=float(int(now + lifetime)),
                place=self.place,
                source=source,
            )
            proof = hashlib.sha256(secret_of(self.code_of(grant, code)).reveal()).digest()
            grant = msgspec.structs.replace(grant, secret_hash=proof)
            if self.ledger.swap(grant_id, held.version if held is not None else None, grant):
                log.info("grant made for a resource", extra={"grant": name, "source": source, "uses": uses})
                return grant

    def code_of(self, grant: AccessGrant, chosen: str) -> str:
        return chosen or made_code(self.authority.key, grant.id, grant.created)

    def shown(self, grant: AccessGrant, chosen: str) -> Shown:
        """What whoever is to link needs. Raises ConfigError while nobody could reach us."""
        endpoints = list(dict.fromkeys(self.endpoints))[:MAX_ENDPOINTS]
        if not endpoints:
            raise ConfigError(f"site {self.site_name} has no link access: nobody could reach it with a token", hint=_NO_ACCESS)
        code, ca = self.code_of(grant, chosen), certificates_to_pem(self._trusted()).decode()
        url = url_of(grant, code, ca, site=self.identity.site_id, site_name=self.site_name, endpoint=endpoints[0])
        return Shown(url=url, code=code, ca=ca, endpoints=[str(endpoint) for endpoint in endpoints])

    def grants(self, now: float) -> list[GrantStatus]:
        return [status_of(grant, now, place=self.place) for grant in self.ledger.grants()]

    def delete_grant(self, grant_id: str) -> bool:
        """Nobody redeems it any more. Certificates that it gave stay valid. Says whether it was there.

        One that was made elsewhere is only forgotten here: where it was made it is still redeemed.
        """
        while (held := self.ledger.load(grant_id)) is not None:
            if self.ledger.swap(grant_id, held.version, None):
                with self._guard:
                    self._attempts.forget(grant_id)
                return True
        return False

    def prune(self, now: float) -> int:
        """Delete grants that ended more than a week ago and that no resource keeps. Returns how many."""
        old = [grant.id for grant in self.ledger.grants() if now > grant.expires + KEEP_ENDED and not grant.source]
        return sum(self.delete_grant(grant_id) for grant_id in old)

    # ---- Links without a token ---------------------------------------------------------------------------------------------------------

    def static_link(self, name: str, csr: str, *, now: float, lifetime: float, endpoints: Sequence[Endpoint]) -> StaticLink:
        """A certificate for whoever holds the key of ``csr`` (base64), good for links to us until it ends. Raises TokenError."""
        if not endpoints:
            raise TokenError(
                f"site {self.site_name} has no link access: nobody could reach it",
                hint="give it one (van update --link-access HOST:PORT), or make the link at the other site",
            )
        self._check_grant(name, 1, 1.0, 1, endpoints)
        if not 3600.0 <= lifetime <= MAX_STATIC:
            raise TokenError(f"the certificate of a link is good for an hour to five years, not {lifetime:g} s")
        try:
            public_key = public_key_of_csr_untrusted(base64.b64decode(csr, validate=True))
        except (PeerRejected, ValueError) as err:
            raise TokenError(f"the certificate request: {err}") from None
        leaf = self.authority.issue_guest(public_key, name, self.identity.site_id, now=now, lifetime=lifetime)
        log.info("certificate for a link made", extra={"link": name, "serial": f"{leaf.serial_number:x}"})
        return StaticLink(
            certificate=certificates_to_pem([leaf]).decode(),
            ca=certificates_to_pem(self._trusted()).decode(),
            endpoints=[str(endpoint) for endpoint in dict.fromkeys(endpoints)],
            issuer=self.identity.site_id,
            issuer_name=self.site_name,
            expires=leaf.not_valid_after_utc.timestamp(),
            verify_host=self.verify_host,
        )

    # ---- Requests ----------------------------------------------------------------------------------------------------------------------

    def redeem_untrusted(self, body: bytes, *, source: str, now: float) -> Answer:
        """Decide about a POST /redeem. Raises nothing."""
        source = source_key(source)
        with self._guard:
            if not self._attempts.source_may(source, now):
                return _answer(LIMITED)
        try:
            request = decode_untrusted(body, RedeemRequest)
            public_key = public_key_of_csr_untrusted(request.csr)
            site = verify_proof_untrusted(
                request.proof, Purpose.REDEMPTION, identity_key=request.identity, issuer=self.identity.site_id, csr=request.csr
            )
            site_name = parse_name(request.site_name, "site name")
        except (PeerRejected, ConfigError) as err:
            return self._refuse(source, now, f"malformed request: {err}", MALFORMED)
        if now >= self.authority.certificate.not_valid_after_utc.timestamp():
            log.error("redemption postponed: the site's CA has expired", extra={"source": source})
            return _answer(BUSY)
        redeemer = Redeemer(key_hash=hashlib.sha256(public_key).digest(), site=site, site_name=site_name)
        try:
            return self._redeem(request, public_key, redeemer, source, now)
        except StoreError as err:
            log.warning("redemption postponed: %s", err, extra={"source": source, "hint": err.hint})
            return _answer(BUSY)

    def renew_untrusted(self, body: bytes, *, certificates: Sequence[bytes], source: str, now: float) -> Answer:
        """Decide about a POST /renew over a TLS connection on which ``certificates`` (DER, leaf first) were proved. Raises nothing."""
        source = source_key(source)
        with self._guard:
            if not self._attempts.source_may(source, now):
                return _answer(LIMITED)
        try:
            request = decode_untrusted(body, RenewRequest)
            public_key = public_key_of_csr_untrusted(request.csr)
            site = verify_proof_untrusted(
                request.proof, Purpose.RENEWAL, identity_key=request.identity, issuer=self.identity.site_id, csr=request.csr
            )
        except PeerRejected as err:
            return self._refuse(source, now, f"malformed renewal: {err}", MALFORMED)
        try:
            self._check_renewable(certificates, site, now)
            leaf = self.authority.issue_client(public_key, site, now=now, lifetime=self.leaf_lifetime, issuer=self.identity.site_id)
        except PeerRejected as err:
            return self._refuse(source, now, f"renewal refused: {err}", REFUSED)
        except ConfigError as err:
            log.error("renewal postponed: %s", err, extra={"source": source, "hint": err.hint})  # noqa: TRY400 - the operator's, no trace
            return _answer(BUSY)
        log.info("certificate renewed", extra={"site": site, "source": source})
        return self._reply(site, leaf)

    def _redeem(self, request: RedeemRequest, public_key: bytes, redeemer: Redeemer, source: str, now: float) -> Answer:
        secret = Secret(request.secret)
        held = self.ledger.load(request.token)
        # The same work whether or not there is such a grant.
        proved = (held or self._dummy).grant.proves(secret)
        with self._guard:
            locked = self._attempts.locked(request.token, now)
            if held is not None and not locked:
                (self._attempts.right_secret(request.token) if proved else self._attempts.wrong_secret(request.token, now))
        if held is None or locked or not proved:
            return self._refuse(source, now, "unknown token" if held is None else "locked" if locked else "wrong secret")
        if self._revoked(redeemer.site) or redeemer.site == self.identity.site_id:
            return self._refuse(source, now, "revoked, or our own site")
        if held.grant.place != self.place:
            return self._refuse(source, now, "made by another router of this site, which alone knows how often it was used")

        taken = self._take_a_use(held, redeemer, now)
        if isinstance(taken, Refusal):
            return self._refuse(source, now, taken.value)
        leaf = x509.load_der_x509_certificate(taken.certificate or self._sign(request.token, public_key, taken))
        log.info(
            "token redeemed", extra={"grant": held.grant.name, "site": redeemer.site, "site_name": redeemer.site_name, "source": source}
        )
        return self._reply(redeemer.site, leaf)

    def _take_a_use(self, held: Versioned | None, redeemer: Redeemer, now: float) -> Redemption | Refusal:
        """Record the use before anything is signed. Each lost race means that another one won, and uses are finite: this ends."""
        while held is not None:
            taken = take(held.grant, redeemer, now)
            if isinstance(taken, Refusal):
                return taken
            changed, redemption = taken
            if changed is held.grant or self.ledger.swap(held.grant.id, held.version, changed):
                return redemption
            held = self.ledger.load(held.grant.id)
        return Refusal.USED  # deleted meanwhile

    def _sign(self, grant_id: str, public_key: bytes, use: Redemption) -> bytes:
        """Sign for a recorded use and record the certificate; if another issuer was first, its certificate counts."""
        serial = int.from_bytes(hashlib.sha256(b"vanrouter serial v1\0" + grant_id.encode() + use.key_hash).digest()[:16], "big") >> 1
        leaf = self.authority.issue_client(
            public_key, use.site, now=use.taken_at, lifetime=self.leaf_lifetime, serial=serial or 1, issuer=self.identity.site_id
        )
        certificate = leaf.public_bytes(serialization.Encoding.DER)
        while (held := self.ledger.load(grant_id)) is not None:
            changed, counts = settle(held.grant, use.key_hash, certificate)
            if changed is held.grant or self.ledger.swap(grant_id, held.version, changed):
                return counts or certificate
        return certificate

    def _check_renewable(self, certificates: Sequence[bytes], site: SiteId, now: float) -> None:
        if not certificates:
            raise PeerRejected("no certificate was presented")
        try:
            leaf = x509.load_der_x509_certificate(certificates[0])
            names = [str(name.value) for name in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
            usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except (x509.ExtensionNotFound, *DECODE_ERRORS):
            raise PeerRejected("the presented certificate is not one of ours") from None
        if not any(authority.issued(leaf) for authority in (self.authority, *self.former)):
            raise PeerRejected("the presented certificate was not issued here")
        if ExtendedKeyUsageOID.CLIENT_AUTH not in usages or names != [site]:
            raise PeerRejected(f"the presented certificate is not that of site {site}")
        if now >= leaf.not_valid_after_utc.timestamp() + RENEWABLE_AFTER_EXPIRY:
            raise PeerRejected(f"the certificate of site {site} expired more than 90 days ago")
        if self._revoked(site):
            raise PeerRejected(f"site {site} is revoked")

    def _reply(self, site: SiteId, leaf: x509.Certificate) -> Answer:
        reply = Reply(
            version=1,
            certificates=[leaf.public_bytes(serialization.Encoding.DER)],
            ca=[certificate.public_bytes(serialization.Encoding.DER) for certificate in self._trusted()],
            endpoints=[str(endpoint) for endpoint in self.endpoints][:MAX_ENDPOINTS],
            admission=make_admission(self.identity, site, not_after=leaf.not_valid_after_utc.timestamp()),
            issuer=self.identity.site_id,
            issuer_name=self.site_name,
            verify_host=self.verify_host,
        )
        return Answer(200, encode(reply), site)

    def _refuse(self, source: str, now: float, reason: str, refusal: tuple[int, bytes] = REFUSED) -> Answer:
        with self._guard:
            self._attempts.source_failed(source, now)
        log.info("redemption refused: %s", reason, extra={"source": source})
        return _answer(refusal)

    def _trusted(self) -> Sequence[x509.Certificate]:
        return self.trust or [self.authority.certificate]

    def _check_grant(self, name: str, uses: int, lifetime: float, cost: int, endpoints: Sequence[Endpoint]) -> None:
        try:
            parse_name(name, "token name")
        except ConfigError as err:
            raise TokenError(str(err)) from None
        if not 1 <= uses <= MAX_USES:
            raise TokenError(f"a grant has 1 to {MAX_USES} uses, not {uses}", hint="make several grants")
        if not 1 <= lifetime <= MAX_LIFETIME:
            raise TokenError(f"a grant lives from a second to a year, not {lifetime:g} s")
        if not 1 <= cost <= MAX_COST:
            raise TokenError(f"a cost is a number from 1 to {MAX_COST}, not {cost}")
        if not endpoints:
            raise TokenError(
                f"site {self.site_name} has no link access: nobody could reach it with a token",
                hint=_NO_ACCESS,
            )
        if len(endpoints) > MAX_ENDPOINTS:
            raise TokenError(f"a token lists at most {MAX_ENDPOINTS} endpoints, not {len(endpoints)}", hint="choose the host with --host")


def _answer(fixed: tuple[int, bytes]) -> Answer:
    return Answer(*fixed)


def _dummy_grant() -> AccessGrant:
    return AccessGrant(id="", name="", secret_hash=bytes(32), uses=1, created=0.0, expires=0.0)
