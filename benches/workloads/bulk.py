"""Small requests beside bulk, on one link: what a person feels while a backup runs."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benches.peers import Peer
from benches.processes import Address
from benches.sockets import Flow
from benches.workloads.base import ForAll
from benches.workloads.http import nginx, wrk, wrk_command

__all__ = ["LEAD", "BesideBulk", "downloads"]

_STREAMS: Final = 4
_ALONE: Final = 2.0  # seconds of bulk before anything is beside it
LEAD: Final = 1.0  # seconds for the bulk to be at its speed


class BesideBulk(ForAll):
    """wrk with one connection, or with a new one for each request, beside 4 downloads that never end. All load at normal priority."""

    programs = ("nginx", "wrk", "ss")

    def __init__(self, *, new_connections: bool) -> None:
        self.name = "beside-new" if new_connections else "beside"
        what = "a new connection per request, 1 at once" if new_connections else "1 connection"
        self.title = f"wrk, 1 KiB, {what}, beside {_STREAMS} bulk streams"
        self._options = ["-H", "Connection: close"] if new_connections else []

    def run(self, peer: Peer, seconds: int, tmp: Path) -> dict[str, float]:
        """The bulk is counted in exactly the time of the requests, and in the seconds before them."""
        with nginx(tmp) as server, peer.pair(server, tmp) as pair, downloads(pair.front, _STREAMS, seconds + 30):
            time.sleep(LEAD)
            flow = Flow(pair.front)
            time.sleep(_ALONE)
            alone = flow.gbits()
            report = wrk(pair.front, 1, seconds, *self._options)
            beside = flow.gbits()
        return {
            "requests": report.rate,
            "p50": report.p50,
            "p99": report.p99,
            "failures": float(report.failures),
            "bulk": beside,
            "bulk_kept": beside / alone * 100,
        }


@contextlib.contextmanager
def downloads(front: Address, streams: int, at_most: int) -> Iterator[None]:
    """A large file, again and again on each of some connections, until the block is left. ``at_most``: seconds."""
    argv = wrk_command(front, streams, at_most, file="bulk")
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()
