"""The state of one link: every state answers every input, and the price says the rest."""

from __future__ import annotations

import pytest

from vanrouter.plane import LinkState
from vanrouter.routing.adjacency import LAST_RESORT, TRANSITIONS, Adjacency, Input, State, input_of


def link(*, lanes: int = 1, suspect: bool = False, draining: bool = False, cost: int = 7) -> LinkState:
    return LinkState(router="p", site_name="p", lanes=lanes, lanes_wanted=1, suspect=suspect, draining=draining, cost=cost)


def test_every_state_answers_every_input() -> None:
    assert TRANSITIONS.keys() == set(State)
    assert all(row.keys() == set(Input) for row in TRANSITIONS.values())


@pytest.mark.parametrize("state", State)
def test_without_a_lane_the_link_is_down_whatever_it_was(state: State) -> None:
    assert TRANSITIONS[state][Input.GONE] is State.DOWN


def test_no_lane_says_more_than_draining_and_draining_more_than_suspect() -> None:
    assert input_of(link(lanes=0, suspect=True, draining=True)) is Input.GONE
    assert input_of(link(suspect=True, draining=True)) is Input.LEAVING
    assert input_of(link(suspect=True)) is Input.SILENT
    assert input_of(link()) is Input.WELL


def test_a_suspect_link_is_a_last_resort_and_recovers() -> None:
    adjacency = Adjacency("p")
    assert adjacency.cost is None
    assert adjacency.handle(link())
    assert adjacency.cost == 7
    assert adjacency.handle(link(suspect=True))
    assert adjacency.cost == LAST_RESORT
    assert adjacency.handle(link())
    assert adjacency.cost == 7


def test_a_draining_link_stays_a_last_resort_until_it_is_gone() -> None:
    adjacency = Adjacency("p")
    adjacency.handle(link(draining=True))
    assert not adjacency.handle(link())
    assert adjacency.cost == LAST_RESORT
    assert adjacency.handle(link(lanes=0))
    assert adjacency.cost is None


@pytest.mark.parametrize(("said", "counts"), [(0, 1), (-5, 1), (LAST_RESORT + 1, LAST_RESORT)])
def test_a_price_out_of_range_counts_as_the_nearest_in_range(said: int, counts: int) -> None:
    adjacency = Adjacency("p")
    adjacency.handle(link(cost=said))
    assert adjacency.cost == counts


def test_saying_the_same_again_changes_nothing() -> None:
    adjacency = Adjacency("p")
    assert adjacency.handle(link())
    assert not adjacency.handle(link())
