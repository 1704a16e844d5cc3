"""
The ways from client to server that are compared, by name.

A peer takes the address of a server and gives the address of a front that leads there, through a near and a far process. `direct` leads
there by being the same address. Adding one: a module here, an entry in `PEERS`.
"""

from __future__ import annotations

import os
from typing import Final

from benches.peers import direct, frp, ghostunnel, haproxy, rathole, skupper_router, stunnel, vanrouter
from benches.peers.base import Pair, Peer

__all__ = ["OURS", "PEERS", "REQUIRED", "Pair", "Peer"]

PEERS: Final[dict[str, Peer]] = {
    peer.name: peer
    for peer in (
        direct.Direct(),
        vanrouter.Vanrouter("core"),
        vanrouter.Vanrouter("baseline"),
        haproxy.HAProxy(),
        stunnel.Stunnel(),
        rathole.Rathole(),
        frp.Frp(mux=True),
        frp.Frp(mux=False),
        ghostunnel.Ghostunnel(),
    )
}
OURS: Final = frozenset({"core", "baseline", "direct"})
REQUIRED: Final = tuple(PEERS)
"""Marks count in a run with all of these."""
if os.environ.get(skupper_router.VARIABLE):
    PEERS["skupper-router"] = skupper_router.SkupperRouter()
