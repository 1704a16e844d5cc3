"""
The resources of a site as files: what is wanted, written by whoever.

``load`` reads only files that changed since the last time. A file that cannot be read or is wrong in any document is a problem, and its
last good form stays in force, also over a restart (a copy is kept in the state). Of two resources with one kind and name the first file
counts, in the order of names. ``put`` and ``delete`` write one resource; a file with several documents is left to the person who wrote it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from vanrouter.errors import ConfigError, StoreError, VanrouterError
from vanrouter.resources import Resource, read_resources, to_yaml
from vanrouter.stores.files import make_private_directory, remove, store_error, write_atomic

__all__ = ["Key", "Loaded", "Located", "Problem", "ResourceFiles"]

Key = tuple[str, str]  # kind, name
Stamp = tuple[int, int, int]

_SUFFIXES: Final = (".yaml", ".yml", ".json")
MAX_FILES: Final = 20_000


class Problem(msgspec.Struct, frozen=True):
    """Something wrong with a resource or its file. ``path`` says where: a file, or ``Kind/name: field`` in a file."""

    path: str
    message: str
    hint: str = ""


class Located(msgspec.Struct, frozen=True):
    resource: Resource
    file: str


class Loaded(msgspec.Struct, frozen=True):
    """What is wanted now, and what is wrong with how it is written."""

    resources: dict[Key, Located]
    problems: list[Problem]


class _File(msgspec.Struct):
    stamp: Stamp
    resources: list[Resource]  # the last good form
    problem: Problem | None = None


class ResourceFiles:
    def __init__(self, directory: Path, *, last_good: Path | None = None) -> None:
        self.directory = directory
        self._last_good = last_good
        self._files: dict[str, _File] = {}

    # ---- Reading -------------------------------------------------------------------------------------------------------------------

    def changed(self) -> bool:
        """Whether ``load`` would find anything else than the last time. Looks at names, sizes and times only."""
        try:
            stamps = self._stamps()
        except StoreError:
            return True
        return stamps != {name: file.stamp for name, file in self._files.items()}

    def load(self) -> Loaded:
        """Raises StoreError only when the directory itself cannot be read."""
        stamps = self._stamps()
        for name in [n for n in self._files if n not in stamps]:
            del self._files[name]
            self._forget(name)
        for name, stamp in stamps.items():
            known = self._files.get(name)
            if known is None or known.stamp != stamp:
                self._files[name] = self._read(name, stamp, known)
        return self._merge()

    def _stamps(self) -> dict[str, Stamp]:
        try:
            with os.scandir(self.directory) as entries:
                names = sorted(e.name for e in entries if e.name.endswith(_SUFFIXES) and not e.name.startswith("."))
        except OSError as exc:
            raise store_error("read", self.directory, exc) from exc
        stamps: dict[str, Stamp] = {}
        for name in names[:MAX_FILES]:
            try:
                info = os.stat(self.directory / name)
            except OSError:
                stamps[name] = (0, 0, 0)  # reading it will say why
            else:
                stamps[name] = (info.st_mtime_ns, info.st_size, info.st_ino)
        return stamps

    def _read(self, name: str, stamp: Stamp, known: _File | None) -> _File:
        path = self.directory / name
        try:
            text = self._text(path)
            resources = read_resources(text, source=name)
        except VanrouterError as exc:
            good = known.resources if known is not None else self._recall(name)
            kept = "; its last good form stays in force" if good else ""
            return _File(stamp, good, Problem(name, f"{exc}{kept}", exc.hint))
        self._remember(name, text)
        return _File(stamp, resources)

    def _text(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                return file.read((1 << 20) + 1)
        except OSError as exc:
            raise store_error("read", path, exc) from exc

    def _merge(self) -> Loaded:
        resources: dict[Key, Located] = {}
        problems: list[Problem] = []
        for name, file in sorted(self._files.items()):
            if file.problem is not None:
                problems.append(file.problem)
            for resource in file.resources:
                key = (resource.kind, resource.name)
                if key in resources:
                    first = resources[key].file
                    where = f"twice in {name}" if first == name else f"in {first} and in {name}; {first} counts"
                    problems.append(Problem(name, f"{resource.ref} is {where}", f"remove or rename it in {name}"))
                else:
                    resources[key] = Located(resource, name)
        return Loaded(resources, problems)

    # ---- The last good form, over restarts -----------------------------------------------------------------------------------------

    def _remember(self, name: str, text: bytes) -> None:
        """Best effort: without it a broken file merely has no last good form after a restart."""
        if self._last_good is None:
            return
        try:
            make_private_directory(self._last_good)
            path = self._last_good / name
            if not path.exists() or path.read_bytes() != text:
                write_atomic(path, text, durable=False)  # a thousand files must not be a thousand syncs
        except (OSError, VanrouterError):
            return

    def _recall(self, name: str) -> list[Resource]:
        if self._last_good is None:
            return []
        try:
            return read_resources(self._text(self._last_good / name), source=name)
        except VanrouterError:
            return []

    def _forget(self, name: str) -> None:
        if self._last_good is not None:
            try:
                remove(self._last_good / name)
            except StoreError:
                return

    # ---- Writing -------------------------------------------------------------------------------------------------------------------

    def put(self, resource: Resource) -> Path:
        """Write one resource, in the file where it stands, else in ``KIND-NAME.yaml``. Returns the file."""
        path = self._own_file(resource.kind, resource.name, "changed") or self.directory / f"{resource.kind}-{resource.name}.yaml"
        if path.exists() and (others := [r for r in self._only(path) if (r.kind, r.name) != (resource.kind, resource.name)]):
            raise ConfigError(f"{path} holds {others[0].ref}", hint="rename that file")
        write_atomic(path, to_yaml(resource).encode())
        return path

    def delete(self, kind: str, name: str) -> bool:
        """Remove one resource. Whether it was there."""
        path = self._own_file(kind, name, "deleted")
        return remove(path) if path is not None else False

    def get(self, kind: str, name: str) -> Resource | None:
        located = self.load().resources.get((kind, name))
        return located.resource if located is not None else None

    def of_kind(self, kind: str) -> list[Resource]:
        return [located.resource for (k, _), located in sorted(self.load().resources.items()) if k == kind]

    def _own_file(self, kind: str, name: str, what: str) -> Path | None:
        located = self.load().resources.get((kind, name))
        if located is None:
            return None
        path = self.directory / located.file
        if len(self._only(path)) > 1:
            raise ConfigError(
                f"{kind}/{name} cannot be {what} here: it is in {path} together with others",
                hint=f"edit {path}; the running site notices",
            )
        return path

    def _only(self, path: Path) -> list[Resource]:
        file = self._files.get(path.name)
        return file.resources if file is not None else []
