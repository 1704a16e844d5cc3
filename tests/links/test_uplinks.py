"""An edge uses one uplink and has the others standing by: the order is by cost, then by name."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from vanrouter.links.uplinks import SETTLED, STAGGER, Uplinks


def three() -> Uplinks:
    uplinks = Uplinks(now=0.0)
    uplinks.set_links({"c": 3, "b": 2, "a": 2}, now=0.0)
    return uplinks


def test_at_the_start_the_best_one_is_dialled_and_the_others_follow_one_after_the_other() -> None:
    uplinks = three()
    assert uplinks.dialled(0.0) == ["a"]
    assert uplinks.deadline(0.0) == STAGGER
    assert uplinks.dialled(STAGGER) == ["a", "b"]
    assert uplinks.dialled(2 * STAGGER) == ["a", "b", "c"]
    assert uplinks.deadline(2 * STAGGER) == math.inf


def test_while_the_one_in_use_is_well_no_worse_one_is_dialled_ever() -> None:
    uplinks = three()
    uplinks.set_well("a", True, now=0.1)
    assert uplinks.in_use == "a"
    assert uplinks.dialled(10_000.0) == ["a"]
    assert uplinks.deadline(10_000.0) == math.inf


def test_the_next_one_is_dialled_in_the_moment_in_which_the_one_in_use_is_not_well() -> None:
    uplinks = three()
    uplinks.set_well("a", True, now=0.1)
    uplinks.set_well("a", False, now=100.0)
    assert uplinks.dialled(100.0) == ["a", "b"]
    assert uplinks.dialled(100.0 + STAGGER) == ["a", "b", "c"]
    uplinks.set_well("b", True, now=100.2)
    assert uplinks.in_use == "b"
    assert uplinks.dialled(200.0) == ["a", "b"], "the better one goes on trying"
    uplinks.set_well("b", False, now=300.0)
    assert uplinks.dialled(300.0) == ["a", "b", "c"]


def test_a_worse_one_is_given_up_only_when_the_better_one_was_well_for_long() -> None:
    uplinks = three()
    uplinks.set_well("b", True, now=0.0)
    uplinks.set_well("a", True, now=50.0)
    assert uplinks.in_use == "a"
    assert uplinks.surplus(50.0 + SETTLED - 0.001) == []
    assert uplinks.deadline(50.0) == 50.0 + SETTLED
    assert uplinks.surplus(50.0 + SETTLED) == ["b", "c"]
    uplinks.set_well("a", False, now=70.0)
    assert uplinks.surplus(70.0) == ["c"]
    assert uplinks.in_use == "b", "it is still up: nothing has to be dialled"


def test_a_link_that_is_deleted_while_in_use_makes_room_for_the_best_of_the_others_at_once() -> None:
    uplinks = three()
    uplinks.set_well("a", True, now=0.0)
    uplinks.set_links({"b": 2, "c": 3}, now=100.0)
    assert uplinks.dialled(100.0) == ["b"]
    assert uplinks.in_use == ""


@given(
    script=st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.floats(0.0, 20.0)), max_size=30),
    costs=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3), min_size=1),
)
def test_there_is_always_something_to_dial_and_waiting_leads_to_all_unless_one_is_well(
    script: list[tuple[str, bool, float]], costs: dict[str, int]
) -> None:
    uplinks, now = Uplinks(now=0.0), 0.0
    uplinks.set_links(costs, now=now)
    for name, well, pause in script:
        uplinks.set_well(name, well, now=now)
        now += pause
        dialled = uplinks.dialled(now)
        assert dialled
        assert dialled == sorted(dialled, key=lambda n: (costs[n], n))
        if uplinks.in_use:
            assert dialled[-1] == uplinks.in_use
            assert uplinks.in_use not in uplinks.surplus(now)
    for _ in range(10):
        if (until := uplinks.deadline(now)) < math.inf:
            assert until > now
            now = until
    assert uplinks.in_use or len(uplinks.dialled(now)) == len(costs)
