"""Rounds of cells, the peers taking turns."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from benches.peers import PEERS, Peer
from benches.processes import BenchError
from benches.report import Sample
from benches.workloads import WORKLOADS, Workload

__all__ = ["run", "usable"]


def usable(peers: Sequence[str], workloads: Sequence[str]) -> tuple[list[Peer], list[Workload]]:
    """What can run here, saying what cannot and why."""
    gone = {name: why for name in peers if (why := PEERS[name].missing())}
    for name, why in gone.items():
        print(f"bench: WITHOUT PEER {name}: {why}", file=sys.stderr)
    lacking = {
        name: [p for p in WORKLOADS[name].programs if shutil.which(p) is None and shutil.which(f"/usr/sbin/{p}") is None]
        for name in workloads
    }
    for name, programs in lacking.items():
        if programs:
            print(f"bench: WITHOUT WORKLOAD {name}: {', '.join(programs)} not installed", file=sys.stderr)
    return [PEERS[name] for name in peers if name not in gone], [WORKLOADS[name] for name in workloads if not lacking[name]]


def run(
    peers: Sequence[Peer],
    workloads: Sequence[Workload],
    rounds: int,
    seconds: int,
    after_round: Callable[[list[Sample]], None] = lambda _: None,
) -> tuple[list[Sample], list[str]]:
    """All cells. One that fails, however it does, is told and leaves a gap. ``after_round`` gets all samples so far."""
    samples: list[Sample] = []
    failures: list[str] = []
    for number in range(1, rounds + 1):
        for workload in workloads:
            # Each round begins with another peer, so that none always comes after the same one.
            turn = (number - 1) % len(peers)
            for peer in [*peers[turn:], *peers[:turn]]:
                if not workload.fits(peer):
                    continue
                started = time.monotonic()
                try:
                    figures = cell(peer, workload, seconds)
                except Exception as problem:
                    what = str(problem) if isinstance(problem, BenchError) else "".join(traceback.format_exception(problem))
                    failures.append(f"round {number}, {workload.name}, {peer.name}: {what}")
                    _say(f"{number}/{rounds} {workload.name:10} {peer.name:9} FAILED: {what}")
                    continue
                samples.append((peer.name, workload.name, figures))
                shown = "  ".join(f"{metric} {value:.5g}" for metric, value in figures.items())
                _say(f"{number}/{rounds} {workload.name:10} {peer.name:9} {time.monotonic() - started:4.1f} s  {shown}")
        after_round(samples)
    return samples, failures


def cell(peer: Peer, workload: Workload, seconds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="vanrouter-bench-") as tmp:
        return workload.run(peer, seconds, Path(tmp))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
