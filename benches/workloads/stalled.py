"""Downloads beside streams whose clients do not read: what a stuck client costs everybody else, and how much is kept for it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benches.peers import Pair, Peer
from benches.processes import Address
from benches.sockets import Flow
from benches.workloads.base import ForAll
from benches.workloads.bulk import LEAD, downloads
from benches.workloads.http import nginx

__all__ = ["Stalled"]

_OTHERS: Final = 4
_ALONE: Final = 2.0


class Stalled(ForAll):
    """Each stalled stream has asked for 16 MiB and takes nothing: a peer without bounds would keep all of it."""

    programs = ("nginx", "wrk", "ss")

    def __init__(self, streams: int) -> None:
        self.name = f"stalled{streams}"
        self.title = f"{_OTHERS} downloads beside {streams} stalled stream{'s' * (streams > 1)}"
        self._streams = streams

    def run(self, peer: Peer, seconds: int, tmp: Path) -> dict[str, float]:
        with nginx(tmp) as server, peer.pair(server, tmp) as pair, downloads(pair.front, _OTHERS, seconds + 60):
            time.sleep(LEAD)
            flow, before = Flow(pair.front), _rss(pair)
            time.sleep(_ALONE)
            alone = flow.gbits()
            with _stalled(pair.front, self._streams):
                time.sleep(LEAD)
                flow.gbits()
                time.sleep(seconds)
                beside, after = flow.gbits(), _rss(pair)
            figures = {"bulk": beside, "bulk_kept": beside / alone * 100}
            growth = [(now - was) / 1e6 for was, now in zip(before, after, strict=True)]
            return figures | ({"growth": max(growth), **pair.peak_rss()} if growth else {})


def _rss(pair: Pair) -> list[int]:
    return [process.rss_bytes() for process in pair.processes]


@contextlib.contextmanager
def _stalled(front: Address, count: int) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        for _ in range(count):
            connection = held.enter_context(socket.create_connection((front.host, front.port), timeout=10))
            connection.sendall(b"GET /stalled HTTP/1.1\r\nHost: bench\r\n\r\n")
        yield
