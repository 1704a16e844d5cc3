"""What every workload has, and what its figures are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from benches.peers import Peer

__all__ = ["METRICS", "ForAll", "Metric", "Workload"]


@dataclass(frozen=True)
class Metric:
    unit: str
    higher_is_better: bool
    digits: int = 0


METRICS: Final[Mapping[str, Metric]] = {
    "throughput": Metric("Gbit/s", higher_is_better=True, digits=2),
    "cpu_per_gb": Metric("CPU-s/GB", higher_is_better=False, digits=2),
    "requests": Metric("1/s", higher_is_better=True),
    "connections": Metric("1/s", higher_is_better=True),
    "p50": Metric("us", higher_is_better=False),
    "p99": Metric("us", higher_is_better=False),
    "p99.9": Metric("us", higher_is_better=False),
    "bulk": Metric("Gbit/s", higher_is_better=True, digits=2),  # beside the requests or the stalled streams
    "bulk_kept": Metric("% of alone", higher_is_better=True),
    "cpu_per_request": Metric("CPU-us", higher_is_better=False, digits=1),
    "cpu_per_connection": Metric("CPU-us", higher_is_better=False, digits=1),
    "failures": Metric("count", higher_is_better=False),
    "rss_near": Metric("MB", higher_is_better=False, digits=1),  # the peak of each process
    "rss_far": Metric("MB", higher_is_better=False, digits=1),
    "rss_middle": Metric("MB", higher_is_better=False, digits=1),
    "growth": Metric("MB", higher_is_better=False, digits=1),  # of the process whose RSS grew more
    "closed": Metric("ms", higher_is_better=False),  # from that fault to the first new stream that works, none failing after it,
    "black_hole": Metric("ms", higher_is_better=False),  # without the longest that one thread was ready in it and had no processor
    "killed": Metric("ms", higher_is_better=False),
    "restarted": Metric("ms", higher_is_better=False),  # the server's router, killed and started 0.2 s later
    "waited": Metric("ms", higher_is_better=False),  # what was left out of them, at most
    "idle": Metric("count", higher_is_better=True),  # connections held
    "fresh_rss": Metric("MB", higher_is_better=False, digits=1),
    "per_connection": Metric("kB", higher_is_better=False, digits=2),  # of the larger process
    "kept": Metric("% of growth", higher_is_better=False),  # of the worse process, after all have closed
}


class Workload(Protocol):
    name: str
    title: str

    @property
    def programs(self) -> tuple[str, ...]:
        """What it needs to be installed, besides Python."""

    def fits(self, peer: Peer) -> bool:
        """Whether there is something to measure on it."""

    def run(self, peer: Peer, seconds: int, tmp: Path) -> dict[str, float]:
        """Measure one cell. ``tmp`` is empty and goes afterwards."""


class ForAll:
    """A workload that every peer can be given."""

    def fits(self, peer: Peer) -> bool:
        return True
