"""
Two linked namespaces to measure in, what their processes cost, and what they asked of the API server.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from benches.kube.ground import Cluster, Ground, Namespace

import pods  # isort: skip
from clusters import until  # isort: skip
from test_walkthrough import Owner, hello, link  # isort: skip

__all__ = ["Owner", "asked", "connectors", "cpu", "linked", "resident", "seconds", "services", "until_services", "waiting_client"]

PREFIX: Final = "system:serviceaccount:"

# Asks again and again, from before there is an answer; prints when the first one came. A name that is not there yet is asked for again.
LOOP: Final = """\
import sys, time, urllib.request
url, end = sys.argv[1], time.time() + 60
while time.time() < end:
    try:
        urllib.request.urlopen(url, timeout=0.5).read()
    except OSError:
        time.sleep(0.02)
    else:
        print(time.time())
        break
"""


def linked(ground: Ground, name: str) -> tuple[Owner, Owner]:
    """North in cluster one, south in cluster two with a server ``hello``, and a pod ``client`` in north."""
    directory = Path(ground.stack.enter_context(tempfile.TemporaryDirectory()))
    north = Owner(ground.namespace(ground.one, f"{name}-north"), ground.image, directory)
    south = Owner(ground.namespace(ground.two, f"{name}-south"), ground.image, directory)
    north.space.apply(pods.client(ground.image))
    south.space.apply(hello(ground.image))
    south.space.wait("deployment/hello", "Available")
    north.space.wait("pod/client")
    link(north, south)
    return north, south


def seconds(do: Callable[..., object], *arguments: object) -> float:
    begin = time.monotonic()
    do(*arguments)
    return time.monotonic() - begin


def waiting_client(ground: Ground, space: Namespace, address: str) -> Callable[[], float]:
    """Begins to ask for ``http://ADDRESS`` from a pod; what is returned waits for the wall clock of the first answer."""
    command = ("exec", "client", "--", "python3", "-c", LOOP, f"http://{address}")
    pool = ground.stack.enter_context(ThreadPoolExecutor(1))
    answer = pool.submit(space.kubectl, *command, timeout=90)
    time.sleep(1.0)  # it asks by now
    return lambda: float(answer.result().stdout)


def connectors(owner: Owner, names: Iterable[str]) -> None:
    """What `van expose deployment/hello --port 80 --address NAME` writes, all at once."""
    listed = []
    for name in names:
        spec = f"{{routingKey: {name}, selector: 'app=hello,tier=backend,track=stable', port: 80, expose: {{port: 80}}}}"
        text = f"apiVersion: vanrouter.io/v1alpha1\nkind: Connector\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        metadata = {"name": f"van.connector.{name}", "labels": {"vanrouter.io/type": "resource"}}
        listed.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"resource.yaml": text}})
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": listed})
    owner.space.kubectl("create", "-f", "-", given=given, timeout=180)


def services(space: Namespace) -> int:
    return len(space.kubectl("get", "services", "-l", "vanrouter.io/type=service", "-o", "name", timeout=60).stdout.split())


def until_services(space: Namespace, count: int, *, within: float = 120) -> None:
    until(f"{count} Services in {space.name}", lambda: services(space) >= count, seconds=within, pause=0.5)


def _processes(space: Namespace, component: str) -> Iterator[Path]:
    """Those of its pods, in /proc; the pause processes apart."""
    for pod in space.get("pods", "-l", f"app.kubernetes.io/component={component}")["items"]:
        uid = pod["metadata"]["uid"]
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                group, command = (process / "cgroup").read_text(), (process / "cmdline").read_bytes()
                if (uid in group or uid.replace("-", "_") in group) and b"pause" not in command.split(b"\0")[0]:
                    yield process


def resident(space: Namespace, component: str) -> list[float]:
    """MiB of each process of a component: VmRSS."""
    read = [(process / "status").read_text() for process in _processes(space, component)]
    return [int(text.partition("VmRSS:")[2].split()[0]) / 1024 for text in read]


def cpu(space: Namespace, component: str) -> float:
    """CPU seconds that the processes of a component have used."""
    stats = [(process / "stat").read_text().rpartition(")")[2].split() for process in _processes(space, component)]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def asked(cluster: Cluster, space: Namespace, since: float, until: float) -> Counter[str]:
    """Requests of router and controller by verb, from the audit log, between two moments of the wall clock."""
    seen: dict[str, str] = {}
    for line in (cluster.directory / "audit.log").read_text().splitlines():
        event: dict[str, Any] = json.loads(line)
        at = datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()
        if since <= at < until and event["user"].get("username", "").startswith(f"{PREFIX}{space.name}:van-"):
            seen[event["auditID"]] = event["verb"]
    return Counter(seen.values())
