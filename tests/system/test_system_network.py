"""
Networks of more than two sites in real processes: what one exposes is used at all, and goes on when what lies between does not.

    north ── middle ── south            and, in a diamond, north ── other ── south at a higher cost
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from hosts import Host
from linked import Echo, stopped, until

from vanrouter.admin import client

ADDRESSES = {"north": "127.0.0.1", "middle": "127.0.0.2", "south": "127.0.0.3", "other": "127.0.0.4", "leaf": "127.0.0.9"}
HUBS = ("middle", "other")  # whom others link to


class Sites:
    def __init__(self, host: Host, plane: str) -> None:
        self.host, self.van, self.plane = host, host.van, plane
        self.echo, self.port = Echo(), free_port()

    def init(self, *names: str, more: str = "") -> None:
        for name in names:
            access = f"127.0.0.1:{free_port()}" if name in HUBS else "none"
            self.van(f"-n {name} init --site-name {name} --service-address {ADDRESSES[name]} --link-access {access} {more}")

    def link(self, name: str, *, to: str, cost: int = 1) -> None:
        self.van(f"-n {to} token create {to}-{name}.yaml --cost {cost}")
        self.van(f"-n {name} link create {to}-{name}.yaml --name to-{to}")

    def expose(self, name: str) -> None:
        self.van(f"-n {name} expose host 127.0.0.1:{self.echo.port} --port {self.port} --address hello")

    def status(self, name: str) -> Any:
        return client.call(self.host.home / name, "status", {}, timeout=10)

    def has_it(self, name: str) -> bool:
        return any(x["name"] == f"hello:{self.port}" and x["matched"] for x in self.status(name)["listeners"])

    def answers(self, name: str) -> bool:
        """Whether a new connection at this site gets its echo."""
        with contextlib.suppress(OSError), socket.create_connection((ADDRESSES[name], self.port), timeout=10) as stream:
            stream.settimeout(10)
            stream.sendall(b"hello")
            return stream.recv(5) == b"hello"
        return False

    def until_answers(self, *names: str) -> None:
        for name in names:
            until(f"hello answers at {name}", lambda name=name: self.answers(name), seconds=40)  # type: ignore[misc]

    def way(self, name: str) -> list[str]:
        """The sites that a new stream from this one passes on its way to hello."""
        trace = client.call(self.host.home / name, "trace", {"key": "hello"}, timeout=10)
        return [hop["site"] for hop in trace["hops"]] if trace["complete"] else []

    def close(self) -> None:
        self.echo.close()


@pytest.fixture
def sites(tmp_path: Path, plane: str) -> Iterator[Sites]:
    with Host(tmp_path, plane) as host:
        found = Sites(host, plane)
        yield found
        found.close()


@pytest.fixture
def line(sites: Sites) -> Sites:
    sites.init("north", "middle", "south")
    sites.link("north", to="middle")
    sites.link("south", to="middle")
    return sites


@pytest.fixture
def diamond(line: Sites) -> Sites:
    line.init("other")
    line.link("north", to="other", cost=5)
    line.link("south", to="other", cost=5)
    line.expose("south")
    line.until_answers("north")
    return line


def test_what_south_exposes_answers_at_all_sites_by_name_and_is_gone_from_all_when_it_is_taken_back(line: Sites) -> None:
    line.expose("south")
    line.until_answers("north", "middle", "south")
    (service,) = line.status("north")["services"]
    assert [target["site"] for target in service["targets"]] == ["south"]
    assert "south" in line.van("-n north service status").stdout
    line.van("-n south unexpose hello")
    for name in ("north", "middle"):
        until(f"hello is gone from {name}", lambda name=name: not line.status(name)["services"])  # type: ignore[misc]
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((ADDRESSES[name], line.port), timeout=5).close()
    line.expose("south")
    line.until_answers("north", "middle")


def test_a_site_between_others_that_is_killed_and_started_again_carries_again(line: Sites) -> None:
    line.expose("south")
    line.until_answers("north")
    before = line.status("middle")["site"]["router"]
    os.kill(line.host.router("middle"), signal.SIGKILL)
    until("north notices", lambda: not line.has_it("north"))
    assert [s["address"] for s in line.status("north")["services"]] == ["hello"], "a short outage frees no port"
    line.van("-n middle init")
    line.until_answers("north", "middle")
    assert line.status("middle")["site"]["router"] != before


def test_the_cost_of_a_link_decides_over_whom_new_streams_go(diamond: Sites) -> None:
    until("over middle", lambda: diamond.way("north") == ["middle", "south"])
    diamond.van("-n north link update to-middle --cost 50")
    until("over other", lambda: diamond.way("north") == ["other", "south"])
    assert diamond.answers("north")
    diamond.van("-n north link update to-middle --cost 1")
    until("over middle again", lambda: diamond.way("north") == ["middle", "south"])
    assert diamond.answers("north")


def test_a_diamond_goes_on_over_the_other_side_when_one_dies(diamond: Sites) -> None:
    os.kill(diamond.host.router("middle"), signal.SIGKILL)
    until("over other", lambda: diamond.way("north") == ["other", "south"])
    diamond.until_answers("north")
    diamond.van("-n middle init")
    until("over middle again", lambda: diamond.way("north") == ["middle", "south"])
    diamond.until_answers("north", "middle")


def test_an_edge_uses_one_uplink_and_takes_the_other_when_that_one_is_silent(line: Sites) -> None:
    """The uplink is stopped, not ended: nobody says that it is gone."""
    line.init("other")
    line.link("south", to="other")
    line.init("leaf", more="--edge")
    line.link("leaf", to="middle")
    line.link("leaf", to="other", cost=5)
    line.expose("leaf")
    line.until_answers("south", "leaf")
    assert "standby" in line.van("-n leaf link status").stdout
    stopped = line.host.router("middle")
    os.kill(stopped, signal.SIGSTOP)
    try:
        line.until_answers("south", "leaf")
        active = {link["name"] for link in line.status("leaf")["links"] if link["lanes"] and link["active"]}
        assert "to-other" in active
    finally:
        os.kill(stopped, signal.SIGCONT)


class Knocking:
    """A connection every 20 ms, each in a thread of its own: what became of it, and when."""

    def __init__(self, host: str, port: int) -> None:
        self._where = (host, port)
        self.ends: list[tuple[float, str]] = []  # when it ended: echo, refused (no listening port), reset
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()
        self._knocks = threading.Thread(target=self._run)

    def __enter__(self) -> Knocking:
        self._knocks.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._knocks.join()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(0.02):
            thread = threading.Thread(target=self._knock)
            thread.start()
            self._threads.append(thread)

    def _knock(self) -> None:
        try:
            with socket.create_connection(self._where, timeout=20) as stream:
                try:
                    stream.sendall(b"hello")
                    end = "echo" if stream.recv(5) == b"hello" else "closed"
                except ConnectionResetError:
                    end = "reset"
        except ConnectionRefusedError:
            end = "refused"
        except OSError as error:
            end = str(error)
        self.ends.append((time.monotonic(), end))

    def count(self) -> Counter[str]:
        return Counter(end for _, end in self.ends)

    def answered_since(self, at: float) -> bool:
        return any(end == "echo" and when > at for when, end in self.ends)


@pytest.mark.parametrize("hangs", [0.0, 13.0], ids=["at_once", "after_a_while"])
def test_an_edge_whose_uplink_is_killed_never_closes_its_ports_while_the_other_one_comes_up(line: Sites, hangs: float) -> None:
    """
    leaf ══ middle (killed) ── south        ``hangs``: the router of the uplink that stands by does not answer for so long, which is
      ╚ ─ ─ other ─────────────╝            longer than a port goes on listening elsewhere. Clients are reset after 3 s then.
    """
    line.init("other")
    line.link("south", to="other")
    line.init("leaf", more="--edge")
    line.link("leaf", to="middle")
    line.link("leaf", to="other", cost=5)
    line.expose("south")
    line.until_answers("leaf")
    assert "standby" in line.van("-n leaf link status").stdout
    other = line.host.router("other")
    with Knocking(ADDRESSES["leaf"], line.port) as knocking:
        until("clients are served", lambda: knocking.count()["echo"] > 10)
        with stopped(other) if hangs else contextlib.nullcontext():
            os.kill(line.host.router("middle"), signal.SIGKILL)
            time.sleep(hangs)
        went_on = time.monotonic()
        until("new connections work again", lambda: knocking.answered_since(went_on), seconds=20)
        again = min(when for when, end in knocking.ends if end == "echo" and when > went_on) - went_on
        time.sleep(1.0)
    ends = knocking.count()
    assert not ends["refused"], f"the port was closed: {ends}"
    assert set(ends) <= {"echo", "reset"}, ends
    assert again < 10.0, f"it took {again:.1f} s"
    if not hangs:
        assert ends["reset"] <= 5, f"clients are to wait for the other uplink: {ends}"


def test_a_link_of_a_site_with_itself_is_refused_and_costs_nobody_anything(line: Sites) -> None:
    line.expose("south")
    line.van("-n middle token create own.yaml")
    refused = line.van("-n middle link create own.yaml", code=1)
    assert "itself" in refused.stderr or "own" in refused.stderr
    line.until_answers("north", "middle")


def test_two_links_to_one_router_are_named_with_the_cost_of_each_and_cost_nobody_anything(line: Sites) -> None:
    line.van("-n middle token create second.yaml --cost 50")
    made = line.van("-n north link create second.yaml backup")
    assert "leads to the same router of site middle as link to-middle (cost 1)" in made.stderr
    assert "van -p linux -n north link delete backup" in made.stderr
    rows = {row[0]: row for row in map(str.split, line.van("-n north link status").stdout.splitlines()[1:3])}
    assert rows["to-middle"][:5] == ["to-middle", "active", "outgoing", "middle", "1"]
    assert rows["backup"][:7] == ["backup", "active", "outgoing", "middle", "50", "(1", "counts)"]
    assert line.van("-n north status").stdout.count("leads to the same router") == 1
    assert "Problem" not in line.van("-n south status").stdout
    line.expose("south")
    line.until_answers("north", "middle")
    line.van("-n north link delete backup")
    until("nothing is said of it any more", lambda: "same router" not in line.van("-n north status").stdout)
    assert line.answers("north")
