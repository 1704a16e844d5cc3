"""docs/cli.md is what the commands say."""

from __future__ import annotations

from pathlib import Path

import pytest

from vanrouter.cli.reference import render


def test_the_reference_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    assert page.read_text() == render(), "renew it: python -m vanrouter.cli.reference > docs/cli.md"


def test_what_the_reference_shows_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    before = render()
    monkeypatch.setenv("COLUMNS", "40")
    assert render() == before
