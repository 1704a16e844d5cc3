"""Bulk: iperf3, one direction, a fixed time; between two ends, over a long way, and with a third router between them."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from benches.harness import Relay
from benches.isolation import congestion_control
from benches.peers import Pair, Peer
from benches.peers.base import LOOPBACK, InARow, InOne
from benches.processes import Address, BenchError, child, free_port, wait_until_listening
from benches.workloads.base import ForAll

__all__ = ["FarAway", "Iperf", "IperfOverThree", "LocalIperf", "parse"]


class Iperf(ForAll):
    programs = ("iperf3",)
    omitted = 0
    """Seconds before those that count."""

    def __init__(self, streams: int, *, reverse: bool = False) -> None:
        self.name = f"iperf{streams}" + "r" * reverse
        self.title = f"iperf3, {streams} stream{'s' * (streams > 1)}" + ", server to client" * reverse
        self._streams, self._reverse = streams, reverse

    def way(self, peer: Peer, server: Address, tmp: Path) -> AbstractContextManager[Pair]:
        return peer.pair(server, tmp)

    def run(self, peer: Peer, seconds: int, tmp: Path) -> dict[str, float]:
        server = Address(LOOPBACK, free_port(LOOPBACK))
        with child("iperf3", ["iperf3", "-s", "-B", server.host, "-p", str(server.port)], tmp) as backend:
            wait_until_listening(server, backend)
            with self.way(peer, server, tmp) as pair:
                before = pair.cpu_seconds()
                argv = command(pair.front, self._streams, seconds, reverse=self._reverse, omitted=self.omitted)
                done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + self.omitted + 20)
                cpu = pair.cpu_seconds() - before
                gbits, gigabytes = parse(done.stdout)
                figures = {"throughput": gbits}
                if not pair.processes:
                    return figures
                # What was moved in the omitted seconds has cost too, and nobody says how much it was.
                return figures | ({} if self.omitted else {"cpu_per_gb": cpu / gigabytes}) | pair.peak_rss()


class FarAway(Iperf):
    """One stream over a link with a long round trip: a relay between both ends holds everything back for half of it in each direction."""

    omitted = 2  # while windows grow

    def __init__(self, milliseconds: int) -> None:
        super().__init__(1)
        self.name, self._seconds = f"far{milliseconds}", milliseconds / 1e3
        self.title = f"iperf3, 1 stream, {milliseconds} ms round trip"

    @contextlib.contextmanager
    def way(self, peer: Peer, server: Address, tmp: Path) -> Iterator[Pair]:
        with contextlib.ExitStack() as relays:

            def between(listens: Address) -> Address:
                relay = relays.enter_context(Relay((listens.host, listens.port), seed=1))
                relay.tell("delay", seconds=self._seconds / 2)
                return Address(relay.host, relay.port)

            with peer.pair(server, tmp, between) as pair:
                yield pair


class LocalIperf(Iperf):
    """Listener and connector on one router."""

    def __init__(self, streams: int) -> None:
        super().__init__(streams)
        self.name, self.title = f"local{streams}", f"{self.title}, within one router"

    def fits(self, peer: Peer) -> bool:
        return isinstance(peer, InOne)

    def way(self, peer: Peer, server: Address, tmp: Path) -> AbstractContextManager[Pair]:
        assert isinstance(peer, InOne)
        return peer.one(server, tmp)


class IperfOverThree(Iperf):
    def __init__(self) -> None:
        super().__init__(1)
        self.name, self.title = "three-iperf1", "iperf3, 1 stream, three routers in a row"

    def fits(self, peer: Peer) -> bool:
        return isinstance(peer, InARow)

    def way(self, peer: Peer, server: Address, tmp: Path) -> AbstractContextManager[Pair]:
        assert isinstance(peer, InARow)
        return peer.three(server, tmp)


def command(front: Address, streams: int, seconds: int, *, reverse: bool = False, omitted: int = 0) -> list[str]:
    return [
        *("iperf3", "-c", front.host, "-p", str(front.port), "-P", str(streams), "-t", str(seconds)),
        *("-C", congestion_control(), "-J", *["-R"] * reverse, *(["-O", str(omitted)] if omitted else [])),
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
