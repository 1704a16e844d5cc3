"""
The redeemer's side, without the network: prepare a request, keep it, check the reply, keep the result.

``prepare`` makes the key and the request once. Keep the ``Pending`` (``dump``, a secret) before asking: asking again with it after a lost
reply or a crash gets the same certificate. A reply is a stranger's word until ``accept_reply_untrusted`` has checked it against the token,
our key and our identity; it never names files or resources.
"""

from __future__ import annotations

import base64
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from vanrouter.errors import ConfigError, PeerRejected, TokenError
from vanrouter.model import SiteId, parse_name, parse_site_id
from vanrouter.pki.authority import make_csr
from vanrouter.pki.credentials import build_credential
from vanrouter.pki.keys import IdentityKey, PrivateKey, spki_of
from vanrouter.pki.pem import certificates_from_der, certificates_to_pem, load_certificates
from vanrouter.pki.secret import Secret
from vanrouter.pki.statements import Purpose, make_proof, verify_admission_untrusted
from vanrouter.plane import Credential
from vanrouter.tokens.token import MAX_ENDPOINTS, AccessToken, Endpoint, format_time, format_token, parse_token
from vanrouter.tokens.wire import RedeemRequest, RenewRequest, Reply, decode_untrusted, encode

__all__ = ["LinkCredential", "Pending", "accept_reply_untrusted", "prepare", "prepare_renewal", "refuse_if_redeemed"]

MAX_CHAIN: Final = 8


class _PendingFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    token: str
    private_key: str
    request: bytes
    site: str


class _LinkFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    issuer: str
    issuer_name: str
    endpoints: list[str]
    verify_host: bool
    cost: int
    token_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A redemption that was prepared. Nothing about it changes until it is answered."""

    token: AccessToken
    key: PrivateKey
    request: Secret  # the body of POST /redeem; holds the token's secret
    site: SiteId  # ours

    def dump(self) -> Secret:
        """For a 0600 file, written before asking."""
        return Secret(
            msgspec.json.encode(
                _PendingFile(1, format_token(self.token), self.key.pem().reveal().decode(), self.request.reveal(), self.site)
            )
        )

    @classmethod
    def load(cls, raw: bytes) -> Pending:
        """Raises TokenError when ``dump`` did not write this."""
        try:
            file = msgspec.json.decode(raw, type=_PendingFile)
            key = PrivateKey.load(file.private_key.encode(), "the pending redemption's key")
            site = parse_site_id(file.site)
        except (msgspec.DecodeError, ConfigError, ValueError) as err:
            raise TokenError(
                f"the pending redemption does not decode: {err}", reason="malformed", hint="redeem the token file again"
            ) from None
        return cls(token=parse_token(file.token, "pending token"), key=key, request=Secret(file.request), site=site)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCredential:
    """What a redemption gives: all that is needed to dial the issuer, and to renew."""

    certificates: tuple[x509.Certificate, ...]  # leaf first
    key: PrivateKey
    trust: tuple[x509.Certificate, ...]
    endpoints: tuple[Endpoint, ...]
    admission: bytes  # the issuer's, for us
    issuer: SiteId
    issuer_name: str
    verify_host: bool
    cost: int
    token_id: str

    @property
    def leaf(self) -> x509.Certificate:
        return self.certificates[0]

    def files(self) -> dict[str, Secret]:
        """Names and contents for a credential's directory: tls.crt, tls.key, ca.crt, admission, link.json. All 0600."""
        link = _LinkFile(1, self.issuer, self.issuer_name, [str(e) for e in self.endpoints], self.verify_host, self.cost, self.token_id)
        return {
            "tls.crt": Secret(certificates_to_pem(self.certificates)),
            "tls.key": self.key.pem(),
            "ca.crt": Secret(certificates_to_pem(self.trust)),
            "admission": Secret(base64.b64encode(self.admission) + b"\n"),
            "link.json": Secret(msgspec.json.encode(link)),
        }

    @classmethod
    def from_files(cls, files: dict[str, bytes]) -> LinkCredential:
        """Back from what ``files`` gave. Raises ConfigError that names the file."""
        missing = sorted({"tls.crt", "tls.key", "ca.crt", "admission", "link.json"} - files.keys())
        if missing:
            raise ConfigError(f"the link's credential lacks {', '.join(missing)}", hint="restore the file, or redeem a new token")
        try:
            link = msgspec.json.decode(files["link.json"], type=_LinkFile)
            admission = base64.b64decode(files["admission"], validate=False)
        except (msgspec.DecodeError, ValueError) as err:
            raise ConfigError(f"link.json or admission of the link's credential is damaged: {err}", hint="redeem a new token") from None
        return cls(
            certificates=tuple(load_certificates(files["tls.crt"], "tls.crt")),
            key=PrivateKey.load(files["tls.key"], "tls.key"),
            trust=tuple(load_certificates(files["ca.crt"], "ca.crt")),
            endpoints=tuple(Endpoint.parse(text) for text in link.endpoints),
            admission=admission,
            issuer=parse_site_id(link.issuer),
            issuer_name=link.issuer_name,
            verify_host=link.verify_host,
            cost=link.cost,
            token_id=link.token_id,
        )

    def credential(self, name: str, identity: IdentityKey) -> Credential:
        """For a data plane."""
        return build_credential(
            name,
            certificate_pem=certificates_to_pem(self.certificates),
            key_pem=self.key.pem(),
            trust_pem=certificates_to_pem(self.trust),
            identity=identity,
            verify_host=self.verify_host,
        )


