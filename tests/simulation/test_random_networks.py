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

CASES = int(os.environ.get("VAN_SIMULATION_CASES", "2000"))
BATCHES = 40  # short ones, so that a slow machine meets no timeout


def run_case(seed: int, *, keys: Keys | None = None, rounds: int = 3) -> None:
    network = build(seed, keys=keys)
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
