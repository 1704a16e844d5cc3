"""SIGTERM under load: what is in flight ends whole, what is stuck is reset at the deadline, a successor takes over unnoticed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from linked import Linked, until

from vanrouter.stores import SiteHome

STREAMS, SIZE = 64, 4 << 20
OK, REFUSED, RESET, TRUNCATED = "ok", "refused", "reset", "TRUNCATED"


class Transfer(threading.Thread):
    """One stream: ``SIZE`` bytes through the echo and back, compared by hash. It begins, waits at a quarter until ``go``, and goes on."""

    def __init__(self, address: tuple[str, int], seed: int, go: threading.Event) -> None:
        super().__init__(daemon=True)
        self._address, self._seed, self._go = address, seed, go
        self.begun = threading.Event()
        self.result = ""

    def run(self) -> None:
        body = random.Random(self._seed).randbytes(1 << 16)
        sent, came = hashlib.sha256(), hashlib.sha256()
        got = 0
        try:
            with socket.create_connection(self._address, timeout=60) as stream:
                reader = threading.Thread(target=self._send, args=(stream, body, sent), daemon=True)
                reader.start()
                while data := stream.recv(1 << 16):
                    came.update(data)
                    got += len(data)
                    if got >= SIZE // 8:
                        self.begun.set()
                reader.join()
                self.result = OK if got == SIZE and came.digest() == sent.digest() else TRUNCATED
        except ConnectionRefusedError:
            self.result = REFUSED
        except OSError as error:
            self.result = f"{RESET} {error}"
        finally:
            self.begun.set()

    def _send(self, stream: socket.socket, body: bytes, sent: hashlib._Hash) -> None:
        with contextlib.suppress(OSError):
            for number in range(SIZE // len(body)):
                if number == SIZE // len(body) // 4:
                    self._go.wait(60)
                sent.update(body)
                stream.sendall(body)
            stream.shutdown(socket.SHUT_WR)


def begin(pair: Linked, host: str, go: threading.Event) -> list[Transfer]:
    found = [Transfer((host, pair.port), seed, go) for seed in range(STREAMS)]
    for transfer in found:
        transfer.start()
    for transfer in found:
        assert transfer.begun.wait(60)
    assert [t.result for t in found] == [""] * STREAMS, "all of them are under way"
    return found


def results(transfers: list[Transfer]) -> dict[str, int]:
    for transfer in transfers:
        transfer.join(90)
    found = [t.result for t in transfers]
    return {name: found.count(name) for name in dict.fromkeys(found)}


class Routers:
    """The sites' routers as children of this test, so that it sees how they end."""

    def __init__(self, pair: Linked) -> None:
        self._pair = pair
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, drain: float = 60.0) -> subprocess.Popen[bytes]:
        home: Path = self._pair.host.home / name
        code = (
            "import sys; from vanrouter.settings import Timing; from vanrouter.sites.process import run_process;"
            f" sys.exit(run_process({str(home)!r}, {self._pair.host.environment['VAN_PLANE']!r}, timing=Timing(drain={drain})))"
        )
        with (home / "run" / "router.log").open("ab") as log:
            self.running.append(subprocess.Popen([sys.executable, "-P", "-c", code], stdout=log, stderr=log, cwd="/"))
        process = self.running[-1]

        def ready() -> bool:
            assert process.poll() is None, self._pair.log(name)
            return self._pair.call(name, "ping")["pid"] == process.pid and self._pair.status(name)["site"]["ready"]

        until(f"{name} is ready", ready)
        return process

    def close(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


def is_free(home: SiteHome) -> bool:
    """Whether no router holds the directory."""
    free = home.lock()
    home.unlock()
    return free


@pytest.fixture
def routers(linked: Linked):  # type: ignore[no-untyped-def]
    """north and south, linked, hello exposed; run by ``start``."""
    linked.set_up()
    for name in ("north", "south"):
        os.kill(linked.host.router(name), signal.SIGTERM)
        until(f"{name} has ended", lambda name=name: is_free(SiteHome(linked.host.home / name)))  # type: ignore[misc]
    found = Routers(linked)
    yield found
    found.close()


@pytest.mark.parametrize("who", ["north", "south"])
def test_sigterm_under_load_loses_nothing_and_takes_nothing_new(linked: Linked, routers: Routers, who: str) -> None:
    """The router where clients come in, or the one with the target, gets SIGTERM while 64 streams of 4 MiB are under way."""
    processes = {name: routers.start(name) for name in ("north", "south")}
    linked.until_linked()
    until("hello answers", linked.answers)
    go = threading.Event()
    transfers = begin(linked, "127.0.0.1", go)
    os.kill(processes[who].pid, signal.SIGTERM)
    until("it says that it leaves", lambda: linked.status(who)["site"]["leaving"])
    os.kill(processes[who].pid, signal.SIGHUP)
    os.kill(processes[who].pid, signal.SIGTERM)

    def refuses() -> bool:
        try:
            with linked.connect() as stream:
                stream.settimeout(10)
                stream.sendall(b"x")
                return stream.recv(1) != b"x"
        except OSError:
            return True

    until("a new stream is refused", refuses)
    assert processes[who].poll() is None
    go.set()
    assert results(transfers) == {OK: STREAMS}
    assert processes[who].wait(20) == 0
    assert "Traceback" not in linked.log(who)


def test_a_stuck_stream_is_reset_at_the_deadline_and_the_exit_code_is_1(linked: Linked, routers: Routers) -> None:
    south, north = routers.start("south"), routers.start("north", drain=2.0)
    linked.until_linked()
    until("hello answers", linked.answers)
    with linked.connect() as stuck:
        stuck.sendall(b"x")
        assert stuck.recv(1) == b"x"
        started = time.monotonic()
        os.kill(north.pid, signal.SIGTERM)
        stuck.settimeout(20)
        with pytest.raises(ConnectionResetError):
            stuck.recv(1)
        assert time.monotonic() - started > 1.5
    assert north.wait(20) == 1
    assert "streams were cut at the deadline" in linked.log("north")
    assert south.poll() is None


def test_a_takeover_under_load_loses_nothing_and_refuses_nobody(linked: Linked, routers: Routers) -> None:
    """A successor for the router where clients come in, and one for the other, while 64 streams are under way and new ones keep coming."""
    old = {name: routers.start(name) for name in ("north", "south")}
    linked.until_linked()
    until("hello answers", linked.answers)
    go, stop = threading.Event(), threading.Event()
    transfers = begin(linked, "127.0.0.1", go)
    came: list[str] = []

    def visit() -> None:
        while not stop.is_set():
            started = time.monotonic()
            try:
                with linked.connect() as stream:
                    stream.sendall(b"hello")
                    came.append(OK if stream.recv(5) == b"hello" else TRUNCATED)
            except OSError as error:
                came.append(f"{error}, after {time.monotonic() - started:.2f} s, at {time.time():.2f}")
            time.sleep(0.01)

    visitor = threading.Thread(target=visit, daemon=True)
    visitor.start()
    new = {name: routers.start(name) for name in ("south", "north")}
    linked.until_linked()
    until("new streams pass the new routers", lambda: came[-1:] == [OK] and linked.answers())
    go.set()
    assert results(transfers) == {OK: STREAMS}
    stop.set()
    visitor.join(30)
    assert {r: came.count(r) for r in came} == {OK: len(came)}, linked.log("north") + linked.log("south")
    assert len(came) > 20
    assert [process.wait(20) for process in old.values()] == [0, 0]
    assert [process.poll() for process in new.values()] == [None, None]


def test_an_abort_is_a_reset_while_draining_too(linked: Linked, routers: Routers) -> None:
    """Never a clean end for a stream that did not end cleanly, also in the last seconds of a router."""
    routers.start("south")
    north = routers.start("north")
    linked.until_linked()
    until("hello answers", linked.answers)
    stream = linked.connect()
    stream.sendall(b"x")
    assert stream.recv(1) == b"x"
    os.kill(north.pid, signal.SIGTERM)
    until("it leaves", lambda: linked.status("north")["site"]["leaving"])
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()
    assert north.wait(20) == 0
    ends = [line for line in linked.log("south").splitlines() if "stream closed" in line]
    assert "class=client" in ends[-1], ends[-1]
