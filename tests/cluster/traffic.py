"""
Load through Services of real clusters: 20 requests per second, each on a new connection with a time-out of 3 s, and 10 long transfers.

Both are streams of the fault tests (tests/system/faults): each body follows from a seed and has a checksum, so that every one ends in
exactly one class: whole, reset, refused, timed out. One that was cut and looks like a clean end, or was changed, fails the test that asks.

The client is a process of this machine in the network of a pod; so it goes on while an API server is away. The servers are pods.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

HERE: Final = Path(__file__).resolve().parent
FAULTS: Final = HERE.parent / "system" / "faults"
sys.path.append(str(FAULTS))

import pods  # noqa: E402
from clusters import Cluster, Namespace, run, until  # noqa: E402
from programs import Client  # noqa: E402
from verdicts import End, Ends  # noqa: E402
from waits import Waits  # noqa: E402

LONG: Final = bool(os.environ.get("VANROUTER_LONG"))  # make soak
EVERY: Final = 0.05
PATIENCE: Final = 3.0
TRANSFERS: Final = 10
PIECE: Final = 8 << 10  # of a transfer, and the same in return,
PAUSE: Final = 0.05  # each so often
PORT: Final = 8080


# ---- What is in the pods ---------------------------------------------------------------------------------------------------------------


def backend(image: str, replicas: int) -> list[dict[str, Any]]:
    """A Deployment `backend`, and the programs that its pods run."""
    files = {file.name: file.read_text() for file in (FAULTS / "bodies.py", FAULTS / "files.py", FAULTS / "load_server.py")}
    files["backend_program.py"] = (HERE / "backend_program.py").read_text()
    container = pods.container(
        "backend", image, ["python3", "/load/backend_program.py"],
        readinessProbe={"tcpSocket": {"port": 8081}, "periodSeconds": 1},
        volumeMounts=[{"name": "load", "mountPath": "/load"}],
        # Without a request it gets next to nothing of a busy processor, and the load says nothing about the routers any more.
        resources={"requests": {"cpu": "300m", "memory": "64Mi"}},
    )  # fmt: skip
    pod = pods.pod("backend", container, volumes=[{"name": "load", "configMap": {"name": "load"}}])
    template = {"metadata": {"labels": {"app": "backend"}}, "spec": pod["spec"]}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "backend"}}, "template": template}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "load"}, "data": files},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "backend"}, "spec": spec},
    ]


class Process(NamedTuple):
    """The main process of a container, as this machine sees it."""

    pod: str
    address: str
    pid: int


def processes(space: Namespace, selector: str) -> list[Process]:
    """Of the containers that run in pods with these labels, those first that began first."""
    ctr = ("ctr", "-a", str(space.cluster.directory / "containerd.sock"), "-n", "k8s.io", "tasks", "ls")
    pids = {words[0]: int(words[1]) for line in run(*ctr).stdout.splitlines()[1:] if (words := line.split())[2] == "RUNNING"}
    items = sorted(space.get("pods", "-l", selector)["items"], key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    return [
        Process(pod["metadata"]["name"], pod["status"]["podIP"], pid)
        for pod in items
        for container in pod["status"].get("containerStatuses", ())
        if (pid := pids.get(container.get("containerID", "").removeprefix("containerd://")))
    ]


# ---- Load -------------------------------------------------------------------------------------------------------------------------------


class Totals(NamedTuple):
    requests: Ends
    transfers: Ends

    def __str__(self) -> str:
        return f"requests {classes(self.requests)}; transfers {classes(self.transfers)}"


def classes(ends: Ends) -> dict[str, int]:
    return dict(Counter("timed out" if end.kind == "HUNG" else end.kind for end in ends))


def failed(ends: Ends) -> list[End]:
    return [end for end in ends if end.kind != "whole"]


class Traffic:
    """``with Traffic(...) as traffic:`` runs until it is left, or `end` is called. Nothing is judged before `end`."""

    def __init__(
        self, space: Namespace, pod: str, address: str, *, seed: int, transfers: int, lasting: float, watched: Iterable[int]
    ) -> None:
        """``address``: of the Service. ``lasting``: seconds that transfers take if nobody hurries them. ``watched``: processes whose waits
        for a processor are recorded (`waits`), beside the client's.
        """
        (client,) = processes(space, f"app={pod}")
        inside = ("nsenter", f"--net=/proc/{client.pid}/ns/net")
        self._programs = [Client(prefix=inside), Client(prefix=inside)]
        self._requests, self._transfers = self._programs
        self._address, self._seed, self._count = address, seed, transfers
        self._body = int(lasting / PAUSE) * PIECE
        self.watched = {*watched, *(program.pid for program in self._programs)}
        self.waits = Waits(lambda: tuple(self.watched))

    def __enter__(self) -> Self:
        self.waits.__enter__()
        if self._count:
            size: dict[str, Any] = {"count": self._count, "body": self._body, "answer": self._body, "piece": PIECE, "pace": PAUSE}
            self._transfers.begin(self._address, 80, seed=self._seed + 1, limit=600.0, **size)
        self._requests.probe(self._address, 80, seed=self._seed, every=EVERY, limit=PATIENCE, body=200, answer=2_000)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for program in self._programs:
            program.close()
        self.waits.__exit__(kind, error, trace)

    def end(self, *, long: bool = False) -> Totals:
        """What became of it. Transfers go to their end at full speed now; ``long``: at their pace, however long that is."""
        if not long:
            self._transfers.go()
            requests = self._requests.quiet()
        transfers = self._transfers.ends() if self._count else Ends([])
        if long:
            requests = self._requests.quiet()
        for end in (*requests, *transfers):
            assert end.kind in ("whole", "reset", "refused", "HUNG"), f"not carried honestly: {end}"
        return Totals(requests, transfers)


def check_servers(space: Namespace, totals: Totals) -> None:
    """What the pods that are there saw is not in contradiction to what the client saw."""
    whole = {end.id for ends in totals for end in ends if end.kind == "whole"}
    seen: dict[int, str] = {}
    for server in processes(space, "app=backend"):
        for id, seed, kind, detail in reported(space.cluster, server.address):
            assert kind in ("whole", "answered", "reset"), f"server {server.pod}: stream {id} seed {seed}: {kind}, {detail}"
            assert id not in seen, f"server {server.pod}: stream {id} seed {seed} was DELIVERED TWICE: {seen[id]}, {kind}"
            seen[id] = kind
    wrong = [id for id in whole if seen.get(id, "whole") == "reset"]
    assert not wrong, f"whole for the client, reset for the server: {wrong}"


def reported(cluster: Cluster, address: str) -> list[tuple[int, int, str, str]]:
    read = "import socket, sys\ns = socket.create_connection((sys.argv[1], 8081), 5)\ns.send(b'?')\n"
    read += "while data := s.recv(65536): sys.stdout.buffer.write(data)"

    def all_ended() -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(cluster.exec(sys.executable, "-c", read, address).stdout)
        assert not answer["serving"], f"{answer['serving']} streams are open"
        return answer

    return [tuple(row) for row in until("the server has seen all ends", all_ended, seconds=10)["streams"]]


# ---- Outages ----------------------------------------------------------------------------------------------------------------------------


class Outage(NamedTuple):
    """What a fault cost those that began to connect after it. Moments are monotonic; seconds are rounded when shown only."""

    fault: float
    again: float  # the first success of a request that began after the last one that failed
    failed: int
    requests: int
    start: float  # of the process that replaces what died
    rule: float  # kube-proxy's last change for this namespace before `again`; the fault, when there was none
    waited: float  # the longest that one thread was ready and did not run, from the fault to `again`: routers, client, cluster

    @property
    def after_fault(self) -> float:
        return max(0.0, self.again - self.fault - self.waited)

    @property
    def after_start(self) -> float:
        return max(0.0, self.again - max(self.fault, self.start) - self.waited)

    def __str__(self) -> str:
        times = (("the fault", self.fault), ("the successor's start", self.start), ("the last rule", self.rule))
        said = ", ".join(f"{self.again - at:.2f} s after {name}" for name, at in times)
        return f"{self.failed} of {self.requests} failed, again {said} (waited {self.waited:.2f} s)"


def again_after(ends: Ends, fault: float) -> tuple[float, int, int]:
    """When it worked again, how many failed, and of how many."""
    after = [end for end in ends if end.began > fault]
    bad = [end for end in after if end.kind != "whole"]
    if not bad:
        return fault, 0, len(after)
    last = max(end.began for end in bad)
    good = [end.ended for end in after if end.kind == "whole" and end.began > last]
    assert good, f"nothing worked after the fault: {classes(ends)}, the last: {ends.all[-3:]}"
    return min(good), len(bad), len(after)


def started_at(pid: int) -> float:
    """When this process began, monotonic."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")


class Rules:
    """When kube-proxy changed its rules: ``with Rules(cluster) as rules``, then `rules.last` of those that have one of these words."""

    def __init__(self, cluster: Cluster) -> None:
        command = ["nsenter", f"--net=/run/netns/van-{cluster.name}", "nft", "monitor"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._lines: list[tuple[float, str]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._thread.join(5)
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.append((time.monotonic(), line))

    def last(self, *words: str, since: float = 0.0, until: float = math.inf) -> float | None:
        return max((at for at, line in self._lines if since < at < until and any(word in line for word in words)), default=None)
