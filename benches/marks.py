"""What the figures are held against. A mark is reported, never enforced: a shared machine decides nothing by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benches.peers import OURS, REQUIRED
from benches.workloads import METRICS

__all__ = ["BEST", "MARKS", "Mark", "Medians", "Verdict"]

BEST: Final = "the best peer"
Medians = Mapping[tuple[str, str, str], float]  # (peer, workload, metric) to its median


@dataclass(frozen=True)
class Verdict:
    """``absent``: whose figures it needs, and are not there. Then it does not count, whatever those that are there say."""

    figure: float | None
    met: bool
    absent: tuple[str, ...] = ()


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
    less: float = 0.0  # is taken off the figure first

    def judge(self, medians: Medians) -> Verdict:
        figure = medians.get((self.peer, self.workload, self.metric))
        others, absent = self._others(medians)
        if figure is None:
            return Verdict(None, False, (self.peer, *absent))
        figure -= self.less
        if self.against:
            if not others:
                return Verdict(None, False, absent)
            figure /= max(others) if METRICS[self.metric].higher_is_better else min(others)
        return Verdict(figure, figure >= self.bound if self.at_least else figure <= self.bound, absent)

    def _others(self, medians: Medians) -> tuple[list[float], tuple[str, ...]]:
        """The figures to compare with, and who should have one and has none."""
        if not self.against:
            return [], ()
        workload = self.than or self.workload
        wanted = [peer for peer in REQUIRED if peer not in OURS] if self.against == BEST else [self.against]
        asked = dict.fromkeys([*wanted, *(peer for peer, _, _ in medians if self.against == BEST and peer not in OURS)])
        found = {peer: figure for peer in asked if (figure := medians.get((peer, workload, self.metric)))}
        return list(found.values()), tuple(peer for peer in wanted if peer not in found)

    def __str__(self) -> str:
        if self.than:
            return f"{self.workload} {self.metric}, {self.peer}, to {self.than}"
        of = f"{self.peer} : {self.against}" if self.against else self.peer
        less = f" less {self.less:g} {METRICS[self.metric].unit}" if self.less else ""
        return f"{self.workload} {self.metric}{less}, {of}"


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


_BUDGET: Final = 134.2  # MB: 128 MiB, the most that a router reserves for what streams have under way

# The targets of this project's performance page, in its order.
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
    Mark("wrk1", "p50", "core", "direct", at_least=False, bound=1.8, less=50),
    _best("connect16", "connections", at_least=3),
    _ratio("connect16", "connections", "haproxy", at_least=6),
    _best("beside", "requests", at_least=4),
    _ratio("beside", "requests", "haproxy", at_least=100),
    _figure("beside", "bulk_kept", "core", at_least=80),
    _figure("idle", "per_connection", "core", at_most=10),
    _figure("idle", "kept", "core", at_most=25),
    _figure("stalled1", "bulk_kept", "core", at_least=80),
    _figure("stalled64", "bulk_kept", "core", at_least=80),
    _figure("stalled64", "growth", "core", at_most=_BUDGET),
    _figure("far100", "throughput", "core", at_least=0.61),
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
    _figure("failover", "closed", "core", at_most=200),
    _figure("failover", "black_hole", "core", at_most=1_500),
)
