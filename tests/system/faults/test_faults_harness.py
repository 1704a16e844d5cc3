"""The harness itself: what it must notice, it notices, with the seed; the relay does what it is told. No router here."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator

import pytest
from bodies import Header, Sending
from programs import Client, Relay, Server

MIB = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as found:
        yield found


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Client() as found:
        yield found


@pytest.fixture
def relay(server: Server, seed: int) -> Iterator[Relay]:
    with Relay((server.host, server.port), seed=seed) as found:
        yield found
    server.report()  # leaves nothing for the next test


@pytest.mark.parametrize(("body", "answer"), [(0, 0), (1, 1), (64, 64), (3 * MIB + 7, MIB), (0, MIB), (MIB, 0)])
def test_what_is_carried_honestly_is_whole_at_both_ends(server: Server, client: Client, seed: int, body: int, answer: int) -> None:
    ends = client.run(server.host, server.port, seed=seed, count=16, body=body, answer=answer)
    assert ends.all_whole(server.report()).kinds == {"whole": 16}


def test_a_clean_end_that_comes_too_early_is_caught_and_named_by_its_seed(server: Server, client: Client, relay: Relay, seed: int) -> None:
    client.begin(relay.host, relay.port, seed=seed, count=8, body=MIB, answer=MIB, pace=-1)
    relay.tell("cut", how="end")
    ends = client.ends()
    assert ends.kinds == {"TRUNCATED": 8}
    with pytest.raises(AssertionError, match="TRUNCATED, a clean end after") as caught:
        ends.judged(server.report())
    assert {int(found) for found in re.findall(r"client: stream \d+ seed (\d+)", str(caught.value))} == {end.seed for end in ends}
    assert "server: stream" in str(caught.value), "the other end was cut short too"


def test_one_end_that_comes_too_early_is_caught_where_the_other_goes_on(server: Server, client: Client, relay: Relay, seed: int) -> None:
    client.begin(relay.host, relay.port, seed=seed, count=4, body=MIB, answer=MIB, pace=-1)
    relay.tell("cut-after", bytes=100_000, how="half")
    client.go()
    assert client.ends().kinds == {"TRUNCATED": 4}


def test_a_changed_bit_is_caught_and_its_place_is_told(server: Server, client: Client, relay: Relay, seed: int) -> None:
    client.begin(relay.host, relay.port, seed=seed, count=8, body=MIB, answer=MIB, pace=-1)
    relay.tell("flip")
    client.go()
    ends = client.ends()
    with pytest.raises(AssertionError, match=r"DAMAGED, (differs between byte|begins with|has another checksum)"):
        ends.judged(server.report())
    assert relay.tell("count")["flipped"] == 1


def test_a_reset_is_a_reset_and_before_the_server_saw_it_a_refusal(server: Server, client: Client, relay: Relay, seed: int) -> None:
    client.begin(relay.host, relay.port, seed=seed, count=8, body=MIB, answer=MIB, pace=-1)
    relay.tell("cut", how="reset")
    assert client.ends().judged(server.report()).kinds == {"reset": 8}
    relay.tell("refuse")
    assert client.run(relay.host, relay.port, seed=seed, count=8).judged(server.report()).kinds == {"refused": 8}
    server.manner("reset")
    assert client.run(server.host, server.port, seed=seed, count=8).judged(server.report()).kinds == {"refused": 8}
    server.manner("serve")


@pytest.mark.parametrize(("waits", "kind"), [(True, "answered"), (False, "reset")])
def test_a_reset_after_everything_went_both_ways_is_no_loss_and_any_earlier_one_is(
    server: Server, seed: int, waits: bool, kind: str
) -> None:
    """Nobody on the way can promise that the very last word arrives: that the client has no more to say."""
    header = Header(id=seed, seed=seed, body=1_000, answer=1_000, flags=0)
    sending = Sending(header)
    with socket.create_connection((server.host, server.port)) as client:
        for part in sending:
            client.sendall(part)
        if waits:
            client.sendall(sending.trailer())
            while client.recv(1 << 16):
                pass
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ((_, _, found, _),) = server.report()
    assert found == kind


def test_what_never_ends_is_a_failure(server: Server, client: Client, relay: Relay, seed: int) -> None:
    client.begin(relay.host, relay.port, seed=seed, count=2, body=MIB, answer=MIB, pace=-1, limit=1.0)
    relay.tell("stall")
    client.go()
    with pytest.raises(AssertionError, match="HUNG, nothing for it within 1 s"):
        client.ends().judged(server.report(within=0.0))


def test_a_stream_that_is_delivered_twice_is_caught(server: Server, client: Client, seed: int) -> None:
    client.run(server.host, server.port, seed=seed, count=1)
    seen = server.report()
    ends = client.run(server.host, server.port, seed=seed, count=1)
    with pytest.raises(AssertionError, match="DELIVERED TWICE"):
        ends.judged([*server.report(), *seen, *seen])


def test_the_relay_delays_stalls_and_trickles_without_a_loss(server: Server, client: Client, relay: Relay, seed: int) -> None:
    relay.tell("delay", seconds=0.1, jitter=0.02)
    assert min(end.took for end in client.run(relay.host, relay.port, seed=seed, count=4, body=MIB, answer=MIB).all_whole()) >= 0.16
    relay.tell("delay", seconds=0.0)
    client.begin(relay.host, relay.port, seed=seed, count=4, body=MIB, answer=MIB, pace=-1)
    relay.tell("stall")
    client.go()
    passed = relay.tell("count")["passed"]
    assert relay.tell("count")["passed"] == passed
    relay.tell("flow")
    client.ends().all_whole()
    relay.tell("trickle", on=True)
    client.run(relay.host, relay.port, seed=seed, count=1, body=2_000, answer=2_000).all_whole()


def test_probes_show_when_a_server_was_away(server: Server, client: Client, relay: Relay, seed: int) -> None:
    client.probe(relay.host, relay.port, seed=seed)
    client_sees = relay.tell("refuse")["at"]
    back = relay.tell("accept")["at"]
    ends = client.quiet()
    assert {end.kind for end in ends} <= {"whole", "reset", "refused"}
    assert all(end.kind == "whole" for end in ends if end.ended < client_sees or end.began > back)
