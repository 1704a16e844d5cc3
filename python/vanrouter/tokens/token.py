"""
The access token: its fields, and its one file format everywhere, a labelled v1 Secret in YAML.

Parsing accepts what ``kubectl get secret -o yaml`` gives back (``data`` in base64, metadata that the API server added) as well as what
``format_token`` writes (``stringData``). Every malformed input raises ``TokenError`` with the path of what is wrong and never quotes a
secret. Files, modes and owners are ``files``' business.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
import yaml

from vanrouter.errors import ConfigError, TokenError
from vanrouter.model import SiteId, parse_name, parse_site_id
from vanrouter.pki.pem import load_certificates
from vanrouter.pki.secret import Secret

__all__ = [
    "MAX_ENDPOINTS",
    "MAX_TOKEN_FILE",
    "TYPE_LABEL",
    "AccessToken",
    "Endpoint",
    "format_time",
    "format_token",
    "parse_token",
]

T = TypeVar("T")

TYPE_LABEL: Final = "vanrouter.io/type"
TYPE_VALUE: Final = "access-token"
MAX_TOKEN_FILE: Final = 64 * 1024
MAX_ENDPOINTS: Final = 16
MAX_COST: Final = 1_000_000
SECRET_BYTES: Final = 32

_ANNOTATION: Final = "vanrouter.io/"
_TOKEN_ID: Final = re.compile(r"[a-z2-7]{26}")
_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?)*\.?"
)
_TOP: Final = frozenset({"apiVersion", "kind", "metadata", "type", "data", "stringData", "immutable"})
_FIELDS: Final = frozenset({"endpoints", "ca.crt", "token-id", "secret"})


class Endpoint(msgspec.Struct, frozen=True, order=True):
    """Where a link access can be reached: an IP literal or a DNS name, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_literal(self) -> bool:
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """From ``host:port`` or ``[v6]:port``. Raises ConfigError."""
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if not colon or not port.isascii() or not port.isdigit() or not 0 < len(port) <= 5 or not 1 <= int(port) <= 65_535:
            raise ConfigError(f"endpoint {text[:80]!r} has no port from 1 to 65535", hint="write host:port, or [IPv6 address]:port")
        if bracketed or ":" in host:
            try:
                host = str(ipaddress.IPv6Address(host)) if bracketed else ""
            except ValueError:
                host = ""
        elif not _HOST.fullmatch(host):
            host = ""
        if not host:
            raise ConfigError(f"endpoint {text[:80]!r} has no usable host", hint="write host:port, or [IPv6 address]:port")
        return cls(host, int(port))


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """What the file carries. Only ``secret`` is secret; ``id`` is public and names the grant at the issuer."""

    name: str
    id: str
    secret: Secret
    endpoints: tuple[Endpoint, ...]
    ca: str  # PEM: what the issuer's certificate must chain to
    issuer: SiteId
    issuer_name: str
    expires: float  # by the issuer's clock
    issued: float  # by the issuer's clock
    cost: int = 1
    verify_host: bool = False  # the issuer uses a CA of its own: check the endpoint's name instead of SITE-ID.van


def format_time(seconds: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_token(token: AccessToken) -> str:
    """The file's text. It holds the secret: write it with ``files.write_token``, or to where the person asked for it."""
    document = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": token.name,
            "labels": {TYPE_LABEL: TYPE_VALUE},
            "annotations": {
                _ANNOTATION + "issuer-site-name": token.issuer_name,
                _ANNOTATION + "issuer-site-id": token.issuer,
                _ANNOTATION + "issued": format_time(token.issued),
                _ANNOTATION + "expires": format_time(token.expires),
                _ANNOTATION + "cost": str(token.cost),
            }
            | ({_ANNOTATION + "verify-host": "true"} if token.verify_host else {}),
        },
        "type": "Opaque",
        "stringData": {
            "endpoints": "".join(f"{endpoint}\n" for endpoint in token.endpoints),
            "ca.crt": token.ca,
            "token-id": token.id,
            "secret": base64.urlsafe_b64encode(token.secret.reveal()).decode().rstrip("="),
        },
    }
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=1000)


