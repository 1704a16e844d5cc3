"""
Which targets of one routing key are offered, here and to others, when some of them fail their checks. Pure.

    sound                                    offered
    out, and it refuses                      not offered: a stream could not be delivered anyway, and clients are refused at once
    out, but something may be there          the last resort: offered only while there is nothing better, at the highest cost that there is
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from vanrouter.addresses.health import Verdict
from vanrouter.addresses.model import LocalConnector

__all__ = ["LAST_RESORT", "Offered", "offered_targets"]

LAST_RESORT: Final = 1_000_000
"""The cost at which a last resort is advertised. A cost and not a flag: every router understands it, and two sites whose targets fail their
checks both go on offering them, instead of each seeing the other's and taking its own back in turn."""


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    here: frozenset[str]  # names of the connectors that the data plane gets
    targets: int  # as advertised
    cost: int
    down: int  # that fail their checks, whether the last resort or not


def offered_targets(connectors: Sequence[LocalConnector], verdicts: Mapping[str, Verdict], *, better_elsewhere: bool) -> Offered:
    """``better_elsewhere``: a target that is sound can be reached at another router."""
    out = [c for c in connectors if (verdict := verdicts.get(c.name)) is not None and verdict.is_out]
    sound = [c for c in connectors if c not in out]
    last = [] if sound else [c for c in out if verdicts[c.name].may_serve]
    return Offered(
        here=frozenset(c.name for c in (sound or ([] if better_elsewhere else last))),
        targets=len(sound or last),
        cost=min((c.cost for c in sound), default=LAST_RESORT if last else 0),
        down=len(out),
    )
