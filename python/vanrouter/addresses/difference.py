"""
The difference between what the data plane has and what it should have.

Refuses to know what an entry means, or to hand one over. Only entries that somebody asked to change are compared.
"""

from __future__ import annotations

from vanrouter.addresses.model import Delta
from vanrouter.plane import AnyEntry, Ref

__all__ = ["Difference"]


class Difference:
    """Say what is wanted; take out what must change."""

    def __init__(self) -> None:
        self._desired: dict[tuple[str, str], AnyEntry] = {}
        self._handed: dict[tuple[str, str], AnyEntry] = {}
        self._touched: dict[tuple[str, str], None] = {}

    def want(self, ref: tuple[str, str], entry: AnyEntry | None) -> None:
        """None: it should not be there."""
        if entry is None:
            self._desired.pop(ref, None)
        else:
            self._desired[ref] = entry
        self._touched[ref] = None

    def wants(self, kind: str, name: str) -> bool:
        return (kind, name) in self._desired

    def take(self) -> Delta:
        """What must change since the last call. Empty when nothing did."""
        put: list[AnyEntry] = []
        drop: list[Ref] = []
        for ref in self._touched:
            wanted, handed = self._desired.get(ref), self._handed.get(ref)
            if wanted == handed:
                continue
            if wanted is not None:
                put.append(wanted)
                self._handed[ref] = wanted
            else:
                drop.append(Ref(ref[0], ref[1]))  # type: ignore[arg-type]
                del self._handed[ref]
        self._touched.clear()
        return Delta(put, drop)

    def entries(self) -> list[AnyEntry]:
        """Everything wanted now; counts as taken."""
        self._handed = dict(self._desired)
        self._touched.clear()
        return list(self._desired.values())
