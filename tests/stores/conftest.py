"""The homes of resources: one suite for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from store_homes import ConfigMapHome, CustomHome, FileHome, Home

FILES = "files"
MAPS = pytest.param("ConfigMaps", marks=pytest.mark.api_server)
CUSTOM = pytest.param("custom resources", marks=pytest.mark.api_server)


@pytest.fixture(params=[FILES, MAPS, CUSTOM])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    """What is promised holds on every home."""
    yield from _home(request, tmp_path)


@pytest.fixture(params=[FILES, MAPS])
def text_home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    """A home whose places may hold any text."""
    yield from _home(request, tmp_path)


def _home(request: pytest.FixtureRequest, directory: Path) -> Iterator[Home]:
    if request.param == "files":
        yield FileHome(directory)
        return
    from vanrouter.kube.blocking import BlockingClient

    if request.param != "ConfigMaps":
        request.getfixturevalue("undefined_afterwards")
    namespace = request.getfixturevalue("namespace")
    with BlockingClient(request.getfixturevalue("cluster")) as client:
        yield ConfigMapHome(client, namespace) if request.param == "ConfigMaps" else CustomHome(client, namespace)
