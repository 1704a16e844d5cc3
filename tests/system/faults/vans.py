"""
Networks of real sites: each a `vanrouter run` in a network namespace of its own, made with `van init`, linked with tokens.

    line      a ── b ── c              diamond    ┌─ b ─┐        ring     a ── b ── c ── d
    pair      a ── b                            a ┤     ├ d               │    └─────┐   │     (8 sites, 2 chords: b─f, d─h)
                                                  └─ c ─┘                 h ── g ── f ── e

Clients are in one namespace, the server in another; the routing key is `load`. Whoever is named first in a link dials it. A link may lead
through a relay, which stands in the namespace of its dialler.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import yaml
from hosts import Host
from linked import at_once, until
from programs import Client, Relay, Server
from usage import Usage
from wires import Wires

from vanrouter.admin import client as admin

LINK_PORT, PORT, SERVER_PORT = 7_001, 7_002, 7_003
KEY = "load"


class Link(NamedTuple):
    """Dialled by the first one."""

    dialler: str
    acceptor: str
    cost: int = 1
    relayed: bool = False


PAIR = (Link("a", "b"),)
LINE = (Link("a", "b"), Link("b", "c"))
DIAMOND = (Link("a", "b"), Link("a", "c", 3), Link("b", "d"), Link("c", "d", 3))  # by way of b, unless it is lost
RING = (*(Link("abcdefgh"[n], "bcdefgha"[n]) for n in range(8)), Link("b", "f"), Link("d", "h"))


class Site:
    """One router: a process in a namespace."""

    def __init__(self, network: Network, name: str, plane: str) -> None:
        self.name, self.directory = name, network.host.home / name
        self._network, self._plane = network, plane
        self._process: subprocess.Popen[bytes] | None = None
        self.cgroup = ""

    def start(self) -> None:
        """Also a restart. ``cgroup``: it starts in that one."""
        run = self.directory / "run"
        run.mkdir(mode=0o700, exist_ok=True)
        command = [sys.executable, "-P", "-m", "vanrouter.cli", "run", str(self.directory), "--plane", self._plane]
        if self.cgroup:
            command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', self.cgroup, *command]
        with os.fdopen(os.open(run / "router.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            self._process = subprocess.Popen(
                [*self._network.wires.prefix(self.name), *command],
                env=self._network.host.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> float:
        """Returns the monotonic time just before."""
        at = time.monotonic()
        os.kill(self.pid, number)
        return at

    def kill(self) -> float:
        at = self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        return at

    def ended(self, within: float) -> int:
        """The exit code."""
        assert self._process is not None
        return self._process.wait(within)

    def call(self, method: str, *, timeout: float = 10.0, **params: Any) -> Any:
        return admin.call(self.directory, method, params, timeout=timeout)

    def linked(self) -> set[str]:
        """The names of the sites at the other ends of its links."""
        return {link["remoteSiteName"] for link in self.call("status")["links"] if link["active"]}

    def log(self) -> str:
        return (self.directory / "run" / "router.log").read_text(errors="replace")

    def usage(self) -> Usage:
        """Its log without what it says once for each stream."""
        return Usage.of(self.pid, sum(" info access: " not in line for line in self.log().splitlines()))

    def write(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        document = {"apiVersion": "vanrouter.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        (self.directory / "resources" / f"{kind}-{name}.yaml").write_text(json.dumps(document))
        self.call("reconcile")

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
                self.kill()


class Network:
    def __init__(self, directory: Path, plane: str, links: Sequence[Link], *, clients: str, server: str, seed: int) -> None:
        self.links = links
        names = sorted({name for link in links for name in link[:2]})
        self._closing = contextlib.ExitStack()
        try:
            self.host = self._closing.enter_context(Host(directory, plane))
            self.wires = self._closing.enter_context(Wires(names, [link[:2] for link in links]))
            self.sites = {name: Site(self, name, plane) for name in names}
            made = at_once(
                self.host,
                [f"-n {name} init --site-name {name} --link-access 0.0.0.0:{LINK_PORT} --no-service-sync --no-start" for name in names],
            )
            assert not any(result.returncode for result in made.values()), made
            for site in self.sites.values():
                self._closing.callback(site.end)
                site.start()
            self._serving = server
            self.serve()
            self.client = self._closing.enter_context(Client(prefix=self.wires.prefix(clients)))
            self.prober = self._closing.enter_context(Client(prefix=self.wires.prefix(clients)))
            self.relays: dict[tuple[str, str], Relay] = {}
            self._link(seed)
            self[clients].write("Listener", KEY, {"routingKey": KEY, "host": "127.0.0.1", "port": PORT})
            self[server].write("Connector", KEY, {"routingKey": KEY, "host": "127.0.0.1", "port": SERVER_PORT})
            self.until_well()
        except BaseException:
            self.close()
            raise

    def pids(self) -> list[int]:
        """Of the routers and of the client that looks for outages."""
        return [*(site.pid for site in self.sites.values()), self.prober.pid]

    def __getitem__(self, name: str) -> Site:
        return self.sites[name]

    def _link(self, seed: int) -> None:
        for number, link in enumerate(self.links):
            host, port = self.wires.wire(*link[:2]).address(link.acceptor), LINK_PORT
            issuer, redeemer = self[link.acceptor], self[link.dialler]
            until(f"{issuer.name} is ready", lambda issuer=issuer: issuer.call("status")["site"]["ready"])  # type: ignore[misc]
            until(f"{redeemer.name} is ready", lambda redeemer=redeemer: redeemer.call("status")["site"]["ready"])  # type: ignore[misc]
            token = issuer.call("token.issue", host=host, cost=link.cost)["yaml"]
            redeemer.call("token.redeem", token=token, name=link.acceptor)
            if link.relayed:
                relay = Relay((host, port), seed=seed + number, prefix=self.wires.prefix(link.dialler))
                self.relays[link[:2]] = self._closing.enter_context(relay)
                file = redeemer.directory / "resources" / f"Link-{link.acceptor}.yaml"
                spec = yaml.safe_load(file.read_text())["spec"]
                redeemer.write("Link", link.acceptor, spec | {"endpoints": [{"host": relay.host, "port": relay.port}]})
                redeemer.kill()  # a link that is up is not dialled anew for another endpoint
                redeemer.start()
                until("the link leads through the relay", lambda relay=relay: relay.tell("count")["open"])  # type: ignore[misc]

    def until_well(self, *, seconds: float = 30.0) -> None:
        """All links are up at both ends, and streams pass."""
        for name, site in self.sites.items():
            neighbours = {other for link in self.links for other in link[:2] if name in link[:2]} - {name}
            until(f"{name} is linked to {neighbours}", lambda s=site, n=neighbours: s.linked() >= n, seconds=seconds)  # type: ignore[misc]
        until("streams pass", lambda: self.client.run("127.0.0.1", PORT, seed=0, limit=5.0).kinds == {"whole": 1}, seconds=seconds)

    def serve(self) -> None:
        """Start the server; anew, when it was closed."""
        self.server = Server("127.0.0.1", SERVER_PORT, prefix=self.wires.prefix(self._serving))
        self._closing.callback(self.server.close)

    def report(self) -> list[tuple[int, int, str, str]]:
        """What the server saw, but for what ``until_well`` sent."""
        return [row for row in self.server.report() if row[0] >= 1_000_000]

    def begin(self, *, seed: int, **load: Any) -> None:
        self.client.begin("127.0.0.1", PORT, seed=seed, **load)

    def probe(self, *, seed: int, **load: Any) -> None:
        """A new stream each 10 ms, until ``prober.quiet``."""
        self.prober.probe("127.0.0.1", PORT, seed=seed + 1_000_000, **load)

    def until_through(self, relay: Relay) -> None:
        """Streams take the way that this relay is on."""

        def passes() -> bool:
            before = relay.tell("count")["passed"]
            self.client.run("127.0.0.1", PORT, seed=0, body=100_000, limit=5.0)
            return bool(relay.tell("count")["passed"] - before > 50_000)

        until("streams lead through the relay", passes)
        self.server.report()

    @contextlib.contextmanager
    def stopped(self, name: str) -> Iterator[float]:
        """SIGSTOP, and SIGCONT at the end."""
        at = self[name].signal(signal.SIGSTOP)
        try:
            yield at
        finally:
            with contextlib.suppress(ProcessLookupError):
                self[name].signal(signal.SIGCONT)

    def heal(self) -> None:
        """Everything runs, nothing is in the way."""
        self.wires.heal()
        for relay in self.relays.values():
            relay.tell("flow")
            relay.tell("accept")
            relay.tell("delay", seconds=0.0)
            relay.tell("trickle", on=False)
        self.server.manner("serve")
        self.until_well()

    def close(self) -> None:
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            print(self.host.logs())
        self.close()
