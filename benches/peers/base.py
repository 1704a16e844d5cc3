"""What every peer has."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benches.processes import Address, Child

__all__ = ["LOOPBACK", "Pair", "Peer"]

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Pair:
    """A running peer: where clients connect, and the processes whose CPU and memory count."""

    front: Address
    processes: tuple[Child, ...]  # near (where clients arrive), then far; none for direct

    def cpu_seconds(self) -> float:
        return sum(process.cpu_seconds() for process in self.processes)

    def peak_rss(self) -> dict[str, float]:
        """In MB, by metric."""
        return {f"rss_{end}": process.peak_rss_bytes() / 1e6 for end, process in zip(("near", "far"), self.processes, strict=False)}


class Peer(Protocol):
    name: str
    idle_connections: int
    """How many idle connections the `idle` workload opens through it: within 20,000 open files per process. 0: it is left out."""

    def missing(self) -> str:
        """Why it cannot run here, or nothing."""

    def pair(self, server: Address, tmp: Path) -> AbstractContextManager[Pair]:
        """Run it in front of ``server``; ready when entered, gone when left."""
