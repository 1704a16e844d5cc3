"""
The ledger on a host: one SQLite file, 0600, in WAL mode with synchronous FULL.

A swap that returned True is on the disk. Any number of processes and threads may use the file at once. A full disk, a lock that is held
for more than five seconds or a damaged file raise ``StoreError``, and nothing was changed.

``place`` tells this file from its copies. It is what no copy takes along, however it is made: the file's number in its file system, and the
machine. A file that was moved to another file system, or restored, is a copy too. A clone of a whole disk with the same machine id is not
noticed. A second name for the file (a hard link) is refused: SQLite would keep two journals for it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final

from vanrouter.errors import StoreError
from vanrouter.tokens.ledger import AccessGrant, Versioned, decode_grant, encode_grant

__all__ = ["SqliteLedger"]

SCHEMA_VERSION: Final = 1
BUSY_SECONDS: Final = 5.0


class SqliteLedger:
    """See ``ledger.Ledger``. Close it, or use it as a context manager."""

    def __init__(self, path: Path | str, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self.path: Final = Path(path)
        self._lock = threading.Lock()  # one connection, used from several threads
        try:
            self._create()
            self._db = sqlite3.connect(self.path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as err:
            raise self._failed("cannot be opened", err) from None
        try:
            self._prepare(until=time.monotonic() + busy_seconds)
        except sqlite3.Error as err:
            self._db.close()
            raise self._failed("cannot be opened", err) from None
        except StoreError:
            self._db.close()
            raise
        self.place: Final = _place(self.path)

    def load(self, grant_id: str) -> Versioned | None:
        rows = self._execute("SELECT record, version FROM grants WHERE id = ?", (grant_id,))[0]
        return Versioned(decode_grant(rows[0][0]), str(rows[0][1])) if rows else None

    def swap(self, grant_id: str, expected: str | None, grant: AccessGrant | None) -> bool:
        if expected is None:
            if grant is None:
                return self.load(grant_id) is None
            # Versions never repeat, also when a grant is deleted and made again.
            sql, args = (
                "INSERT OR IGNORE INTO grants (id, version, record) VALUES (?, ?, ?)",
                (grant_id, _first_version(), encode_grant(grant)),
            )
            return self._execute(sql, args)[1] == 1
        if grant is None:
            return self._execute("DELETE FROM grants WHERE id = ? AND version = ?", (grant_id, int(expected)))[1] == 1
        sql = "UPDATE grants SET record = ?, version = version + 1 WHERE id = ? AND version = ?"
        return self._execute(sql, (encode_grant(grant), grant_id, int(expected)))[1] == 1

    def grants(self) -> list[AccessGrant]:
        return [decode_grant(row[0]) for row in self._execute("SELECT record FROM grants ORDER BY id", ())[0]]

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def __enter__(self) -> SqliteLedger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _execute(self, sql: str, args: tuple[object, ...]) -> tuple[list[tuple[bytes, int]], int]:
        # Each statement is its own transaction: it is committed when this returns.
        with self._lock:
            try:
                cursor = self._db.execute(sql, args)
                return cursor.fetchall(), cursor.rowcount
            except sqlite3.Error as err:
                raise self._failed("cannot be used", err) from None

    def _create(self) -> None:
        """Make the file 0600 before SQLite sees it; its -wal and -shm files take over that mode."""
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            found = self.path.stat()
            mode = stat.S_IMODE(found.st_mode)
            if found.st_nlink > 1:
                raise StoreError(
                    f"the ledger {self.path} has {found.st_nlink} names (hard links): two routers could change it unseen by each other",
                    hint="copy the site's directory with cp -a, tar or rsync, without links",
                ) from None
            if mode & 0o077:
                raise StoreError(
                    f"the ledger {self.path} has mode {mode:04o}: others can read or change it", hint=f"chmod 600 {self.path}"
                ) from None

    def _prepare(self, *, until: float) -> None:
        """Several processes may open a new file at once. SQLite does not wait for its lock while the journal mode changes: we do."""
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._prepare_schema()
            except sqlite3.OperationalError as err:
                if "locked" not in str(err) or time.monotonic() >= until:
                    raise
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                time.sleep(0.01)
            else:
                return

    def _prepare_schema(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"the ledger {self.path} was written by a newer version (schema {version}, this one knows {SCHEMA_VERSION})",
                hint="run the version that wrote it, or a later one",
            )
        if version < SCHEMA_VERSION:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS grants (id TEXT PRIMARY KEY, version INTEGER NOT NULL, record BLOB NOT NULL) STRICT"
            )
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self._db.execute("COMMIT")

    def _failed(self, what: str, err: Exception) -> StoreError:
        text = str(err)
        if "full" in text or "disk I/O" in text or "No space" in text:
            hint = "free space on that file system; nothing was changed"
        elif "locked" in text:
            hint = "another process holds the file for too long; try again"
        elif "malformed" in text or "not a database" in text:
            hint = "restore the file from a backup, or move it away: grants that were not used up are then lost, links are not"
        else:
            hint = "check that its directory exists, is writable and has room"
        return StoreError(f"the ledger {self.path} {what}: {text}", hint=hint)


MACHINE_ID: Final = Path("/etc/machine-id")


def _place(path: Path) -> str:
    try:
        machine = MACHINE_ID.read_bytes().strip()
    except OSError:
        machine = b""  # a container may have none
    return hashlib.sha256(b"%d\0%s" % (path.stat().st_ino, machine)).hexdigest()[:32]


def _first_version() -> int:
    return int.from_bytes(os.urandom(6), "big")
