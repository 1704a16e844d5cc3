"""
Files that are either as they were or as they should be. Every failure is a ``StoreError`` (the machine's fault) or a ``ConfigError`` (the
operator can fix it) that names the file, why, and what to do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vanrouter.errors import ConfigError, StoreError

__all__ = [
    "check_private",
    "clean_leftovers",
    "make_private_directory",
    "read_private",
    "remove",
    "remove_tree",
    "store_error",
    "sync_directory",
    "write_atomic",
]

_MARK: Final = ".tmp-"
_HINTS: Final = {
    errno.ENOSPC: "the disk is full: free some space; what was stored before is intact, and this is tried again",
    errno.EDQUOT: "the quota is used up: free some space; what was stored before is intact, and this is tried again",
    errno.EROFS: "the file system is mounted read-only: remount it, or put VAN_HOME elsewhere",
    errno.EACCES: "this user has no right to it: correct owner and mode, or run as the owner",
    errno.EPERM: "this user has no right to it: correct owner and mode, or run as the owner",
    errno.ENOENT: "the directory is gone: has the site been deleted?",
    errno.EIO: "the disk reports an error: look at the system log (dmesg)",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
}


def store_error(doing: str, path: Path, exc: OSError) -> StoreError:
    """``cannot write PATH: No space left on device (ENOSPC)`` and what to do."""
    code = errno.errorcode.get(exc.errno or 0, "?")
    reason = os.strerror(exc.errno) if exc.errno else str(exc)
    return StoreError(f"cannot {doing} {path}: {reason} ({code})", hint=_HINTS.get(exc.errno or 0, "look at the file system there"))


@contextlib.contextmanager
def _doing(doing: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise store_error(doing, path, exc) from exc


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace ``path`` by ``data``: written and synced under another name, then renamed, then the directory is synced.

    Not ``durable``: not synced, for what can be made again; after a power failure it may be gone.
    """
    temporary = path.with_name(f".{path.name}{_MARK}{os.getpid()}-{secrets.token_hex(4)}")
    with _doing("write", path):
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(fd, rest) :]
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if durable:
            sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: Path) -> bool:
    """Whether it was there. After this it is not, also after a crash."""
    with _doing("remove", path):
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        sync_directory(path.parent)
    return True


def remove_tree(path: Path) -> None:
    with _doing("remove", path):
        if path.is_dir():
            shutil.rmtree(path)


def make_private_directory(path: Path) -> None:
    """Make it, with its parents, as 0700; refuse one that others may enter."""
    with _doing("create", path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(path)


def check_private(path: Path) -> None:
    """Refuse a file or directory of secrets that others may read, or that is somebody else's."""
    with _doing("look at", path):
        info = os.lstat(path)
    _judge(path, info)


def _judge(path: Path, info: os.stat_result) -> None:
    what = "directory" if stat.S_ISDIR(info.st_mode) else "file"
    if not (stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode)):
        raise ConfigError(f"{path} is neither a file nor a directory", hint="remove it; secrets are not read through links")
    if info.st_uid != os.geteuid():
        raise ConfigError(
            f"{what} {path} belongs to user {info.st_uid}, not to the user who runs this ({os.geteuid()})",
            hint=f"run it as that user, or: chown {os.geteuid()} {path}",
        )
    if info.st_mode & 0o077:
        right = "700" if what == "directory" else "600"
        raise ConfigError(
            f"{what} {path} is open to other users (mode {stat.S_IMODE(info.st_mode):04o}); it must be 0{right}",
            hint=f"chmod {right} {path}; if others may have read it, replace what is in it",
        )


def read_private(path: Path, *, limit: int = 1 << 20) -> bytes | None:
    """The content of a secret file, or None if there is none. Refuses links, other owners, and modes looser than 0600."""
    with _doing("read", path):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                raise ConfigError(f"{path} is a symbolic link", hint="put the file itself there") from exc
            raise
        with os.fdopen(fd, "rb") as file:
            _judge(path, os.fstat(fd))
            data = file.read(limit + 1)
    if len(data) > limit:
        raise ConfigError(f"{path} has more than {limit} bytes", hint="this is not the file that was written there; restore it")
    return data


def is_leftover(name: str) -> bool:
    return name.startswith(".") and _MARK in name


def clean_leftovers(directory: Path, *, older_than: float = 0.0) -> int:
    """Remove what writers that were killed left behind; of a directory that others write to, only what is old enough."""
    removed = 0
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if not is_leftover(entry.name):
                continue
            with contextlib.suppress(OSError):
                if older_than and time.time() - entry.stat(follow_symlinks=False).st_mtime < older_than:
                    continue
                shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
                removed += 1
    return removed
