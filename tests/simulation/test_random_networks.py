"""
Thousands of random networks with faults, each from one seed: after quiet everything is as the oracle says, and loops never last.

A failure prints the seed; `VAN_SIMULATION_SEED=N` runs that one alone, `VAN_SIMULATION_CASES=N` says how many.
"""

from __future__ import annotations

import os
import random

import pytest
from random_networks import build, disturb
from routing_oracle import check_databases, check_paths, check_routes, interiors, loops
from simulated_keys import FastKeys, Keys, RealKeys
from simulated_network import Network

CASES = int(os.environ.get("VAN_SIMULATION_CASES", "2000"))
BATCHES = 20


class LoopWatch:
    """Remembers since when each loop has been there without a break; looks every few events."""

    def __init__(self, network: Network, every: int) -> None:
        self.network, self.every, self.count = network, every, 0
        self.since: dict[str, float] = {}
        self.longest = 0.0
        self.seen = 0
        network.on_step = self.look

    def look(self) -> None:
        self.count += 1
        if self.count % self.every:
            return
        now = {destination for _, destination in loops(self.network)}
        self.seen += len(now - self.since.keys())
        self.since = {destination: self.since.get(destination, self.network.now) for destination in now}
        for began in self.since.values():
            self.longest = max(self.longest, self.network.now - began)


def run_case(seed: int, *, keys: Keys | None = None, rounds: int = 3, watch: bool = False) -> LoopWatch | None:
    network = build(seed, keys=keys)
    watcher = LoopWatch(network, every=5) if watch else None
    for _ in range(rounds):
        for _ in range(network.rng.randint(0, 6)):
            disturb(network)
            network.run(network.rng.choice((0.0, 0.05, 0.3, 2.0)))
        network.settle()
        assert not loops(network)
        check_paths(network)
        check_databases(network)
        check_routes(network)
    for router in network.routers.values():
        # Nobody lied; of a site in another partition it may be unknown here who admitted it.
        assert {problem.reason for problem in router.problems} <= {"NotJoined"}
    return watcher


@pytest.mark.parametrize("batch", range(BATCHES))
def test_after_quiet_every_path_is_the_oracles_and_all_databases_agree(batch: int) -> None:
    if "VAN_SIMULATION_SEED" in os.environ:
        run_case(int(os.environ["VAN_SIMULATION_SEED"]))
        return
    for seed in range(batch, CASES, BATCHES):
        try:
            run_case(seed)
        except Exception:
            print(f"the seed is {seed}: VAN_SIMULATION_SEED={seed}")
            raise


def test_a_seed_that_no_run_had_before() -> None:
    seed = random.SystemRandom().randrange(1 << 40)
    print(f"the seed is {seed}: VAN_SIMULATION_SEED={seed}")
    run_case(seed)


@pytest.mark.parametrize("seed", range(6))
def test_the_same_with_real_keys_and_real_admissions(seed: int) -> None:
    run_case(seed, keys=RealKeys(), rounds=1)


def test_a_run_repeats_itself_from_its_seed() -> None:
    def story() -> list[object]:
        network = build(7, keys=FastKeys())
        for _ in range(10):
            disturb(network)
            network.run(0.3)
        network.settle()
        return [network.messages, network.now, [(r.name, r.routes) for r in interiors(network)]]

    assert story() == story()


def test_loops_while_converging_are_as_short_as_the_news_is_slow() -> None:
    """Next hops are followed through every choice, every few events. News takes at most half a second to be seen, and crosses
    at most 12 routers at 0.1 s each; loops between the first and the last router that hears it end with it."""
    longest, seen = 0.0, 0
    for seed in range(10_000, 10_060):
        watcher = run_case(seed, watch=True)
        assert watcher is not None
        longest, seen = max(longest, watcher.longest), seen + watcher.seen
    print(f"{seen} loops seen in passing, the longest for {longest:.2f} s")
    assert longest < 2.0
