"""
Grants and tokens as resources: what an ``AccessGrant`` shows, and what an ``AccessToken`` says again. Pure.

The three fields belong together, as with the incumbent: ``url`` says where and which grant, ``code`` proves that one may, ``ca`` is whom to
believe. ``url`` also says until when, and has a check of all three, so that whoever holds a token that was changed on the way hears that,
and not that it was refused. The 32 bytes that are proved on the wire are made from the code: ``token`` is then like any other.

    https://HOST:PORT/SITE-ID/GRANT-ID?site=NAME&made=SECONDS&until=SECONDS&check=abcd

A code that nobody chose is made from the CA's key and the grant: it is kept nowhere, and whoever has the key finds it again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import urllib.parse
from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives import serialization

from vanrouter.errors import ConfigError, TokenError, VanrouterError
from vanrouter.model import parse_name, parse_site_id
from vanrouter.pki.keys import PrivateKey
from vanrouter.pki.pem import load_certificates
from vanrouter.pki.secret import Secret
from vanrouter.resources import read_resources
from vanrouter.resources.kinds import AccessToken as TokenResource
from vanrouter.resources.kinds import Secret as SecretResource
from vanrouter.tokens.ledger import AccessGrant
from vanrouter.tokens.token import MAX_ENDPOINTS, AccessToken, Endpoint, format_token, parse_token

__all__ = ["as_secret", "check_code", "declared_id", "made_code", "parse_any", "read_declared", "read_resource", "secret_of", "url_of"]

SHORTEST_CODE: Final = 20
LONGEST_CODE: Final = 256
DIFFERENT: Final = 10
"""Characters of a code that a person chose. Wrong ones lock the grant for a minute after ten tries."""

LATEST: Final = 253_402_300_799  # the year 9999

_CHECK: Final = 4
"""Characters of the check: an edit passes it once in a million, and who sees the url alone learns 20 bits of no use from it."""

_PATH: Final = re.compile(r"/([a-z2-7]{52})/([a-z2-7]{26})")
_KIND: Final = re.compile(rb"(?:^|[{,])\s*['\"]?kind['\"]?\s*:\s*['\"]?AccessToken\b", re.MULTILINE)
_AGAIN: Final = "copy url, code and ca again, all three from the status of one AccessGrant"


def declared_id(site: str, uid: str, ref: str, spec: str) -> str:
    """The id of the grant for this spec of this resource (``Kind/name``, in the object ``uid``): always the same one."""
    said = "\0".join(("vanrouter declared grant v1", site, uid, ref, spec)).encode()
    return _base32(hashlib.sha256(said).digest()[:16])


def check_code(code: str) -> None:
    """Raises TokenError for a code that others could find."""
    if not code.isascii() or not code.isprintable() or any(c.isspace() for c in code) or len(code) > LONGEST_CODE:
        problem = f"has at most {LONGEST_CODE} printable ASCII characters and no spaces"
    elif len(code) < SHORTEST_CODE or len(set(code)) < DIFFERENT:
        problem = f"has at least {SHORTEST_CODE} characters, {DIFFERENT} of them different: shorter ones can be guessed"
    else:
        return
    raise TokenError(
        f"spec.code: a code {problem}", reason="weak", hint="leave spec.code out, and one is made; or: openssl rand -base64 24"
    )


def made_code(key: PrivateKey, grant_id: str, created: float) -> str:
    """Of a grant of the CA with this ``key``. One that is made again has another one: what was used stays used."""
    secret = hashlib.sha256(b"vanrouter grant codes v1\0" + key.pem().reveal()).digest()
    made = hmac.digest(secret, f"{grant_id} {created:.3f}".encode(), "sha256")
    return base64.urlsafe_b64encode(made[:24]).decode()


def secret_of(code: str) -> Secret:
    return Secret(hashlib.sha256(b"vanrouter code v1\0" + code.encode()).digest())


def url_of(grant: AccessGrant, code: str, ca: str, *, site: str, site_name: str, endpoint: Endpoint) -> str:
    """Where the grant is redeemed, and what of it whoever holds the token should know."""
    made, until = int(grant.created), int(grant.expires)
    check = _check(site, grant.id, site_name, made, until, code, ca)
    asked = urllib.parse.urlencode({"site": site_name, "made": made, "until": until, "check": check})
    return f"https://{endpoint}/{site}/{grant.id}?{asked}"


def read_declared(name: str, url: str, code: str, ca: str, *, cost: int = 1, endpoints: str = "") -> AccessToken:
    """Raises TokenError: ``foreign`` for one that is not of ours, ``malformed`` for one that was changed on the way."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        parts = urllib.parse.urlsplit("")
    found = _PATH.fullmatch(parts.path)
    if parts.scheme != "https" or found is None:
        raise TokenError(
            "spec.url is not one of a site of vanrouter: tokens of the incumbent can be redeemed by its own sites only",
            reason="foreign",
            hint="make an AccessGrant at a site of vanrouter and copy url, code and ca from its status; or there: van token create FILE",
        )
    try:
        asked = dict(urllib.parse.parse_qsl(parts.query, strict_parsing=True))
        made, until = _seconds(asked["made"]), _seconds(asked["until"])
        site, site_name = parse_site_id(found[1]), parse_name(asked["site"], "the issuer's name")
        check = _check(site, found[2], site_name, made, until, code, ca)
        first = Endpoint.parse(parts.netloc)
        more = [Endpoint.parse(word) for word in endpoints.replace(",", " ").split()]
    except KeyError as err:
        raise _changed(f"spec.url is not whole: it has no {err.args[0]}") from None
    except (ValueError, ConfigError) as err:
        raise _changed(f"spec is not whole: {err}") from None
    if not hmac.compare_digest(check.encode(), asked.get("check", "").encode(errors="replace")):
        raise _changed("spec.url, spec.code and spec.ca do not belong together: one of them was changed on the way, or is of another grant")
    return AccessToken(
        name=name,
        id=found[2],
        secret=secret_of(code),
        endpoints=_first(first, more),
        ca=ca,
        issuer=site,
        issuer_name=site_name,
        expires=float(until),
        issued=float(made),
        cost=cost,
    )


