"""
What happens to a router, and to streams when it does (cases F-1, F-2, F-10, F-13, F-14, F-16), in a network with a second way.

                     ┌═▶ b ═┐
    clients ─▶ a ════┤      ├══▶ d ─▶ server         by way of b, unless it is lost
                     └═▶ c ═┘
"""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from linked import until
from outages import Outage, figures, median, outage
from sizes import LONG, only_long, size
from unharmed import Maker, unharmed
from vans import DIAMOND, PORT, Network
from verdicts import Ends
from waits import Waits

KIB, MIB = 1 << 10, 1 << 20
HERE = "127.0.0.1"
DEAD, SLACK = 6.0, 4.0


@pytest.fixture(scope="module")
def whole_diamond(networks: Maker) -> Iterator[Network]:
    links = (DIAMOND[0]._replace(relayed=True), *DIAMOND[1:])
    with networks(links, clients="a", server="d") as network:
        yield network


@pytest.fixture
def diamond(whole_diamond: Network) -> Iterator[Network]:
    with unharmed(whole_diamond) as network:
        yield network


def flowing(network: Network, seed: int, *, count: int = 16) -> None:
    network.until_through(network.relays["a", "b"])
    network.begin(seed=seed, count=count, body=2 * MIB, answer=2 * MIB, piece=4 * KIB, pace=0.05, limit=60.0)


def both(network: Network, *, heals: bool = False) -> tuple[Ends, Ends]:
    """How the flowing streams ended and the probes: honestly, each of them. ``heals``: probing goes on until all is well."""
    network.client.go()
    flows = network.client.ends()
    if heals:
        network.until_well()
        time.sleep(0.2)
    probes = network.prober.quiet()
    seen = network.report()
    (flows + probes).judged(seen)
    return flows.judged(seen), probes.judged(seen)


def disturbed(network: Network, seed: int, fault: Callable[[], float], *, after: float = 1.0, heals: bool = False) -> tuple[Ends, Outage]:
    """Streams flow, others come all the time, the fault happens, and ``after`` seconds later all of them may end."""
    flowing(network, seed)
    network.probe(seed=seed)
    with Waits(network.pids) as waits:
        time.sleep(0.3)
        at = fault()
        time.sleep(after)
        flows, probes = both(network, heals=heals)
    return flows, outage(probes, at, waits)


# ---- How soon a loss is noticed: each with its mark --------------------------------------------------------------------------------------


def close(network: Network) -> float:
    network.relays["a", "b"].tell("refuse")
    return float(network.relays["a", "b"].tell("cut")["at"])


def kill_and_restart(network: Network, name: str) -> float:
    at = network[name].kill()
    time.sleep(0.2)
    network[name].start()
    return at


def hang(network: Network) -> float:
    return network["b"].signal(signal.SIGSTOP)


def wake(network: Network) -> None:
    network["b"].signal(signal.SIGCONT)


LOSSES: dict[str, tuple[Callable[[Network], float], Callable[[Network], None], float]] = {
    "a link is closed": (close, Network.heal, 0.2),
    "a link is a black hole": (lambda network: network.wires.rules("a", "b"), Network.heal, 1.5),
    "a wire is down": (lambda network: network.wires.down("a", "b"), Network.heal, 1.5),
    "a router on the way hangs": (hang, wake, 1.5),
    "a router on the way is killed": (lambda network: network["b"].kill(), lambda network: network["b"].start(), 0.2),
}
EVERYDAY = ("a link is closed", "a link is a black hole", "a router on the way is killed")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("loss", [name if LONG or name in EVERYDAY else only_long(name) for name in LOSSES])
def test_new_streams_take_the_other_way_soon_after(diamond: Network, seed: int, loss: str, figure: Callable[[str], None]) -> None:
    fault, heal, mark = LOSSES[loss]
    rounds: list[Outage] = []
    for number in range(size(3, 20)):
        flows, seen = disturbed(diamond, seed + number, lambda: fault(diamond), after=max(0.7, 2 * mark))
        assert set(flows.kinds) <= {"whole", "reset"}, flows.kinds
        rounds.append(seen)
        heal(diamond)
        diamond.until_well()
    figure(figures(loss, rounds, mark))
    assert median(rounds) <= mark


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["a", "d"])
def test_a_router_that_is_killed_and_restarted_serves_again_within_a_second(
    diamond: Network, seed: int, name: str, figure: Callable[[str], None]
) -> None:
    """F-1: where clients and servers are, there is no other way."""
    rounds: list[Outage] = []
    for number in range(size(3, 20)):
        flows, seen = disturbed(diamond, seed + number, lambda: kill_and_restart(diamond, name), heals=True)
        assert flows.kinds == {"reset": 16}, "all of them were on it"
        rounds.append(seen)
        diamond.until_well()
    figure(figures(f"router {name} killed, restarted after 0.2 s", rounds, 1.0))
    assert median(rounds) <= 1.0


