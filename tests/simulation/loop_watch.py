"""
What becomes of loops and of OPENs while a simulated network converges. Looks; changes nothing, and draws from a seed of its own.

`LoopWatch` follows every choice of next hop after each event that moved a path, so that no loop is missed, however short. `Opens` sends
OPENs through the network as transit does: at each router by the path that it has when the OPEN gets there, one hop less each time, never
back over the link that it came from.
"""

from __future__ import annotations

import collections
import math
import random

from routing_oracle import interiors, loops
from simulated_network import Network, Router


class LoopWatch:
    """Since when each loop has been there: by destination, for as long as there is any loop toward it."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.since: dict[str, float] = {}
        self.longest = 0.0
        self.seen = 0
        self.moves = -1

    def look(self) -> None:
        network = self.network
        if network.path_moves == self.moves:
            return
        self.moves = network.path_moves
        now = {destination for _, destination in loops(network)}
        for began in self.since.values():  # also those that end with this event
            self.longest = max(self.longest, network.now - began)
        self.seen += len(now - self.since.keys())
        self.since = {destination: self.since.get(destination, network.now) for destination in now}


class Open:
    def __init__(self, destination: str, began: float, limit: int) -> None:
        self.destination, self.began, self.limit = destination, began, limit
        self.visited: list[str] = []


class Opens:
    """One OPEN every ``every`` seconds between two interiors at random, while the network runs; and those that are sent."""

    def __init__(self, network: Network, *, every: float = math.inf) -> None:
        self.network, self.every = network, every
        self.rng = random.Random(f"opens {network.rng.getstate()[1][0]}")
        self.ends: collections.Counter[str] = collections.Counter()
        self.twice = 0  # came by a router a second time
        self.longest = 0  # hops of the one that went furthest
        self.slowest = 0.0  # seconds that one was under way, the longest
        self.stopped = False
        if every < math.inf:
            self._next()

    def _next(self) -> None:
        if self.stopped:
            return
        network = self.network
        network.at(network.now + self.every, self._next)
        routers = interiors(network)
        if len(routers) < 2:
            return
        source, destination = self.rng.sample(routers, 2)
        if source.engine.path(destination.id) is not None:
            self.send(source, Open(destination.id, network.now, source.engine.hop_limit()))

    def send(self, source: Router, opened: Open) -> None:
        self._arrive(source, "", opened)

    def _arrive(self, router: Router, came_from: str, opened: Open) -> None:
        """At the source it has its whole limit; a hop takes one off."""
        opened.visited.append(router.id)
        if router.id == opened.destination:
            return self._end("arrived", opened)
        if opened.limit == 0:
            return self._end("hop limit", opened)
        path = router.engine.path(opened.destination)
        if path is None:
            return self._end("no path", opened)
        hops = [hop for hop in path[1] if hop != came_from]
        if not hops:
            return self._end("back", opened)
        hop = self.network.routers.get(self.rng.choice(hops))
        link = self.network.links.get(frozenset((router.name, hop.name))) if hop is not None else None
        if hop is None or link is None or not link.up:
            return self._end("link gone", opened)
        opened.limit -= 1
        self.network.at(self.network.now + link.latency, lambda: self._hop(router, hop, opened))
        return None

    def _hop(self, router: Router, hop: Router, opened: Open) -> None:
        link = self.network.links[frozenset((router.name, hop.name))]
        if hop.alive and link.up and link.seen[hop.name]:
            self._arrive(hop, router.id, opened)
        else:
            self._end("link gone", opened)

    def _end(self, how: str, opened: Open) -> None:
        self.ends[how] += 1
        self.twice += len(set(opened.visited)) < len(opened.visited)
        self.longest = max(self.longest, len(opened.visited) - 1)
        self.slowest = max(self.slowest, self.network.now - opened.began)
