"""
Bytes that never print: ``repr``, ``str`` and formatting give ``***``, pickling is refused, comparison takes constant time.

It keeps secrets out of logs, tracebacks and debug dumps by construction. It does not wipe memory: Python cannot promise that.
"""

from __future__ import annotations

import hmac
from typing import NoReturn, final

__all__ = ["Secret"]


@final
class Secret:
    """Hold secret bytes. ``reveal`` is the only way to them, so that a reviewer can grep for it."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return hmac.compare_digest(self._value, other._value) if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled or copied; call reveal() where it is written to a 0600 file")
