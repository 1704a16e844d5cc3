"""`python -m benches`: choose peers and workloads, run them, print the table, write the rows."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from benches import isolation, machine, report, runner
from benches.peers import PEERS, REQUIRED
from benches.workloads import WORKLOADS

_HERE: Final = Path(__file__).parent
LATEST: Final = _HERE / "results" / "latest.json"
PARTIAL: Final = _HERE.parent / "build" / "bench" / "partial.json"  # of a selection: never mistaken for the whole


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)
    isolation.enter()
    about = machine.facts() | {"rounds": str(options.rounds), "seconds per cell": str(options.seconds)}
    print("\n".join(f"{key}: {value}" for key, value in about.items()), file=sys.stderr, flush=True)

    peers, workloads = runner.usable(options.peers, options.workloads)
    if not peers or not workloads:
        print("bench: nothing left to run", file=sys.stderr)
        return 1
    everything = {peer.name for peer in peers} >= set(REQUIRED) and len(workloads) == len(WORKLOADS)
    whole = everything and options.rounds >= 5 and options.seconds >= 5
    output: Path = options.output or (LATEST if whole else PARTIAL)
    PARTIAL.parent.mkdir(parents=True, exist_ok=True)
    so_far = PARTIAL.with_name("so-far.json")  # should the run be ended before it is over
    samples, failures = runner.run(
        peers, workloads, options.rounds, options.seconds, after_round=lambda samples: _write(so_far, report.rows(samples))
    )
    measured = report.rows(samples)
    output.parent.mkdir(parents=True, exist_ok=True)
    _write(output, measured)
    output.with_name("machine.json").write_text(json.dumps(about, indent=2) + "\n")
    print(f"\n{report.table(measured, options.workloads)}\n\nrows: {output}")
    from benches import plots  # loading what draws takes a second, and memory, that no cell should have beside it

    print(f"pictures: {', '.join(str(path) for path in plots.draw(measured, output.parent / 'pictures'))}")
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


def _write(path: Path, measured: Sequence[report.Row]) -> None:
    path.write_text("[\n" + ",\n".join(msgspec.json.encode(row).decode() for row in measured) + "\n]\n")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench BENCH_ARGS=...", description=__doc__)
    parser.add_argument("--peers", type=_names(PEERS), default=list(PEERS), metavar="A,B", help=f"of {','.join(PEERS)}")
    parser.add_argument("--workloads", type=_names(WORKLOADS), default=list(WORKLOADS), metavar="A,B", help=f"of {','.join(WORKLOADS)}")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 3 s instead of 5 of 5 s")
    parser.add_argument("--rounds", type=int, choices=range(1, 101), metavar="N")
    parser.add_argument("--seconds", type=int, choices=range(1, 61), metavar="N", help="of load in each cell")
    parser.add_argument("--output", type=Path, help="where the rows go (a whole run: benches/results/latest.json)")
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.seconds = options.seconds or (3 if options.quick else 5)
    return options


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return [name for name in known if name in chosen]

    return parse


if __name__ == "__main__":
    raise SystemExit(main())
