"""
The directory of a site: where things are, who may run it. ``docs/architecture.md`` has the layout.

A lock (``run/lock``, ``flock``) makes sure that at most one router runs on a directory; the kernel drops it when its holder dies,
however it dies, so that nothing needs repair after ``kill -9``.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from vanrouter.errors import ConfigError
from vanrouter.stores.files import clean_leftovers, make_private_directory, remove, store_error, write_atomic
from vanrouter.stores.resources import ResourceFiles
from vanrouter.stores.state import StateFiles

__all__ = ["SiteHome"]


class SiteHome:
    """Paths and parts of one site directory. Making one touches nothing."""

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory).absolute()
        self.run = self.directory / "run"
        self.socket = self.run / "admin.sock"
        self.pid_file = self.run / "router.pid"
        self.log_file = self.run / "router.log"
        self.state = StateFiles(self.directory / "state")
        self.resources = ResourceFiles(self.directory / "resources", last_good=self.directory / "state" / "last-good")
        self._lock: int | None = None

    @property
    def exists(self) -> bool:
        return self.resources.directory.is_dir()

    def create(self) -> None:
        """Make what is missing; refuse what is open to others. Doing it twice changes nothing."""
        for path in (self.directory, self.resources.directory, self.state.directory, self.run):
            make_private_directory(path)

    def require(self) -> None:
        if not self.exists:
            raise ConfigError(f"there is no site in {self.directory}", hint="create it: van -p linux init --site-name NAME")

    # ---- One router at a time -----------------------------------------------------------------------------------------------------

    def lock(self) -> bool:
        """Take the lock without waiting. False: another router holds it."""
        import fcntl  # not on laptops of every kind, which hold no lock

        path = self.run / "lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise store_error("open", path, exc) from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError as exc:
            os.close(fd)
            raise store_error("lock", path, exc) from exc
        self._lock = fd
        return True

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def locked(self) -> bool:
        return self._lock is not None

    def tidy(self) -> None:
        """With the lock held: finish or undo what a killed router had begun."""
        self.state.recover()
        clean_leftovers(self.run)
        clean_leftovers(self.resources.directory, older_than=60.0)

    # ---- The pid file, for people and scripts; nothing here trusts it --------------------------------------------------------------

    def write_pid(self) -> None:
        write_atomic(self.pid_file, f"{os.getpid()}\n".encode())

    def remove_pid(self) -> None:
        """Only our own: a successor may have written its."""
        with contextlib.suppress(OSError):
            if self.pid_file.read_text().strip() == str(os.getpid()):
                remove(self.pid_file)
