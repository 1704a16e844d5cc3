"""What limits a measurement, from figures alone; and the target, which does no more than it was told."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from vanrouter.bench.verdict import Bulk, Load, limits_of_bulk, limits_of_requests, load

GBIT = 1.25e8
FREE = Load("north", 8, 0.5, 0.3, 0.9, 0.2)
FAR = FREE._replace(site="south")


def bulk(one: float, several: float, ms: float) -> Bulk:
    return Bulk(one * GBIT, several * GBIT, 4, ms / 1e3)


def test_a_machine_without_an_idle_processor_is_the_limit_whatever_else_there_is() -> None:
    busy = FREE._replace(cores=2, idle=0.01, router=0.9, other=0.6)
    assert limits_of_bulk(bulk(5, 5, 0.1), busy, FAR) == [
        "Bulk is limited by the processors at north: none of its 2 is idle; its router uses 0.9, this measurement 0.6,"
        " everything else there 0.5."
    ]


def test_a_thread_that_never_waits_is_named_with_its_router() -> None:
    assert limits_of_bulk(bulk(5, 5, 0.1), FREE, FAR._replace(busiest=0.97)) == [
        "Bulk is limited by the router of south: one of its threads is busy for 97% of the time."
    ]


def test_the_measurement_itself_is_said_to_be_the_limit() -> None:
    said = limits_of_bulk(bulk(5, 5, 0.1), FREE._replace(other=0.99), FAR)
    assert said == ["Bulk is limited by this measurement at north, which is busy for 99% of the time: the routers could carry more."]


def test_on_a_long_way_one_stream_is_limited_by_its_window_and_several_are_not() -> None:
    one, all_of_them = limits_of_bulk(bulk(0.6, 1.0, 100), FREE, FAR)
    assert one.startswith("One stream is limited by the round trip: with 100.0 ms there and back, the window of 8 MiB")
    assert "671.1 Mbit/s" in one
    assert all_of_them.startswith("Bulk is limited by the way between the sites")


def test_where_all_windows_are_full_more_streams_carry_more() -> None:
    assert limits_of_bulk(bulk(0.6, 2.4, 100), FREE, FAR)[1].startswith("4 streams are limited by the round trip too")


def test_where_both_ends_have_room_it_is_the_way_between() -> None:
    assert limits_of_bulk(bulk(0.1, 0.1, 5), FREE, FAR) == [
        "Bulk is limited by the way between the sites, or by a router on it: there are processors to spare at north"
        " (the router uses 0.5 of 8) and at south (0.5 of 8)."
    ]


@pytest.mark.parametrize(
    ("link", "words"),
    [(0.02, "of which 20.00 ms are the round trip of the link."), (0.001, "the rest are the routers."), (None, "takes 21.00 ms.")],
)
def test_a_request_is_the_link_and_the_routers(link: float | None, words: str) -> None:
    assert limits_of_requests(0.021, 0.0205, link, FREE, FAR).endswith(words)


def test_a_link_that_was_slower_than_a_request_now_says_nothing_about_it() -> None:
    assert limits_of_requests(0.001, 0.0009, 0.05, FREE, FAR) == "A request takes 1.00 ms."


def test_load_is_between_two_samples() -> None:
    before = {"at": 1.0, "cpu": 2.0, "cores": 2, "threads": {"7": 1.0}, "idle": 10.0}
    after = {"at": 3.0, "cpu": 5.0, "cores": 2, "threads": {"7": 2.5, "9": 1.0}, "idle": 11.0}
    assert load("north", before, after, other=1.0) == Load("north", 2, 1.5, 0.75, 0.25, 0.5)


# ---- The target ---------------------------------------------------------------------------------------------------------------


class Target:
    def __init__(self, seconds: float, most: int) -> None:
        command = [sys.executable, "-P", "-m", "vanrouter.bench.target", str(seconds), str(most)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def connect(self, kind: bytes) -> socket.socket:
        stream = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        stream.sendall(kind)
        return stream


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    found = Target(*request.param)
    yield found
    found.process.kill()
    for pipe in (found.process.stdin, found.process.stdout):
        pipe.close()  # type: ignore[union-attr]
    found.process.wait()


@pytest.mark.parametrize("target", [(60, 1 << 20)], indirect=True)
def test_the_target_ends_when_it_moved_what_it_may(target: Target) -> None:
    with target.connect(b"G") as stream:
        got = 0
        while data := stream.recv(1 << 16):
            got += len(data)
            if got > 1 << 24:
                pytest.fail("it goes on")
    assert target.process.wait(10) == 0


@pytest.mark.parametrize("target", [(0.3, 1 << 40)], indirect=True)
def test_the_target_ends_when_its_time_is_over_also_in_the_middle(target: Target) -> None:
    began = time.monotonic()
    with target.connect(b"S") as stream, contextlib.suppress(OSError):
        while time.monotonic() < began + 10:
            stream.sendall(bytes(1 << 16))
    assert target.process.wait(10) == 0
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("target", [(60, 1 << 40)], indirect=True)
def test_the_target_ends_with_its_router_and_closes_what_it_does_not_know(target: Target) -> None:
    with target.connect(b"X") as stream:
        assert stream.recv(1) == b""
    assert target.process.stdin is not None
    target.process.stdin.close()
    assert target.process.wait(10) == 0
