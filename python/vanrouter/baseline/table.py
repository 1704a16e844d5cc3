"""The forwarding state in force: entries by kind and name, and what a snapshot or a change does to them. Pure."""

from __future__ import annotations

import msgspec

from vanrouter.errors import StaleGeneration
from vanrouter.plane import Access, AnyEntry, Changes, Connector, Credential, Kind, Link, Listener, Path, Route, Snapshot, Tls

__all__ = ["Difference", "Table"]

_KINDS: dict[type, Kind] = {
    Credential: "credential",
    Access: "access",
    Link: "link",
    Listener: "listener",
    Connector: "connector",
    Path: "path",
    Route: "route",
    Tls: "tls",
}


class Difference(msgspec.Struct):
    """What is really different. An entry that is put again as it was is not in here."""

    dropped: list[AnyEntry] = []
    put: list[AnyEntry] = []
    replaced: list[AnyEntry] = []  # what had the names of some of those put


class Table:
    def __init__(self) -> None:
        self.generation = -1  # no change can be based on it: the first one has to be a snapshot
        self._entries: dict[tuple[Kind, str], AnyEntry] = {}
        self._connectors: dict[str, dict[str, Connector]] = {}  # by routing key

    def get(self, kind: Kind, name: str) -> AnyEntry | None:
        return self._entries.get((kind, name))

    def connectors(self, routing_key: str) -> list[Connector]:
        return list(self._connectors.get(routing_key, {}).values())

    def route(self, routing_key: str) -> Route | None:
        entry = self._entries.get(("route", routing_key))
        return entry if isinstance(entry, Route) else None

    def path(self, router: str) -> Path | None:
        entry = self._entries.get(("path", router))
        return entry if isinstance(entry, Path) else None

    def apply(self, changes: Changes | Snapshot) -> Difference:
        """Raises StaleGeneration, and then nothing has changed."""
        if isinstance(changes, Snapshot):
            wanted = {_ref(entry): entry for entry in changes.entries}
            gone = [ref for ref in self._entries if ref not in wanted]
            put = changes.entries
        else:
            if changes.base != self.generation:
                raise StaleGeneration(
                    f"the changes are based on generation {changes.base}, but {self.generation} is in force: send a snapshot"
                )
            gone = [(ref.kind, ref.name) for ref in changes.drop]
            put = changes.put
        difference = Difference()
        for ref in gone:
            entry = self._entries.pop(ref, None)
            if entry is not None:
                self._forget(entry)
                difference.dropped.append(entry)
        for entry in put:
            old = self._entries.get(_ref(entry))
            if old == entry:
                continue
            if old is not None:
                self._forget(old)
                difference.replaced.append(old)
            self._entries[_ref(entry)] = entry
            if isinstance(entry, Connector):
                self._connectors.setdefault(entry.routing_key, {})[entry.name] = entry
            difference.put.append(entry)
        self.generation = changes.generation
        return difference

    def _forget(self, entry: AnyEntry) -> None:
        if isinstance(entry, Connector):
            of_key = self._connectors[entry.routing_key]
            del of_key[entry.name]
            if not of_key:
                del self._connectors[entry.routing_key]


def _ref(entry: AnyEntry) -> tuple[Kind, str]:
    return _KINDS[type(entry)], entry.name
