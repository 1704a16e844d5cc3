"""What goes into the address table and what comes out of it, as types. Pure data."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vanrouter.conditions import Condition
from vanrouter.messages import Problem, ServicePort
from vanrouter.plane import AnyEntry, KeyWeight, Ref, Strategy

__all__ = [
    "AddressStatus",
    "Delta",
    "LocalConnector",
    "LocalListener",
    "Offer",
    "Path",
    "Place",
    "Reserved",
    "ServiceStatus",
    "leads_to",
    "overlap",
]


class LocalListener(msgspec.Struct, frozen=True, kw_only=True):
    """A listener wanted at this site. ``host`` is an IP literal. One key, or several with a strategy among them (`plane.Listener`).

    ``reached_at``: host and port that applications use, where that is something else than where it listens (a Service before a pod).
    """

    name: str
    routing_key: str = ""
    host: str
    port: int
    strategy: Strategy = "balanced"
    keys: tuple[KeyWeight, ...] = ()
    reached_at: tuple[str, int] | None = None
    tls: str = ""  # the name of a Tls entry

    @property
    def shown(self) -> tuple[str, int]:
        """Host and port, for people."""
        return self.reached_at or (self.host, self.port)

    @property
    def routing_keys(self) -> tuple[str, ...]:
        return tuple(k.routing_key for k in self.keys) if self.keys else (self.routing_key,)


class LocalConnector(msgspec.Struct, frozen=True, kw_only=True):
    """One target of a routing key at this site; or, embedded, this process itself."""

    name: str
    routing_key: str
    host: str = ""
    port: int = 0
    embedded: bool = False
    tls: str = ""  # the name of a Tls entry
    cost: int = 0
    service: ServicePort | None = None  # what others get by service sync


class Reserved(msgspec.Struct, frozen=True):
    """A host:port that is this site's own for another reason: no listener may want it, no connector may lead to it."""

    host: str
    port: int
    what: str  # "the link access default"


class Path(msgspec.Struct, frozen=True):
    """How to reach another router: the neighbours toward it, all equally good, and the price."""

    next_hops: tuple[str, ...]
    cost: int


class Delta(msgspec.Struct, frozen=True):
    """A difference for the data plane: goes into `vanrouter.plane.Changes` as it is."""

    put: list[AnyEntry]
    drop: list[Ref]

    def __bool__(self) -> bool:
        return bool(self.put or self.drop)


class AddressStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A listener or connector of this site, for status."""

    name: str
    routing_key: str
    host: str
    port: int
    matched: bool
    automatic: bool  # made by service sync
    conditions: list[Condition]
    service: ServicePort | None = None
    keys: tuple[KeyWeight, ...] = ()  # of a listener with several
    strategy: Strategy = "balanced"  # of a listener
    pod_port: int = 0  # of a listener in a pod: where it listens there


Place = Callable[[str, int], int]
"""Where in this pod an automatic listener for an address and a port of it listens; 0: no port is given to it yet."""


class Offer(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """Some router serves this key as this service."""

    router: str  # RouterId as text; our own too
    key: str
    service: ServicePort
    problem: str = ""  # why it is not used here; empty: it is


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One address of the network as this site knows it."""

    address: str
    protocol: str
    ports: list[int]
    offers: list[Offer]
    listeners: list[AddressStatus]  # here, automatic
    skipped: list[Problem]  # ports that have no automatic listener here, and why
    conflict: str = ""
    conditions: list[Condition] = []


_ANY = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, never bound


def overlap(host: str, other: str) -> bool:
    """Whether listening on the same port of both hosts would be in each other's way."""
    return host == other or host in _ANY or other in _ANY


def leads_to(target: str, listening: str) -> bool:
    """Whether a connection to ``target`` would arrive at what listens at ``listening``, as far as one can tell from the addresses."""
    return target == listening or (listening in _ANY and (target.startswith("127.") or target in ("::1", "localhost")))
