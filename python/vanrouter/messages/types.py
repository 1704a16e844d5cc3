"""
The messages, as types. Every field has a bound; what is not bounded by its type is checked in `codec`.

Names of fields are the names on the wire. Adding a field with a default is compatible; a field never changes its meaning.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from vanrouter.errors import ConfigError
from vanrouter.model import RouterId, parse_name

__all__ = [
    "MAX_FRAGMENT",
    "MAX_FRAGMENTS",
    "MAX_SERVICES_PER_KEY",
    "Applied",
    "AppliedItem",
    "Fragment",
    "KeyInfo",
    "Leaf",
    "Message",
    "Neighbour",
    "Problem",
    "Problems",
    "Reachable",
    "ServicePort",
    "SiteInfo",
    "Unknown",
    "Withdrawal",
]

MAX_FRAGMENT: Final = 16_000  # bytes of one advertisement message with everything in it: it fits into one frame
MAX_FRAGMENTS: Final = 512  # of one origin; 4,096 keys of the largest size need fewer
MAX_SERVICES_PER_KEY: Final = 4
MAX_COST: Final = 1_000_000

Entries = msgspec.Meta(max_length=1024)
Label = Annotated[str, msgspec.Meta(max_length=63)]
Sentence = Annotated[str, msgspec.Meta(max_length=512)]
Key = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
RouterText = Annotated[str, msgspec.Meta(min_length=69, max_length=69)]
Cost = Annotated[int, msgspec.Meta(ge=0, le=MAX_COST)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Sequence = Annotated[int, msgspec.Meta(ge=0)]  # u64: MessagePack has no larger integers
Number = Annotated[int, msgspec.Meta(ge=0, lt=MAX_FRAGMENTS)]


class Reachable(msgspec.Struct, frozen=True, array_like=True):
    """Where a link access answers. What host means is the reader's to check."""

    host: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_.:-]{1,253}$")]
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    going: bool = False  # not for long: link to another one now


class SiteInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who the other end is. First message after a link came up or messages were lost; about the sender only."""

    name: Label
    version: Label = ""
    platform: Label = ""
    namespace: Label = ""
    routers: Annotated[list[RouterText], msgspec.Meta(max_length=64)] = []  # the site's live ones
    service_sync: bool = True
    endpoints: Annotated[list[Reachable], msgspec.Meta(max_length=16)] = []  # where the site is linked to; none: it does not say


class ServicePort(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, order=True):
    """What service sync makes a listener of: the key of a service is its address and port."""

    address: Label  # a name as of sites and resources: it may end in somebody's hosts file
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    protocol: Label = "tcp"

    def check(self) -> None:
        """Raises ConfigError unless others would take it."""
        parse_name(self.address, "service address")
        if not (self.protocol.isascii() and self.protocol.isalnum()):
            raise ConfigError(f"service {self.address}:{self.port}: the protocol {self.protocol!r} is not a word")
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"service {self.address}: the port {self.port} is not one of 1 to 65535")


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One routing key as its origin sees it. Neither targets, down or not, nor listeners: it would not be listed."""

    key: Key
    targets: Count = 0
    listeners: Count = 0  # the connector at the other end is matched while some router says so
    cost: Cost = 0  # added to the path's
    down: Count = 0  # targets that fail their checks. They count in ``targets`` only as a last resort
    services: Annotated[list[ServicePort], msgspec.Meta(max_length=MAX_SERVICES_PER_KEY)] = []
    strategy: Label = ""  # a hint for listeners that have none of their own

    @property
    def is_empty(self) -> bool:
        return not (self.targets or self.listeners or self.down)


class Neighbour(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A link of the origin, for link-state routing: it counts only when both ends report it."""

    router: RouterText
    cost: Annotated[int, msgspec.Meta(ge=1, le=MAX_COST)] = 1


class Leaf(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An edge router that is linked to the origin. For people to see: it is in nobody's database, and no path leads through it."""

    router: RouterText
    cost: Annotated[int, msgspec.Meta(ge=1, le=MAX_COST)] = 1
    name: Label = ""  # of its site


class Fragment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of what one start of one router advertises. A newer sequence of the same number replaces it whole."""

    origin: RouterText
    number: Number
    sequence: Sequence  # of this fragment, from 1
    keys: Annotated[list[KeyInfo], Entries] = []
    neighbours: Annotated[list[Neighbour], Entries] = []
    draining: bool = False  # of the router; read from fragment 0, as the two below
    name: Label = ""  # of its site, for people
    version: Label = ""  # of its software, for people
    edges: Annotated[list[Leaf], Entries] = []

    @property
    def router(self) -> RouterId:
        return RouterId.parse(self.origin)


class Withdrawal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """This start of this router is over: forget everything of it. It cannot be taken back; a restart is another router."""

    origin: RouterText


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the sender could not do with something the receiver advertised."""

    reason: Label  # CamelCase, as in conditions
    message: Sentence
    key: Annotated[str, msgspec.Meta(max_length=255)] = ""
    address: Annotated[str, msgspec.Meta(max_length=255)] = ""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0


class Problems(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All problems that the sender has with what the receiver advertises; replaces the ones before. None: all is well."""

    problems: Annotated[list[Problem], msgspec.Meta(max_length=64)] = []
    more: Count = 0  # left out for size


class AppliedItem(msgspec.Struct, frozen=True, array_like=True):
    number: Number
    sequence: Sequence


class Applied(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The sender has these fragments of this origin in force and serves them (or has said in `Problems` why not)."""

    origin: RouterText
    items: Annotated[list[AppliedItem], Entries] = []


class Unknown(msgspec.Struct, frozen=True):
    """A message of a later version. Ignored; ``wire`` is kept for whoever forwards it."""

    type: int
    wire: bytes


Message = SiteInfo | Problems | Applied
