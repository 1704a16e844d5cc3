"""What the engine hands back, as types. Pure data: whoever drives the engine carries it out."""

from __future__ import annotations

import msgspec

from vanrouter.messages import Fragment
from vanrouter.plane import RouteTarget

__all__ = ["Action", "Forgot", "Learnt", "PathChanged", "Problem", "RouteChanged", "Send"]


class Send(msgspec.Struct, frozen=True):
    """A message for `DataPlane.send_message`. Give it back to `Engine.sent` when the plane took it; until then it stays due."""

    peer: str
    data: bytes
    slot: tuple[str, int]  # (origin, number of the fragment); ("", 0) for a part of a summary
    version: int


class RouteChanged(msgspec.Struct, frozen=True):
    """The routers that have targets of a routing key, cheapest first, whether there is a path to them or not. No targets: none any more."""

    key: str
    targets: list[RouteTarget]


class PathChanged(msgspec.Struct, frozen=True):
    """How a router is reached now. No next hops: not at all."""

    router: str
    next_hops: tuple[str, ...]
    cost: int


class Learnt(msgspec.Struct, frozen=True):
    """A fragment that was taken: newer than what was there, signed, of a site that is joined to ours."""

    fragment: Fragment


class Forgot(msgspec.Struct, frozen=True):
    """Nothing that this router advertised counts any more: it withdrew, was not refreshed, was revoked, or made room."""

    router: str


class Problem(msgspec.Struct, frozen=True):
    """What somebody did that was not taken, for status. Said once per minute and ``subject``, however often it happens."""

    reason: str  # CamelCase, as in conditions
    subject: str  # a router id or a site id
    peer: str  # who sent it
    message: str


Action = RouteChanged | PathChanged | Learnt | Forgot | Problem
