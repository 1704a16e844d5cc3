"""The homes of resources: one suite for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from store_homes import ConfigMapHome, FileHome, Home


@pytest.fixture(params=["files", pytest.param("ConfigMaps", marks=pytest.mark.api_server)])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    """What is promised holds on every home."""
    if request.param == "files":
        yield FileHome(tmp_path)
        return
    from vanrouter.kube.blocking import BlockingClient

    namespace = request.getfixturevalue("namespace")
    with BlockingClient(request.getfixturevalue("cluster")) as client:
        yield ConfigMapHome(client, namespace)
