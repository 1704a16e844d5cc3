"""What a link of this router costs now: by what its two ends advertise of it, not by what was said when it was dialled. Reads an engine."""

from __future__ import annotations

from vanrouter.routing.adjacency import LAST_RESORT
from vanrouter.routing.engine import Engine

__all__ = ["price_in_force", "price_of_peer"]


def price_in_force(engine: Engine, router: str, default: int) -> int:
    """The larger of what both ends say. ``default``: of a link that is not for routing (yet)."""
    reported, own = engine.topology.reported_by, engine.own
    ends = (reported(own).get(router), reported(router).get(own), engine.edge_cost(router))
    said = [cost for cost in ends if cost is not None and cost < LAST_RESORT]
    return max(said, default=default)


def price_of_peer(engine: Engine, router: str, default: int) -> int:
    """What the other end says. ``default``: it says nothing, or that the link is a last resort."""
    said = engine.topology.reported_by(router).get(engine.own)
    return said if said is not None and said < LAST_RESORT else default
