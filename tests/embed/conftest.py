"""Members of a network in this process: a hub with a link access, and leaves that join it; over each data plane that is built."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from free_ports import free_port

import vanrouter
from vanrouter.embed import Van
from vanrouter.resources import read_document
from vanrouter.stores import SiteHome

Opener = Callable[..., contextlib.AbstractAsyncContextManager[Van]]
CORE = importlib.util.find_spec("vanrouter._core") is not None


@pytest.fixture(params=["baseline", pytest.param("core", marks=pytest.mark.skipif(not CORE, reason="the core is not built here"))])
def plane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs what works in either loop, in both."""
    return functools.partial(anyio.run, backend=request.param)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A site with a link access; no router runs on it."""
    home = SiteHome(tmp_path / "hub")
    home.create()
    spec = {"linkAccess": f"127.0.0.1:{free_port()}", "serviceSync": False}
    home.resources.put(read_document({"apiVersion": "vanrouter.io/v1alpha1", "kind": "Site", "metadata": {"name": "hub"}, "spec": spec}))
    return home.directory


@pytest.fixture
def opened(plane: str) -> Opener:
    return functools.partial(vanrouter.open, plane=plane, drain=1.0)


@pytest.fixture
async def hub(opened: Opener, directory: Path) -> AsyncIterator[Van]:
    async with opened(directory) as van:
        yield van


@pytest.fixture
async def leaf(opened: Opener, hub: Van, directory: Path) -> AsyncIterator[Van]:
    async with opened(directory, name="leaf") as van:
        yield van
