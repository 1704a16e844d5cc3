"""
The forwarding state as handed to the data plane: entries by kind and name, and the generation that they make.

``change`` sends only what differs, on the generation before it; a plane that has another one in force gets a complete snapshot. Until
``begin`` it only collects. Refuses to know what an entry means.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from vanrouter.errors import StaleGeneration
from vanrouter.plane import AnyEntry, Changes, DataPlane, Kind, Ref, Snapshot

__all__ = ["Forwarding"]

log = logging.getLogger("vanrouter.sites")


class Forwarding:
    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._entries: dict[tuple[str, str], AnyEntry] = {}
        self.generation = 0
        self.in_force = 0

    def begin(self) -> None:
        """The first snapshot: what was put until now. Doing it again changes nothing."""
        if self.generation == 0:
            self.generation = 1
            self._snapshot()

    def change(self, put: Iterable[AnyEntry] = (), drop: Iterable[Ref] = ()) -> bool:
        """Put and drop; what is there already and what is gone already costs nothing. Whether anything changed."""
        puts: dict[tuple[str, str], AnyEntry] = {(kind_of(entry), entry.name): entry for entry in put}
        drops = [ref for ref in drop if (ref.kind, ref.name) in self._entries and (ref.kind, ref.name) not in puts]
        puts = {key: entry for key, entry in puts.items() if self._entries.get(key) != entry}
        if not puts and not drops:
            return False
        for ref in drops:
            del self._entries[ref.kind, ref.name]
        self._entries.update(puts)
        if self.generation == 0:
            return True
        base, self.generation = self.generation, self.generation + 1
        try:
            self._plane.apply(Changes(base=base, generation=self.generation, put=list(puts.values()), drop=drops))
        except StaleGeneration as exc:
            log.error("changes were refused, sending everything", extra={"error": str(exc), "generation": self.generation})  # noqa: TRY400
            self._snapshot()
        return True

    def entry(self, kind: Kind, name: str) -> AnyEntry | None:
        return self._entries.get((kind, name))

    def names(self, kind: Kind) -> list[str]:
        return [name for k, name in self._entries if k == kind]

    def _snapshot(self) -> None:
        self._plane.apply(Snapshot(generation=self.generation, entries=list(self._entries.values())))


def kind_of(entry: AnyEntry) -> Kind:
    return type(entry).__struct_config__.tag  # type: ignore[return-value]
