"""
The load programs and the relay as a test holds them: started anywhere, told what to do, asked what they saw, ended with the test.

Each is a process that obeys lines of JSON and ends when its stdin does, so that nothing of it outlives a test that was killed.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from verdicts import Ends

HERE = Path(__file__).parent
DEFAULT_WAIT = 30.0


class Program:
    """``prefix``: what runs it elsewhere, such as ``nsenter`` into a namespace."""

    def __init__(self, file: str, *args: str, prefix: Sequence[str] = ()) -> None:
        self._name = " ".join([file, *args])
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-u", str(HERE / file), *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._unread = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def read(self, within: float = DEFAULT_WAIT) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + within
        while b"\n" not in self._unread:
            readable, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"{self._name}: no answer within {within:g} s"
            data = self._process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
            assert data, f"{self._name} has ended; what it said is above"
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def say(self, do: str, **what: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do} | what).encode() + b"\n")
        self._process.stdin.flush()

    def tell(self, do: str, *, patience: float = DEFAULT_WAIT, **what: Any) -> dict[str, Any]:
        self.say(do, **what)
        return self.read(patience)

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Server(Program):
    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, prefix: Sequence[str] = ()) -> None:
        super().__init__("load_server.py", host, str(port), prefix=prefix)
        self.host, self.port = host, int(self.read()["port"])

    def manner(self, manner: str, *, late: float = 0.0) -> None:
        self.tell("manner", manner=manner, late=late)

    def abort(self) -> int:
        """Reset what is open. Returns how many."""
        return int(self.tell("abort")["aborted"])

    def report(self, within: float = 10.0) -> list[tuple[int, int, str, str]]:
        """All streams since the last report, once they have ended here too."""
        return [tuple(row) for row in self.tell("report", within=within)["streams"]]


class Relay(Program):
    def __init__(self, to: tuple[str, int], *, seed: int, host: str = "127.0.0.1", port: int = 0, prefix: Sequence[str] = ()) -> None:
        super().__init__("relay_program.py", host, str(port), to[0], str(to[1]), str(seed), prefix=prefix)
        self.host, self.port = host, int(self.read()["port"])


class Client(Program):
    def __init__(self, *, prefix: Sequence[str] = ()) -> None:
        super().__init__("load_client.py", prefix=prefix)
        self._limit = 60.0

    def begin(self, host: str, port: int, *, seed: int, **load: Any) -> None:
        """Open streams; returns when each has moved its first piece, or has ended."""
        self._limit = load.setdefault("limit", 60.0)
        self.tell("streams", host=host, port=port, seed=seed, patience=self._limit + 30, **load)

    def go(self) -> None:
        self.tell("go")

    def ends(self) -> Ends:
        return Ends([tuple(row) for row in self.tell("ends", patience=self._limit + 30)["rows"]])

    def run(self, host: str, port: int, *, seed: int, **load: Any) -> Ends:
        self.begin(host, port, seed=seed, **load)
        return self.ends()

    def abort(self, *, every: int = 1) -> int:
        """Reset every n-th stream from this side. Returns how many."""
        return int(self.tell("abort", every=every)["aborted"])

    def knock(self, host: str, port: int, *, count: int, how: str) -> None:
        """Connections that say nothing and go at once."""
        self.tell("knock", host=host, port=port, count=count, how=how)

    def probe(self, host: str, port: int, *, seed: int, every: float = 0.01, limit: float = 15.0, **load: Any) -> None:
        self._limit = limit
        self.tell("probe", host=host, port=port, seed=seed, every=every, limit=limit, **load)

    def quiet(self) -> Ends:
        return Ends([tuple(row) for row in self.tell("quiet", patience=self._limit + 30)["rows"]])
