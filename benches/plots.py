"""
The rows as pictures: `python -m benches.plots ROWS.json DIRECTORY`. A picture per subject: a group of bars for each workload, a bar for
each peer, least and most over the rounds as a line on it. The only place that imports matplotlib.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib as mpl
import msgspec

from benches.report import Row
from benches.workloads import METRICS

mpl.use("Agg")
from matplotlib import pyplot

__all__ = ["PICTURES", "Picture", "draw"]


class Picture(NamedTuple):
    title: str
    metric: str
    workloads: tuple[str, ...]
    logarithmic: bool = False


PICTURES: Final[dict[str, Picture]] = {
    "throughput": Picture("iperf3: throughput", "throughput", ("iperf1", "iperf8", "iperf64", "iperf1r", "iperf8r")),
    "cpu-per-gb": Picture("iperf3: CPU of both routers or proxies", "cpu_per_gb", ("iperf1", "iperf8", "iperf64")),
    "requests": Picture("wrk, 1 KiB: requests", "requests", ("wrk1", "wrk16", "wrk64")),
    "requests-large": Picture("wrk, 100 KiB: requests", "requests", ("wrk1-100k", "wrk16-100k", "wrk64-100k")),
    "applications": Picture("Applications: transactions or requests", "requests", ("pgbench", "redis", "h2load"), logarithmic=True),
    "connections": Picture("New connection for each request, 16 at once", "connections", ("connect16",)),
    "beside-bulk": Picture("1 KiB requests beside 4 bulk streams", "requests", ("beside", "beside-new"), logarithmic=True),
    "tail": Picture("1,000 requests/s: 99.9 of 100 are answered within", "p99.9", ("rate", "rate-bulk"), logarithmic=True),
    "far": Picture("iperf3, 1 stream over a long way", "throughput", ("far20", "far100")),
    "stalled": Picture("Memory that stalled streams take", "growth", ("stalled1", "stalled64"), logarithmic=True),
    "idle": Picture("Memory of an idle connection", "per_connection", ("idle",)),
}

_COLOURS: Final = {"direct": "#bbbbbb", "core": "#d1495b", "baseline": "#edae49"}  # of ours; the others have those of the map
_OTHERS: Final = ("#30638e", "#4d8f5b", "#7a5195", "#8c6d46", "#5aa7a7", "#98a33a", "#555555")


def draw(measured: Sequence[Row], directory: Path) -> list[Path]:
    """Every picture that there are rows for. Files of the same names are replaced."""
    directory.mkdir(parents=True, exist_ok=True)
    peers = list(dict.fromkeys(row.peer for row in measured))
    others = [peer for peer in peers if peer not in _COLOURS]
    colours = _COLOURS | {peer: _OTHERS[number % len(_OTHERS)] for number, peer in enumerate(others)}
    drawn = []
    for name, picture in PICTURES.items():
        rows = {(row.workload, row.peer): row for row in measured if row.metric == picture.metric and row.workload in picture.workloads}
        if not rows:
            continue
        path = directory / f"{name}.png"
        _draw(picture, rows, [peer for peer in peers if any(peer == of for _, of in rows)], colours, path)
        drawn.append(path)
    return drawn


def _draw(picture: Picture, rows: dict[tuple[str, str], Row], peers: Sequence[str], colours: dict[str, str], path: Path) -> None:
    groups = [workload for workload in picture.workloads if any(workload == of for of, _ in rows)]
    figure, axes = pyplot.subplots(figsize=(9, 4.2), dpi=110)
    width = 0.8 / len(peers)
    for number, peer in enumerate(peers):
        found = [(at, row) for at, group in enumerate(groups) if (row := rows.get((group, peer))) is not None]
        places = [at + (number - (len(peers) - 1) / 2) * width for at, _ in found]
        heights = [row.median for _, row in found]
        spread = [[row.median - row.min for _, row in found], [row.max - row.median for _, row in found]]
        axes.bar(
            places, heights, width * 0.92, yerr=spread, label=peer, color=colours[peer], error_kw={"elinewidth": 0.8, "ecolor": "#333333"}
        )
    axes.set_xticks(range(len(groups)), groups)
    axes.set_title(picture.title)
    metric = METRICS[picture.metric]
    axes.set_ylabel(f"{metric.unit} ({'more' if metric.higher_is_better else 'less'} is better)")
    if picture.logarithmic:
        axes.set_yscale("log")
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    axes.legend(ncols=min(5, len(peers)), fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
    figure.savefig(path, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    rows, directory = map(Path, sys.argv[1:])
    for path in draw(msgspec.json.decode(rows.read_bytes(), type=list[Row]), directory):
        print(path)


if __name__ == "__main__":
    main()
