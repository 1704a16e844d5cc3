"""
How long a router that leaves goes on serving what is new. Decides; time is an argument.

In a pod nobody can say when the last one has noticed that it goes: kube-proxies on other nodes, routers of other sites. So it serves for
`ENOUGH` after it was asked to go, and for `ENOUGH` after another router of its site became ready; never longer than its grace.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ENOUGH", "Leaving"]

ENOUGH: Final = 5.0


class Leaving:
    def __init__(self, *, now: float) -> None:
        self._began = now
        self._another_since: float | None = None

    def is_over(self, *, now: float, grace: float, another_is_ready: bool) -> bool:
        """Asked again and again; the grace may have become shorter meanwhile."""
        if not another_is_ready:
            self._another_since = None
        elif self._another_since is None:
            self._another_since = now
        return now >= self._began + grace or (self._another_since is not None and now >= self._another_since + ENOUGH)
