from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import trio
from applications import close_clients
from crossroads import Crossroads, crossroads
from network import TRIPLES, Line
from plane_harness import KINDS, PAIRS, Pair, Router
from site_credentials import Site


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes minutes; with the baseline only when VANROUTER_LONG is set (make soak)")


@pytest.fixture(params=PAIRS)
def kinds(request: pytest.FixtureRequest) -> str:
    """The planes of a pair, ingress first."""
    return str(request.param)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def pair(kinds: str, nursery: trio.Nursery) -> Pair:
    """Two linked routers, quick to give up on clients nobody serves."""
    linked = Pair(kinds, refuse_after=0.6, listener_linger=0.5)
    await linked.start(nursery)
    return linked


@pytest.fixture(params=TRIPLES)
def triple(request: pytest.FixtureRequest) -> str:
    """The planes of a line, ingress first."""
    return str(request.param)


@pytest.fixture
async def line(triple: str, nursery: trio.Nursery) -> Line:
    """Three routers in a row, quick to give up on clients nobody serves."""
    linked = Line(triple, refuse_after=0.6, listener_linger=0.5)
    await linked.start(nursery)
    return linked


@pytest.fixture
async def cross(kind: str, nursery: trio.Nursery) -> AsyncIterator[Crossroads]:
    """A router between two peers by hand."""
    async with crossroads(kind, nursery) as made:
        yield made


@pytest.fixture
async def router(kind: str, nursery: trio.Nursery) -> Router:
    """One router without a link."""
    alone = Router(kind, Site("alone"), refuse_after=0.6, listener_linger=0.5)
    await alone.start(nursery)
    return alone


@pytest.fixture(autouse=True)
def clients_are_closed() -> Iterator[None]:
    yield
    close_clients()


@pytest.fixture(autouse=True)
def no_bug_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """An exception that a plane swallowed and logged is a failure all the same."""
    yield
    errors = [record.getMessage() + str(record.exc_info) for record in caplog.records if record.levelname == "ERROR"]
    assert not errors, errors
