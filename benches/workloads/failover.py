"""
How long new streams fail after a link or a router is lost, and there is a second way: the faults of tests/system/faults, as rows.

                     ┌═▶ b ═┐
    clients ─▶ a ════┤      ├══▶ d ─▶ server         by way of b, unless it is lost; each in a network namespace of its own
                     └═▶ c ═┘

Only of networks of ours: a pair of proxies has no second way. A stream that ends dishonestly fails the cell.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benches.harness import DIAMOND, LOSSES, Network, disturbed, kill_and_restart, why_not
from benches.peers import Peer
from benches.processes import BenchError

__all__ = ["FailOver"]

_SEED: Final = 1
_AFTER: Final = 3.0  # seconds that new streams are opened for after the fault: twice what a black hole may take


def _restarted(network: Network) -> float:
    return kill_and_restart(network, "d")


def _nothing(network: Network) -> None: ...


_FAULTS: Final[dict[str, tuple[Callable[[Network], float], Callable[[Network], None], bool]]] = {
    "closed": (*LOSSES["a link is closed"][:2], False),
    "black_hole": (*LOSSES["a link is a black hole"][:2], False),
    "killed": (*LOSSES["a router on the way is killed"][:2], False),
    "restarted": (_restarted, _nothing, True),  # where the server is: there is no way round
}


class FailOver:
    name = "failover"
    title = "lost, with a second way: until new streams work"
    programs = ("unshare", "nsenter", "setpriv", "ip", "nft")

    def fits(self, peer: Peer) -> bool:
        return peer.name in ("core", "baseline")

    def run(self, peer: Peer, seconds: int, tmp: Path) -> dict[str, float]:
        if reason := why_not():
            raise BenchError(f"no networks of namespaces here: {reason}")
        figures, waited = {}, 0.0
        links = (DIAMOND[0]._replace(relayed=True), *DIAMOND[1:])
        with contextlib.closing(Network(tmp, peer.name, links, clients="a", server="d", seed=_SEED)) as network:
            for number, (name, (fault, heal, heals)) in enumerate(_FAULTS.items()):
                _, seen = disturbed(network, _SEED + number, lambda f=fault: f(network), after=_AFTER, heals=heals)  # type: ignore[misc]
                figures[name] = (seen.outage - seen.waited) * 1e3
                waited = max(waited, seen.waited * 1e3)
                heal(network)
                network.until_well()
                time.sleep(0.2)
        return figures | {"waited": waited}
