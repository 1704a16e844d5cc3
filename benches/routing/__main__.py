"""
`python -m benches.routing`: what one change costs in networks of growing size; the tables of benches/README.md.

``--sizes``: every router does everything; N interiors need about N * N * 12 KiB. ``--sampled``: 16 routers do everything, the others only
flood. ``--one``: a single router, fed with everybody's records over each of its links.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable

from benches.machine import facts
from benches.routing.network import Network
from benches.routing.one_router import OneRouter

Figures = tuple[float, ...]

SAMPLE = 16


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.routing", description="what a change costs in networks of growing size")
    parser.add_argument("--sizes", default="10,100,300", help="networks in full: numbers of interiors")
    parser.add_argument("--sampled", default="100,300,1000", help="networks of which a sample runs in full, the rest floods")
    parser.add_argument("--one", default="10,100,1000", help="one router in a network: numbers of interiors")
    parser.add_argument("--edges", type=int, default=10, help="edge routers per interior; each has one routing key")
    parser.add_argument("--rounds", type=int, default=5, help="how often each change is made")
    args = parser.parse_args()
    found = facts()
    print(f"{found['cpu']}, {found['cores']} cores, Python {found['python']}; one process, one core; links of 5 ms, 6 per interior;")
    print(f"{args.edges} edges per interior with one key each; signatures by a stand-in. {args.rounds} changes of each kind:")
    print(
        "virtual seconds, messages and bytes are medians; CPU: median of the median router, least and most of that; busiest router of all\n"
    )
    heading = "interiors | change | virtual s | messages | per link | KiB | CPU ms per router: median (least, most) | busiest | looked at"
    print(f"| {heading} |\n|{'---|' * 9}")
    for size in _numbers(args.sizes):
        whole_network(size, args.edges, args.rounds)
    print(
        f"\n{SAMPLE} routers do everything, the others only flood; nothing is sent before the first change\n\n| {heading} |\n|{'---|' * 9}"
    )
    for size in _numbers(args.sampled):
        whole_network(size, args.edges, args.rounds, full=min(size, SAMPLE))
    print("\n| interiors | edges | to learn it all, CPU s | memory MiB | records MiB | change | CPU ms: median (least, most) | looked at |")
    print("|---|---|---|---|---|---|---|---|")
    for size in _numbers(args.one):
        one_router(size, args.edges, args.rounds)


def _numbers(words: str) -> list[int]:
    return [int(word) for word in words.split(",") if word]


def whole_network(size: int, edges: int, rounds: int, *, full: int | None = None) -> None:
    network = Network(size, full=full)
    for index in range(size):
        for edge in range(edges):
            network.add_edge(index, edge)
    if full is None:
        _row(network, "all links come up at once", [_measure(network, network.connect)])
    else:
        memory = [octets / 2**20 for octets in network.preload()]
        print(f"| {size} | memory MiB of a router: {statistics.median(memory):.1f} ({min(memory):.1f}, {max(memory):.1f}) | | | | | | | |")
    rows: dict[str, list[Figures]] = {}
    for number in range(rounds):
        index, key = network.rng.randrange(size), f"new-{number}"
        a, b = network.rng.choice(sorted(network.links))
        for change, act in _changes(network, index, key, a, b).items():
            network.now += 2.0  # past the pacing of the one before, long before anything is refreshed
            network.settle()
            rows.setdefault(change, []).append(_measure(network, act))
    for change, figures in rows.items():
        _row(network, change, figures)


def _changes(network: Network, index: int, key: str, a: int, b: int) -> dict[str, Callable[[], None]]:
    return {
        "one address more": lambda: network.set_key(index, key),
        "one address less": lambda: network.set_key(index, key, 0),
        "one link lost": lambda: network.set_link(a, b, 0),
        "one link found": lambda: network.set_link(a, b, 1),
    }


def _measure(network: Network, act: Callable[[], None]) -> Figures:
    """Seconds until the last message, messages, bytes, CPU of the median full router, of the busiest, routers looked at per router."""
    full = [network.engines[index] for index in network.full]
    visited = sum(engine.paths.visited for engine in full)
    gc.collect()
    gc.disable()  # a collection over all engines of this process would be charged to whoever happens to run
    began = network.start_measuring()
    act()
    network.settle(idle=0.0)
    seconds = network.now - began
    network.settle()
    gc.enable()
    cpu = sorted(1000 * network.cpu[index] for index in network.full)
    looked_at = (sum(engine.paths.visited for engine in full) - visited) / len(full)
    return seconds, network.messages, network.bytes, statistics.median(cpu), cpu[-1], looked_at


def _row(network: Network, change: str, figures: list[Figures]) -> None:
    columns = list(zip(*figures, strict=True))
    seconds, messages, octets, typical, busiest, looked_at = (statistics.median(column) for column in columns)
    cells = [f"{seconds:.3f}", f"{messages:.0f}", f"{messages / len(network.links):.2f}", f"{octets / 1024:.0f}"]
    cells += [f"{typical:.2f} ({min(columns[3]):.2f}, {max(columns[3]):.2f})", f"{busiest:.2f}", f"{looked_at:.1f}"]
    print(f"| {len(network.engines)} | {change} | {' | '.join(cells)} |", flush=True)


def one_router(size: int, edges: int, rounds: int) -> None:
    router = OneRouter(size, edges)
    cpu, memory, records = router.bring_up()
    learnt = f"{cpu:.2f} | {memory / 2**20:.1f} | {records / 2**20:.1f}"
    for what, (median, least, most, looked_at) in router.median_ms(4 * rounds).items():
        print(f"| {size} | {size * edges} | {learnt} | {what} | {median:.2f} ({least:.2f}, {most:.2f}) | {looked_at:.0f} |", flush=True)


if __name__ == "__main__":
    main()
