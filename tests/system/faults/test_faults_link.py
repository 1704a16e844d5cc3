"""
What one link goes through, and what that does to streams (cases F-3 to F-9, F-14, F-15): nothing is lost to a pause shorter than *dead*,
a lost link resets its streams, what is broken on the way is never delivered, and new streams work again as soon as there is a link.

    clients ─▶ a ══ relay ══ veth ══▶ b ─▶ server
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from linked import until
from sizes import LONG, only_long, size
from unharmed import Maker, unharmed
from vans import PAIR, Network

KIB, MIB = 1 << 10, 1 << 20
DEAD, SLACK = 6.0, 4.0  # seconds of silence; what a busy machine may add


@pytest.fixture(scope="module")
def whole_pair(networks: Maker) -> Iterator[Network]:
    with networks((PAIR[0]._replace(relayed=True),), clients="a", server="b") as network:
        yield network


@pytest.fixture
def pair(whole_pair: Network) -> Iterator[Network]:
    with unharmed(whole_pair) as network:
        yield network


def flowing(pair: Network, seed: int, *, count: int = 16, body: int = 2 * MIB, limit: float = 60.0) -> None:
    """Streams that move a little all the time, until they are told to go."""
    pair.begin(seed=seed, count=count, body=body, answer=body, piece=4 * KIB, pace=0.05, limit=limit)


def finished(pair: Network) -> dict[str, int]:
    """Told to go: how they ended."""
    pair.client.go()
    return pair.client.ends().judged(pair.report()).kinds


def stall(pair: Network) -> Callable[[], object]:
    pair.relays["a", "b"].tell("stall")
    return lambda: pair.relays["a", "b"].tell("flow")


def dropped(pair: Network, *, inward: bool = True, outward: bool = True) -> Callable[[], object]:
    pair.wires.rules("a", "b", inward=inward, outward=outward)
    return pair.wires.heal


def down(pair: Network) -> Callable[[], object]:
    pair.wires.down("a", "b")
    return pair.wires.heal


FAULTS: dict[str, Callable[[Network], Callable[[], object]]] = {
    "dropped both ways": dropped,
    "dropped inward": lambda pair: dropped(pair, outward=False),
    "dropped outward": lambda pair: dropped(pair, inward=False),
    "the wire is down": down,
    "the relay stalls": stall,
}


@pytest.mark.parametrize("seconds", [1.5, only_long(3.0)])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_pause_that_is_shorter_than_dead_loses_nothing(pair: Network, seed: int, fault: str, seconds: float) -> None:
    """F-3, F-4, F-8. New streams come all the time too, and wait."""
    flowing(pair, seed)
    end = FAULTS[fault](pair)
    time.sleep(seconds)
    end()
    assert finished(pair) == {"whole": 16}


@pytest.mark.parametrize("fault", [name if LONG or name == "dropped both ways" else only_long(name) for name in FAULTS])
@pytest.mark.parametrize("seconds", [0.0, only_long(10.0), only_long(60.0)])
def test_a_silence_that_is_longer_resets_what_was_on_the_link_and_nothing_hangs(
    pair: Network, seed: int, fault: str, seconds: float
) -> None:
    flowing(pair, seed)
    began, end = time.monotonic(), FAULTS[fault](pair)
    ends = pair.client.ends()
    took = max(each.ended for each in ends) - began
    time.sleep(max(0.0, seconds - took))
    end()
    assert ends.judged(pair.report()).kinds == {"reset": 16}
    assert DEAD - 2.5 <= took <= DEAD + SLACK, f"reset after {took:.1f} s"
    pair.until_well(seconds=20)


def test_a_router_that_hangs_is_a_pause_and_then_a_lost_link(pair: Network, seed: int) -> None:
    """F-14: SIGSTOP."""
    flowing(pair, seed)
    with pair.stopped("b"):
        time.sleep(2)
    assert finished(pair) == {"whole": 16}
    flowing(pair, seed + 1)
    with pair.stopped("b") as began:
        ends = pair.client.ends()
        time.sleep(size(0.0, 60.0))
    took = max(each.ended for each in ends) - began
    assert ends.judged(pair.report()).kinds == {"reset": 16}
    assert took <= DEAD + SLACK, f"reset after {took:.1f} s"
    pair.until_well(seconds=20)


def test_a_refused_packet_closes_the_link_and_its_streams_at_once(pair: Network, seed: int) -> None:
    """F-5: the firewall answers with RST."""
    flowing(pair, seed)
    began = pair.wires.rules("a", "b", "reject with tcp reset")
    ends = pair.client.ends()
    took = max(each.ended for each in ends) - began
    pair.wires.heal()
    assert ends.judged(pair.report()).kinds == {"reset": 16}
    assert took <= 3, f"after {took:.1f} s: a PING is due each 2 s"
    pair.until_well(seconds=20)


@pytest.mark.parametrize("percent", [5, only_long(1), only_long(20)])
def test_lost_packets_lose_no_bytes(pair: Network, seed: int, percent: int, figure: Callable[[str], None]) -> None:
    """F-6."""
    pair.wires.rules("a", "b", f"numgen random mod 100 < {percent} drop", outward=False)
    body, began = size(128 * KIB, MIB) // (1 if percent <= 5 else 8), time.monotonic()
    pair.begin(seed=seed, count=8, body=body, answer=body, limit=300.0)
    pair.client.ends().all_whole(pair.report())
    figure(f"{percent} % of packets lost: {16 * body / (time.monotonic() - began) / MIB:.1f} MiB/s on 8 streams")


@pytest.mark.parametrize("megabits", [20, only_long(5)])
def test_a_narrow_wire_is_shared_and_loses_nothing(pair: Network, seed: int, megabits: int) -> None:
    """F-7."""
    with pair.wires.shaped("a", "b", megabits):
        pair.begin(seed=seed, count=8, body=256 * KIB, answer=1_000, limit=120.0)
        pair.client.ends().all_whole(pair.report())


@pytest.mark.parametrize("seconds", [0.05, only_long(0.2)])
def test_a_long_way_is_slow_and_whole(pair: Network, seed: int, seconds: float) -> None:
    """F-8."""
    pair.relays["a", "b"].tell("delay", seconds=seconds, jitter=seconds / 5)
    pair.begin(seed=seed, count=8, body=MIB, answer=MIB)
    pair.client.ends().all_whole(pair.report())


def test_one_byte_at_a_time_is_whole(pair: Network, seed: int) -> None:
    pair.relays["a", "b"].tell("trickle", on=True)
    pair.begin(seed=seed, count=4, body=2 * KIB, answer=2 * KIB)
    pair.client.ends().all_whole(pair.report())


@pytest.mark.parametrize("how", ["reset", "end", "half"])
def test_a_link_that_is_cut_anywhere_resets_its_streams(pair: Network, seed: int, how: str) -> None:
    """F-8: also when TCP says that this was a clean end."""
    for number in range(size(3, 50)):
        flowing(pair, seed + number)
        pair.relays["a", "b"].tell("cut-after", bytes=(seed >> number) % 50_000, how=how)
        pair.client.go()
        kinds = pair.client.ends().judged(pair.report()).kinds
        assert set(kinds) <= {"reset", "whole"}, kinds
        assert kinds.get("reset"), "the streams were on it"
        pair.relays["a", "b"].tell("cut")
        pair.until_well(seconds=20)


def test_a_bit_that_flips_on_the_way_costs_the_link_and_never_reaches_an_application(pair: Network, seed: int) -> None:
    """F-8: TLS fails closed."""
    for number in range(size(4, 50)):
        flowing(pair, seed + number)
        before = pair.relays["a", "b"].tell("count")["flipped"]
        pair.relays["a", "b"].tell("flip")
        pair.client.go()
        kinds = pair.client.ends().judged(pair.report()).kinds
        assert pair.relays["a", "b"].tell("count")["flipped"] == before + 1
        assert set(kinds) <= {"reset", "whole"}, kinds
        assert kinds.get("reset"), f"seed {seed + number}: no lane was closed: {kinds}"
        pair.until_well(seconds=20)


def test_a_link_that_comes_and_goes_hangs_nobody_and_settles(pair: Network, seed: int) -> None:
    """F-9."""
    lines = pair["a"].usage().lines
    rounds = size(6, 200)
    pair.probe(seed=seed, every=0.02)
    for _ in range(rounds):
        pair.relays["a", "b"].tell("refuse")
        pair.relays["a", "b"].tell("cut")
        time.sleep(0.25)
        pair.relays["a", "b"].tell("accept")
        time.sleep(0.25)
    began = time.monotonic()
    pair.until_well(seconds=20)
    assert time.monotonic() - began <= 5 + SLACK
    ends = pair.client.quiet().judged(pair.report())
    assert set(ends.kinds) <= {"whole", "reset", "refused"}
    assert pair["a"].usage().lines - lines <= 12 * rounds


def test_an_endpoint_that_takes_connections_and_says_nothing_is_dialled_again_and_again(pair: Network, seed: int) -> None:
    """F-15: TCP yes, TLS never."""
    relay = pair.relays["a", "b"]
    relay.tell("stall")
    relay.tell("cut")

    def told() -> bool:
        link = next(each for each in pair["a"].call("status")["links"] if each["direction"] == "outgoing")
        return not link["active"] and any(each["reason"] == "TimedOut" for each in link["endpoints"])

    until("status names the time-out", told, seconds=20)
    relay.tell("flow")
    pair.until_well(seconds=20)
