"""What the tests of faults and load share: a seed, networks of real routers in namespaces, and figures that are printed at the end."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from unharmed import Maker
from vans import Link, Network
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


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory, plane: str) -> Maker:
    """Makes networks; skips where there can be none."""
    if reason := why_not():
        pytest.skip(reason)

    def make(links: tuple[Link, ...], *, clients: str, server: str, plane: str = plane) -> Network:
        directory: Path = tmp_path_factory.mktemp("net")
        return Network(directory, plane, links, clients=clients, server=server, seed=1)

    return make
