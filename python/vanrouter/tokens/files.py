"""
Token files on disk: written 0600, whole or not at all, never over another file; read with a word about modes that let others in.

What is inside is ``token``'s business.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from vanrouter.errors import TokenError
from vanrouter.tokens.declared import parse_any
from vanrouter.tokens.token import MAX_TOKEN_FILE, AccessToken, format_token

__all__ = ["read_token", "write_private_new", "write_token"]


def write_token(path: Path | str, token: AccessToken) -> None:
    """Write the token to a new file, mode 0600. Raises TokenError (``exists``, or why it could not be written)."""
    write_private_new(Path(path), format_token(token).encode())


def write_private_new(path: Path, content: bytes) -> None:
    """Make ``path`` with mode 0600 and this content; after a crash it is there whole or not at all."""
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(6)}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _move_to_new(temporary, path)
        _sync_directory(path.parent)
    except FileExistsError:
        raise TokenError(
            f"{path} exists already; a token is not written over another file",
            reason="exists",
            hint="choose another name, or remove the file if its token is not needed any more",
        ) from None
    except OSError as err:
        raise TokenError(
            f"{path} cannot be written: {err.strerror}", hint="check that the directory exists, is yours and has room"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def read_token(path: Path | str, *, strict: bool = False) -> tuple[AccessToken, list[str]]:
    """Read a token file, and warnings about it for the person. Raises TokenError; with ``strict`` also for what would be a warning."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            raw = file.read(MAX_TOKEN_FILE + 1)
    except OSError as err:
        raise TokenError(f"{path} cannot be read: {err.strerror}", reason="malformed", hint="check its name and that it is yours") from None
    warnings = _complaints(path, info)
    if warnings and strict:
        raise TokenError(warnings[0], reason="mode", hint=f"chmod 600 {path}, and make a new token if others may have read this one")
    return parse_any(raw, str(path)), warnings


def _complaints(path: Path, info: os.stat_result) -> list[str]:
    if not stat.S_ISREG(info.st_mode):
        return []
    found = []
    mode = stat.S_IMODE(info.st_mode)
    if mode & 0o077:
        found.append(f"{path} has mode {mode:04o}: others on this machine may have read the token, which is as good as a password")
    if hasattr(os, "geteuid") and info.st_uid not in {os.geteuid(), 0}:
        found.append(f"{path} belongs to another user (uid {info.st_uid}), who can use the token too")
    return found


def _move_to_new(source: Path, path: Path) -> None:
    """Like rename, but never over a file that is there."""
    try:
        os.link(source, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: claim the name, then rename over our own empty file
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        source.replace(path)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
