"""What the kernel counted on open connections: bytes between two moments, whoever holds the sockets."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from typing import Final

from benches.processes import Address, BenchError

__all__ = ["Flow", "parse"]

_CONNECTION: Final = re.compile(r"^\d+\s+\d+\s+\S+:(\d+)\s")
_RECEIVED: Final = re.compile(r"\bbytes_received:(\d+)")


class Flow:
    """What ``server`` sends on the connections that clients have to it now. Those that come later are not counted."""

    def __init__(self, server: Address) -> None:
        self._server = server
        self._before, self._at = _received(server), time.monotonic()
        if not self._before:
            raise BenchError(f"nobody is connected to {server}")

    def gbits(self) -> float:
        """Gbit/s since the last call, or since the beginning. A connection that is gone took its count along: an error."""
        found, now = _received(self._server), time.monotonic()
        if gone := self._before.keys() - found.keys():
            raise BenchError(f"{len(gone)} of {len(self._before)} bulk connections to {self._server} have ended")
        after = {port: found[port] for port in self._before}
        rate = (sum(after.values()) - sum(self._before.values())) * 8 / 1e9 / (now - self._at)
        self._before, self._at = after, now
        if not rate:
            raise BenchError(f"no byte came on {len(after)} bulk connections to {self._server}")
        return rate


def _received(server: Address) -> dict[int, int]:
    program = shutil.which("ss", path="/usr/bin:/bin:/usr/sbin:/sbin")
    if program is None:
        raise BenchError("there is no ss: apt-get install iproute2")
    done = subprocess.run([program, "-tinHO", "state", "established", "dst", str(server)], capture_output=True, text=True, timeout=10)
    if done.returncode:
        raise BenchError(f"ss ended with {done.returncode}: {done.stderr[-500:]}")
    return parse(done.stdout)


def parse(output: str) -> dict[int, int]:
    """Bytes received, by local port, of what ``ss -tinHO`` says. A connection on which nothing came yet has 0."""
    found = {}
    for line in output.splitlines():
        if (connection := _CONNECTION.match(line)) is not None:
            received = _RECEIVED.search(line)
            found[int(connection[1])] = int(received[1]) if received else 0
    return found
