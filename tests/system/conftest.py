"""A pair of linked sites in real processes: one for each test, or one for all tests of a file that leave it as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host, planes
from linked import Linked


@pytest.fixture(scope="session")
def plane() -> str:
    """The core; where it is not built, the baseline. VAN_TEST_PLANE=baseline runs these tests on the other one."""
    return os.environ.get("VAN_TEST_PLANE") or planes()[-1]


@pytest.fixture
def linked(tmp_path: Path, plane: str) -> Iterator[Linked]:
    with Host(tmp_path, plane) as host:
        pair = Linked(host)
        yield pair
        pair.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, plane: str) -> Iterator[Linked]:
    """Set up once; who uses it leaves it linked, with hello exposed."""
    with Host(tmp_path_factory.mktemp("shared"), plane) as host:
        pair = Linked(host)
        pair.set_up()
        yield pair
        pair.close()
