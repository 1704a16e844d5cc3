"""docs/api.md is what the docstrings say, and everything public has one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from vanrouter import embed
from vanrouter.embed.reference import render


def test_the_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "api.md"
    assert page.read_text() == render(), "renew it: python -m vanrouter.embed.reference > docs/api.md"


def test_everything_public_is_on_the_page() -> None:
    page = render()
    told_elsewhere = {"Change", "Handler"}  # types of what is on the page
    missing = [name for name in embed.__all__ if name not in told_elsewhere and f"# `{name}`" not in page]
    assert not missing
    methods = [
        f"{kind.__name__}.{name}" for kind in (embed.Van, embed.Serving, embed.Stream) for name in vars(kind) if not name.startswith("_")
    ]
    assert not [method for method in methods if method not in page and method not in ("Stream.routing_key", "Stream.source")]


def test_the_core_is_one_file_for_every_python_from_3_11() -> None:
    spec = importlib.util.find_spec("vanrouter._core")
    if spec is None or spec.origin is None:
        pytest.skip("the core is not built here")
    assert spec.origin.endswith(".abi3.so")
