"""
frp, as its README has it: the client beside the server of the service, mutual TLS to the server where clients arrive.

With `transport.tcpMux` (its default: yamux over one connection) and without (a connection for each stream).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benches.peers import programs
from benches.peers.base import Between, Pair, straight, two_ends
from benches.processes import Address

__all__ = ["Frp"]

_TLS: Final = """\
transport.tcpMux = {mux}
transport.tls.certFile = "{certificate}"
transport.tls.keyFile = "{certificate}"
transport.tls.trustedCaFile = "{trust}"
log.level = "warn"
"""
_NEAR: Final = (
    _TLS
    + """\
bindAddr = "{middle.host}"
bindPort = {middle.port}
proxyBindAddr = "{front.host}"
transport.tls.force = true
"""
)
_FAR: Final = (
    _TLS
    + """\
serverAddr = "{dialled.host}"
serverPort = {dialled.port}
transport.tls.serverName = "{name}"
[[proxies]]
name = "bench"
type = "tcp"
localIP = "{server.host}"
localPort = {server.port}
remotePort = {front.port}
"""
)


class Frp:
    idle_connections = 4_000

    def __init__(self, *, mux: bool) -> None:
        self.name = "frp-mux" if mux else "frp"
        self._mux = mux

    def missing(self) -> str:
        return programs.missing("frps", "frpc", how="benches/peers/build.sh")

    @contextlib.contextmanager
    def pair(self, server: Address, tmp: Path, between: Between = straight) -> Iterator[Pair]:
        with two_ends(tmp, between) as ends:
            near, far = tmp / "frps.toml", tmp / "frpc.toml"
            common: dict[str, Any] = {"mux": str(self._mux).lower(), "trust": ends.trust, "middle": ends.middle, "front": ends.front}
            common["dialled"] = ends.dialled
            near.write_text(_NEAR.format(certificate=ends.near_pem, **common))
            far.write_text(_FAR.format(certificate=ends.far_pem, name=ends.near_name, server=server, **common))
            # The far end dials, and tells the near one to listen for clients.
            ends.start_near("frps", [programs.find("frps") or "frps", "-c", str(near)], listens=ends.middle)
            ends.start_far("frpc", [programs.find("frpc") or "frpc", "-c", str(far)], listens=ends.front)
            yield ends.pair()