def refuse_if_redeemed(token: AccessToken, redeemed: Container[str]) -> None:
    """Raise TokenError (``used``) when this site redeemed the token before; ``redeemed`` holds the ``token_id`` of its credentials."""
    if token.id in redeemed:
        raise TokenError(
            f"token {token.name} was redeemed by this site already: the link to {token.issuer_name} exists",
            reason="used",
            hint="see van link status; for another link make a new token at the issuer: van token create FILE",
        )


def prepare(token: AccessToken, *, site_name: str, identity: IdentityKey, key: PrivateKey | None = None) -> Pending:
    """Make the key and the request, once. Keep ``dump()`` before asking. Raises TokenError for a token of this very site."""
    if token.issuer == identity.site_id:
        raise TokenError(
            f"token {token.name} was issued by this very site ({token.issuer_name}): a site does not link to itself",
            reason="own",
            hint="carry the token file to the other site and create the link there",
        )
    key = key or PrivateKey.generate()
    csr = make_csr(key)
    request = RedeemRequest(
        version=1,
        token=token.id,
        secret=token.secret.reveal(),
        csr=csr,
        identity=identity.public_der,
        proof=make_proof(identity, Purpose.REDEMPTION, issuer=token.issuer, csr=csr),
        site_name=parse_name(site_name, "site name"),
    )
    return Pending(token=token, key=key, request=Secret(encode(request)), site=identity.site_id)


def prepare_renewal(issuer: SiteId, *, identity: IdentityKey, key: PrivateKey) -> bytes:
    """The body of POST /renew for a certificate of the new ``key``. No secret in it."""
    csr = make_csr(key)
    proof = make_proof(identity, Purpose.RENEWAL, issuer=issuer, csr=csr)
    return encode(RenewRequest(version=1, csr=csr, identity=identity.public_der, proof=proof))


def accept_reply_untrusted(
    raw: bytes,
    *,
    key: PrivateKey,
    site: SiteId,
    issuer: SiteId,
    endpoints: Sequence[Endpoint],
    cost: int,
    token_id: str,
    now: float,
) -> LinkCredential:
    """Check an issuer's reply against what we know. Raises TokenError (``reply`` or ``clock``), nothing else.

    ``endpoints`` are those that we know already (a person may have put one into the token that the issuer itself does not know of, such as
    the address in front of a NAT): they stay, behind those that the issuer names now.
    """
    try:
        reply = decode_untrusted(raw, Reply)
        certificates = certificates_from_der(reply.certificates[: MAX_CHAIN + 1], "the issued certificate")
        trust = certificates_from_der(reply.ca[: MAX_CHAIN + 1], "the issuer's CA")
        named = [Endpoint.parse(text) for text in reply.endpoints[: MAX_ENDPOINTS + 1]]
        admission = verify_admission_untrusted(reply.admission)
        issuer_name = parse_name(reply.issuer_name, "the issuer's name")
    except (PeerRejected, ConfigError) as err:
        raise _nonsense(str(err)) from None
    if not (1 <= len(certificates) <= MAX_CHAIN and 1 <= len(trust) <= MAX_CHAIN and len(named) <= MAX_ENDPOINTS):
        raise _nonsense("it has no certificate or no CA, or too many of them or of endpoints")
    leaf = certificates[0]
    if spki_of(leaf.public_key()) != key.public_der:
        raise _nonsense("its certificate is for another key than the one we asked for")
    if [name.value for name in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] != [site]:
        raise _nonsense("its certificate names another site than ours")
    if reply.issuer != issuer or admission.issuer != issuer:
        raise _nonsense(f"it speaks for site {reply.issuer[:52]}, the token for {issuer}")
    if admission.site != site:
        raise _nonsense("its admission is for another site than ours")
    _check_dates(leaf, now)
    return LinkCredential(
        certificates=tuple(certificates),
        key=key,
        trust=tuple(trust),
        endpoints=tuple(dict.fromkeys([*named, *endpoints]))[:MAX_ENDPOINTS],
        admission=reply.admission,
        issuer=issuer,
        issuer_name=issuer_name,
        verify_host=reply.verify_host,
        cost=cost,
        token_id=token_id,
    )


def _check_dates(leaf: x509.Certificate, now: float) -> None:
    begin, end = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    if now < begin or now >= end:
        raise TokenError(
            f"the new certificate is valid from {format_time(begin)} to {format_time(end)} by the issuer's clock, "
            f"and this machine's clock says {format_time(now)}",
            reason="clock",
            hint="set the clock that is wrong (timedatectl status); asking again within ten minutes gives the same certificate",
        )


def _nonsense(problem: str) -> TokenError:
    return TokenError(
        f"the issuer's reply cannot be accepted: {problem}",
        reason="reply",
        hint="compare the versions of both sites (van version); if they fit, the token file or the issuer may not be what you think",
    )
