"""
The state of a site: keys, its CA, the credentials of its links, admissions. All of it is secret or signed; none of it is to be edited.

A credential is a directory of files that belong together (a key and its certificate), so it is replaced as a whole. ``recover`` finishes or
undoes a replacement that was cut short; after it a credential is the old one or the new one.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from vanrouter.errors import ConfigError
from vanrouter.model import parse_name
from vanrouter.stores.files import (
    check_private,
    clean_leftovers,
    make_private_directory,
    read_private,
    remove,
    remove_tree,
    store_error,
    sync_directory,
    write_atomic,
)

__all__ = ["StateFiles"]


class StateFiles:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ledger = directory / "ledger.sqlite"
        self.credentials = directory / "credentials"
        self.admissions = directory / "admissions"

    def read(self, name: str) -> bytes | None:
        """A file of the state, or None. Refuses one that others may read."""
        return read_private(self.directory / name)

    def write(self, name: str, data: bytes) -> None:
        write_atomic(self.directory / name, data)

    def path(self, name: str) -> Path:
        return self.directory / name

    def check(self) -> None:
        """Refuse a state that others may read, before anything is started on it."""
        check_private(self.directory)
        for name in ("identity.key", "ca.key", "ledger.sqlite"):
            if os.path.lexists(self.directory / name):
                check_private(self.directory / name)

    def recover(self) -> None:
        """Finish or undo what was cut short. With the lock held, at start."""
        clean_leftovers(self.directory)
        for parent in (self.credentials, self.admissions):
            clean_leftovers(parent)
        if not self.credentials.is_dir():
            return
        for path in sorted(self.credentials.iterdir()):
            if path.name.startswith(".") and path.name.endswith(".new"):
                self._swap(path.name[1:-4])
        for path in sorted(self.credentials.iterdir()):
            if path.name.startswith(".") and path.name.endswith(".old"):
                current = self.credentials / path.name[1:-4]
                if not current.exists():
                    path.rename(current)
                else:
                    remove_tree(path)

    # ---- Credentials ----------------------------------------------------------------------------------------------------------------

    def credential_names(self) -> list[str]:
        if not self.credentials.is_dir():
            return []
        return sorted(p.name for p in self.credentials.iterdir() if p.is_dir() and not p.name.startswith("."))

    def read_credential(self, name: str) -> dict[str, bytes] | None:
        """Its files by name, or None. Refuses files that others may read."""
        directory = self.credentials / parse_name(name, "credential name")
        if not directory.is_dir():
            return None
        check_private(directory)
        files: dict[str, bytes] = {}
        for path in sorted(directory.iterdir()):
            if path.name.startswith("."):
                continue
            data = read_private(path)
            if data is not None:
                files[path.name] = data
        return files

    def write_credential(self, name: str, files: Mapping[str, bytes]) -> None:
        """Replace a credential as a whole."""
        parse_name(name, "credential name")
        make_private_directory(self.credentials)
        temporary = self.credentials / f".{name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
        complete = self.credentials / f".{name}.new"
        try:
            make_private_directory(temporary)
            for file, data in files.items():
                if "/" in file or file.startswith("."):
                    raise ConfigError(f"{file!r} is not a name for a file of a credential")
                write_atomic(temporary / file, data)
            remove_tree(complete)
            temporary.rename(complete)
            sync_directory(self.credentials)
            self._swap(name)
        except OSError as exc:
            raise store_error("write", self.credentials / name, exc) from exc
        finally:
            remove_tree(temporary)

    def delete_credential(self, name: str) -> None:
        directory = self.credentials / parse_name(name, "credential name")
        remove_tree(directory)
        if self.credentials.is_dir():
            sync_directory(self.credentials)

    def _swap(self, name: str) -> None:
        current, new, old = (self.credentials / n for n in (name, f".{name}.new", f".{name}.old"))
        if current.exists():
            remove_tree(old)
            current.rename(old)
        new.rename(current)
        sync_directory(self.credentials)
        remove_tree(old)

    # ---- Admissions -----------------------------------------------------------------------------------------------------------------

    def write_admission(self, name: str, data: bytes) -> None:
        make_private_directory(self.admissions)
        write_atomic(self.admissions / parse_name(name, "admission name"), data)

    def read_admissions(self) -> dict[str, bytes]:
        if not self.admissions.is_dir():
            return {}
        found = {p.name: read_private(p) for p in sorted(self.admissions.iterdir()) if not p.name.startswith(".")}
        return {name: data for name, data in found.items() if data is not None}

    def delete_admission(self, name: str) -> None:
        remove(self.admissions / parse_name(name, "admission name"))
