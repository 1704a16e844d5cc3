"""Debian's HAProxy, twice: plain TCP in at the near one, mutual TLS 1.3 to the far one. Configured by the files in `benches/haproxy/`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benches.credentials import Authority
from benches.peers.base import LOOPBACK, Pair
from benches.processes import Address, child, free_port, wait_until_listening

__all__ = ["HAProxy"]

_CONFIGURATION: Final = Path(__file__).parent.parent / "haproxy"


class HAProxy:
    name = "haproxy"
    idle_connections = 4_000  # it takes two sockets for each, out of 20,000 open files, and sets its own limit by maxconn

    def missing(self) -> str:
        return "" if shutil.which("haproxy", path=_path()) else "haproxy is not installed"

    @contextlib.contextmanager
    def pair(self, server: Address, tmp: Path) -> Iterator[Pair]:
        program = shutil.which("haproxy", path=_path()) or "haproxy"
        authority = Authority()
        near, far = authority.issue("near"), authority.issue("far")
        (near_pem, trust), (far_pem, _) = near.write_pem(tmp), far.write_pem(tmp)
        front, middle = Address(LOOPBACK, free_port(LOOPBACK)), Address(LOOPBACK, free_port(LOOPBACK))
        common = {"VAN_CA": str(trust), "VAN_THREADS": str(len(os.sched_getaffinity(0)))}
        far_env = common | {"VAN_LISTEN": str(middle), "VAN_SERVER": str(server), "VAN_CERTIFICATE": str(far_pem)}
        near_env = common | {
            "VAN_LISTEN": str(front),
            "VAN_SERVER": str(middle),
            "VAN_SERVER_NAME": far.host_name,
            "VAN_CERTIFICATE": str(near_pem),
        }
        # -db: in the foreground, one process, so that its pid is the one to measure.
        with (
            child("haproxy-far", [program, "-db", "-f", str(_CONFIGURATION / "far.cfg")], tmp, env=far_env) as far_process,
            child("haproxy-near", [program, "-db", "-f", str(_CONFIGURATION / "near.cfg")], tmp, env=near_env) as near_process,
        ):
            wait_until_listening(middle, far_process)
            wait_until_listening(front, near_process)
            yield Pair(front=front, processes=(near_process, far_process))


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin"