def read_resource(resource: TokenResource) -> AccessToken:
    """Raises TokenError, as ``read_declared``."""
    spec = resource.spec
    return read_declared(resource.name, spec.url, spec.code, spec.ca, cost=spec.link_cost, endpoints=spec.endpoints)


def as_secret(resource: TokenResource) -> SecretResource:
    """The same token as the Secret that a site keeps it in: a ConfigMap, and a router, is no place for a code. Raises TokenError."""
    (secret,) = read_resources(format_token(read_resource(resource)), source=resource.ref)
    assert isinstance(secret, SecretResource)
    return secret


def parse_any(raw: bytes, where: str) -> AccessToken:
    """A token file: a Secret, or an AccessToken, as whoever copies a grant writes it. Raises TokenError."""
    if not _KIND.search(raw):
        return parse_token(raw, where)
    try:
        found = read_resources(raw, source=where)
    except VanrouterError as err:
        raise TokenError(f"{where}: {err}", reason="malformed", hint=err.hint) from None
    if len(found) != 1 or not isinstance(found[0], TokenResource):
        raise TokenError(f"{where} holds more than an AccessToken", reason="malformed", hint="van apply -f takes any number of resources")
    return read_resource(found[0])


def _seconds(text: str) -> int:
    """Raises ValueError for what is no time that a calendar has."""
    if not text.isascii() or not text.isdigit() or len(text) > len(str(LATEST)) or int(text) > LATEST:
        raise ValueError("spec.url has a time that is none")
    return int(text)


def _first(first: Endpoint, more: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    return tuple(dict.fromkeys([first, *more]))[:MAX_ENDPOINTS]


def _check(site: str, grant_id: str, site_name: str, made: int, until: int, code: str, ca: str) -> str:
    """Of what a certificate says, not of how its lines are broken. Raises ConfigError when there is none."""
    ders = [c.public_bytes(serialization.Encoding.DER) for c in load_certificates(ca.encode(), "spec.ca")]
    said = "\0".join(("vanrouter declared token v1", site, grant_id, site_name, str(made), str(until), code)).encode()
    return _base32(hashlib.sha256(said + b"\0" + b"".join(hashlib.sha256(der).digest() for der in ders)).digest()[:5])[:_CHECK]


def _changed(problem: str) -> TokenError:
    return TokenError(problem, reason="malformed", hint=_AGAIN)


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()
