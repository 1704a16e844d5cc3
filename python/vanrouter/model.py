"""
The words of the product as types: ids, routing keys, names, classes. Pure; parsing is the only way to get one.

See ``docs/wire-protocol.md`` section 2 for the identities and section 3 for the classes.
"""

from __future__ import annotations

import base64
import enum
import functools
import hashlib
import re
import secrets
from typing import Final, NewType

import msgspec

from vanrouter.errors import ConfigError

__all__ = [
    "MAX_ROUTING_KEY",
    "WIRE_VERSION",
    "RouterId",
    "RoutingKey",
    "SiteId",
    "StreamClass",
    "boot_number",
    "parse_name",
    "parse_routing_key",
    "parse_site_id",
    "site_id_from_bytes",
    "site_id_of_key",
    "site_id_to_bytes",
]

SiteId = NewType("SiteId", str)
"""SHA-256 of the site's identity public key (SubjectPublicKeyInfo DER): 52 characters of lower-case base32, no padding."""

RoutingKey = NewType("RoutingKey", str)
"""The string that joins listeners and connectors across the network: 1..255 bytes of UTF-8, no control characters, no spaces."""

WIRE_VERSION: Final = 1
"""Of the link protocol, docs/wire-protocol.md: routers of another one do not link."""

MAX_ROUTING_KEY: Final = 255
_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,61}[a-z0-9])?")
_BOOT: Final = re.compile(r"[0-9a-f]{16}")
_SITE_ID: Final = re.compile(r"[a-z2-7]{52}")


class StreamClass(enum.IntEnum):
    """Who or what ended a stream. The numbers are those of the wire."""

    CLIENT = 1
    TARGET = 2
    LINK = 3
    POLICY = 4
    IDLE = 5
    DRAIN = 6
    REFUSED = 7
    RESOURCE = 8

    @property
    def word(self) -> str:
        return self.name.lower()


class RouterId(msgspec.Struct, frozen=True, order=True):
    """One start of one router: the site it speaks for and the boot number it drew."""

    site: SiteId
    boot: int

    def __str__(self) -> str:
        return f"{self.site}/{self.boot:016x}"

    @classmethod
    def parse(cls, text: str) -> RouterId:
        site, _, boot = text.partition("/")
        if not _BOOT.fullmatch(boot):
            raise ConfigError(f"{text!r} is not a router id (SITE-ID/16 hexadecimal digits)")
        return cls(parse_site_id(site), int(boot, 16))


def boot_number(now_ms: int, random20: int | None = None) -> int:
    """Draw the boot number of a router that starts at ``now_ms`` (milliseconds since the epoch)."""
    low = secrets.randbits(20) if random20 is None else random20 & 0xFFFFF
    return ((now_ms << 20) | low) & 0xFFFF_FFFF_FFFF_FFFF


@functools.lru_cache(maxsize=4096)  # every record of a site comes with its key
def site_id_of_key(spki_der: bytes) -> SiteId:
    """The site id of an identity public key given as SubjectPublicKeyInfo DER."""
    return SiteId(base64.b32encode(hashlib.sha256(spki_der).digest()).decode().rstrip("=").lower())


def site_id_to_bytes(site: SiteId) -> bytes:
    """The 32 bytes of the wire."""
    return base64.b32decode(site.upper() + "====")


def site_id_from_bytes(raw: bytes) -> SiteId:
    """The text of what stands on the wire."""
    return SiteId(base64.b32encode(raw).decode().rstrip("=").lower())


def parse_site_id(text: str) -> SiteId:
    if not _SITE_ID.fullmatch(text):
        raise ConfigError(f"{text!r} is not a site id (52 characters of lower-case base32)")
    return SiteId(text)


def parse_name(text: str, what: str = "name") -> str:
    """A resource or site name: 1..63 of ``[a-z0-9.-]``, first and last a letter or digit."""
    if not _NAME.fullmatch(text):
        raise ConfigError(f"{what} {text!r} must be 1 to 63 characters of a-z, 0-9, '-' and '.', and start and end with a letter or digit")
    return text


def parse_routing_key(text: str) -> RoutingKey:
    raw = text.encode()
    if not 1 <= len(raw) <= MAX_ROUTING_KEY:
        raise ConfigError(f"routing key {text[:40]!r} has {len(raw)} bytes; it must have 1 to {MAX_ROUTING_KEY}")
    if any(ch.isspace() or not ch.isprintable() for ch in text):
        raise ConfigError(f"routing key {text!r} must not contain spaces or control characters")
    return RoutingKey(text)
