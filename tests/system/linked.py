"""
Two sites in real processes, linked, and what a test asks them: their status, their processes, an echo server behind a service.

                  link, dialled by south
     site north  ◀───────────────────────  site south
     127.0.0.1:port ◀ client                echo ◀ connector hello
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from free_ports import free_port
from hosts import Host

from vanrouter.admin import client
from vanrouter.errors import VanrouterError

T = TypeVar("T")

SKEWED = """\
import random, signal, sys, time, trio
from vanrouter.settings import Timing
from vanrouter.sites import run_site
from vanrouter.sites.logs import set_up

directory, plane, ahead, lifetime = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])

async def main() -> bool:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        async def obey() -> None:
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                async for _ in signals:
                    stop.set()
        nursery.start_soon(obey)
        timing = Timing(drain=5.0, renew_retry=0.5, **({"leaf_lifetime": lifetime} if lifetime else {}))
        clean = await run_site(directory, plane=plane, stop=stop, timing=timing, wall=lambda: time.time() + ahead)
        nursery.cancel_scope.cancel()
    return clean

set_up()
sys.exit(0 if trio.run(main) else 1)
"""


def until(what: str, check: Callable[[], T], *, seconds: float = 20.0) -> T:
    """What ``check`` returns once it is true. A site that is not there yet is waited for."""
    deadline, last = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        try:
            if found := check():
                return found
            last = repr(found)
        except (VanrouterError, OSError, LookupError) as error:
            last = f"{type(error).__name__}: {error}"
        time.sleep(0.03)
    raise AssertionError(f"not within {seconds:g} s: {what}; last: {last}")


def condition(element: Any, kind: str) -> Any:
    return next(c for c in element["conditions"] if c["type"] == kind)


class Echo:
    """A TCP server in this process: what comes goes back, FIN for FIN."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    @staticmethod
    def _serve(stream: socket.socket) -> None:
        with stream, contextlib.suppress(OSError):
            while data := stream.recv(1 << 16):
                stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)
            stream.recv(1)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Linked:
    """north and south on one machine. ``set_up`` makes and links them as a user does."""

    def __init__(self, host: Host) -> None:
        self.host, self.van = host, host.van
        self.echo = Echo()
        self.link_port, self.port, self.other_port = free_port(), free_port(), free_port()

    def set_up(self, *, expose: bool = True) -> None:
        self.van(f"-n north init --site-name north --link-access 127.0.0.1:{self.link_port}")
        self.van("-n south init --site-name south --link-access none --service-address 127.0.0.2")
        self.van("-n north token create north.yaml")
        self.van("-n south link create north.yaml")
        if expose:
            self.van(f"-n south expose host 127.0.0.1:{self.echo.port} --port {self.port} --address hello")

    def call(self, site: str, method: str, **params: Any) -> Any:
        return client.call(self.host.home / site, method, params, timeout=10)

    def status(self, name: str) -> Any:
        return self.call(name, "status")

    def link(self, name: str) -> Any:
        """The one link of a site, as it says; None: it has none."""
        return next(iter(self.status(name)["links"]), None)

    def operational(self, name: str) -> Any:
        return condition(self.status(name)["links"][0], "Operational")

    def until_linked(self, *, seconds: float = 20.0) -> None:
        for name in ("north", "south"):
            until(f"{name} is linked", lambda name=name: (self.link(name) or {}).get("active"), seconds=seconds)  # type: ignore[misc]

    def log(self, name: str) -> str:
        return (self.host.home / name / "run" / "router.log").read_text(errors="replace")

    def connect(self, port: int = 0) -> socket.socket:
        """A client in north."""
        return socket.create_connection(("127.0.0.1", port or self.port), timeout=20)

    def answers(self, port: int = 0) -> bool:
        """Whether a new connection through both sites gets its echo."""
        with contextlib.suppress(OSError), self.connect(port) as stream:
            stream.sendall(b"hello")
            return stream.recv(5) == b"hello"
        return False

    def close(self) -> None:
        self.echo.close()


def at_once(host: Host, lines: Iterable[str], *, timeout: float = 60) -> dict[str, subprocess.CompletedProcess[str]]:
    """Several `van` commands at the same time, each to its end."""
    running = {}
    for line in lines:
        command = ["van", "-p", "linux", *line.split()]
        running[line] = subprocess.Popen(
            command, cwd=host.directory, env=host.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    ended, deadline = {}, time.monotonic() + timeout
    for line, process in running.items():
        try:
            out, err = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err += f"(killed after {timeout:g} s)"
        ended[line] = subprocess.CompletedProcess(line, process.returncode, out, err)
    return ended


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that hangs: SIGSTOP, and SIGCONT at the end."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def run_router(directory: Path, plane: str, *, ahead: float = 0.0, lifetime: float = 0.0) -> subprocess.Popen[bytes]:
    """A router whose wall clock is ``ahead`` of everybody's, or whose leaves live shortly."""
    (directory / "run").mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(directory / "run" / "router.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", SKEWED, str(directory), plane, str(ahead), str(lifetime)], stdout=log, stderr=log, cwd="/"
        )