# ---- Faults -----------------------------------------------------------------------------------------------------------------------------


def test_a_router_that_is_killed_again_and_again_leaves_nothing_with_the_others(diamond: Network, seed: int) -> None:
    """F-2, and F-1 for streams that were on the other way: they do not notice."""
    diamond.probe(seed=seed, every=0.02)
    for _ in range(size(4, 150)):
        diamond["b"].kill()
        diamond["b"].start()
        time.sleep(size(0.5, 2.0))
    diamond.prober.quiet().judged(diamond.report())
    assert set(diamond["c"].linked()) == {"a", "d"}


def test_a_router_that_hangs_too_long_loses_its_streams_and_no_others(diamond: Network, seed: int) -> None:
    """F-14: what was on it is reset after *dead*, new ones go round, and when it wakes up all is as before."""
    flowing(diamond, seed)
    with diamond.stopped("b") as at:
        ends = diamond.client.ends()
        took = max(end.ended for end in ends) - at
        time.sleep(size(0.0, 60.0))
        diamond.probe(seed=seed)
        time.sleep(0.5)
        diamond.prober.quiet().all_whole()
    assert ends.judged().kinds == {"reset": 16}
    assert took <= DEAD + SLACK, f"after {took:.1f} s"
    diamond.server.report()


def test_a_router_that_is_asked_to_go_loses_nobody(diamond: Network, seed: int) -> None:
    """F-13: SIGTERM on the way. New streams take the other way, those on it end whole, and then it does."""
    flowing(diamond, seed)
    diamond.probe(seed=seed)
    time.sleep(0.3)
    diamond["b"].signal(signal.SIGTERM)
    time.sleep(1.0)
    flows, probes = both(diamond)
    code = diamond["b"].ended(20)
    diamond["b"].start()
    assert flows.kinds == {"whole": 16}
    assert probes.kinds == {"whole": len(probes)}, [end for end in probes if end.kind != "whole"][:3]
    assert code == 0


def test_without_descriptors_old_streams_go_on_and_new_ones_come_when_there_are_some_again(diamond: Network, seed: int) -> None:
    """F-10: EMFILE where the clients are. It does not spin, and its administration answers."""
    site = diamond["a"]
    flowing(diamond, seed)
    allowed = resource.prlimit(site.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(site.pid, resource.RLIMIT_NOFILE, (site.usage().descriptors + 32, allowed[1]))
    try:
        diamond.prober.say(
            "streams", host=HERE, port=PORT, seed=seed + 1, count=size(100, 400), body=KIB, answer=KIB, pace=-1, piece=64, limit=60.0
        )
        until("it has none left", lambda: site.usage().descriptors >= resource.prlimit(site.pid, resource.RLIMIT_NOFILE)[0] - 12)
        began, used = time.monotonic(), cpu(site.pid)
        time.sleep(1.0)
        share = (cpu(site.pid) - used) / (time.monotonic() - began)
        assert share < 0.5, f"{share:.2f} of a core, for nothing"
        assert site.call("status", timeout=5)["site"]["ready"]
        diamond.client.go()
        assert diamond.client.ends().kinds == {"whole": 16}
    finally:
        resource.prlimit(site.pid, resource.RLIMIT_NOFILE, allowed)
    diamond.prober.read(60)
    diamond.prober.go()
    ends = diamond.prober.ends().judged()
    assert ends.kinds.get("whole", 0) >= 16, ends.kinds
    diamond.server.report()


def test_a_server_that_goes_resets_hangs_and_comes_back_is_told_honestly(diamond: Network, seed: int) -> None:
    """F-16: nothing is delivered twice, nothing waits for more than a target that is missing may make it wait, and back is back at once."""
    seen = []
    diamond.probe(seed=seed, every=0.02, limit=30.0)
    time.sleep(0.2)
    for manner in ("reset", "serve", "hang", "serve"):
        diamond.server.manner(manner)
        time.sleep(size(0.4, 10.0))
    diamond.server.manner("reset")  # it carries nothing that the report below would miss
    time.sleep(0.2)
    seen += diamond.report()
    diamond.server.close()
    time.sleep(size(0.5, 10.0))
    diamond.serve()
    back = time.monotonic()
    time.sleep(1.0)
    probes = diamond.prober.quiet().judged([*seen, *diamond.report()])
    later = [end for end in probes if end.began > back + 0.5]
    assert later
    assert {end.kind for end in later} == {"whole"}
    assert max(end.took for end in probes if end.kind == "refused") <= 3.0 + SLACK


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
