"""Children of a cell: started with a log file, watched by pid, ended by pid. Never by name."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Address", "BenchError", "Child", "child", "free_port", "is_listening", "wait_until", "wait_until_listening"]

_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)

# Below every ephemeral range, so that no client of a running cell can sit on the port of the next one.
_FIRST_PORT: Final = 10_000
_LAST_PORT: Final = 14_999
_next_port = _FIRST_PORT


class BenchError(Exception):
    """A cell could not be measured; the message says what to look at."""


@dataclass(frozen=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def free_port(host: str) -> int:
    """A port where nobody listens now. Never the same twice in a row, so that a TIME_WAIT of the last cell does not matter."""
    global _next_port
    for _ in range(_LAST_PORT - _FIRST_PORT + 1):
        port, _next_port = _next_port, _next_port + 1 if _next_port < _LAST_PORT else _FIRST_PORT
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise BenchError(f"no free port on {host} between {_FIRST_PORT} and {_LAST_PORT}")


class Child:
    """One running process and its log."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, *, env: dict[str, str] | None = None) -> None:
        self.name, self.log = name, log
        with log.open("wb") as out:
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                preexec_fn=_die_with_parent,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def check(self) -> None:
        """Raise if it is gone."""
        if (code := self._popen.poll()) is not None:
            raise BenchError(f"{self.name} (pid {self.pid}) ended with {code}; the end of its log:\n{self.log_tail()}")

    def log_tail(self, size: int = 2_000) -> str:
        return self.log.read_text(errors="replace")[-size:]

    def cpu_seconds(self) -> float:
        """User and system time of all its threads, ended ones too, in nanoseconds' resolution: its process CPU clock."""
        self.check()
        return time.clock_gettime((~self.pid << 3) | 2)  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of the kernel

    def rss_bytes(self) -> int:
        return self._status("VmRSS")

    def peak_rss_bytes(self) -> int:
        return self._status("VmHWM")

    def _status(self, key: str) -> int:
        self.check()
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
        raise BenchError(f"/proc/{self.pid}/status of {self.name} has no {key}")

    def end(self, patience: float = 5.0) -> None:
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(patience)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()


@contextlib.contextmanager
def child(name: str, argv: Sequence[str], tmp: Path, *, env: dict[str, str] | None = None) -> Iterator[Child]:
    process = Child(name, argv, tmp / f"{name}.log", env=env)
    try:
        yield process
    finally:
        process.end()


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def is_listening(address: Address) -> bool:
    """Look, without connecting: a connection would be the first client of the server behind."""
    wanted = f"{int.from_bytes(socket.inet_aton(address.host), 'little'):08X}:{address.port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(fields[1] == wanted and fields[3] == "0A" for fields in map(str.split, lines))


def wait_until_listening(address: Address, process: Child, timeout: float = 10.0) -> None:
    wait_until(lambda: is_listening(address), process, f"listens on {address}", timeout)


def wait_until(done: Callable[[], bool], process: Child, what: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        process.check()
        if time.monotonic() > deadline:
            raise BenchError(
                f"{process.name} (pid {process.pid}) is not so far after {timeout:g} s: {what}; its log:\n{process.log_tail()}"
            )
        time.sleep(0.02)
