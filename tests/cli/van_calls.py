"""What the fixture ``van`` is. (Not in conftest.py: every directory has one, and by that name another one may be imported.)"""

from __future__ import annotations

from collections.abc import Callable

from click.testing import Result

__all__ = ["Van"]

Van = Callable[..., Result]
"""``van("status -o json", "more", input=...)``"""
