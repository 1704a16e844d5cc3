"""
What operations cost those who use a service of the other cluster: 20 requests per second, each on a new connection with a time-out of 3 s,
while routers, servers and the API server are replaced, killed, away. Pair of sites and load are those of tests/cluster/test_operations.py.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from pair import Pair, Side, delete_by_force, die, pair
from traffic import Outage, failed

from benches.kube.ground import Ground, Row

BEFORE, AFTER = 2.0, 8.0  # seconds of load: an operation and what follows from it
NONE: Final = "0 failed"
RESTART: Final = "kubectl rollout restart of the router"
DELETE: Final = "kubectl delete pod of the router"
THEIRS: Final = {
    (1, RESTART, "north"): "72 to 92 of 700",
    (1, DELETE, "north"): "198 to 220 of 800",
    (1, DELETE, "south"): "102 to 166 of 800",
    (2, DELETE, "north"): "23, 29 of 520",
    (2, DELETE, "south"): "1 to 3 of 440",
}


def run(ground: Ground) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as directory, pair(ground.one, ground.two, ground.image, Path(directory)) as sites:
        for routers in (1, 2):
            sites.with_routers(routers)
            for name, operation in ((RESTART, Side.restart), (DELETE, Side.delete_a_router)):
                for side, word in zip(sites.sides, ("north", "south"), strict=True):
                    theirs = THEIRS.get((routers, name, word), "")
                    yield _failed(ground, sites, f"{name}, {routers} in each site, {word}", partial(operation, side), theirs)
            for fault in (die, delete_by_force):
                for side, word in zip(sites.sides, ("north", "south"), strict=True):
                    yield from _outages(ground, sites, routers, fault, side, word)
        yield _failed(ground, sites, "one of two backend pods deleted", partial(_delete_backend, sites), "1 of 500")
        yield _failed(ground, sites, "API server of north stopped for 60 s", partial(_stop_api, ground), "0 of 1000 (30 s)")


def _failed(ground: Ground, sites: Pair, what: str, operation: Callable[[], None], theirs: str) -> Row:
    figures, of = [], 0
    for _ in range(ground.rounds):
        with sites.traffic(transfers=0) as running:
            time.sleep(BEFORE)
            operation()
            time.sleep(AFTER)
            requests = running.end().requests
        figures.append(float(len(failed(requests))))
        of = max(of, len(requests))
    return Row(what, figures, f"of {of} failed", NONE, theirs)


def _outages(ground: Ground, sites: Pair, routers: int, fault: Callable[..., None], side: Side, word: str) -> Iterator[Row]:
    found: list[Outage] = [sites.outage(side, fault, quiet=BEFORE) for _ in range(ground.rounds)]
    what = f"{'SIGKILL' if fault is die else 'delete --force'} of a router, {routers} in each site, {word}: new connections work again"
    marks = ("1.5 s", "", "") if routers == 2 else ("", "2 s", "")
    moments = [(each.fault, each.start, each.rule) for each in found]
    for after, mark, at in zip(("it", "its successor's start", "kube-proxy's last rule"), marks, zip(*moments, strict=True), strict=True):
        yield Row(f"{what} after {after}", [max(0.0, each.again - moment) for each, moment in zip(found, at, strict=True)], "s", mark, "")
    yield Row(f"{what}; failed before", [float(each.failed) for each in found], f"of {max(each.requests for each in found)} failed")


def _delete_backend(sites: Pair) -> None:
    pod = sites.south.space.get("pods", "-l", "app=backend")["items"][0]["metadata"]["name"]
    sites.south.space.kubectl("delete", "pod", pod)
    sites.south.space.kubectl("rollout", "status", "deployment/backend", "--timeout=30s")


def _stop_api(ground: Ground) -> None:
    with ground.one.stopped("apiserver"):
        time.sleep(60)
