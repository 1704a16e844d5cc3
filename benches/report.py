"""Rows, and the table that people read."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec

from benches.marks import MARKS, Medians, Verdict
from benches.peers import REQUIRED
from benches.workloads import METRICS, WORKLOADS

__all__ = ["Row", "medians", "rows", "table"]

Sample = tuple[str, str, dict[str, float]]  # peer, workload, figures of one cell

_RATIOS: Final = (("core", "haproxy"), ("core", "baseline"), ("core", "direct"))


class Row(msgspec.Struct, frozen=True):
    """One line of `results/latest.json`."""

    peer: str
    workload: str
    metric: str
    unit: str
    median: float
    min: float
    max: float
    rounds: int


def rows(samples: Iterable[Sample]) -> list[Row]:
    values: dict[tuple[str, str, str], list[float]] = {}
    for peer, workload, figures in samples:
        for metric, value in figures.items():
            values.setdefault((peer, workload, metric), []).append(value)
    return [
        Row(
            *key,
            unit=METRICS[key[2]].unit,
            median=_rounded(statistics.median(seen)),
            min=_rounded(min(seen)),
            max=_rounded(max(seen)),
            rounds=len(seen),
        )
        for key, seen in values.items()
    ]


def medians(measured: Iterable[Row]) -> Medians:
    return {(row.peer, row.workload, row.metric): row.median for row in measured}


def table(measured: Sequence[Row], chosen: Collection[str] = tuple(WORKLOADS)) -> str:
    """A block for each workload: a line per metric, a column per peer (median, min..max), then our ratios; and their marks."""
    return "\n\n".join([*_blocks(measured), *_marks(measured, chosen)])


def _blocks(measured: Sequence[Row]) -> Iterable[str]:
    peers = list(dict.fromkeys(row.peer for row in measured))
    ratios = [pair for pair in _RATIOS if set(pair) <= set(peers)]
    for name, workload in WORKLOADS.items():
        of_this = [row for row in measured if row.workload == name]
        if not of_this:
            continue
        lines = [[workload.title, *peers, *(f"{a}:{b}" for a, b in ratios)]]
        for metric, kind in METRICS.items():
            by_peer = {row.peer: row for row in of_this if row.metric == metric}
            if not by_peer or (metric == "failures" and not any(row.max for row in by_peer.values())):
                continue
            cells = [_cell(by_peer.get(peer), kind.digits) for peer in peers]
            lines.append([f"  {metric}, {kind.unit}", *cells, *(_ratio(by_peer.get(a), by_peer.get(b)) for a, b in ratios)])
        yield _aligned(lines)


def _marks(measured: Sequence[Row], chosen: Collection[str]) -> Iterable[str]:
    """Each counts only with a figure of everybody it compares, and all of them only in a run with every peer."""
    known = medians(measured)
    verdicts = [(mark, mark.judge(known)) for mark in MARKS if mark.workload in chosen and (not mark.than or mark.than in chosen)]
    if not verdicts:
        return
    lines = [["marks", "figure", "bound", ""]]
    for mark, verdict in verdicts:
        bound = f"{'>=' if mark.at_least else '<='} {mark.bound:g}"
        lines.append([f"  {mark}", "-" if verdict.figure is None else f"{verdict.figure:.2f}", bound, _judged(verdict)])
    yield _aligned(lines)
    counted = [verdict for _, verdict in verdicts if not verdict.absent]
    yield f"{sum(verdict.met for verdict in counted)} of {len(verdicts)} marks are met, {len(verdicts) - len(counted)} have no verdict"
    if absent := [name for name in REQUIRED if name not in {row.peer for row in measured}]:
        yield f"THE MARKS DO NOT COUNT: without {', '.join(absent)}"


def _judged(verdict: Verdict) -> str:
    said = "" if verdict.figure is None else "met" if verdict.met else "NOT MET"
    return f"{said}{', ' * bool(said)}DOES NOT COUNT: no figure of {', '.join(verdict.absent)}" if verdict.absent else said


def _cell(row: Row | None, digits: int) -> str:
    if row is None:
        return "-"
    middle, low, high = (f"{value:,.{digits}f}" for value in (row.median, row.min, row.max))
    return f"{middle} ({low}..{high})" if row.rounds > 1 else middle


def _ratio(ours: Row | None, theirs: Row | None) -> str:
    return f"{ours.median / theirs.median:.2f}" if ours and theirs and theirs.median else "-"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _rounded(value: float) -> float:
    """Five significant digits: more would be noise in a diff."""
    return float(f"{value:.5g}")
