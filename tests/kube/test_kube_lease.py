"""Two controllers of one namespace, each a process of its own on a real API server: one acts, the other one follows it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import trio
from api_server import ApiServer
from controllers import Namespace, in_namespace
from free_ports import free_port

from vanrouter.controller.lease import DURATION
from vanrouter.kube.calls import apply, create
from vanrouter.kube.kinds import CONFIG_MAPS, LEASES, ROLE_BINDINGS, ROLES, SERVICES
from vanrouter.kube.manifests import CONTROLLER_RULES, LEASE_RULES

LISTENER = """\
apiVersion: vanrouter.io/v1alpha1
kind: Listener
metadata: {{name: {name}}}
spec: {{routingKey: x, host: {name}, port: 80}}
"""


class Processes:
    def __init__(self, kubeconfig: Path, namespace: str, directory: Path) -> None:
        self._command = [sys.executable, "-c", "from vanrouter.cli.main import vanrouter; vanrouter()", "-n", namespace]
        self._command += ["--kubeconfig", str(kubeconfig), "controller", "--lease", "--port"]
        self._directory = directory
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        with (self._directory / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen([*self._command, str(free_port())], stdout=log, stderr=log)

    def log(self, name: str) -> str:
        return (self._directory / f"{name}.log").read_text()

    def end(self, name: str, number: int) -> None:
        process = self.running.pop(name)
        process.send_signal(number)
        process.wait(10)


@contextlib.contextmanager
def processes(kubeconfig: Path, namespace: str, directory: Path) -> Iterator[Processes]:
    made = Processes(kubeconfig, namespace, directory)
    try:
        yield made
    finally:
        for name in list(made.running):
            made.end(name, signal.SIGKILL)


async def may(here: Namespace, user: str) -> None:
    """The Role that ships, and the Lease that comes with the install."""
    await here.client.call(create(ROLES, here.name, {"metadata": {"name": "c"}, "rules": [*CONTROLLER_RULES, *LEASE_RULES]}))
    reference = {"apiGroup": ROLES.group, "kind": ROLES.kind, "name": "c"}
    subject = {"kind": "User", "name": user, "apiGroup": ROLES.group}
    await here.client.call(create(ROLE_BINDINGS, here.name, {"metadata": {"name": "c"}, "roleRef": reference, "subjects": [subject]}))
    await here.client.call(apply(LEASES, here.name, {"metadata": {"name": "van-controller"}, "spec": {}}))


def held(by_other_than: str = "") -> Callable[[Any], str]:
    def holder(lease: Any) -> str:
        name = str((lease or {}).get("spec", {}).get("holderIdentity") or "")
        return name if name != by_other_than else ""

    return holder


def renewed(lease: Any) -> float:
    """Wall clock, of whoever holds it."""
    return datetime.fromisoformat(lease["spec"]["renewTime"]).timestamp()


async def exposes(here: Namespace, name: str) -> None:
    await here.put(LISTENER.format(name=name))
    await here.until(SERVICES, name, bool, seconds=30)


async def waits(both: Processes, name: str) -> None:
    with trio.fail_after(30):
        while "waits" not in both.log(name):  # noqa: ASYNC110 - another process
            await trio.sleep(0.1)


async def test_one_of_two_writes_and_the_other_takes_over_when_it_is_killed_or_ends(
    api_server: ApiServer, cluster: Any, namespace: str, tmp_path: Path
) -> None:
    user = f"controller-{namespace}"
    async with in_namespace(cluster, namespace) as here:
        await may(here, user)
        await here.site()
        with processes(api_server.kubeconfig(user, ()), namespace, tmp_path) as both:
            both.start("one")
            first = held()(await here.until(LEASES, "van-controller", held(), seconds=30))
            await here.until(CONFIG_MAPS, "van-router", bool, seconds=30)
            both.start("two")
            await exposes(here, "a")
            await waits(both, "two")
            assert "wrote" not in both.log("two"), "one of them writes"

            both.end("one", signal.SIGKILL)
            last = renewed(await here.get(LEASES, "van-controller"))
            lease = await here.until(LEASES, "van-controller", held(first), seconds=4 * DURATION)
            assert renewed(lease) - last >= DURATION, "not before the lease of who died is over"
            second = held()(lease)
            await exposes(here, "b")
            assert "wrote" in both.log("two")

            both.start("three")
            await waits(both, "three")
            both.end("two", signal.SIGTERM)
            assert held()(await here.get(LEASES, "van-controller")) != second, "who ends says so"
            await here.until(LEASES, "van-controller", held(second), seconds=4 * DURATION)
            await exposes(here, "c")
