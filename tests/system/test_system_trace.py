"""
The commands about the whole network, with real processes. What hangs is named, and no command hangs with it.

    north ── middle ── south ── echo
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from hosts import Host
from linked import Echo, stopped, until


@pytest.fixture
def line(tmp_path: Path, plane: str) -> Iterator[Host]:
    with Host(tmp_path, plane) as host:
        yield from set_up(host)


def set_up(host: Host) -> Iterator[Host]:
    echo = Echo()
    host.van("-n north init --site-name north --link-access none")
    host.van(f"-n middle init --site-name middle --link-access 127.0.0.1:{free_port()} --service-address 127.0.0.2")
    host.van("-n south init --site-name south --link-access none --service-address 127.0.0.3")
    for site in ("north", "south"):
        host.van(f"-n middle token create {site}.yaml")
        host.van(f"-n {site} link create {site}.yaml")
    host.van(f"-n south expose host 127.0.0.1:{echo.port} --port {free_port()} --address hello")
    until("north knows the service", lambda: asked(host, "north", "network status")["services"])
    until("south knows north", lambda: len(asked(host, "south", "network status")["sites"]) == 3)
    yield host
    echo.close()


def asked(host: Host, site: str, words: str) -> Any:
    return json.loads(host.van(f"-n {site} {words} -o json").stdout)


def key_of_hello(host: Host) -> str:
    network = asked(host, "north", "network status")
    return str(network["services"][0]["targets"][0]["routingKey"])


def test_every_site_shows_the_network_what_would_be_lost_and_the_way_of_a_stream(line: Host) -> None:
    for site in ("north", "middle", "south"):
        tree = line.van(f"-n {site} network status").stdout
        for words in ("north", "middle", "south", "serves hello", "(this site)"):
            assert words in tree
        assert line.van(f"-n {site} network status -o dot").stdout.count(" -- ") == 2
    key = key_of_hello(line)
    way = line.van(f"-n north trace {key}").stdout
    assert "It arrives after 2 hops" in way
    told = asked(line, "north", "simulate --down middle/south")
    assert [(lost["key"], lost["after"]) for lost in told["keys"]] == [(key, 0)]
    assert [site["site"] for site in told["cutOff"]] == ["south"]


def test_a_hanging_router_is_named_by_a_trace_and_delays_no_other_command(line: Host) -> None:
    key = key_of_hello(line)
    with stopped(line.router("south")):
        began = time.monotonic()
        result = line.van(f"-n north trace {key}", code=1)
        assert "no answer beyond site middle within 1 s: it went on to site south" in result.stdout
        assert "south" in line.van("-n north network status").stdout
        line.van("-n north simulate --down middle")
        assert time.monotonic() - began < 30.0, "none of them waits for it; the machine may be busy"

        def is_seen() -> bool:
            sites = {site["name"]: site["state"] for site in asked(line, "north", "network status")["sites"]}
            return sites["south"] == "unreachable"

        until("its link is dead for everybody", is_seen)
        assert "(unreachable)" in line.van("-n north network status").stdout
        assert "no path leads there now" in line.van(f"-n north trace {key}", code=1).stdout
