"""
Counting failures: a token id is locked for a minute after ten wrong secrets, and a source runs out of attempts.

Pure; ``now`` is an argument. Memory is bounded: only ids of existing grants are counted, and at most 4,096 sources are remembered, the
longest silent forgotten first.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

__all__ = ["Attempts", "source_key"]

WRONG_BEFORE_LOCK: Final = 10
LOCK_SECONDS: Final = 60.0
SOURCES: Final = 4_096
FAILURES_PER_MINUTE: Final = 20


class Attempts:
    """``per_minute`` failures per source, with a burst of the same size; 0: no limit per source (behind a load balancer all are one)."""

    def __init__(self, *, per_minute: int = FAILURES_PER_MINUTE) -> None:
        self._per_minute = per_minute
        self._wrong: dict[str, int] = {}
        self._locked_at: dict[str, float] = {}
        self._sources: OrderedDict[str, tuple[float, float]] = OrderedDict()  # failures not yet forgotten, as of when

    def source_may(self, source: str, now: float) -> bool:
        return not self._per_minute or self._failures(source, now) < self._per_minute

    def source_failed(self, source: str, now: float) -> None:
        if not self._per_minute:
            return
        self._sources[source] = (self._failures(source, now) + 1.0, now)
        self._sources.move_to_end(source)
        if len(self._sources) > SOURCES:
            self._sources.popitem(last=False)

    def locked(self, token: str, now: float) -> bool:
        at = self._locked_at.get(token)
        if at is None:
            return False
        if at <= now < at + LOCK_SECONDS:
            return True
        del self._locked_at[token]
        return False

    def wrong_secret(self, token: str, now: float) -> None:
        """For the id of an existing grant only."""
        self._wrong[token] = self._wrong.get(token, 0) + 1
        if self._wrong[token] >= WRONG_BEFORE_LOCK:
            del self._wrong[token]
            self._locked_at[token] = now

    def right_secret(self, token: str) -> None:
        self._wrong.pop(token, None)

    def forget(self, token: str) -> None:
        """The grant is gone."""
        self._wrong.pop(token, None)
        self._locked_at.pop(token, None)

    def _failures(self, source: str, now: float) -> float:
        failures, at = self._sources.get(source, (0.0, now))
        return max(0.0, failures - max(0.0, now - at) * self._per_minute / 60.0)


def source_key(address: str) -> str:
    """What counts as one source: an IPv4 address, or the /64 of an IPv6 one. Takes ``host``, ``host:port`` and ``[host]:port``."""
    host = address.rpartition(":")[0] if address.count(":") == 1 else address.rpartition("]")[0].lstrip("[") or address
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host[:64]
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))
    return str(ip)
