"""What the figures are held against. A mark is reported, never enforced: a shared machine decides nothing by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["MARKS", "Mark", "Medians", "Verdict"]

Medians = Mapping[tuple[str, str, str], float]  # (peer, workload, metric) to its median


@dataclass(frozen=True)
class Verdict:
    figure: float
    met: bool


@dataclass(frozen=True)
class Mark:
    """`peer`'s figure, or its ratio to that of `against`, is at least or at most `bound`."""

    workload: str
    metric: str
    peer: str
    against: str  # "": the figure itself
    at_least: bool
    bound: float

    def judge(self, medians: Medians) -> Verdict | None:
        """Nothing when a figure for it is missing."""
        figure = medians.get((self.peer, self.workload, self.metric))
        if figure is None:
            return None
        if self.against:
            other = medians.get((self.against, self.workload, self.metric))
            if not other:
                return None
            figure /= other
        return Verdict(figure, figure >= self.bound if self.at_least else figure <= self.bound)

    def __str__(self) -> str:
        of = f"{self.peer} : {self.against}" if self.against else self.peer
        return f"{self.workload} {self.metric}, {of}"


def _ratio(workload: str, metric: str, against: str, *, at_least: float | None = None, at_most: float | None = None) -> Mark:
    return _mark(workload, metric, "core", against, at_least, at_most)


def _figure(workload: str, metric: str, peer: str, *, at_least: float | None = None, at_most: float | None = None) -> Mark:
    return _mark(workload, metric, peer, "", at_least, at_most)


def _mark(workload: str, metric: str, peer: str, against: str, at_least: float | None, at_most: float | None) -> Mark:
    bound = at_least if at_least is not None else at_most
    assert bound is not None
    return Mark(workload, metric, peer, against, at_least is not None, bound)


MARKS: Final = (
    _ratio("iperf1", "throughput", "haproxy", at_least=1.5),
    _ratio("iperf8", "throughput", "haproxy", at_least=1.5),
    _ratio("wrk16", "requests", "haproxy", at_least=1.2),
    _ratio("connect16", "connections", "haproxy", at_least=6),
    _ratio("iperf1", "cpu_per_gb", "haproxy", at_most=0.6),
    _ratio("iperf8", "cpu_per_gb", "haproxy", at_most=0.6),
    _ratio("iperf1", "cpu_per_gb", "baseline", at_most=0.5),
    _ratio("iperf8", "cpu_per_gb", "baseline", at_most=0.5),
    _ratio("wrk1", "cpu_per_request", "baseline", at_most=0.5),
    _ratio("wrk16", "cpu_per_request", "baseline", at_most=0.5),
    _ratio("wrk64", "cpu_per_request", "baseline", at_most=0.5),
    _figure("iperf1", "throughput", "baseline", at_least=1),
    _figure("wrk16", "requests", "baseline", at_least=3_000),
    _figure("idle", "per_connection", "core", at_most=10),
    _figure("idle", "kept", "core", at_most=25),
)
