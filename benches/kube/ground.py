"""
What a module of `marks` gets and gives: two clusters with the image in them, namespaces that end with it, and rows.

The clusters and what speaks to them are those of the tests (tests/cluster), the load is that of the fault tests (tests/system/faults): this
package puts both on the path.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[2]
IMAGE: Final = CHECKOUT / "build" / "vanrouter-image.tar"
sys.path[:0] = [str(CHECKOUT / "tests" / part) for part in ("cluster", "system/faults", "system")]

import clusters as real  # noqa: E402
from clusters import Cluster, Namespace  # noqa: E402

__all__ = ["Cluster", "Ground", "Namespace", "Row", "ground"]


@dataclass(frozen=True)
class Row:
    """One line. ``figures``: one per round. ``mark`` and ``incumbent`` are words for the table; nothing fails because of them."""

    what: str
    figures: Sequence[float]
    unit: str = "s"
    mark: str = ""
    incumbent: str = ""

    def __str__(self) -> str:
        form = "{:.0f}" if self.unit != "s" and all(figure == int(figure) for figure in self.figures) else "{:.2f}"
        median, least, most = (form.format(pick(self.figures)) for pick in (statistics.median, min, max))
        return f"| {self.what} | {median} {self.unit} ({least}, {most}; {len(self.figures)}) | {self.mark} | {self.incumbent} |"


HEADING: Final = "| what | median (least, most; rounds) | mark | incumbent |\n|---|---|---|---|"


@dataclass
class Ground:
    """``one`` and ``two`` have the image. ``rounds``: how often a module should measure what it measures."""

    one: Cluster
    two: Cluster
    image: str
    rounds: int
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def namespace(self, cluster: Cluster, name: str) -> Namespace:
        """A new one; gone when the module has run."""
        return self.stack.enter_context(cluster.namespace(name))


@contextlib.contextmanager
def ground(rounds: int) -> Iterator[Ground]:
    if not IMAGE.exists():
        sys.exit(f"{IMAGE} is not there: make image")
    holding = [real.hold(name, index) for name, index in real.wanted()]
    with ThreadPoolExecutor() as at_once, contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(cluster) for cluster in holding)
        image, _ = at_once.map(lambda cluster: cluster.load(IMAGE), (one, two))
        yield Ground(one, two, image, rounds)
