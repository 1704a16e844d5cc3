"""1,000 services in one namespace: a controller that starts with all of them to do, one that starts when all is done, and one change."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benches.kube.ground import Ground, Row
from benches.kube.sites import Owner, connectors, cpu, linked, resident, services, until_services

from clusters import until  # isort: skip

MANY = 1000


def run(ground: Ground) -> Iterator[Row]:
    _, south = linked(ground, "thousand")
    south.space.kubectl("scale", "deployment/van-controller", "--replicas=0")
    connectors(south, (f"svc-{number:04}" for number in range(MANY)))
    time.sleep(5)
    began = time.monotonic()
    south.space.kubectl("scale", "deployment/van-controller", "--replicas=1")
    until_services(south.space, MANY)
    there = time.monotonic() - began
    until("every status", lambda: _statuses(south) >= MANY, seconds=120, pause=0.5)
    yield Row(f"controller starts, {MANY} new services: every Service is there", [there], mark="20 s")
    yield Row("... and every status", [time.monotonic() - began], mark="20 s")
    time.sleep(3)
    yield Row("... CPU of the controller until then", [cpu(south.space, "controller")])
    yield Row("... resident", resident(south.space, "controller"), "MiB")

    changes = []
    for number in range(5):
        name, begin = f"late-{number}", time.monotonic()
        connectors(south, [name])
        until("it is there", lambda name=name: south.space.kubectl("get", "service", name, check=False).returncode == 0, pause=0.02)  # type: ignore[misc]
        changes.append(time.monotonic() - begin)
        time.sleep(1)
    yield Row("one service more: `kubectl create` to its Service", changes, mark="2 s")

    south.space.kubectl("delete", "pod", "-l", "app.kubernetes.io/component=controller", "--wait=false")
    south.space.kubectl("rollout", "status", "deployment/van-controller", timeout=90)
    time.sleep(15)
    yield Row("CPU of a controller that starts when all is done, first 15 s", [cpu(south.space, "controller")])
    assert services(south.space) >= MANY + 5


def _statuses(owner: Owner) -> int:
    command = ("get", "configmaps", "-l", "vanrouter.io/type=status", "-o", "name")
    return owner.space.kubectl(*command, timeout=60).stdout.count("van-status.connector.")
