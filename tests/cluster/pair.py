"""
Two sites, one in each cluster, with load through a Service from one to the other; installed once for all tests that share it.

      cluster one                                                  cluster two
  client ─▶ Service backend ─▶ router(s) north ◀──link── router(s) south ─▶ pods of Deployment backend
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pods
import traffic
from clusters import Cluster, Namespace, until
from traffic import Outage, Process

ROUTERS: Final = "app.kubernetes.io/component=router"
CONTROLLERS: Final = "app.kubernetes.io/component=controller"
PARTS: Final = ("etcd", "apiserver", "manager", "kubelet", "containerd", "proxy")  # of a cluster, that have a part in it when a router dies
_SEEDS = itertools.count(1, 2)  # requests and transfers have one each


@dataclass
class Side:
    """One of them, and its owner at a terminal."""

    space: Namespace
    image: str
    directory: Path

    def van(self, line: str) -> str:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("VAN_")}
        command = [sys.executable, "-m", "vanrouter.cli", *line.split()]
        done = subprocess.run(
            command, cwd=self.directory, capture_output=True, text=True, timeout=120, check=False,
            env=clean | {"KUBECONFIG": str(self.space.kubeconfig), "VAN_IMAGE": self.image},
        )  # fmt: skip
        assert done.returncode == 0, f"van {line}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def routers(self) -> list[Process]:
        return traffic.processes(self.space, ROUTERS)

    def restart(self) -> None:
        """`kubectl rollout restart` of the router, until the new ones are there. The old ones are leaving then."""
        self.space.kubectl("rollout", "restart", "deployment/van-router")
        self.settled()

    def delete_a_router(self) -> None:
        """`kubectl delete pod`, until its successor is there. It is leaving then."""
        self.space.kubectl("delete", "pod", self.routers()[0].pod, "--wait=false")
        time.sleep(0.5)
        self.settled()

    def settled(self) -> None:
        self.space.kubectl("rollout", "status", "deployment/van-router", "--timeout=90s", timeout=100)

    def gone(self, *names: str, seconds: float = 110) -> None:
        """These pods have ended."""
        self.space.kubectl("wait", *(f"pod/{name}" for name in names), "--for=delete", f"--timeout={seconds}s", timeout=seconds + 10)


def die(router: Process, _side: Side) -> None:
    """SIGKILL, of the only process of the container: the kubelet starts another one in the same pod."""
    os.kill(router.pid, signal.SIGKILL)


def delete_by_force(router: Process, side: Side) -> None:
    side.space.kubectl("delete", "pod", router.pod, "--grace-period=0", "--force")


@dataclass
class Pair:
    north: Side
    south: Side
    times: dict[str, float] = field(default_factory=dict)  # of the install, in seconds

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.north, self.south

    def traffic(self, *, transfers: int = traffic.TRANSFERS, lasting: float = 120.0) -> traffic.Traffic:
        address = str(self.north.space.get("service", "backend")["spec"]["clusterIP"])
        pids = {router.pid for side in self.sides for router in side.routers()}
        seed = next(_SEEDS)
        return traffic.Traffic(self.north.space, "client", address, seed=seed, transfers=transfers, lasting=lasting, watched=pids)

    def with_routers(self, number: int) -> None:
        """So many in each site, and none that is leaving."""
        for side in self.sides:
            if side.space.get("deployment", "van-router")["spec"]["replicas"] != number:
                side.van(f"update --routers {number} --timeout 100s")
        for side in self.sides:
            side.settled()
            until(f"{number} routers in {side.space.name}", lambda side=side: len(side.routers()) == number, seconds=110)  # type: ignore[misc]

    def outage(self, side: Side, fault: Callable[[Process, Side], object], *, quiet: float) -> Outage:
        """Of new connections, when the older router of a site dies."""
        before = {router.pid for router in side.routers()}
        with traffic.Rules(side.space.cluster) as rules, self.traffic(transfers=0) as running:
            running.watched |= {side.space.cluster.pid(part) for part in PARTS}
            time.sleep(quiet)
            at = time.monotonic()
            fault(side.routers()[0], side)

            def successor() -> int:
                return next((router.pid for router in side.routers() if router.pid not in before), 0)

            new = until("there is a successor", successor)
            start = traffic.started_at(new)
            running.watched.add(new)
            time.sleep(0.5)
            side.settled()
            time.sleep(quiet)
            requests = running.end().requests
        again, failed, count = traffic.again_after(requests, at)
        rule = rules.last(side.space.name, since=at, until=again) or at
        return Outage(at, again, failed, count, start, rule, running.waits.longest(at, again))


@contextlib.contextmanager
def pair(one: Cluster, two: Cluster, image: str, directory: Path) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        north, south = (Side(stack.enter_context(c.namespace(name)), image, directory) for c, name in ((one, "north"), (two, "south")))
        north.space.apply(pods.client(image))
        south.space.apply(*traffic.backend(image, 2))
        made = Pair(north, south)
        began = time.monotonic()
        with ThreadPoolExecutor() as at_once:
            list(at_once.map(lambda side, name: side.van(f"init --site-name {name} --pull-policy Never"), made.sides, ("north", "south")))
        made.times["both sites ready"] = time.monotonic() - began
        until("north has an address", lambda: json.loads(north.van("status -o json"))["site"]["endpoints"])
        north.van("token create secret.yaml")
        began = time.monotonic()
        south.van("link create secret.yaml")
        made.times["link active"] = time.monotonic() - began
        south.space.wait("deployment/backend", "Available")
        south.van("expose deployment/backend --port 80 --target-port 8080")
        north.space.wait("pod/client")
        until("the Service is there", lambda: north.space.get("service", "backend"))
        yield made
