"""
The load of ``van bench``: sockets and threads of the standard library, against the target of `vanrouter.bench.target`.

Each function runs for a while and returns figures; ``tick`` is called now and then with what was reached so far, for the display. A
connection that ends, or says nothing for `PATIENCE` seconds, raises OSError.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

__all__ = ["Latency", "connections", "latency", "ready", "requests", "throughput"]

PATIENCE: Final = 10.0
RAMP: Final = 1.0  # at most so many seconds in which windows grow, before bytes count; never longer than what counts
_PIECE: Final = 1 << 18
_ANSWER: Final = 1_024  # as of the target
_PROGRESS: Final = struct.Struct(">QQ")
_EVERY: Final = 0.2
_MESSAGE: Final = bytes(64)

Where = tuple[str, int]
Tick = Callable[[float], object]


class Latency(NamedTuple):
    """Seconds from a request of 64 bytes to its answer, on one connection; ``rate`` of such requests per second."""

    rate: float
    least: float
    p50: float
    p99: float


def ready(where: Where, seconds: float) -> None:
    """Until a connection gets an answer. Raises OSError when none did."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with _connect(where, b"E"):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def _connect(where: Where, kind: bytes) -> Iterator[socket.socket]:
    """Known at the far end: the first byte of echo came back, others are told by what follows."""
    with socket.create_connection(where, timeout=PATIENCE) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.sendall(kind + b"v" * (kind == b"E"))
        if kind == b"E":
            _take(stream, 1)
        yield stream


def _take(stream: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        data = stream.recv(size - len(got))
        if not data:
            raise ConnectionResetError("the other end closed a connection in the middle")
        got += data
    return got


def latency(where: Where, seconds: float, tick: Tick) -> Latency:
    took: list[float] = []
    with _connect(where, b"E") as stream:
        began = now = shown = time.monotonic()
        while now < began + seconds:
            stream.sendall(_MESSAGE)
            _take(stream, len(_MESSAGE))
            after = time.monotonic()
            took.append(after - now)
            now = after
            if now - shown > _EVERY:
                shown = now
                tick(took[-1])
    took.sort()
    return Latency(len(took) / (now - began), took[0], statistics.median(took), took[min(len(took) - 1, int(len(took) * 0.99))])


def requests(where: Where, seconds: float, streams: int, tick: Tick) -> float:
    """Per second: one byte, answered with 1 KiB, on each of some connections."""
    done = 0
    with contextlib.ExitStack() as held, selectors.DefaultSelector() as selector:
        for _ in range(streams):
            asked = _Asked(held.enter_context(_connect(where, b"R")))
            selector.register(asked.stream, selectors.EVENT_READ, asked)
        began = now = shown = time.monotonic()
        while now < began + seconds:
            answers = selector.select(PATIENCE)
            if not answers:
                raise TimeoutError("no answer came")
            done += sum(key.data.is_answered() for key, _ in answers)
            now = time.monotonic()
            if now - shown > _EVERY:
                shown = now
                tick(done / (now - began))
    return done / (now - began)


class _Asked:
    """One request after the other on one connection."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self._got = 0
        stream.sendall(b"v")

    def is_answered(self) -> bool:
        """Take what came. The next request goes out when its answer is whole."""
        size = len(self.stream.recv(_ANSWER - self._got))
        if not size:
            raise ConnectionResetError("the other end closed a connection in the middle")
        self._got += size
        if self._got < _ANSWER:
            return False
        self._got = 0
        self.stream.sendall(b"v")
        return True


def connections(where: Where, seconds: float, at_once: int, tick: Tick) -> float:
    """Per second: connect, one byte there and back, close; some at once."""
    until = time.monotonic() + seconds

    def knock(count: _Count) -> None:
        while time.monotonic() < until:
            with _connect(where, b"E"):
                count.value += 1

    return _in_threads([knock] * at_once, seconds, tick, ramp=0.0)


def throughput(where: Where, seconds: float, streams: int, *, upwards: bool, tick: Tick) -> float:
    """Bytes per second, in one direction, after `RAMP`; as they arrived, by the clock of where they did."""
    ramp = min(RAMP, seconds)
    until = time.monotonic() + ramp + seconds

    def down(count: _Count) -> None:
        buffer = bytearray(_PIECE)
        with _connect(where, b"G") as stream:
            while time.monotonic() < until:
                size = stream.recv_into(buffer)
                if not size:
                    raise ConnectionResetError("the other end closed a connection in the middle")
                count.value += size

    def up(count: _Count) -> None:
        piece, told = bytes(_PIECE), b""
        with _connect(where, b"S") as stream:
            stream.settimeout(PATIENCE)
            while time.monotonic() < until:
                stream.send(piece)
                if select.select([stream], [], [], 0)[0]:
                    told += stream.recv(_PROGRESS.size * 64)
                whole = len(told) // _PROGRESS.size * _PROGRESS.size
                if whole:
                    at, value = _PROGRESS.unpack_from(told, whole - _PROGRESS.size)
                    told = told[whole:]
                    count.value, count.at = value, at / 1e9

    return _in_threads([up if upwards else down] * streams, seconds, tick, ramp=ramp, told=upwards)


class _Count:
    """``at``: when ``value`` was true, by the clock of where it was counted; 0: now, here."""

    def __init__(self, *, told: bool = False) -> None:
        self.value = 0
        self.at = 0.0
        self._told = told

    def seen(self) -> tuple[float, int]:
        return (self.at if self._told else time.monotonic()), self.value


def _in_threads(works: list[Callable[[_Count], None]], seconds: float, tick: Tick, *, ramp: float, told: bool = False) -> float:
    """The sum of the rates of all, from ``ramp`` on. Raises what the first one that failed raised."""
    counts = [_Count(told=told) for _ in works]
    failures: list[OSError] = []

    def run(work: Callable[[_Count], None], count: _Count) -> None:
        try:
            work(count)
        except OSError as problem:
            failures.append(problem)

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in zip(works, counts, strict=True)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    _sleep(began + ramp, lambda: None, failures)
    first = [count.seen() for count in counts]

    def rate() -> float:
        pairs = [(before, count.seen()) for before, count in zip(first, counts, strict=True)]
        return sum((after[1] - before[1]) / (after[0] - before[0]) for before, after in pairs if after[0] > before[0])

    _sleep(began + ramp + seconds, lambda: tick(rate()), failures)
    result = rate()
    for thread in threads:
        thread.join(PATIENCE + 1)
    if failures:
        raise failures[0]
    return result


def _sleep(until: float, tick: Callable[[], object], failures: list[OSError]) -> None:
    while not failures and (left := until - time.monotonic()) > 0:
        time.sleep(min(_EVERY, left))
        tick()
