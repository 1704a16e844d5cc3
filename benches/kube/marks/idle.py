"""A site with 50 services that nobody touches: memory, requests to the API server, and how long `van status` takes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from benches.kube.ground import Ground, Row
from benches.kube.sites import asked, connectors, linked, resident, seconds, until_services

from clusters import until  # isort: skip

QUIET = 100.0  # of each round
WRITES = ("create", "update", "patch", "delete", "deletecollection")


def run(ground: Ground) -> Iterator[Row]:
    north, south = linked(ground, "idle")
    connectors(south, (f"svc-{number}" for number in range(50)))
    for owner in (north, south):
        until_services(owner.space, 50)
    yield Row("`van status`", [seconds(owner.van, "status") for owner in (north, south) for _ in range(ground.rounds)], mark="1 s")
    time.sleep(20)
    whole, controllers, routers, counts = [], [], [], []
    for _ in range(ground.rounds):
        begin = time.time()
        time.sleep(QUIET)
        end = time.time()
        counts += [asked(owner.space.cluster, owner.space, begin, end) for owner in (north, south)]
        for owner in (north, south):
            controllers += resident(owner.space, "controller")
            routers += resident(owner.space, "router")
            whole.append(controllers[-1] + routers[-1])
    yield Row("resident at idle with 50 services: controller and router", whole, "MiB", mark="120 MiB", incumbent="128 MiB")
    yield Row("... the controller of it", controllers, "MiB", incumbent="47 to 49 MiB")
    yield Row("... the router of it", routers, "MiB", incumbent="73 to 88 MiB")
    writes = [sum(count[verb] for verb in WRITES) for count in counts]
    yield Row(f"API writes of a site in a quiet {QUIET:.0f} s", writes, "writes", mark="0")
    yield Row("requests of a site in it, all verbs", [count.total() / QUIET for count in counts], "per s", mark="1 per s")
    south.van("update --routers 3")
    until("three routers", lambda: len(json.loads(south.van("status -o json"))["site"]["routers"]) == 3, seconds=60)
    time.sleep(20)
    yield Row("resident of each of 3 routers", resident(south.space, "router"), "MiB", mark="60 MiB", incumbent="73 to 88 MiB")
