"""Status that can be believed: both ends say the same, since when is right, and asking ends in time also when a router hangs."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import time
from typing import Any

from linked import Linked, at_once, condition, stopped, until


def seconds_of(date: str) -> float:
    return dt.datetime.strptime(date, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC).timestamp()


def now() -> float:
    """As status prints it: whole seconds."""
    return float(int(time.time()))


def said_since(pair: Linked, name: str) -> float:
    return seconds_of(pair.operational(name)["since"])


def hello_at(pair: Linked, name: str) -> Any:
    return next((s for s in pair.status(name)["services"] if s["address"] == "hello"), None)


def test_both_ends_agree_on_a_link_and_a_key_through_all_its_states(linked: Linked) -> None:
    before = now()
    linked.set_up()
    assert [linked.link(name)["active"] for name in ("north", "south")] == [True, True]
    assert abs(said_since(linked, "north") - said_since(linked, "south")) <= 1
    assert before <= said_since(linked, "north") <= now()
    assert [x["site"] for x in hello_at(linked, "north")["targets"]] == ["south"]
    assert {x["site"] for x in hello_at(linked, "south")["listeners"]} == {"north", "south"}

    # Suspect: the peer hangs. It is said, with its own date, and taken back when it goes on.
    up = said_since(linked, "north")
    until("a second has passed", lambda: now() > up)
    asked = now()
    with stopped(linked.host.router("south")):
        suspect = until("north suspects south", lambda: (o := linked.operational("north"))["reason"] == "Suspect" and o)
        assert suspect["status"] == "Unknown"
        assert "south" in suspect["message"]
        assert asked <= seconds_of(suspect["since"]) <= now(), "since when it is suspect, not since when it is linked"
        assert linked.link("north")["active"]
    until("north hears south again", lambda: linked.operational("north")["reason"] == "Active")
    linked.until_linked()

    # Down: it hangs for longer than six seconds. What needed it is unmatched.
    asked = now()
    with stopped(linked.host.router("south")):
        until("north has no link any more", lambda: linked.status("north")["links"] == [])
        listener = until(
            "the listener is unmatched", lambda: (x := linked.status("north")["listeners"]) == [] or (not x[0]["matched"] and x)
        )
        assert listener
        refused = linked.van("-n north status")
        assert "linked to no" in refused.stdout or "0 other" in refused.stdout or "not linked" in refused.stdout
    linked.until_linked()
    for name in ("north", "south"):
        assert asked <= said_since(linked, name) <= now()
    until("hello answers again", linked.answers)

    # Drain: north leaves while a stream is open, and says so at both ends.
    with linked.connect() as stream:
        stream.sendall(b"x")
        assert stream.recv(1) == b"x"
        os.kill(linked.host.router("north"), signal.SIGTERM)
        drains = until(
            "south hears that north leaves", lambda: linked.operational("south")["reason"] == "Draining" and linked.status("south")
        )
        assert "leaving" in condition(drains["links"][0], "Operational")["message"]
        left = linked.host.run("van", "-p", "linux", "-n", "north", "status")
        assert left.returncode == 3
        assert "leaving" in left.stdout
        stream.sendall(b"y")
        assert stream.recv(1) == b"y"

    # Restart: gone, then a new router of the same site. South says what is wrong meanwhile, and what to do.
    down = until(
        "south says that the link is down", lambda: (x := linked.link("south")) and not x["active"] and condition(x, "Operational")
    )
    assert down["next"]
    until("it says where it dials in vain", lambda: f"127.0.0.1:{linked.link_port}" in linked.operational("south")["message"])
    shown = linked.host.run("van", "-p", "linux", "-n", "south", "link", "status")
    assert "next:" in (shown.stdout + shown.stderr).lower()
    asked = now()
    linked.van("-n north init")
    linked.until_linked()
    for name in ("north", "south"):
        assert asked <= said_since(linked, name) <= now()
    until("hello answers again", linked.answers)
    assert [x["site"] for x in hello_at(linked, "north")["targets"]] == ["south"]


ASKING = (
    "status", "status -o json", "status --wait", "link status", "service status", "network status", "listener status", "connector status",
    "token create -", "token status", "link delete --all", "unexpose hello", "expose host 127.0.0.1:1 --port 1 --address other --wait",
    "listener create other 2", "update --service-address 127.0.0.9", "hosts",
)  # fmt: skip


def test_a_router_that_hangs_costs_the_deadline_and_exit_code_4(linked: Linked) -> None:
    linked.van("-n north init --site-name north --link-access none")
    linked.van(f"-n north expose host 127.0.0.1:{linked.echo.port} --port {linked.port} --address hello")
    started = time.monotonic()
    with stopped(linked.host.router("north")):
        ended = at_once(linked.host, [f"-n north {line} --timeout 2s" for line in ASKING])
    assert time.monotonic() - started < 30  # all of them at once, each with an interpreter to start
    for line, result in ended.items():
        assert result.returncode == 4, f"van {line}: {result.returncode}\n{result.stdout}{result.stderr}"
        assert "Next:" in result.stderr, result.stderr
        assert "Traceback" not in result.stderr
    linked.van("-n north status")


def test_a_peer_that_hangs_costs_nobody_here_time(shared: Linked) -> None:
    with stopped(shared.host.router("south")):
        for line in ("status", "link status -o json", "service status", "network status"):
            result = shared.host.run("van", "-p", "linux", "-n", "north", *line.split(), "--timeout", "3s")
            assert result.returncode in (0, 3), f"van {line}: {result.returncode}\n{result.stdout}{result.stderr}"
    shared.until_linked()
    until("hello answers again", shared.answers)


def test_a_link_whose_far_end_hangs_ends_waiting_with_exit_code_4(shared: Linked) -> None:
    with stopped(shared.host.router("north")):
        until("south knows", lambda: not shared.link("south")["active"])
        result = shared.host.run("van", "-p", "linux", "-n", "south", "link", "status", "--wait", "--timeout", "1s")
        assert result.returncode == 4, result.stdout + result.stderr
        assert "Next:" in result.stderr
        document = json.loads(shared.van("-n south link status -o json").stdout)
        operational = next(c for c in document[0]["conditions"] if c["type"] == "Operational")
        assert operational["status"] != "True"
        assert operational["next"]
        stuck = until(
            "it says that nothing answers", lambda: (o := shared.operational("south"))["next"].startswith("check that the router") and o
        )
        for cause in ("stopped", "firewall"):
            assert cause in stuck["next"], "both look alike from here"
    shared.until_linked()


def test_sighup_reads_again_and_disturbs_nothing(shared: Linked) -> None:
    pid = shared.host.router("north")
    os.kill(pid, signal.SIGHUP)
    until("it has read again", lambda: "reading the resources again" in shared.log("north"))
    assert shared.host.router("north") == pid
    assert shared.answers()