def parse_token(text: str | bytes, where: str = "token") -> AccessToken:
    """Read a token file's text. Raises TokenError (reason ``malformed``), nothing else."""
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    if len(raw) > MAX_TOKEN_FILE:
        raise _malformed(where, f"has {len(raw)} bytes; a token has at most {MAX_TOKEN_FILE}")
    try:
        decoded = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed(where, "is not UTF-8 text") from None
    try:
        # BaseLoader makes strings, lists and dicts and nothing else: no typing by guess, no tags.
        document = yaml.load(decoded, Loader=yaml.BaseLoader)  # noqa: S506
    except yaml.MarkedYAMLError as err:
        line = f" (line {err.problem_mark.line + 1})" if err.problem_mark else ""
        raise _malformed(where, f"is not YAML{line}: {err.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise _malformed(where, "is not YAML") from None
    return _Reader(where).token(document)


class _Reader:
    """Walk the document; every complaint names the path."""

    def __init__(self, where: str) -> None:
        self._where = where

    def token(self, document: Any) -> AccessToken:
        top = self._mapping(document, "")
        if top.get("kind") != "Secret" or top.get("apiVersion") != "v1":
            kind = str(top.get("kind", "nothing"))[:40]
            raise self._bad("kind", f"is {kind!r}; an access token is a Secret of apiVersion v1")
        for key in top:
            if key not in _TOP:
                raise self._bad(str(key)[:40], "is not a field of a v1 Secret")
        metadata = self._mapping(top.get("metadata"), "metadata")
        labels = self._mapping(metadata.get("labels") or {}, "metadata.labels")
        if labels.get(TYPE_LABEL) != TYPE_VALUE:
            raise self._bad(f"metadata.labels[{TYPE_LABEL}]", f"must be {TYPE_VALUE!r}: this Secret is something else")
        notes = self._mapping(metadata.get("annotations") or {}, "metadata.annotations")
        fields = self._fields(top)
        return AccessToken(
            name=self._checked(lambda text: parse_name(text), metadata.get("name"), "metadata.name"),
            id=self._checked(_token_id, fields.get("token-id"), "token-id"),
            secret=self._secret(fields.get("secret")),
            endpoints=self._endpoints(fields.get("endpoints")),
            ca=self._ca(fields.get("ca.crt")),
            issuer=self._note(notes, "issuer-site-id", parse_site_id),
            issuer_name=self._note(notes, "issuer-site-name", lambda text: parse_name(text)),
            expires=self._note(notes, "expires", _time),
            issued=self._note(notes, "issued", _time),
            cost=self._note(notes, "cost", _cost, "1"),
            verify_host=self._note(notes, "verify-host", _flag, "false"),
        )

    def _fields(self, top: dict[Any, Any]) -> dict[str, str]:
        fields: dict[str, str] = {}
        for key, value in self._mapping(top.get("data") or {}, "data").items():
            path = f"data.{str(key)[:40]}"
            if not isinstance(value, str):
                raise self._bad(path, "must be a string in base64")
            try:
                fields[key] = base64.b64decode("".join(value.split()), validate=True).decode()
            except (binascii.Error, ValueError):
                raise self._bad(path, "is not text in base64") from None
        for key, value in self._mapping(top.get("stringData") or {}, "stringData").items():
            if not isinstance(value, str):
                raise self._bad(f"stringData.{str(key)[:40]}", "must be a string")
            fields[key] = value
        for key in fields:
            if key not in _FIELDS:
                raise self._bad(str(key)[:40], "is not a field of an access token; was it made by a newer version?")
        return fields

    def _secret(self, text: Any) -> Secret:
        if not isinstance(text, str):
            raise self._bad("secret", "is missing")
        try:
            raw = base64.b64decode(text.strip() + "=", altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != SECRET_BYTES:
            raise self._bad("secret", f"must be {SECRET_BYTES} bytes in base64url; the file was changed or cut off")
        return Secret(raw)

    def _endpoints(self, text: Any) -> tuple[Endpoint, ...]:
        if not isinstance(text, str) or not text.split():
            raise self._bad("endpoints", "is missing; it lists host:port, one per line")
        words = text.replace(",", " ").split()
        if len(words) > MAX_ENDPOINTS:
            raise self._bad("endpoints", f"lists {len(words)}; at most {MAX_ENDPOINTS} are read")
        return tuple(dict.fromkeys(self._checked(Endpoint.parse, word, "endpoints") for word in words))

    def _ca(self, text: Any) -> str:
        if not isinstance(text, str) or not text.strip():
            raise self._bad("ca.crt", "is missing; it holds the issuer's CA certificate as PEM")
        self._checked(lambda pem: load_certificates(pem.encode(), "ca.crt"), text, "ca.crt")
        return text

    def _note(self, notes: dict[Any, Any], key: str, parse: Callable[[str], T], default: str | None = None) -> T:
        return self._checked(parse, notes.get(_ANNOTATION + key, default), f"metadata.annotations[{_ANNOTATION}{key}]")

    def _checked(self, parse: Callable[[str], T], text: Any, path: str) -> T:
        if not isinstance(text, str):
            raise self._bad(path, "is missing" if text is None else "must be a string")
        try:
            return parse(text)
        except ConfigError as err:
            raise self._bad(path, f"is wrong: {err}") from None

    def _mapping(self, value: Any, path: str) -> dict[Any, Any]:
        if not isinstance(value, dict):
            raise self._bad(path, "must be a mapping") if path else _malformed(self._where, "is not a Secret in YAML")
        return value

    def _bad(self, path: str, problem: str) -> TokenError:
        return _malformed(f"{self._where}: {path}", problem)


def _token_id(text: str) -> str:
    if not _TOKEN_ID.fullmatch(text):
        raise ConfigError("it must be 26 characters of lower-case base32")
    return text


def _time(text: str) -> float:
    try:
        time = dt.datetime.fromisoformat(text)
        if time.tzinfo is not None and 1970 < time.year < 9999:
            return time.timestamp()
    except (ValueError, OverflowError):
        pass
    raise ConfigError(f"{text[:40]!r} is not a time like 2026-01-31T12:00:00Z")


def _cost(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 7 or not 1 <= int(text) <= MAX_COST:
        raise ConfigError(f"a cost is a number from 1 to {MAX_COST}")
    return int(text)


def _flag(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ConfigError("it must be true or false")
    return text == "true"


class _Dumper(yaml.SafeDumper):
    """Multi-line strings as blocks, so that a person can read the file."""


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent)


def _malformed(where: str, problem: str) -> TokenError:
    return TokenError(
        f"{where} {problem}", reason="malformed", hint="copy the whole file again, or make a new token: van token create FILE"
    )
