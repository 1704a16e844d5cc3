"""Two routers of ours with one link between them: the Rust core, or the pure-Python baseline."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from benches.credentials import Authority, End
from benches.peers.base import LOOPBACK, Pair
from benches.processes import Address, Child, child, free_port, wait_until
from benches.router_process import Orders, PlaneName
from vanrouter.model import boot_number, site_id_of_key
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
    def pair(self, server: Address, tmp: Path) -> Iterator[Pair]:
        authority = Authority()
        near, far = authority.issue("near"), authority.issue("far")
        middle, front = Address(LOOPBACK, free_port(LOOPBACK)), Address(LOOPBACK, free_port(LOOPBACK))
        far_orders = self._orders(
            far,
            [
                Access(name="link", host=middle.host, port=middle.port, credential="link"),
                Connector(name="server", routing_key=_KEY, host=server.host, port=server.port),
            ],
        )
        far_site = site_id_of_key(far.identity_key)
        near_orders = msgspec.structs.replace(
            self._orders(
                near,
                [
                    Link(name="far", credential="link", expected_site=far_site),
                    Listener(name="front", host=front.host, port=front.port, routing_key=_KEY),
                ],
            ),
            dial=Dial(id=0, link="far", host=middle.host, port=middle.port, server_name=f"{far_site}.van"),
            routing_keys=[_KEY],
        )
        with self._router("far", far_orders, tmp) as far_process, self._router("near", near_orders, tmp) as near_process:
            yield Pair(front=front, processes=(near_process, far_process))

    def _orders(self, end: End, entries: list[AnyEntry]) -> Orders:
        credential = Credential(
            name="link",
            certificates=[end.leaf_der],
            private_key=end.leaf_key_pkcs8,
            trust=[end.trust_der],
            statement=end.statement,
        )
        config = PlaneConfig(identity_key=end.identity_key, boot=boot_number(time.time_ns() // 1_000_000), site_name=end.name)
        return Orders(plane=self._plane, config=config, snapshot=Snapshot(generation=1, entries=[credential, *entries]))

    @contextlib.contextmanager
    def _router(self, end: str, orders: Orders, tmp: Path) -> Iterator[Child]:
        path = tmp / f"{self.name}-{end}.json"
        path.touch(mode=0o600)
        path.write_bytes(msgspec.json.encode(orders))
        with child(f"{self.name}-{end}", [sys.executable, "-m", "benches.router_process", str(path)], tmp) as process:
            wait_until(lambda: "ready\n" in process.log_tail(), process, "says ready", _READY_WITHIN)
            yield process
