"""
A name for a unix socket that fits. The kernel takes at most 107 bytes; a directory may lie deeper, and is then named through /proc/self/fd.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["LONGEST", "socket_name"]

LONGEST: Final = 100


@contextlib.contextmanager
def socket_name(path: Path) -> Iterator[str]:
    """A name that works for ``bind`` and ``connect`` while the context lasts."""
    if len(os.fsencode(path)) <= LONGEST:
        yield str(path)
        return
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)
