"""From `van expose` to the first answer in the other cluster, when there are few services and when there are many."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benches.kube.ground import Ground, Row
from benches.kube.sites import Owner, connectors, linked, until_services, waiting_client

MANY = 500


def run(ground: Ground) -> Iterator[Row]:
    north, south = linked(ground, "expose")
    connectors(south, (f"few-{number}" for number in range(9)))
    until_services(north.space, 9)
    yield Row(
        "`van expose` to the first answer in the other cluster, 10 services",
        _times(ground, north, south, "a"),
        mark="2 s",
        incumbent="1.7 to 2.7 s",
    )
    began = time.monotonic()
    connectors(south, (f"many-{number:03}" for number in range(MANY - 10)))
    until_services(north.space, MANY - 1)
    yield Row(f"{MANY} services, by `kubectl create`, to the last Service in the other cluster", [time.monotonic() - began])
    yield Row(f"`van expose` to the first answer in the other cluster, {MANY} services", _times(ground, north, south, "b"), mark="5 s")


def _times(ground: Ground, north: Owner, south: Owner, prefix: str) -> list[float]:
    found = []
    for number in range(max(3, ground.rounds)):
        name = f"{prefix}-{number}"
        first = waiting_client(ground, north.space, name)
        began = time.time()
        south.van(f"expose deployment/hello --port 80 --address {name}")
        found.append(first() - began)
        south.van(f"unexpose {name}")
    return found
