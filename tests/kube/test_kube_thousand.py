"""
C-6: a thousand Services on a real API server.

Held here is the controller's own part, processor time, which the machine's other work does not change; how long it took is printed, and has
its marks in `make bench-kube`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import trio
from controllers import in_namespace
from fake_router import automatic, service

from vanrouter.kube.kinds import SERVICES
from vanrouter.kube.listwatch import Change
from vanrouter.kube.names import SERVICE, selector
from vanrouter.kube.watching import Watcher

MANY = 1000
START = 10.0  # seconds of CPU; a quiet machine needs 2
CHANGES = 30
CHANGE = 0.2  # seconds of CPU for one of them; a quiet machine needs 0.07
HANGS = 120.0


def offered(names: list[str]) -> dict[str, Any]:
    return {"listeners": [automatic(name, 80) for name in names], "services": [service(name, 80) for name in names]}


class Seen:
    """When each Service was first seen, by somebody who watches."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.removed: set[str] = set()

    def __call__(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if hasattr(change, "object"):
                self.at.setdefault(change.key[1], trio.current_time())
            else:
                self.removed.add(change.key[1])

    async def until(self, is_so: Callable[[], bool], seconds: float) -> None:
        with trio.fail_after(seconds):
            while not is_so():  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_a_thousand_services_are_there_soon_and_each_of_ten_changes_a_second_too(
    cluster: Any, namespace: str, record_property: Callable[[str, object], None]
) -> None:
    names, seen = [f"svc-{number:04}" for number in range(MANY)], Seen()
    async with in_namespace(cluster, namespace) as here, trio.open_nursery() as nursery:
        await here.site()
        watcher = Watcher(here.client, SERVICES, namespace, heard=seen, rng=random.Random(1), labels=selector(SERVICE))
        nursery.start_soon(watcher.run)
        async with here.controller() as controller, here.router(controller) as router:
            began, used = trio.current_time(), time.process_time()
            router.say(**offered(names))
            await seen.until(lambda: len(seen.at) == MANY, HANGS)
            start, used = trio.current_time() - began, time.process_time() - used
            waits, churn = [], time.process_time()
            for number in range(CHANGES):
                name, said = f"late-{number}", trio.current_time()
                names = [*names[1:], name]  # and the oldest is withdrawn
                router.say(**offered(names))
                await seen.until(lambda name=name: name in seen.at, HANGS)  # type: ignore[misc]
                waits.append(seen.at[name] - said)
                await trio.sleep(max(0.0, said + 0.1 - trio.current_time()))
            churn, took = time.process_time() - churn, trio.current_time() - began - start
            assert not seen.removed & set(names)
        nursery.cancel_scope.cancel()
    waits.sort()
    record_property(
        "figure",
        f"{MANY} Services: there in {start:.1f} s ({used:.1f} s of CPU, the test's router included); {CHANGES} changes in {took:.1f} s: "
        f"median {waits[CHANGES // 2]:.2f} s, worst {waits[-1]:.2f} s, {churn / CHANGES:.3f} s of CPU each",
    )
    assert used <= START
    assert churn / CHANGES <= CHANGE
