"""No peer at all: the client talks to the server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from benches.peers.base import Between, Pair, straight
from benches.processes import Address

__all__ = ["Direct"]


class Direct:
    name = "direct"
    idle_connections = 0

    def missing(self) -> str:
        return ""

    @contextlib.contextmanager
    def pair(self, server: Address, tmp: Path, between: Between = straight) -> Iterator[Pair]:
        yield Pair(front=between(server), processes=())
