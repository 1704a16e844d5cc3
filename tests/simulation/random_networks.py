"""Random networks and what can happen to them: everything follows from the seed."""

from __future__ import annotations

from simulated_keys import Keys
from simulated_network import Network

KEYS = [f"key-{n}" for n in range(6)]
COSTS = [1, 1, 1, 2, 5, 50, 99_999]


def build(seed: int, *, keys: Keys | None = None, most: int = 12) -> Network:
    """A connected random graph of interiors, some edges, some keys."""
    network = Network(seed, keys=keys)
    rng = network.rng
    names = [f"r{n}" for n in range(rng.randint(2, most))]
    for index, name in enumerate(names[1:], 1):
        network.admitted_by[name] = [rng.choice(names[:index])]
    leaves = [f"e{n}" for n in range(rng.randint(0, 3))]
    for leaf in leaves:
        network.admitted_by[leaf] = [rng.choice(names)]
    for name in names + leaves:
        network.start(name, edge=name in leaves)
    for index, name in enumerate(names[1:], 1):
        network.link(name, rng.choice(names[:index]), costs=(rng.choice(COSTS), rng.choice(COSTS)))
    for _ in range(rng.randint(0, len(names))):
        a, b = rng.choice(names), rng.choice(names)
        if a != b and frozenset((a, b)) not in network.links:
            network.link(a, b, costs=(rng.choice(COSTS), rng.choice(COSTS)))
    for leaf in leaves:
        for name in rng.sample(names, min(len(names), rng.choice((1, 1, 2)))):
            network.link(leaf, name, costs=(rng.choice(COSTS), 1))
    for name in names + leaves:
        for key in rng.sample(KEYS, rng.randint(0, 2)):
            network.by_name[name].set_key(key, rng.randint(1, 3), rng.choice((0, 0, 5)))
    return network


def disturb(network: Network) -> None:
    """One fault or change."""
    rng = network.rng
    link = rng.choice(list(network.links.values()))
    router = rng.choice(list(network.by_name.values()))
    match rng.randrange(8):
        case 0:
            network.cut(link) if link.up else network.restore(link)
        case 1:
            network.switch_lane(link)
        case 2:
            network.restart(router.name, gracefully=rng.random() < 0.5)
        case 3:
            router.set_key(rng.choice(KEYS), rng.randint(0, 2), rng.choice((0, 7)))
        case 4 if link.up and not any(network.by_name[end].edge for end in link.ends):
            network.set_suspect(link, not link.suspect)
        case 5:  # a partition: one half loses sight of the other
            side = set(rng.sample(sorted(network.by_name), len(network.by_name) // 2))
            for other in network.links.values():
                if other.up and len(side & set(other.ends)) == 1:
                    network.cut(other)
        case 6:  # and heals
            for other in network.links.values():
                if not other.up:
                    network.restore(other)
        case _:
            if rng.random() < 0.1 and not router.edge:
                router.drain()
