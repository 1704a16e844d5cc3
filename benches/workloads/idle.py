"""Memory: fresh, per idle connection, and what stays after all have closed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from benches.peers import Pair, Peer
from benches.peers.base import LOOPBACK
from benches.processes import Address, BenchError, child, free_port, wait_until_listening

__all__ = ["Idle"]

_HOLDER: Final = [sys.executable, "-m", "benches.holder"]
_SETTLE: Final = 2.0  # with connections held, before looking
_GIVE_BACK: Final = 10.0  # after they closed: how long a peer has to give memory back


class Idle:
    name = "idle"
    title = "idle connections"
    programs: tuple[str, ...] = ()

    def fits(self, peer: Peer) -> bool:
        return peer.idle_connections > 0

    def run(self, peer: Peer, seconds: int, tmp: Path) -> dict[str, float]:
        count = peer.idle_connections
        server = Address(LOOPBACK, free_port(LOOPBACK))
        with child("holder-serve", [*_HOLDER, "serve", server.host, str(server.port)], tmp) as backend:
            wait_until_listening(server, backend)
            with peer.pair(server, tmp) as pair:
                time.sleep(0.5)
                fresh = _rss(pair)
                with Holder(pair.front, count) as holder:
                    time.sleep(_SETTLE)
                    full = _rss(pair)
                    holder.close_connections()
                    time.sleep(_GIVE_BACK)
                    after = _rss(pair)
                return {
                    "idle": float(count),
                    "fresh_rss": max(fresh) / 1e6,
                    "per_connection": max(held - start for held, start in zip(full, fresh, strict=True)) / count / 1e3,
                    "kept": max(_kept(*sizes) for sizes in zip(fresh, full, after, strict=True)) * 100,
                }


class Holder:
    """The process that holds the connections."""

    def __init__(self, front: Address, count: int) -> None:
        argv = [*_HOLDER, "hold", front.host, str(front.port), str(count)]
        self._popen = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._count = count

    def __enter__(self) -> Holder:
        try:
            self._expect(f"held {self._count}")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def close_connections(self) -> None:
        assert self._popen.stdin is not None
        print("close", file=self._popen.stdin, flush=True)
        self._expect("closed")

    def _expect(self, line: str) -> None:
        assert self._popen.stdout is not None
        got = self._popen.stdout.readline().strip()  # the holder's own time-outs bound this
        if got != line:
            self._popen.kill()
            raise BenchError(f"the holder of idle connections said, instead of {line!r}: {got}{self._popen.stdout.read()[-500:]}")

    def _end(self) -> None:
        self._popen.kill()
        self._popen.wait()


def _rss(pair: Pair) -> list[int]:
    return [process.rss_bytes() for process in pair.processes]


def _kept(fresh: int, full: int, after: int) -> float:
    return max(0.0, (after - fresh) / max(1, full - fresh))
