"""Where the programs of the peers are: those that `build.sh` made at pinned versions, before what the system has."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

__all__ = ["BUILT", "find", "missing"]

_CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vanrouter" / "peers"
BUILT: Final = Path(os.environ.get("VAN_BENCH_PEERS") or _CACHE).absolute() / "bin"


def find(program: str) -> str | None:
    return shutil.which(program, path=f"{BUILT}:{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin")


def missing(*programs: str, how: str) -> str:
    """What keeps a peer that needs these from running here, or nothing. ``how``: to have them."""
    gone = [program for program in programs if find(program) is None]
    return f"no {', '.join(gone)}: {how}" if gone else ""
