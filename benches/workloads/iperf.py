"""Bulk: iperf3, one direction, a fixed time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from benches.isolation import congestion_control
from benches.peers import Peer
from benches.peers.base import LOOPBACK
from benches.processes import Address, BenchError, child, free_port, wait_until_listening

__all__ = ["Iperf", "parse"]


class Iperf:
    programs = ("iperf3",)

    def __init__(self, streams: int, *, reverse: bool = False) -> None:
        self.name = f"iperf{streams}" + "r" * reverse
        self.title = f"iperf3, {streams} stream{'s' * (streams > 1)}" + ", server to client" * reverse
        self._streams, self._reverse = streams, reverse

    def run(self, peer: Peer, seconds: int, tmp: Path) -> dict[str, float]:
        server = Address(LOOPBACK, free_port(LOOPBACK))
        with child("iperf3", ["iperf3", "-s", "-B", server.host, "-p", str(server.port)], tmp) as backend:
            wait_until_listening(server, backend)
            with peer.pair(server, tmp) as pair:
                before = pair.cpu_seconds()
                done = subprocess.run(
                    command(pair.front, self._streams, seconds, reverse=self._reverse), capture_output=True, text=True, timeout=seconds + 20
                )
                cpu = pair.cpu_seconds() - before
                gbits, gigabytes = parse(done.stdout)
                figures = {"throughput": gbits}
                return figures | ({"cpu_per_gb": cpu / gigabytes, **pair.peak_rss()} if pair.processes else {})


def command(front: Address, streams: int, seconds: int, *, reverse: bool = False) -> list[str]:
    return [
        *("iperf3", "-c", front.host, "-p", str(front.port), "-P", str(streams), "-t", str(seconds)),
        *("-C", congestion_control(), "-J", *["-R"] * reverse),
    ]


def parse(output: str) -> tuple[float, float]:
    """Gbit/s and GB as the server received them."""
    try:
        report = json.loads(output)
        received = report["end"]["sum_received"]
        gbits, gigabytes = received["bits_per_second"] / 1e9, received["bytes"] / 1e9
    except (ValueError, KeyError) as problem:
        raise BenchError(f"iperf3 gave no figures: {output[-500:]}") from problem
    if not gigabytes:
        raise BenchError("iperf3 moved nothing")
    return gbits, gigabytes
