"""
`make bench-kube`: the marks of sites in Kubernetes namespaces, on the two real clusters of tests/cluster.

Runs every module of `benches.kube.marks` (``--only a,b``: those), each with namespaces of its own, and prints a table. For root, after
tests/cluster/build.sh and `make image`. The clusters end with it unless they were up before.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import pkgutil
import sys
import time
import traceback

from benches import machine
from benches.kube import marks
from benches.kube.ground import HEADING, ground


def main() -> int:
    names = sorted(module.name for module in pkgutil.iter_modules(marks.__path__))
    parser = argparse.ArgumentParser(prog="make bench-kube BENCH_ARGS=...", description=__doc__)
    parser.add_argument("--only", default=",".join(names), metavar="A,B", help=f"of {','.join(names)}")
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement (3)")
    options = parser.parse_args()
    modules = [importlib.import_module(f"{marks.__name__}.{name}") for name in options.only.split(",")]

    print("\n".join(f"{key}: {value}" for key, value in machine.facts().items()), file=sys.stderr, flush=True)
    failed = 0
    with ground(options.rounds) as both:
        print(HEADING, flush=True)
        for module in modules:
            began = time.monotonic()
            try:
                with contextlib.ExitStack() as stack:
                    for row in module.run(dataclasses.replace(both, stack=stack)):
                        print(row, flush=True)
            except Exception:
                failed += 1
                print(f"FAILED {module.__name__}", flush=True)
                traceback.print_exc()
            print(f"{module.__name__}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
