"""
``make bench-embed``: streams of a program against what the same program does over sockets, in one run, taking turns.

    bulk    this process ── embedded stream ──────────────── link ── embedded stream ── that process
            this process ── TCP to a local port ── router ── link ── router ── TCP ──── that process     the same Python at both ends
    echo    64 streams over one link between two sites in this process, 64 bytes there and back; against 64 socket pairs of trio's
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import trio

import vanrouter
from benches.embed.loads import Echoes, Opener, bulk_in, bulk_out, echo, echoes
from benches.machine import facts
from benches.processes import free_port
from vanrouter.resources import read_document
from vanrouter.stores import SiteHome

MARKS: Final = {"send": 0.5, "receive": 0.5, "echo": 0.5}
WHAT: Final = {
    "send": "one stream, sending, Gbit/s: embedded / by ports",
    "receive": "one stream, receiving, Gbit/s: embedded / by ports",
    "echo": "64 B echo, 64 streams, round trips per s: embedded / socket pairs",
}
Figures = dict[str, list[tuple[float, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.embed", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--out", type=Path, help="also write the figures there, as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vanrouter-bench-") as tmp:
        figures: Figures = {name: [] for name in MARKS}
        with _other_site(Path(tmp) / "far") as far:
            trio.run(_bulk, far, args.rounds, args.seconds, figures)
        cpu = trio.run(_echo, _site(Path(tmp) / "near"), args.rounds, args.seconds, figures)
    results = {name: _summary(name, pairs) for name, pairs in figures.items()}
    machine = facts()
    if args.out:
        args.out.write_text(
            json.dumps({"machine": machine, "rounds": args.rounds, "seconds": args.seconds, "embed": results, "echo_cpu_us": cpu}, indent=1)
        )
    print(
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}; {args.rounds} rounds of {args.seconds:g} s, taking turns"
    )
    print("\n| what | embedded: median (min, max) | sockets: median (min, max) | ratio: median (min, max) | mark |\n|---|---|---|---|---|")
    for name, found in results.items():
        cells = [" ".join(_spread(found[column])) for column in ("embedded", "sockets", "ratio")]
        print(f"| {WHAT[name]} | {' | '.join(cells)} | {'met' if found['met'] else 'MISSED'}: {MARKS[name]} |")
    print("\nCPU per round trip of the echo, us: " + "; ".join(f"{who} {us:.0f}" for who, us in cpu.items()))
    sys.exit(0 if all(found["met"] for found in results.values()) else 1)


def _summary(name: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    ratios = [ours / theirs for ours, theirs in pairs]
    return {
        "embedded": [ours for ours, _ in pairs],
        "sockets": [theirs for _, theirs in pairs],
        "ratio": ratios,
        "mark": MARKS[name],
        "met": statistics.median(ratios) >= MARKS[name],
    }


def _spread(values: list[float]) -> tuple[str, str]:
    median, least, most = (
        f"{value:,.0f}" if value >= 100 else f"{value:.2f}" for value in (statistics.median(values), min(values), max(values))
    )
    return median, f"({least}, {most})"


def _site(directory: Path) -> Path:
    home = SiteHome(directory)
    home.create()
    spec = {"linkAccess": f"127.0.0.1:{free_port('127.0.0.1')}", "serviceSync": False}
    home.resources.put(read_document({"apiVersion": "vanrouter.io/v1alpha1", "kind": "Site", "metadata": {"name": "far"}, "spec": spec}))
    return directory


@contextlib.contextmanager
def _other_site(directory: Path) -> Iterator[Path]:
    argv = [sys.executable, "-m", "benches.embed.far", str(_site(directory))]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as far:
        assert far.stdout is not None
        assert far.stdin is not None
        if far.stdout.readline() != "ready\n":
            sys.exit("the other site does not start")
        try:
            yield directory
        finally:
            far.stdin.close()
            far.wait(30)


async def _bulk(far: Path, rounds: int, seconds: float, figures: Figures) -> None:
    async with (
        vanrouter.open(far, drain=0.5) as van,
        van.local_port("sink-port") as sink_port,
        van.local_port("source-port") as source_port,
    ):

        def port(number: int) -> Opener:
            return functools.partial(trio.open_tcp_stream, "127.0.0.1", number)

        for number in range(rounds + 1):
            for name, load, ours, theirs in (
                ("send", bulk_out, lambda: van.connect("sink"), port(sink_port)),
                ("receive", bulk_in, lambda: van.connect("source"), port(source_port)),
            ):
                found = [await load(opener, seconds) for opener in ((ours, theirs) if number % 2 else (theirs, ours))]
                if number:  # the first round warms up
                    figures[name].append((found[0], found[1]) if number % 2 else (found[1], found[0]))


async def _echo(directory: Path, rounds: int, seconds: float, figures: Figures) -> dict[str, float]:
    """Gives the median CPU per round trip of each kind, of the program's thread and of all."""
    all_found: list[tuple[Echoes, Echoes]] = []
    async with vanrouter.open(directory, drain=0.5) as hub, vanrouter.open(directory, drain=0.5) as leaf, trio.open_nursery() as nursery:
        await nursery.start(hub.serve, "echo", echo)

        async def pair() -> trio.SocketStream:
            near, far = trio.socket.socketpair()
            nursery.start_soon(_echo_and_close, trio.SocketStream(far))
            return trio.SocketStream(near)

        async def stream() -> vanrouter.Stream:
            return await leaf.connect("echo")

        for number in range(rounds + 1):
            found = {opener: await echoes(opener, seconds) for opener in ((stream, pair) if number % 2 else (pair, stream))}
            if number:
                all_found.append((found[stream], found[pair]))
                figures["echo"].append((found[stream].rate, found[pair].rate))
        nursery.cancel_scope.cancel()
    return {
        "embedded, the program's thread": statistics.median(ours.thread for ours, _ in all_found),
        "embedded, with the core's": statistics.median(ours.process for ours, _ in all_found),
        "socket pairs": statistics.median(theirs.thread for _, theirs in all_found),
    }


async def _echo_and_close(stream: trio.SocketStream) -> None:
    async with stream:
        await echo(stream)


if __name__ == "__main__":
    main()
