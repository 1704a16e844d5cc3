"""
Which target a new stream gets. Pure: what there is to choose from, what it has to do already and chance are arguments.

    keys ──``choose_key``──▶ one of them ──▶ its candidates ──``choose``──▶ a target ──▶ its next hops ──``choose``──▶ a link

Whatever the strategy: a doubtful candidate comes last, and among equals the one that was chosen longest ago is next (``Turns``).
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Sequence
from typing import Final

import msgspec

from vanrouter.plane import KeyWeight, Strategy

__all__ = ["DOUBTFUL", "DRAINING", "SOUND", "Candidate", "Turns", "choose", "choose_key"]

# How much there is to be said against a candidate. The numbers add up.
SOUND: Final = 0
DRAINING: Final = 1  # its link is
DOUBTFUL: Final = 2  # its link is suspect, or its last connect failed


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A target that may be asked now, or a link toward it."""

    name: str
    is_here: bool = False
    cost: int = 0
    outstanding: int = 0  # streams of this router that it has
    doubt: int = SOUND
    last_chosen: int = 0


def choose(candidates: Iterable[Candidate], strategy: Strategy = "balanced") -> Candidate | None:
    """None: there is none. Equal inputs give equal outputs."""
    return min(candidates, key=_by_cost if strategy == "closest" else _by_load, default=None)


def _by_load(candidate: Candidate) -> tuple[object, ...]:
    is_idle_here = candidate.is_here and not candidate.outstanding
    return (candidate.doubt, not is_idle_here, candidate.cost + candidate.outstanding, candidate.last_chosen, candidate.name)


def _by_cost(candidate: Candidate) -> tuple[object, ...]:
    return (candidate.doubt, candidate.cost, candidate.outstanding, candidate.last_chosen, candidate.name)


def choose_key(keys: Sequence[KeyWeight], served: Container[str], strategy: Strategy, rng: random.Random) -> str | None:
    """One of those that are ``served``, which have a target that may be asked. None: there is none."""
    usable = [key for key in keys if key.routing_key in served]
    if not usable:
        return None
    if strategy == "weighted" and len(usable) > 1:
        weights = [max(1, key.weight) for key in usable]
        return rng.choices([key.routing_key for key in usable], weights)[0]
    return usable[0].routing_key


class Turns:
    """Who was chosen when, per routing key. It knows only whom its owner has not told it to forget."""

    def __init__(self) -> None:
        self._count = 0
        self._of: dict[str, dict[str, int]] = {}

    def next(self) -> int:
        """A number that is higher than all before."""
        self._count += 1
        return self._count

    def last(self, routing_key: str, name: str) -> int:
        """0: never."""
        return self._of.get(routing_key, {}).get(name, 0)

    def took(self, routing_key: str, name: str) -> None:
        self._of.setdefault(routing_key, {})[name] = self.next()

    def keep(self, routing_key: str, names: Container[str]) -> None:
        """These are the targets of the key now; forget the others."""
        kept = {name: turn for name, turn in self._of.pop(routing_key, {}).items() if name in names}
        if kept:
            self._of[routing_key] = kept
