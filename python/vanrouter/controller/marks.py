"""Annotations of a token Secret: what its link should be, and what became of it. Whoever stores one and whoever redeems it agree."""

from __future__ import annotations

from typing import Final

__all__ = ["COST", "FAILED", "LINK_NAME", "REDEEMED"]

REDEEMED: Final = "vanrouter.io/redeemed"  # the link that was made of it
FAILED: Final = "vanrouter.io/failed"  # why it will never be redeemed, and what to do: {"message", "hint"}
LINK_NAME: Final = "vanrouter.io/link"  # how the link is to be called
COST: Final = "vanrouter.io/cost"  # what the link is to cost
