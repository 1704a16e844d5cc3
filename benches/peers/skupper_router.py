"""
A pair of skupper-router that a user has installed: ``SKROUTERD=path`` adds it to a run. No mark needs it.

Two interior routers as its sites configure them: an inter-router listener with mutual TLS (the far one's), a connector to it, one
`tcpListener` and one `tcpConnector` of the same address. Worker threads and data connections are its defaults.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from benches.peers.base import Between, Pair, straight, two_ends
from benches.processes import Address

__all__ = ["VARIABLE", "SkupperRouter", "configuration"]

VARIABLE: Final = "SKROUTERD"
_ADDRESS: Final = "bench"
Entity = tuple[str, Mapping[str, object]]


class SkupperRouter:
    name = "skupper-router"
    idle_connections = 4_000

    def missing(self) -> str:
        return "" if shutil.which(_program()) else f"{VARIABLE}={_program()}: there is no such program"

    @contextlib.contextmanager
    def pair(self, server: Address, tmp: Path, between: Between = straight) -> Iterator[Pair]:
        with two_ends(tmp, between) as ends:
            service = {"name": _ADDRESS, "address": _ADDRESS}
            far = configuration(
                "far",
                ends.far_pem,
                ends.trust,
                ("listener", {"role": "inter-router", **_where(ends.middle), "authenticatePeer": "true", "saslMechanisms": "EXTERNAL"}),
                ("tcpConnector", service | _where(server)),
            )
            near = configuration(
                "near",
                ends.near_pem,
                ends.trust,
                ("connector", {"name": "far", "role": "inter-router", **_where(ends.dialled), "verifyHostname": "false"}),
                ("tcpListener", service | _where(ends.front)),
            )
            for name, text in (("far", far), ("near", near)):
                (tmp / f"{name}.conf").write_text(text)
            ends.start_far("skrouterd-far", [_program(), "-c", str(tmp / "far.conf")])
            # It listens for clients when the address has somebody at the other end.
            ends.start_near("skrouterd-near", [_program(), "-c", str(tmp / "near.conf")])
            yield ends.pair()


def configuration(router: str, pem: Path, trust: Path, link: Entity, service: Entity) -> str:
    """The text of a skrouterd.conf. ``pem`` has certificate and key. TLS is for the link."""
    profile = {"name": "link", "certFile": pem, "privateKeyFile": pem, "caCertFile": trust}
    kind, attributes = link
    entities: list[Entity] = [
        ("router", {"mode": "interior", "id": router}),
        ("sslProfile", profile),
        (kind, {**attributes, "sslProfile": "link"}),
        service,
        ("log", {"module": "DEFAULT", "enable": "warn+"}),
    ]
    return "".join(f"{kind} {{\n{_lines(attributes)}}}\n" for kind, attributes in entities)


def _lines(attributes: Mapping[str, object]) -> str:
    return "".join(f"    {name}: {value}\n" for name, value in attributes.items())


def _where(address: Address) -> dict[str, object]:
    return {"host": address.host, "port": address.port}


def _program() -> str:
    return os.environ.get(VARIABLE, "")
