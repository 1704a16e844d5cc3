"""What the figures are held against. A mark is reported, never enforced: a shared machine decides nothing by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benches.workloads import METRICS

__all__ = ["BEST", "MARKS", "OURS", "Mark", "Medians", "Verdict"]

BEST: Final = "the best peer"
OURS: Final = frozenset({"core", "baseline", "direct"})
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
    against: str  # "": the figure itself; BEST: the best of those that are not ours
    at_least: bool
    bound: float
    than: str = ""  # the workload of ``against``; default: this one

    def judge(self, medians: Medians) -> Verdict | None:
        """Nothing when a figure for it is missing."""
        figure = medians.get((self.peer, self.workload, self.metric))
        if figure is None:
            return None
        if self.against:
            other = self._other(medians)
            if not other:
                return None
            figure /= other
        return Verdict(figure, figure >= self.bound if self.at_least else figure <= self.bound)

    def _other(self, medians: Medians) -> float | None:
        workload = self.than or self.workload
        if self.against != BEST:
            return medians.get((self.against, workload, self.metric))
        found = [medians.get((peer, workload, self.metric)) for peer in {peer for peer, _, _ in medians} - OURS]
        known = [figure for figure in found if figure]
        return (max if METRICS[self.metric].higher_is_better else min)(known, default=None)

    def __str__(self) -> str:
        if self.than:
            return f"{self.workload} {self.metric}, {self.peer}, to {self.than}"
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


def _best(workload: str, metric: str, *, at_least: float | None = None, at_most: float | None = None) -> Mark:
    return _mark(workload, metric, "core", BEST, at_least, at_most)


# The targets of this project's performance page, in its order. Those against the best peer count where every peer took part.
MARKS: Final = (
    _best("iperf1", "throughput", at_least=1.3),
    _best("iperf8", "throughput", at_least=1.3),
    _ratio("iperf1", "throughput", "haproxy", at_least=2),
    _ratio("iperf8", "throughput", "haproxy", at_least=2),
    _best("iperf1", "cpu_per_gb", at_most=0.6),
    _best("iperf8", "cpu_per_gb", at_most=0.6),
    _best("wrk16", "cpu_per_request", at_most=0.6),
    _best("wrk64", "cpu_per_request", at_most=0.6),
    _best("wrk1", "requests", at_least=1.1),
    _best("wrk16", "requests", at_least=1.3),
    _best("wrk64", "requests", at_least=1.3),
    _best("wrk1", "p99", at_most=1),
    _best("wrk16", "p99", at_most=1),
    _best("wrk64", "p99", at_most=1),
    _best("connect16", "connections", at_least=3),
    _best("beside", "requests", at_least=4),
    _ratio("beside", "requests", "haproxy", at_least=100),
    _figure("beside", "bulk_kept", "core", at_least=80),
    _figure("idle", "per_connection", "core", at_most=10),
    _figure("idle", "kept", "core", at_most=25),
    _ratio("iperf1", "cpu_per_gb", "baseline", at_most=0.5),
    _ratio("iperf8", "cpu_per_gb", "baseline", at_most=0.5),
    _ratio("wrk1", "cpu_per_request", "baseline", at_most=0.5),
    _ratio("wrk16", "cpu_per_request", "baseline", at_most=0.5),
    _ratio("wrk64", "cpu_per_request", "baseline", at_most=0.5),
    _figure("iperf1", "throughput", "baseline", at_least=1),
    _figure("wrk16", "requests", "baseline", at_least=3_000),
    *(
        Mark(f"iperf{more}", "throughput", "core", "core", at_least=True, bound=0.95, than=f"iperf{fewer}")
        for fewer, more in ((1, 2), (2, 8), (8, 64))
    ),
)
