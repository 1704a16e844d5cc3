"""
Eight sites in a ring with two chords (cases R-4, R-8, L-3 over three hops): whoever is lost between clients and server, new streams find
another way; a network in two halves is two networks, and one again.

    clients ─▶ a ── b ── c ── d
               │    └─────┐   │ ╲
               h ── g ── f ── e   (d─h)      server in e
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest
from linked import until
from outages import Outage, figures, median, outage
from sizes import size
from unharmed import Maker, unharmed
from vans import RING, Network
from waits import Waits

KIB = 1 << 10


@pytest.fixture(scope="module")
def whole_ring(networks: Maker) -> Iterator[Network]:
    with networks(RING, clients="a", server="e") as network:
        yield network


@pytest.fixture
def ring(whole_ring: Network) -> Iterator[Network]:
    with unharmed(whole_ring) as network:
        yield network


@pytest.mark.timeout(900)
def test_whoever_is_killed_between_two_sites_is_gone_round(ring: Network, seed: int, figure: Callable[[str], None]) -> None:
    """R-8. Streams on other ways do not notice."""
    chance = random.Random(seed)
    rounds: list[Outage] = []
    for number in range(size(3, 50)):
        victim = chance.choice("bcdfgh")
        ring.begin(seed=seed + number, count=8, body=256 * KIB, answer=256 * KIB, piece=4 * KIB, pace=0.05)
        ring.probe(seed=seed + number)
        with Waits(ring.pids) as waits:
            time.sleep(0.3)
            at = ring[victim].kill()
            time.sleep(1.0)
        ring.client.go()
        flows, probes, seen = ring.client.ends(), ring.prober.quiet(), ring.report()
        assert set(flows.judged(seen).kinds) <= {"whole", "reset"}
        rounds.append(outage((flows + probes).judged(seen).of(probes), at, waits))
        ring[victim].start()
        ring.until_well()
    figure(figures("one of 8 routers killed", rounds, 0.2))
    assert median(rounds) <= 0.2


def test_a_network_that_falls_apart_is_two_and_becomes_one_again(ring: Network, seed: int) -> None:
    """R-4: a, b, g, h here, c, d, e, f there."""
    between = [("b", "c"), ("f", "g"), ("b", "f"), ("d", "h")]
    for number in range(size(1, 20)):
        for one, other in between:
            ring.wires.rules(one, other, "reject with tcp reset")
        until("the other half is known to be away", lambda: ring.client.run("127.0.0.1", 7_002, seed=0, limit=8.0).kinds != {"whole": 1})
        ring.wires.heal()
        ring.until_well()
        ring.begin(seed=seed + number, count=16, body=64 * KIB, answer=64 * KIB)
        ring.client.ends().all_whole()
    ring.server.report()
