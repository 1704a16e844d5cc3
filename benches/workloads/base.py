"""What every workload has, and what its figures are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from benches.peers import Peer

__all__ = ["METRICS", "Metric", "Workload"]


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
    "bulk": Metric("Gbit/s", higher_is_better=True, digits=2),  # beside the requests
    "bulk_kept": Metric("% of alone", higher_is_better=True),
    "cpu_per_request": Metric("CPU-us", higher_is_better=False, digits=1),
    "cpu_per_connection": Metric("CPU-us", higher_is_better=False, digits=1),
    "failures": Metric("count", higher_is_better=False),
    "rss_near": Metric("MB", higher_is_better=False, digits=1),  # the peak of each process
    "rss_far": Metric("MB", higher_is_better=False, digits=1),
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

    def run(self, peer: Peer, seconds: int, tmp: Path) -> dict[str, float]:
        """Measure one cell. ``tmp`` is empty and goes afterwards."""
