"""`van bench`: it measures between two real sites, says why it cannot, and leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hosts import Host, planes
from linked import Linked, stopped, until


@pytest.fixture(scope="module", params=planes())
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Linked]:
    with Host(tmp_path_factory.mktemp("bench"), request.param) as host:
        linked = Linked(host)
        linked.set_up(expose=False)
        linked.until_linked()
        yield linked
        linked.close()


ON_ONE = pytest.mark.parametrize("pair", planes()[-1:], indirect=True)


def targets(pair: Linked) -> list[int]:
    """The processes that measurements speak to."""
    found = []
    for pid in pair.host.processes():
        command = Path(f"/proc/{pid}/cmdline")
        if command.exists() and b"vanrouter.bench.target" in command.read_bytes():
            found.append(pid)
    return found


def begun(pair: Linked, seconds: float = 5) -> subprocess.Popen[bytes]:
    command = ["van", "-p", "linux", "-n", "north", "bench", "south", "--seconds", f"{seconds}"]
    running = subprocess.Popen(command, env=pair.host.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until("it has begun", lambda: targets(pair))
    return running


def test_it_measures_both_ways_says_what_limits_and_leaves_nothing(pair: Linked) -> None:
    before = set(pair.host.processes())
    document: dict[str, Any] = json.loads(pair.van("-n north bench south --seconds 0.2 -o json").stdout)
    assert (document["site"], document["to"]) == ("north", "south")
    rates = [rate for way in document["bitsPerSecond"].values() for rate in way.values()]
    assert len(rates) == 4
    assert min(rates) > 1e7
    assert min(*document["requestsPerSecond"].values(), document["connectionsPerSecond"]) > 10
    assert 0 < document["latencyMs"]["least"] <= document["latencyMs"]["p50"] <= document["latencyMs"]["p99"]
    assert [load["site"] for load in document["load"]] == ["north", "south"]
    assert any("imited by" in sentence for sentence in document["verdict"])
    until("the target is gone", lambda: not targets(pair))
    assert set(pair.host.processes()) <= before
    assert not [service for service in pair.call("north", "network")["services"] if "bench" in service["address"]]


@ON_ONE
def test_who_cannot_be_measured_is_told_apart(pair: Linked) -> None:
    unknown = pair.van("-n north bench west", code=1).stderr
    assert "there is no site 'west'" in unknown
    assert "there is: south" in unknown
    assert "is this very site" in pair.van("-n north bench north", code=1).stderr
    running = begun(pair)
    try:
        assert "another van bench, to site south, runs on this site" in pair.van("-n north bench south", code=3).stderr
        assert "another measurement is under way there" in refusal_by_south(pair)
    finally:
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=20)
    until("the target is gone", lambda: not targets(pair))


def refusal_by_south(pair: Linked) -> str:
    """South is asked by a third site, a host of its own name, while north measures it."""
    pair.van("-n third init --site-name third --link-access none --service-address 127.0.0.3")
    pair.van("-n north token create third.yaml")
    pair.van("-n third link create third.yaml")
    until("third knows south", lambda: any(s["name"] == "south" for s in pair.call("third", "network")["sites"]))
    try:
        return pair.van("-n third bench south", code=1).stderr
    finally:
        pair.van("-n third delete")


@ON_ONE
def test_a_command_that_is_killed_leaves_nothing(pair: Linked) -> None:
    running = begun(pair)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate(timeout=20)
    until("the target is gone", lambda: not targets(pair), seconds=30)
    said = pair.van("-n south bench north --seconds 0.2").stdout
    for words in ("Between south and north", "bytes from north, 4 connections", "new connections", "limited by"):
        assert words in said


@ON_ONE
def test_a_site_whose_router_hangs_is_named_in_time(pair: Linked) -> None:
    began = time.monotonic()
    with stopped(pair.host.router("south")):
        said = pair.host.run("van", "-p", "linux", "-n", "north", "bench", "south")
    assert said.returncode in (3, 4)
    assert "site south" in said.stderr
    assert time.monotonic() - began < 20
    pair.until_linked()


def test_an_owner_who_does_not_want_it_is_respected(pair: Linked) -> None:
    file = next((pair.host.home / "south" / "resources").glob("Site-*.yaml"))
    text = file.read_text()
    site = yaml.safe_load(text)
    site.setdefault("spec", {})["settings"] = {"bench": "off"}
    file.write_text(yaml.safe_dump(site))
    pair.call("south", "reconcile")
    try:
        said = pair.van("-n north bench south", code=1).stderr
        assert "site south refuses: its owner does not allow measurements there" in said
        assert not targets(pair)
    finally:
        file.write_text(text)
        pair.call("south", "reconcile")
