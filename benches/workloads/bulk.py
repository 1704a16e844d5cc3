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
from benches.workloads.http import nginx, parse_transfer, wrk, wrk_command

__all__ = ["BesideBulk"]

_STREAMS: Final = 4
_LEAD: Final = 1.0  # seconds for the bulk to be at its speed


class BesideBulk:
    """wrk with one connection, or with a new one for each request, beside 4 downloads that never end. All load at normal priority."""

    programs = ("nginx", "wrk")

    def __init__(self, *, new_connections: bool) -> None:
        self.name = "beside-new" if new_connections else "beside"
        what = "a new connection per request, 1 at once" if new_connections else "1 connection"
        self.title = f"wrk, 1 KiB, {what}, beside {_STREAMS} bulk streams"
        self._options = ["-H", "Connection: close"] if new_connections else []

    def run(self, peer: Peer, seconds: int, tmp: Path) -> dict[str, float]:
        with nginx(tmp) as server, peer.pair(server, tmp) as pair:
            alone = parse_transfer(_bulk_output(pair.front, seconds=2))
            with _bulk(pair.front, seconds) as bulk:
                time.sleep(_LEAD)
                report = wrk(pair.front, 1, seconds, *self._options)
            transfer = parse_transfer(bulk.output)
        return {
            "requests": report.rate,
            "p50": report.p50,
            "p99": report.p99,
            "failures": float(report.failures),
            "bulk": transfer * 8,
            "bulk_kept": transfer / alone * 100,
        }


class _Running:
    output = ""


def _bulk_output(front: Address, seconds: int) -> str:
    return subprocess.run(wrk_command(front, _STREAMS, seconds, file="bulk"), capture_output=True, text=True, timeout=seconds + 20).stdout


@contextlib.contextmanager
def _bulk(front: Address, seconds: int) -> Iterator[_Running]:
    """Downloads that outlast what runs beside them by half a second."""
    found = _Running()
    argv = wrk_command(front, _STREAMS, seconds + 2, file="bulk")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield found
            found.output = process.communicate(timeout=seconds + 20)[0]
        finally:
            process.kill()
