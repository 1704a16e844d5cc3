"""Requests: nginx behind, wrk in front, a file of 1 KiB or 100 KiB."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benches.peers import Pair, Peer
from benches.peers.base import LOOPBACK, InARow
from benches.processes import Address, BenchError, child, free_port, wait_until_listening
from benches.workloads.base import ForAll

__all__ = ["NewConnections", "Requests", "RequestsOverThree", "WrkReport", "nginx", "pair_figures", "parse_wrk", "wrk", "wrk_command"]

_FILES: Final = {"1k": 1024, "100k": 102_400, "stalled": 16 << 20, "bulk": 64 << 20}
_NGINX: Final = """\
{user}
daemon off;
worker_processes auto;
pid {tmp}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_temp_path {tmp}/body; proxy_temp_path {tmp}/proxy; fastcgi_temp_path {tmp}/fastcgi;
    uwsgi_temp_path {tmp}/uwsgi; scgi_temp_path {tmp}/scgi;
    server {{ listen {address} backlog=4096{http2}; root {tmp}/www; }}
}}
"""


class Requests(ForAll):
    """As many requests as `connections` kept-alive connections can ask for, one after the other on each."""

    programs = ("nginx", "wrk")

    def __init__(self, connections: int, file: str = "1k") -> None:
        self.name = f"wrk{connections}" + f"-{file}" * (file != "1k")
        self.title = f"wrk, {file.removesuffix('k')} KiB, {connections} connection{'s' * (connections > 1)}"
        self._connections, self._file = connections, file

    def way(self, peer: Peer, server: Address, tmp: Path) -> AbstractContextManager[Pair]:
        return peer.pair(server, tmp)

    def run(self, peer: Peer, seconds: int, tmp: Path) -> dict[str, float]:
        with nginx(tmp) as server, self.way(peer, server, tmp) as pair:
            before = pair.cpu_seconds()
            report = wrk(pair.front, self._connections, seconds, file=self._file)
            cpu = pair.cpu_seconds() - before
            figures = {"requests": report.rate, "p50": report.p50, "p99": report.p99, "failures": float(report.failures)}
            return figures | pair_figures(pair, "cpu_per_request", cpu, report.count)


class RequestsOverThree(Requests):
    def __init__(self, connections: int) -> None:
        super().__init__(connections)
        self.name = f"three-{self.name}"
        self.title += ", three routers in a row"

    def fits(self, peer: Peer) -> bool:
        return isinstance(peer, InARow)

    def way(self, peer: Peer, server: Address, tmp: Path) -> AbstractContextManager[Pair]:
        assert isinstance(peer, InARow)
        return peer.three(server, tmp)


class NewConnections(ForAll):
    """A connection for each request, `connections` at once."""

    programs = ("nginx", "wrk")

    def __init__(self, connections: int) -> None:
        self.name = f"connect{connections}"
        self.title = f"new connection per request, {connections} at once"
        self._connections = connections

    def run(self, peer: Peer, seconds: int, tmp: Path) -> dict[str, float]:
        with nginx(tmp) as server, peer.pair(server, tmp) as pair:
            before = pair.cpu_seconds()
            report = wrk(pair.front, self._connections, seconds, "-H", "Connection: close")
            cpu = pair.cpu_seconds() - before
            figures = {"connections": report.rate, "p50": report.p50, "p99": report.p99, "failures": float(report.failures)}
            return figures | pair_figures(pair, "cpu_per_connection", cpu, report.count)


def pair_figures(pair: Pair, metric: str, cpu: float, count: int) -> dict[str, float]:
    if not pair.processes:
        return {}
    return {metric: cpu / count * 1e6, **pair.peak_rss()}


@contextlib.contextmanager
def nginx(tmp: Path, *, http2: bool = False) -> Iterator[Address]:
    address = Address(LOOPBACK, free_port(LOOPBACK))
    (tmp / "www").mkdir()
    for name, size in _FILES.items():
        (tmp / "www" / name).write_bytes(b"v" * size)
    configuration = tmp / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # the files are ours alone
    configuration.write_text(_NGINX.format(user=user, tmp=tmp, address=address, http2=" http2" * http2))
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin") or "nginx"
    with child("nginx", [program, "-c", str(configuration), "-p", str(tmp), "-e", "stderr"], tmp) as process:
        wait_until_listening(address, process)
        yield address


@dataclass(frozen=True)
class WrkReport:
    rate: float
    count: int
    p50: float  # microseconds
    p99: float
    failures: int


def wrk(front: Address, connections: int, seconds: int, *options: str, file: str = "1k") -> WrkReport:
    argv = wrk_command(front, connections, seconds, *options, file=file)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 20)
    return parse_wrk(done.stdout + done.stderr)


def wrk_command(front: Address, connections: int, seconds: int, *options: str, file: str) -> list[str]:
    threads = min(2, connections)
    return ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--latency", *options, f"http://{front}/{file}"]


_MICROSECONDS: Final = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}


def parse_wrk(output: str) -> WrkReport:
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    count = re.search(r"(\d+) requests in", output)
    p50 = re.search(r"50%\s+([\d.]+)(us|ms|s|m)", output)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)", output)
    if not (rate and count and p50 and p99) or count[1] == "0":
        raise BenchError(f"wrk gave no figures: {output[-500:]}")
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    failures = sum(map(int, errors.groups())) if errors else 0
    return WrkReport(
        rate=float(rate[1]),
        count=int(count[1]),
        p50=float(p50[1]) * _MICROSECONDS[p50[2]],
        p99=float(p99[1]) * _MICROSECONDS[p99[2]],
        failures=failures + (int(bad[1]) if bad else 0),
    )
