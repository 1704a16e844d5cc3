"""Commands in this process, with a home of their own, no terminal, and a site that is only its socket."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_site import FakeSite
from van_calls import Van

from vanrouter.cli.main import van as van_group
from vanrouter.stores import SiteHome


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("VAN_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("VAN_HOME", str(home))
    monkeypatch.setenv("VAN_PLATFORM", "linux")
    monkeypatch.setenv("KUBECONFIG", "/nowhere/kubeconfig")
    monkeypatch.setenv("VAN_MANAGER", "none")
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.chdir(tmp_path)
    return home


@pytest.fixture
def van() -> Van:
    def call(line: str, *more: str, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(van_group, [*line.split(), *more], prog_name="van", input=input)

    return call


@pytest.fixture
def stopped(home: Path) -> SiteHome:
    """A site ``default`` that exists and does not run."""
    site = SiteHome(home / "default")
    site.create()
    (site.directory / "resources" / "Site-north.yaml").write_text(
        "apiVersion: vanrouter.io/v1alpha1\nkind: Site\nmetadata: {name: north}\nspec: {serviceAddress: 127.0.0.3}\n"
    )
    return site


@pytest.fixture
def site(stopped: SiteHome) -> Iterator[FakeSite]:
    """The same, and something answers on its socket."""
    with FakeSite(stopped.directory) as fake:
        yield fake
