"""What the tests of faults and load share: a seed, networks of real routers in namespaces, and figures that are printed at the end."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from linked import until
from network import Link, Network
from usage import Usage
from wires import why_not


@pytest.fixture
def seed() -> int:
    """Printed with a failure; VAN_TEST_SEED sets it."""
    found = int(os.environ.get("VAN_TEST_SEED", "") or random.randrange(1 << 30))
    print(f"VAN_TEST_SEED={found}")
    return found


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """A line for the end of the run."""

    def note(line: str) -> None:
        print(line)
        record_property("figure", line)

    return note


Maker = Callable[..., contextlib.AbstractContextManager[Network]]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory, plane: str) -> Maker:
    """Makes networks; skips where there can be none."""
    if reason := why_not():
        pytest.skip(reason)

    def make(links: tuple[Link, ...], *, clients: str, server: str, plane: str = plane) -> Network:
        directory: Path = tmp_path_factory.mktemp("net")
        return Network(directory, plane, links, clients=clients, server=server, seed=1)

    return make


@contextlib.contextmanager
def unharmed(network: Network, *, memory: int = 24 << 20) -> Iterator[Network]:
    """After the test the network is well again, and no router that ran all the time holds more than before it."""
    before = {name: (site.pid, site.usage()) for name, site in network.sites.items()}
    yield network
    network.heal()
    for name, (pid, was) in before.items():
        site = network[name]
        if site.pid == pid:
            until(f"{name} gives back what it took", lambda s=site, w=was: not held(s.usage(), w, memory), seconds=20)  # type: ignore[misc]
        assert "Traceback" not in site.log(), site.log()[-4000:]
        assert "panicked" not in site.log(), site.log()[-4000:]


def held(now: Usage, before: Usage, memory: int) -> list[str]:
    excess = now.excess(before, memory=memory)
    if excess:
        raise LookupError("; ".join(excess))  # said when time is up
    return excess
