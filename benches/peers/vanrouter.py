"""Two routers of ours with one link between them: the Rust core, or the pure-Python baseline."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from benches.credentials import Authority
from benches.peers.base import LOOPBACK, Between, Pair, straight
from benches.processes import Address, Child, child, free_port, wait_until
from benches.router_process import Orders, PlaneName
from vanrouter.model import RouterId, boot_number, site_id_of_key
from vanrouter.plane import Access, AnyEntry, Connector, Credential, Dial, Link, Listener, PlaneConfig, Snapshot

__all__ = ["Vanrouter"]

_KEY: Final = "bench"
_READY_WITHIN: Final = 15.0
_MODULES: Final[dict[PlaneName, tuple[str, ...]]] = {
    "core": ("vanrouter._core", "vanrouter.native"),
    "baseline": ("vanrouter.baseline",),
}


class Vanrouter:
    def __init__(self, plane: PlaneName) -> None:
        self.name: str = plane
        self._plane = plane
        # The mark is for 10,000 on the core; the baseline is written to be read.
        self.idle_connections = 10_000 if plane == "core" else 1_000

    def missing(self) -> str:
        gone = [module for module in _MODULES[self._plane] if importlib.util.find_spec(module) is None]
        return f"there is no {' and no '.join(gone)}" if gone else ""

    @contextlib.contextmanager
    def pair(self, server: Address, tmp: Path, between: Between = straight) -> Iterator[Pair]:
        with contextlib.ExitStack() as routers:
            run = _Run(self._plane, tmp, routers, between)
            far, where = run.far(server)
            near, front = run.near(where, far)
            yield Pair(front=front, processes=(near, far.process))

    @contextlib.contextmanager
    def three(self, server: Address, tmp: Path) -> Iterator[Pair]:
        with contextlib.ExitStack() as routers:
            run = _Run(self._plane, tmp, routers, straight)
            far, where = run.far(server)
            middle, where = run.middle(where, far)
            near, front = run.near(where, middle, target=far)
            yield Pair(front=front, processes=(near, far.process, middle.process))

    @contextlib.contextmanager
    def one(self, server: Address, tmp: Path) -> Iterator[Pair]:
        with contextlib.ExitStack() as routers:
            router, front = _Run(self._plane, tmp, routers, straight).alone(server)
            yield Pair(front=front, processes=(router,))


class _Router(NamedTuple):
    id: RouterId
    process: Child


class _Run:
    """One cell's routers: each dials the one before it, which is ready."""

    def __init__(self, plane: PlaneName, tmp: Path, routers: contextlib.ExitStack, between: Between) -> None:
        self._plane, self._tmp, self._routers, self._between = plane, tmp, routers, between
        self._authority = Authority()

    def far(self, server: Address) -> tuple[_Router, Address]:
        """Where the server is: it is dialled."""
        access, where = self._access()
        return self._start("far", [access, Connector(name="server", routing_key=_KEY, host=server.host, port=server.port)]), where

    def middle(self, where: Address, to: _Router) -> tuple[_Router, Address]:
        """Only passes on."""
        access, here = self._access()
        return self._start("middle", [access, _link(to)], _dial(where, to)), here

    def near(self, where: Address, to: _Router, *, target: _Router | None = None) -> tuple[Child, Address]:
        """Where clients arrive. ``target``: the router where the server is, if it is not the one that is dialled."""
        front = Address(LOOPBACK, free_port(LOOPBACK))
        listener = Listener(name="front", host=front.host, port=front.port, routing_key=_KEY)
        return self._start("near", [_link(to), listener], _dial(where, to), [_KEY], str(target.id) if target else "").process, front

    def alone(self, server: Address) -> tuple[Child, Address]:
        """Clients and the server are on the same router."""
        front = Address(LOOPBACK, free_port(LOOPBACK))
        connector = Connector(name="server", routing_key=_KEY, host=server.host, port=server.port)
        listener = Listener(name="front", host=front.host, port=front.port, routing_key=_KEY)
        return self._start("alone", [connector, listener]).process, front

    def _access(self) -> tuple[Access, Address]:
        here = Address(LOOPBACK, free_port(LOOPBACK))
        return Access(name="link", host=here.host, port=here.port, credential="link"), self._between(here)

    def _start(
        self, name: str, entries: list[AnyEntry], dial: Dial | None = None, routing_keys: Sequence[str] = (), target: str = ""
    ) -> _Router:
        end = self._authority.issue(name)
        credential = Credential(
            name="link",
            certificates=[end.leaf_der],
            private_key=end.leaf_key_pkcs8,
            trust=[end.trust_der],
            statement=end.statement,
        )
        config = PlaneConfig(identity_key=end.identity_key, boot=boot_number(time.time_ns() // 1_000_000), site_name=end.name)
        orders = Orders(
            plane=self._plane,
            config=config,
            snapshot=Snapshot(generation=1, entries=[credential, *entries]),
            dial=dial,
            routing_keys=list(routing_keys),
            target=target,
        )
        path = self._tmp / f"{self._plane}-{name}.json"
        path.touch(mode=0o600)
        path.write_bytes(msgspec.json.encode(orders))
        argv = [sys.executable, "-m", "benches.router_process", str(path)]
        process = self._routers.enter_context(child(f"{self._plane}-{name}", argv, self._tmp))
        wait_until(lambda: "ready\n" in process.log_tail(), process, "says ready", _READY_WITHIN)
        return _Router(RouterId(site_id_of_key(end.identity_key), config.boot), process)


def _link(to: _Router) -> Link:
    return Link(name="far", credential="link", expected_site=to.id.site)


def _dial(where: Address, to: _Router) -> Dial:
    return Dial(id=0, link="far", host=where.host, port=where.port, server_name=f"{to.id.site}.van")
