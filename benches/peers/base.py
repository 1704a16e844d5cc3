"""What every peer has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from benches.credentials import Authority, End
from benches.processes import Address, BenchError, Child, child, free_port, wait_until_listening

__all__ = ["LOOPBACK", "Between", "Ends", "InARow", "InOne", "Pair", "Peer", "straight", "two_ends"]

LOOPBACK = "127.0.0.1"
Between = Callable[[Address], Address]
"""What is on the way of a link: where one end listens to where the other dials. `straight`: nothing."""


def straight(listens: Address) -> Address:
    return listens


@dataclass(frozen=True)
class Pair:
    """A running peer: where clients connect, and the processes whose CPU and memory count."""

    front: Address
    processes: tuple[Child, ...]  # near (where clients arrive), then far, then what is between them; none for direct

    def cpu_seconds(self) -> float:
        return sum(process.cpu_seconds() for process in self.processes)

    def peak_rss(self) -> dict[str, float]:
        """In MB, by metric."""
        ends = zip(("near", "far", "middle"), self.processes, strict=False)
        return {f"rss_{end}": process.peak_rss_bytes() / 1e6 for end, process in ends}


class Peer(Protocol):
    name: str
    idle_connections: int
    """How many idle connections the `idle` workload opens through it: within 20,000 open files per process. 0: it is left out."""

    def missing(self) -> str:
        """Why it cannot run here, or nothing."""

    def pair(self, server: Address, tmp: Path, between: Between = straight) -> AbstractContextManager[Pair]:
        """Run it in front of ``server``; ready when entered, gone when left. ``between`` is on the way of what links both ends."""


@runtime_checkable
class InARow(Protocol):
    """A peer of which more than two can stand in a row, so that those in the middle only pass on."""

    def three(self, server: Address, tmp: Path) -> AbstractContextManager[Pair]:
        """Like ``pair``, with a third process between the two."""


@runtime_checkable
class InOne(Protocol):
    """A peer that can also lead from clients to a server beside them, without a link."""

    def one(self, server: Address, tmp: Path) -> AbstractContextManager[Pair]:
        """Like ``pair``, in one process."""


class Ends:
    """
    The two processes of a peer that reads PEM files: addresses and credentials for them, and their start.

    One end listens at ``middle``, the other one dials ``dialled``.
    """

    def __init__(self, tmp: Path, children: contextlib.ExitStack, between: Between) -> None:
        self._tmp, self._children = tmp, children
        self.front, self.middle = Address(LOOPBACK, free_port(LOOPBACK)), Address(LOOPBACK, free_port(LOOPBACK))
        self.dialled = between(self.middle)
        authority = Authority()
        self.near: End = authority.issue("near")
        self.far: End = authority.issue("far")
        (self.near_pem, self.trust), (self.far_pem, _) = self.near.write_pem(tmp), self.far.write_pem(tmp)
        self.near_name, self.far_name = self.near.host_name, self.far.host_name
        self._processes: dict[str, Child] = {}

    def start_near(self, name: str, argv: Sequence[str], *, env: dict[str, str] | None = None, listens: Address | None = None) -> None:
        """Ready when somebody listens at ``listens`` (default: where clients connect)."""
        self._start("near", name, argv, env, listens or self.front)

    def start_far(self, name: str, argv: Sequence[str], *, env: dict[str, str] | None = None, listens: Address | None = None) -> None:
        """Ready when somebody listens at ``listens`` (default: where the near end connects)."""
        self._start("far", name, argv, env, listens or self.middle)

    def _start(self, end: str, name: str, argv: Sequence[str], env: dict[str, str] | None, listens: Address) -> None:
        process = self._children.enter_context(child(name, argv, self._tmp, env=env))
        wait_until_listening(listens, process)
        self._processes[end] = process

    def pair(self) -> Pair:
        if set(self._processes) != {"near", "far"}:
            raise BenchError(f"only {', '.join(self._processes)} of both ends was started")
        return Pair(front=self.front, processes=(self._processes["near"], self._processes["far"]))


@contextlib.contextmanager
def two_ends(tmp: Path, between: Between) -> Iterator[Ends]:
    with contextlib.ExitStack() as children:
        yield Ends(tmp, children, between)
