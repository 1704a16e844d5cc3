"""Debian's stunnel, twice: a client toward a server, mutual TLS 1.3, as its manual has it: a thread per connection, session cache on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benches.peers import programs
from benches.peers.base import Between, Pair, straight, two_ends
from benches.processes import Address

__all__ = ["Stunnel"]

_COMMON: Final = """\
foreground = yes
pid =
debug = err
sslVersionMin = TLSv1.3
ciphersuites = TLS_AES_128_GCM_SHA256
cert = {certificate}
CAfile = {trust}
verifyChain = yes
"""
_FAR: Final = _COMMON + "[far]\naccept = {listen}\nconnect = {server}\nrequireCert = yes\n"
_NEAR: Final = _COMMON + "[near]\nclient = yes\naccept = {listen}\nconnect = {server}\nsni = {name}\ncheckHost = {name}\n"


class Stunnel:
    name = "stunnel"
    idle_connections = 4_000  # two sockets and a thread for each

    def missing(self) -> str:
        return programs.missing("stunnel4", how="apt-get install stunnel4")

    @contextlib.contextmanager
    def pair(self, server: Address, tmp: Path, between: Between = straight) -> Iterator[Pair]:
        program = programs.find("stunnel4") or "stunnel4"
        with two_ends(tmp, between) as ends:
            common = {"trust": ends.trust, "name": ends.far_name}
            far, near = tmp / "far.conf", tmp / "near.conf"
            far.write_text(_FAR.format(listen=ends.middle, server=server, certificate=ends.far_pem, **common))
            near.write_text(_NEAR.format(listen=ends.front, server=ends.dialled, certificate=ends.near_pem, **common))
            ends.start_far("stunnel-far", [program, str(far)])
            ends.start_near("stunnel-near", [program, str(near)])
            yield ends.pair()
