"""Programs that people run: PostgreSQL under pgbench, Redis under redis-benchmark, nginx under h2load."""

from __future__ import annotations

import contextlib
import csv
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benches.peers import Peer
from benches.peers.base import LOOPBACK
from benches.processes import Address, BenchError, child, free_port, wait_until_listening
from benches.workloads.base import ForAll
from benches.workloads.http import nginx, pair_figures

__all__ = ["HTTP2", "PostgreSQL", "Redis"]

_CLIENTS: Final = 16
_KEY: Final = "key:__rand_int__"  # what redis-benchmark asks for, without -r
_VALUE: Final = 1_024


class Redis(ForAll):
    name = "redis"
    title = f"redis-benchmark, GET of 1 KiB, {_CLIENTS} connections"
    programs = ("redis-server", "redis-benchmark")

    def run(self, peer: Peer, seconds: int, tmp: Path) -> dict[str, float]:
        server = Address(LOOPBACK, free_port(LOOPBACK))
        argv = ["redis-server", "--bind", server.host, "--port", str(server.port), "--save", "", "--dir", str(tmp)]
        with child("redis", argv, tmp) as process:
            wait_until_listening(server, process)
            _set_value(server)
            with peer.pair(server, tmp) as pair:
                _benchmark(pair.front, 2_000)
                rate = _benchmark(pair.front, 10_000)["rps"]
                count = max(10_000, int(rate * seconds))  # it counts requests, not seconds
                before = pair.cpu_seconds()
                found = _benchmark(pair.front, count)
                cpu = pair.cpu_seconds() - before
                figures = {"requests": found["rps"], "p50": found["p50_latency_ms"] * 1e3, "p99": found["p99_latency_ms"] * 1e3}
                return figures | pair_figures(pair, "cpu_per_request", cpu, count)


def _set_value(server: Address) -> None:
    """What is asked for is there, and is what comes: without it every GET would be answered with nothing."""
    where = ["-h", server.host, "-p", str(server.port)]
    _output(["redis-benchmark", *where, "-c", "1", "-n", "1", "-t", "set", "-d", str(_VALUE), "-q"], 20)
    with socket.create_connection((server.host, server.port), timeout=5) as connection, connection.makefile("rb") as answer:
        connection.sendall(f"GET {_KEY}\r\n".encode())
        if (length := answer.readline()) != f"${_VALUE}\r\n".encode():
            raise BenchError(f"redis has no value of {_VALUE} bytes for {_KEY}, which redis-benchmark asks for: {length!r}")


def _benchmark(front: Address, count: int) -> dict[str, float]:
    argv = ["redis-benchmark", "-h", front.host, "-p", str(front.port), "-c", str(_CLIENTS), "-n", str(count), "-t", "get", "--csv"]
    lines = list(csv.DictReader(_output(argv, 120).splitlines()))
    return {key: float(value) for key, value in lines[-1].items() if key != "test"}


class HTTP2(ForAll):
    name = "h2load"
    title = "h2load, 1 KiB, 4 connections of 16 streams"
    programs = ("nginx", "h2load")

    def run(self, peer: Peer, seconds: int, tmp: Path) -> dict[str, float]:
        with nginx(tmp, http2=True) as server, peer.pair(server, tmp) as pair:
            argv = ["h2load", "-c", "4", "-m", "16", "-t", "1", "-p", "h2c", "-D", str(seconds), f"http://{pair.front}/1k"]
            before = pair.cpu_seconds()
            said = _output(argv, seconds + 30)
            cpu = pair.cpu_seconds() - before
        rate = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", said)
        done = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", said)
        if not rate or not done or done[1] == "0":
            raise BenchError(f"h2load gave no figures: {said[-500:]}")
        figures = {"requests": float(rate[1]), "failures": float(int(done[2]) + int(done[3]))}
        return figures | ({"cpu_per_request": cpu / int(done[1]) * 1e6} if pair.processes else {})


class PostgreSQL(ForAll):
    name = "pgbench"
    title = f"pgbench, select only, {_CLIENTS} connections"
    programs = ("pgbench",)

    def run(self, peer: Peer, seconds: int, tmp: Path) -> dict[str, float]:
        with _postgres(tmp) as server, peer.pair(server, tmp) as pair:
            argv = ["pgbench", "-h", pair.front.host, "-p", str(pair.front.port), "-U", "bench", "-n", "-S"]
            argv += ["-c", str(_CLIENTS), "-j", "2", "-T", str(seconds), "postgres"]
            before = pair.cpu_seconds()
            said = _output(argv, seconds + 60)
            cpu = pair.cpu_seconds() - before
        rate = re.search(r"tps = ([\d.]+)", said)
        count = re.search(r"number of transactions actually processed: (\d+)", said)
        if not rate or not count:
            raise BenchError(f"pgbench gave no figures: {said[-500:]}")
        figures = {"requests": float(rate[1])}
        return figures | ({"cpu_per_request": cpu / int(count[1]) * 1e6} if pair.processes else {})


@contextlib.contextmanager
def _postgres(tmp: Path) -> Iterator[Address]:
    """A server with pgbench's tables, by an account that is not root: it refuses root."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    where = str(programs[-1]) if programs else ""
    initdb, postgres = (shutil.which(name, path=f"{where}:{os.environ.get('PATH', '')}") for name in ("initdb", "postgres"))
    if not initdb or not postgres:
        raise BenchError("there is no PostgreSQL: apt-get install postgresql")
    data, address = tmp / "postgres", Address(LOOPBACK, free_port(LOOPBACK))
    data.mkdir(mode=0o700)
    as_server = _other_account(tmp, data) if os.geteuid() == 0 else []
    _output([*as_server, initdb, "-D", str(data), "-U", "bench", "-A", "trust", "--no-sync"], 60)
    settings = {"listen_addresses": address.host, "port": address.port, "unix_socket_directories": "", "fsync": "off"}
    options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    with child("postgres", [*as_server, postgres, "-D", str(data), *options], tmp) as process:
        wait_until_listening(address, process, timeout=30)
        _output(["pgbench", "-h", address.host, "-p", str(address.port), "-U", "bench", "-i", "-q", "postgres"], 60)
        yield address


def _other_account(*directories: Path) -> list[str]:
    """What a command line of an account that is not root begins with. Its directories become that account's."""
    account = pwd.getpwnam("postgres")
    ends_with_us = ["setpriv", "--pdeathsig", "KILL"]  # changing the account has undone what `child` set
    if not _is_mapped(account.pw_uid):  # a user namespace that knows one account: one below it calls the same one by another name
        return ["unshare", "--user", f"--map-user={account.pw_uid}", f"--map-group={account.pw_gid}", "--", *ends_with_us, "--"]
    for path in directories:
        os.chown(path, account.pw_uid, account.pw_gid)
    return [*ends_with_us, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--"]


def _is_mapped(uid: int) -> bool:
    spans = [list(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(first <= uid < first + count for first, _, count in spans)


def _output(argv: Sequence[str], timeout: float) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise BenchError(f"{Path(argv[0]).name} ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
    return done.stdout
