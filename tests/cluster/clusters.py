"""
Real clusters for tests: held while somebody uses them, gone when nobody does, whichever way he left.

`hold` starts a cluster (cluster.sh) or joins one that is up: that of another process of the same run (pytest-xdist), of another checkout's
run, or one that was started by hand, which stays. Whoever uses a cluster has a shared lock on a file; a keeper, started with the cluster,
waits for the exclusive one and takes the cluster down when it has it. Locks end with their process: so too after Ctrl-C and SIGKILL.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")
HERE: Final = Path(__file__).resolve().parent
SCRIPT: Final = HERE / "cluster.sh"
REACH: Final = HERE / "reach.py"
HOME: Final = Path(
    os.environ.get("VAN_CLUSTER_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vanrouter" / "cluster"
)
RUN: Final = HOME / "run"
BIN: Final = HOME / "bin"  # kubectl is there, of the clusters' release


def until(what: str, check: Callable[[], T], *, seconds: float = 30.0, pause: float = 0.1) -> T:
    """What ``check`` returns once it is true; a command that fails is tried again."""
    deadline, last = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        try:
            if found := check():
                return found
            last = repr(found)
        except (OSError, LookupError, AssertionError) as error:
            last = f"{type(error).__name__}: {error}"
        time.sleep(pause)
    raise AssertionError(f"not within {seconds:g} s: {what}; last: {last}")


def run(*command: str | Path, given: str | None = None, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    words = [*map(str, command)]
    done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=timeout, check=False, env=environment)
    assert not check or done.returncode == 0, f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done


class Cluster:
    """One that is up. ``kubectl`` is its administrator's; what an application team may do is a `Namespace`."""

    def __init__(self, name: str, index: int) -> None:
        self.name, self.index = name, index
        self.directory = RUN / name
        self.address = f"10.200.{index}.2"
        self.kubeconfig = self.directory / "admin.kubeconfig"
        self._restarted: list[subprocess.Popen[bytes]] = []

    def kubectl(self, *words: str, given: str | None = None, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run("kubectl", "--kubeconfig", self.kubeconfig, *words, given=given, timeout=timeout, check=check)

    def load(self, archive: Path) -> str:
        """Import an image; its name with the tag that `pack.py` makes from its content, so that two checkouts do not mix theirs."""
        with tarfile.open(archive) as opened:
            manifest = opened.extractfile("manifest.json")
            assert manifest
            name = str(json.load(manifest)[0]["RepoTags"][-1])
        ctr = ("ctr", "-a", str(self.directory / "containerd.sock"), "-n", "k8s.io", "images")
        if name not in run(*ctr, "ls", "-q").stdout.split():
            run(*ctr, "import", archive, timeout=120)
        return name

    def exec(self, *command: str, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        """In the cluster's network, where ClusterIPs can be reached."""
        return run(SCRIPT, "exec", self.name, *command, timeout=timeout, check=check)

    def pid(self, process: str) -> int:
        """apiserver, etcd, manager, scheduler, containerd, kubelet, proxy, coredns, cloud."""
        return int((self.directory / "pids" / process).read_text())

    @contextlib.contextmanager
    def stopped(self, process: str) -> Iterator[None]:
        """A part that hangs: ``stopped("cloud")`` is a cloud that keeps its users waiting for an address."""
        pid = self.pid(process)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def killed(self, process: str) -> Iterator[None]:
        """A part that dies, SIGKILL; started again as it was (cluster.sh), with a log that goes on."""
        pid = self.pid(process)
        command = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
        os.kill(pid, signal.SIGKILL)
        try:
            yield
        finally:
            with (self.directory / f"{process}.log").open("a") as log:
                inside = ["nsenter", f"--net=/run/netns/van-{self.name}", "setsid", *command]
                again = subprocess.Popen(inside, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            (self.directory / "pids" / process).write_text(f"{again.pid}\n")
            self._restarted.append(again)  # waited for by nobody: it ends with the cluster

    def recovered(self) -> None:
        """All that follows its API server works again: after an outage they come back one by one, half a minute later at most."""
        name = f"recovered-{secrets.token_hex(3)}"
        self.kubectl("create", "namespace", name)
        try:
            until(
                f"{self.name} cares for a new namespace", lambda: self.kubectl("get", "serviceaccount", "default", "-n", name), seconds=90
            )
            self.kubectl("apply", "-n", name, "-f", "-", given=json.dumps(_way_to(self.address)))
            address = json.loads(self.kubectl("get", "service", "way", "-n", name, "-o", "json").stdout)["spec"]["clusterIP"]
            asked = (sys.executable, str(REACH), f"10.{96 + self.index}.0.10", f"way.{name}.svc.cluster.local", address, "6443")
            until(f"{self.name} has a name and a way for a new Service", lambda: self.exec(*asked), seconds=90)
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false", check=False)

    @contextlib.contextmanager
    def namespace(self, name: str, *, exactly: bool = False) -> Iterator[Namespace]:
        """A namespace for one test: ``name`` and what nobody else has, or ``exactly`` this one, and then until it is really gone."""
        full = name if exactly else f"{name}-{secrets.token_hex(3)}"
        made = Namespace(self, full, Path(run(SCRIPT, "namespace", self.name, full).stdout.strip()))
        try:
            yield made
        finally:
            # Nothing in it needs a grace; without this, pods that ignore SIGTERM hold the next test up.
            self.kubectl("delete", "pods", "--all", "-n", full, "--grace-period=1", "--wait=false", check=False)
            self.kubectl("delete", "namespace", full, f"--wait={str(exactly).lower()}", timeout=90, check=False)
            for file in made.kubeconfig.parent.glob(f"{full}.*"):
                file.unlink()


class Namespace:
    """One namespace, seen by a user whose only right is the ClusterRole ``admin`` in it."""

    def __init__(self, cluster: Cluster, name: str, kubeconfig: Path) -> None:
        self.cluster, self.name, self.kubeconfig = cluster, name, kubeconfig

    def kubectl(self, *words: str, given: str | None = None, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run("kubectl", "--kubeconfig", self.kubeconfig, *words, given=given, timeout=timeout, check=check)

    def apply(self, *objects: Any) -> None:
        self.kubectl("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def get(self, *words: str) -> Any:
        return json.loads(self.kubectl("get", *words, "-o", "json").stdout)

    def wait(self, what: str, condition: str = "Ready", *, seconds: int = 60) -> None:
        """``wait("pod/hello")``, ``wait("deployment/hello", "Available")``, ``wait("pod/once", "jsonpath={.status.phase}=Failed")``."""
        condition = condition if "=" in condition else f"condition={condition}"
        self.kubectl("wait", what, f"--for={condition}", f"--timeout={seconds}s", timeout=seconds + 10)

    def exec(self, what: str, *command: str, given: str | None = None, timeout: float = 60, check: bool = True) -> str:
        """In a container; ``what`` is a pod's name or, for example, ``deployment/hello``."""
        stdin = ["-i"] if given is not None else []
        return self.kubectl("exec", *stdin, what, "--", *command, given=given, timeout=timeout, check=check).stdout

    def load_balancer(self, service: str, *, seconds: float = 20) -> str:
        """The address that the cloud gave to a Service."""

        def given() -> str:
            return str(self.get("service", service)["status"]["loadBalancer"]["ingress"][0]["ip"])

        return until(f"service {service} of {self.name} has an address", given, seconds=seconds)

    def report(self) -> str:
        """What one looks at when something went wrong."""
        admin = ("--kubeconfig", str(self.cluster.kubeconfig), "-n", self.name)
        parts = [run("kubectl", *admin, "get", "all,configmaps,events", "-o", "wide", check=False).stdout]
        # One by one: a pod that has no log yet keeps no other from being shown.
        for pod in run("kubectl", *admin, "get", "pods", "-o", "name", check=False).stdout.split():
            for previous in ([], ["--previous"]):
                log = run("kubectl", *admin, "logs", pod, "--all-containers", "--tail=40", *previous, check=False)
                if log.stdout or (log.returncode and not previous):
                    parts.append(f"---- {pod} {' '.join(previous)}\n{log.stdout or log.stderr}")
        return "\n".join(parts)


def _way_to(address: str) -> Any:
    """A Service that leads to the API server: for DNS and kube-proxy one as any other."""
    metadata: dict[str, Any] = {"name": "way"}
    port = {"port": 6443, "protocol": "TCP"}
    labelled = metadata | {"labels": {"kubernetes.io/service-name": "way"}}
    items = [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [port]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": labelled, "addressType": "IPv4", "ports": [port]}
        | {"endpoints": [{"addresses": [address]}]},
    ]
    return {"apiVersion": "v1", "kind": "List", "items": items}


@contextlib.contextmanager
def hold(name: str, index: int) -> Iterator[Cluster]:
    RUN.mkdir(parents=True, exist_ok=True)
    users = RUN / f"{name}.users"
    keeper = None
    with users.open("w") as mine:
        fcntl.flock(mine, fcntl.LOCK_SH)  # waits for a keeper that is taking it down
        with (RUN / f"{name}.start").open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            if run(SCRIPT, "ready", name, check=False).returncode != 0:
                # Before the cluster, so that what a killed start leaves behind is taken down too.
                keeper = subprocess.Popen(
                    ["flock", "--exclusive", users, SCRIPT, "down", name],
                    start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                run(SCRIPT, "up", name, str(index), timeout=110)
        try:
            yield Cluster(name, index)
        finally:
            alone = _last(mine.fileno())
    if keeper and alone:
        keeper.wait(timeout=60)


def _last(lock: int) -> bool:
    """Whether nobody else uses the cluster. The keeper waits for this lock and does not count."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def wanted() -> Sequence[tuple[str, int]]:
    """Names and indices of the two clusters; VAN_CLUSTERS="west:3,east:4" for others than a run beside this one has."""
    text = os.environ.get("VAN_CLUSTERS", "one:1,two:2")
    found = re.fullmatch(r"([a-z][a-z0-9]*):([1-9]),([a-z][a-z0-9]*):([1-9])", text)
    assert found, f"VAN_CLUSTERS is two names with an index each, such as one:1,two:2, and not {text!r}"
    return (found[1], int(found[2])), (found[3], int(found[4]))
