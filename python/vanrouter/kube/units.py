"""
What was read of one place where resources stand: a key of a ConfigMap, a Secret, a custom resource.
"""

from __future__ import annotations

import msgspec

from vanrouter.resources import Resource
from vanrouter.stores.resources import Problem

__all__ = ["Unit"]


class Unit(msgspec.Struct):
    text: str
    resources: list[Resource]  # the last good form
    good: str  # its text
    problem: Problem | None = None
