"""
One link as routing sees it: is it to be used, and at what price do we advertise it?

Refuses to find out: whether the other end is alive is the data plane's business, and its `LinkState` is the input. What others have to
know is in the price. A link that is suspect or draining is advertised at `LAST_RESORT`, so that every router, not only its two ends,
takes another path while there is one; a preference that only one end knew of would send streams round in circles.
"""

from __future__ import annotations

import enum
from typing import Final

from vanrouter.plane import LinkState

__all__ = ["LAST_RESORT", "TRANSITIONS", "Adjacency", "Input", "State", "input_of"]

LAST_RESORT: Final = 1_000_000  # the highest price that the format has


class State(enum.Enum):
    DOWN = enum.auto()  # no lane
    UP = enum.auto()
    SUSPECT = enum.auto()  # silent for a while: last resort
    DRAINING = enum.auto()  # the other end is leaving: last resort, for good, since a restart is another router


class Input(enum.Enum):
    WELL = enum.auto()
    SILENT = enum.auto()
    LEAVING = enum.auto()
    GONE = enum.auto()


# The whole machine. Every state answers every input; a test checks that.
TRANSITIONS: Final[dict[State, dict[Input, State]]] = {
    state: dict(zip(Input, row, strict=True))
    for state, row in {
        #                WELL            SILENT          LEAVING         GONE
        State.DOWN: (State.UP, State.SUSPECT, State.DRAINING, State.DOWN),
        State.UP: (State.UP, State.SUSPECT, State.DRAINING, State.DOWN),
        State.SUSPECT: (State.UP, State.SUSPECT, State.DRAINING, State.DOWN),
        State.DRAINING: (State.DRAINING, State.DRAINING, State.DRAINING, State.DOWN),
    }.items()
}


def input_of(link: LinkState) -> Input:
    if link.lanes <= 0:
        return Input.GONE
    if link.draining:
        return Input.LEAVING
    return Input.SILENT if link.suspect else Input.WELL


class Adjacency:
    """Feed link states in; ask for the price."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.state = State.DOWN
        self._cost = 1
        self._said: int | None = None

    @property
    def cost(self) -> int | None:
        """What to advertise. None: nothing, there is no link."""
        match self.state:
            case State.DOWN:
                return None
            case State.UP:
                return self._cost if self._said is None else self._said
            case _:
                return LAST_RESORT

    def handle(self, link: LinkState) -> bool:
        """The link's latest state. Whether what we advertise of it changes."""
        before = self.cost
        self._cost = min(max(1, link.cost), LAST_RESORT)
        self.state = TRANSITIONS[self.state][input_of(link)]
        return self.cost != before

    def handle_said(self, cost: int | None) -> bool:
        """What the edge at the other end says of its link now; the link's state has only what it said when it dialled. None: nothing.

        Whether what we advertise of it changes.
        """
        before = self.cost
        self._said = cost
        return self.cost != before
