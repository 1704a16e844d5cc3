"""Debian's HAProxy, twice: plain TCP in at the near one, mutual TLS 1.3 to the far one. Configured by the files in `benches/haproxy/`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benches.peers import programs
from benches.peers.base import Between, Pair, straight, two_ends
from benches.processes import Address

__all__ = ["HAProxy"]

_CONFIGURATION: Final = Path(__file__).parent.parent / "haproxy"


class HAProxy:
    name = "haproxy"
    idle_connections = 4_000  # it takes two sockets for each, out of 20,000 open files, and sets its own limit by maxconn

    def missing(self) -> str:
        return programs.missing("haproxy", how="apt-get install haproxy")

    @contextlib.contextmanager
    def pair(self, server: Address, tmp: Path, between: Between = straight) -> Iterator[Pair]:
        program = programs.find("haproxy") or "haproxy"
        with two_ends(tmp, between) as ends:
            common = {"VAN_CA": str(ends.trust), "VAN_THREADS": str(len(os.sched_getaffinity(0)))}
            far_env = common | {"VAN_LISTEN": str(ends.middle), "VAN_SERVER": str(server), "VAN_CERTIFICATE": str(ends.far_pem)}
            near_env = common | {
                "VAN_LISTEN": str(ends.front),
                "VAN_SERVER": str(ends.dialled),
                "VAN_SERVER_NAME": ends.far_name,
                "VAN_CERTIFICATE": str(ends.near_pem),
            }
            # -db: in the foreground, one process, so that its pid is the one to measure.
            ends.start_far("haproxy-far", [program, "-db", "-f", str(_CONFIGURATION / "far.cfg")], env=far_env)
            ends.start_near("haproxy-near", [program, "-db", "-f", str(_CONFIGURATION / "near.cfg")], env=near_env)
            yield ends.pair()
