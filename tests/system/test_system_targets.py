"""
Targets that die under load: no client notices, nothing is delivered twice, status names the dead one, and it returns.

    client ▶ north 127.0.0.1:port ──── link ──── south: connector a ▶ server a (a process)
                                                        connector b ▶ server b (a process)
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from linked import Linked, condition, until

SEED = int(os.environ.get("VAN_TEST_SEED", "") or random.randrange(1 << 30))

# A server that writes down the id of each POST before it answers.
SERVER = """\
import http.server, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        os.write(book, (self.headers["x-id"] + "\\n").encode())
        self.send_response(200)
        self.send_header("content-length", str(len(name)))
        self.end_headers()
        self.wfile.write(name)
    def log_message(self, *args):
        pass

name = sys.argv[2].encode()
book = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Server:
    """One target, as a process that can be killed."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name, self.port, self._book = name, free_port(), directory / f"{name}.book"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", SERVER, str(self.port), self.name, str(self._book)])
        until(f"{self.name} listens", lambda: socket.create_connection(("127.0.0.1", self.port), timeout=1).close() or True)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """And wait until the kernel has closed what it listened on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def delivered(self) -> list[str]:
        return self._book.read_text().split() if self._book.exists() else []


class Targets:
    def __init__(self, pair: Linked, *names: str, check: str = "--check-interval 1s") -> None:
        self.pair, self.port = pair, free_port()
        self.servers = {name: Server(pair.host.directory, name) for name in names}
        self._ids = itertools.count()
        self._check = check

    def set_up(self) -> None:
        for name, server in self.servers.items():
            server.start()
            self.pair.van(f"-n south connector create {name} {server.port} --routing-key shop {self._check}")
        self.pair.van(f"-n north listener create shop {self.port} --routing-key shop")
        until("north reaches them", lambda: self.listener()["matched"])
        for name in self.servers:
            until(f"{name} is healthy", lambda name=name: self.healthy(name)["reason"] == "Ok")  # type: ignore[misc]

    def post(self) -> str:
        """One POST over a connection of its own: who answered. Raises OSError or HTTPException."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request("POST", "/", body=b"x" * 100, headers={"x-id": str(next(self._ids))})
            return connection.getresponse().read().decode()

    def delivered(self) -> collections.Counter[str]:
        return collections.Counter(id for server in self.servers.values() for id in server.delivered())

    def listener(self) -> Any:
        return next(x for x in self.pair.status("north")["listeners"] if x["name"] == "shop")

    def healthy(self, name: str) -> Any:
        return condition(next(x for x in self.pair.status("south")["connectors"] if x["name"] == name), "Healthy")

    def close(self) -> None:
        for server in self.servers.values():
            server.kill()


@pytest.fixture
def targets(linked: Linked) -> Iterator[Targets]:
    linked.set_up(expose=False)
    found = Targets(linked, "a", "b")
    try:
        found.set_up()
        yield found
    finally:
        found.close()


def test_a_killed_target_costs_no_client_a_request_and_is_named_until_it_returns(targets: Targets) -> None:
    """Each round kills the one that answered last, between two requests, and restarts it later."""
    answered = [targets.post() for _ in range(20)]
    assert set(answered) == {"a", "b"}, "both are used"
    for _ in range(3):
        victim = targets.post()
        other = {"a": "b", "b": "a"}[victim]
        targets.servers[victim].kill()
        assert {targets.post() for _ in range(60)} == {other}, "no request failed, whether the router knows already or not"
        dead = until("south names it", lambda victim=victim: (h := targets.healthy(victim))["reason"] == "TargetDown" and h)  # type: ignore[misc]
        assert f"127.0.0.1:{targets.servers[victim].port}" in dead["message"]
        assert "refused" in dead["message"]
        shown = targets.pair.host.run("van", "-p", "linux", "-n", "south", "status").stdout
        assert f"connector {victim}" in shown
        assert "next:" in shown
        table = targets.pair.van("-n south connector status").stdout
        assert "TargetDown" in table
        assert targets.listener()["matched"]
        targets.servers[victim].start()
        until("it is back", lambda victim=victim: targets.healthy(victim)["reason"] == "Ok")  # type: ignore[misc]
        until("it answers again", lambda victim=victim: targets.post() == victim)  # type: ignore[misc]
    counts = targets.delivered()
    assert set(counts.values()) == {1}, "each POST arrived at exactly one server, once"


def test_nothing_is_delivered_twice_when_targets_die_in_the_middle_of_requests(targets: Targets) -> None:
    """Four clients without pause; a target is killed whenever. A request that was under way may be lost, and is never made twice."""
    print(f"VAN_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    ended, asked, failed = threading.Event(), [0] * 4, [0] * 4

    def client(number: int) -> None:
        while not ended.is_set():
            asked[number] += 1
            try:
                targets.post()
            except (OSError, http.client.HTTPException):
                failed[number] += 1

    clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in clients:
        thread.start()
    try:
        for _ in range(6):
            before = sum(asked)
            until("requests are made", lambda before=before: sum(asked) >= before + chance.randrange(10, 50))  # type: ignore[misc]
            victim = targets.servers[chance.choice(["a", "b"])]
            victim.kill()
            until("it is out", lambda victim=victim: targets.healthy(victim.name)["reason"] == "TargetDown")  # type: ignore[misc]
            victim.start()
            until("it is back", lambda victim=victim: targets.healthy(victim.name)["reason"] == "Ok")  # type: ignore[misc]
    finally:
        ended.set()
        for thread in clients:
            thread.join()
    counts = targets.delivered()
    assert max(counts.values()) == 1
    assert sum(failed) <= 6 * len(clients), "only what was under way at a kill"
    assert len(counts) >= sum(asked) - sum(failed)


def test_a_target_that_hangs_is_taken_out_and_clients_go_to_the_other(targets: Targets) -> None:
    """Stopped, its kernel still takes connections: only a request shows it."""
    targets.pair.van("-n south connector update a --health-check http --check-status 200-599 --check-timeout 200ms")
    until("the HTTP check passes", lambda: "http check" in targets.healthy("a")["message"] and targets.healthy("a")["reason"] == "Ok")
    targets.servers["a"].signal(signal.SIGSTOP)
    try:
        dead = until("south names it", lambda: (h := targets.healthy("a"))["reason"] == "TargetDown" and h)
        assert "no answer" in dead["message"]
        until("north has heard", lambda: targets.pair.status("north") and targets.listener()["matched"])
        assert {targets.post() for _ in range(20)} == {"b"}
    finally:
        targets.servers["a"].signal(signal.SIGCONT)
    until("it is back", lambda: targets.healthy("a")["reason"] == "Ok")


def test_when_the_only_target_dies_clients_are_refused_and_both_sites_say_why_until_it_returns(linked: Linked) -> None:
    linked.set_up(expose=False)
    only = Server(linked.host.directory, "only")
    only.start()
    try:
        linked.van(f"-n south expose host 127.0.0.1:{only.port} --port {linked.port} --address shop --check-interval 1s")
        only.kill()

        def service(site: str) -> Any:
            return condition(next(s for s in linked.status(site)["services"] if s["address"] == "shop"), "Healthy")

        for site in ("north", "south"):
            said = until(f"{site} says it", lambda site=site: (s := service(site))["reason"] == "TargetsDown" and s)  # type: ignore[misc]
            assert said["status"] == "False"
            shown = linked.host.run("van", "-p", "linux", "-n", site, "service", "status").stdout
            assert "servers down" in shown
            assert "next:" in shown
            assert "shop" in linked.host.run("van", "-p", "linux", "-n", site, "status").stdout.partition("Problem")[2]
        listener = next(x for x in linked.status("north")["listeners"] if x["name"] == f"shop:{linked.port}")
        matched = condition(listener, "Matched")
        assert (matched["status"], matched["reason"]) == ("False", "TargetsDown")
        assert "site south" in matched["message"]

        def refused() -> bool:
            try:
                linked.connect().close()
            except ConnectionRefusedError:
                return True
            return False

        until("clients of north are refused at once", refused, seconds=30)
        only.start()
        until("it answers again", lambda: not refused())
        until("and all is well", lambda: service("north")["reason"] == service("south")["reason"] == "Ok")
    finally:
        only.kill()
