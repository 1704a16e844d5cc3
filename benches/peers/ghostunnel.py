"""ghostunnel, twice, as its README has it: a client toward a server, mutual TLS (Go takes 1.3 and AES-128-GCM), the peer by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from benches.peers import programs
from benches.peers.base import Between, Pair, straight, two_ends
from benches.processes import Address

__all__ = ["Ghostunnel"]


class Ghostunnel:
    name = "ghostunnel"
    idle_connections = 4_000  # two sockets for each

    def missing(self) -> str:
        return programs.missing("ghostunnel", how="benches/peers/build.sh")

    @contextlib.contextmanager
    def pair(self, server: Address, tmp: Path, between: Between = straight) -> Iterator[Pair]:
        program = programs.find("ghostunnel") or "ghostunnel"
        with two_ends(tmp, between) as ends:
            common = ["--cacert", str(ends.trust), "--quiet=conns", "--quiet=conn-errs", "--quiet=handshake-errs"]
            far = ["server", "--listen", str(ends.middle), "--target", str(server), "--keystore", str(ends.far_pem), "--allow-cn", "near"]
            near = ["client", "--listen", str(ends.front), "--target", str(ends.dialled), "--keystore", str(ends.near_pem)]
            ends.start_far("ghostunnel-far", [program, *far, *common])
            ends.start_near("ghostunnel-near", [program, *near, "--override-server-name", ends.far_name, *common])
            yield ends.pair()
