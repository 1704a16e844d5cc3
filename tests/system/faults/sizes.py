"""The sizes that every run carries, and the full ones of `make soak` (VANROUTER_LONG=1)."""

from __future__ import annotations

import os
from typing import Final, TypeVar

import pytest

T = TypeVar("T")

LONG: Final = bool(os.environ.get("VANROUTER_LONG"))


def size(everyday: T, full: T) -> T:
    return full if LONG else everyday


def only_long(*values: object) -> object:
    """A parameter of `make soak` alone."""
    return pytest.param(*values, marks=pytest.mark.skipif(not LONG, reason="VANROUTER_LONG is not set (make soak)"))
