"""rathole with TLS, as its documentation has it: the client beside the server of the service. No client certificates: a token instead."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from benches.peers import programs
from benches.peers.base import Between, Pair, straight, two_ends
from benches.processes import Address

__all__ = ["Rathole"]

_NEAR: Final = """\
[server]
bind_addr = "{middle}"
default_token = "bench"
[server.transport]
type = "tls"
[server.transport.tls]
pkcs12 = "{certificate}"
pkcs12_password = "bench"
[server.services.bench]
bind_addr = "{front}"
"""
_FAR: Final = """\
[client]
remote_addr = "{dialled}"
default_token = "bench"
[client.transport]
type = "tls"
[client.transport.tls]
trusted_root = "{trust}"
hostname = "{name}"
[client.services.bench]
local_addr = "{server}"
"""


class Rathole:
    name = "rathole"
    idle_connections = 4_000

    def missing(self) -> str:
        return programs.missing("rathole", how="benches/peers/build.sh")

    @contextlib.contextmanager
    def pair(self, server: Address, tmp: Path, between: Between = straight) -> Iterator[Pair]:
        program = programs.find("rathole") or "rathole"
        with two_ends(tmp, between) as ends:
            bundle = tmp / "near.p12"
            leaf = ends.near
            secret = serialization.BestAvailableEncryption(b"bench")
            bundle.write_bytes(pkcs12.serialize_key_and_certificates(b"near", leaf.leaf_key, leaf.leaf, [leaf.authority], secret))
            near, far = tmp / "rathole-server.toml", tmp / "rathole-client.toml"
            near.write_text(_NEAR.format(middle=ends.middle, front=ends.front, certificate=bundle))
            far.write_text(_FAR.format(dialled=ends.dialled, trust=ends.trust, name=ends.near_name, server=server))
            quiet = {"RUST_LOG": "error"}
            ends.start_near("rathole-server", [program, "--server", str(near)], env=quiet, listens=ends.middle)
            ends.start_far("rathole-client", [program, "--client", str(far)], env=quiet, listens=ends.front)
            yield ends.pair()
