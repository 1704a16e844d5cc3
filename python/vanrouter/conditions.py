"""
A condition: one statement about one object, with why, since when, and what to do next.

Deciding code makes them in monotonic seconds; whoever shows them turns ``since`` into a date (`docs/architecture.md`, admin protocol).
Pure data: nothing here reads a clock.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Condition", "Conditions", "Status"]

Status = Literal["True", "False", "Unknown"]


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    status: Status
    reason: str  # CamelCase, stable: programs compare it
    message: str  # a sentence for people: names, numbers, the likely cause
    since: float  # monotonic seconds: when status or reason last changed
    next: str = ""  # what to do; empty: nothing


class Conditions:
    """The conditions of one object, one per type. ``since`` moves only when status or reason do; a new message alone keeps it."""

    def __init__(self) -> None:
        self._by_type: dict[str, Condition] = {}

    def set(self, type: str, status: Status, reason: str, message: str, *, now: float, next: str = "") -> bool:
        """True when something that a reader can see has changed."""
        old = self._by_type.get(type)
        since = old.since if old is not None and (old.status, old.reason) == (status, reason) else now
        new = Condition(type=type, status=status, reason=reason, message=message, since=since, next=next)
        self._by_type[type] = new
        return new != old

    def get(self, type: str) -> Condition | None:
        return self._by_type.get(type)

    def list(self) -> list[Condition]:
        """In the order in which the types were first set."""
        return list(self._by_type.values())
