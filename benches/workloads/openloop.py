"""
Requests at a fixed rate, whatever the answers take: latency as users meet it, from when a request was due, not from when it was sent.

One process, one thread, sockets that do not block: the rate is far below what it can do; its own lateness is in everybody's figure.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from benches.peers import Peer
from benches.processes import Address, BenchError
from benches.sockets import Flow
from benches.workloads.base import ForAll
from benches.workloads.bulk import LEAD, downloads
from benches.workloads.http import nginx

__all__ = ["FixedRate", "main"]

_RATE: Final = 1_000  # requests per second
_CONNECTIONS: Final = 16
_REQUEST: Final = b"GET /1k HTTP/1.1\r\nHost: bench\r\n\r\n"


class FixedRate(ForAll):
    programs = ("nginx", "wrk", "ss")

    def __init__(self, *, beside_bulk: bool) -> None:
        self.name = "rate-bulk" if beside_bulk else "rate"
        self.title = f"{_RATE:,} requests/s on {_CONNECTIONS} connections" + (" beside a bulk transfer" if beside_bulk else "")
        self._beside_bulk = beside_bulk

    def run(self, peer: Peer, seconds: int, tmp: Path) -> dict[str, float]:
        with nginx(tmp) as server, peer.pair(server, tmp) as pair, contextlib.ExitStack() as beside:
            flow = None
            if self._beside_bulk:
                beside.enter_context(downloads(pair.front, 1, seconds + 60))
                time.sleep(LEAD)
                flow = Flow(pair.front)
            argv = [sys.executable, "-m", "benches.workloads.openloop", pair.front.host, str(pair.front.port), str(seconds)]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 30)
            bulk = {"bulk": flow.gbits()} if flow is not None else {}  # raises when none flowed
        if done.returncode:
            raise BenchError(f"the load generator failed: {done.stderr[-500:]}")
        return msgspec.json.decode(done.stdout, type=dict[str, float]) | bulk


class _Connection:
    """One request under way at most; those that are due meanwhile wait behind it."""

    def __init__(self, server: Address) -> None:
        self.socket = socket.create_connection((server.host, server.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.due: list[float] = []
        self.asked = False
        self.buffer = b""

    def ask(self) -> None:
        if self.due and not self.asked:
            self.asked = True
            self.socket.send(_REQUEST)

    def answered(self) -> float | None:
        """When the answered request was due."""
        piece = self.socket.recv(65_536)
        if not piece:
            raise BenchError("a connection was closed")
        self.buffer += piece
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found or len(body) < 1_024:
            return None
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchError(f"answer {head[:40]!r}")
        self.buffer, self.asked = body[1_024:], False
        return self.due.pop(0)


def load(server: Address, seconds: float) -> list[float]:
    """Seconds from due to answered, of all requests of ``seconds``; those that are not answered 5 s later count as 5 s."""
    selector = selectors.DefaultSelector()
    connections = [_Connection(server) for _ in range(_CONNECTIONS)]
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    took: list[float] = []
    count = int(_RATE * seconds)
    start = time.monotonic()
    asked = 0
    while len(took) < count and time.monotonic() < start + seconds + 5:
        now = time.monotonic()
        while asked < count and start + asked / _RATE <= now:
            connection = connections[asked % _CONNECTIONS]
            connection.due.append(start + asked / _RATE)
            connection.ask()
            asked += 1
        until = max(0.0, start + asked / _RATE - time.monotonic()) if asked < count else 0.1
        for key, _ in selector.select(until):
            connection = key.data
            if (due := connection.answered()) is not None:
                took.append(time.monotonic() - due)
                connection.ask()
    return took + [5.0] * (count - len(took))


def main() -> None:
    took = sorted(load(Address(sys.argv[1], int(sys.argv[2])), float(sys.argv[3])))
    at = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
    figures = {name: took[min(len(took) - 1, int(len(took) * share))] * 1e6 for name, share in at.items()}
    print(msgspec.json.encode(figures).decode())


if __name__ == "__main__":
    main()
