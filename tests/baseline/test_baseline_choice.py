"""The choice of a target is a rule that can be computed with paper and pencil."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from vanrouter.baseline.choice import DOUBTFUL, DRAINING, SOUND, Candidate, Turns, choose, choose_key
from vanrouter.plane import KeyWeight


def _name(candidate: Candidate | None) -> str:
    assert candidate is not None
    return candidate.name


candidates = st.lists(
    st.builds(
        Candidate,
        name=st.sampled_from("abcdefgh"),
        is_here=st.booleans(),
        cost=st.integers(0, 5),
        outstanding=st.integers(0, 5),
        doubt=st.sampled_from([SOUND, DRAINING, DOUBTFUL]),
        last_chosen=st.integers(0, 5),
    ),
    unique_by=lambda candidate: candidate.name,
    max_size=6,
)


def test_nothing_is_chosen_from_nothing() -> None:
    assert choose([]) is None
    assert choose_key([], set(), "priority", random.Random(1)) is None
    assert choose_key([KeyWeight("a")], {"b"}, "weighted", random.Random(1)) is None


def test_an_idle_target_here_comes_first_also_before_one_that_costs_nothing() -> None:
    here = Candidate(name="z", is_here=True)
    assert choose([Candidate(name="a", cost=0), here]) == here


def test_then_it_is_the_least_of_cost_and_outstanding_streams() -> None:
    here = Candidate(name="here", is_here=True, outstanding=50)
    assert _name(choose([here, Candidate(name="far", cost=49)])) == "far"
    assert _name(choose([here, Candidate(name="far", cost=51)])) == "here"


def test_closest_looks_at_the_cost_first() -> None:
    near, far = Candidate(name="near", cost=1, outstanding=1_000), Candidate(name="far", cost=2)
    assert choose([far, near], "closest") == near
    assert choose([far, near], "balanced") == far
    assert choose([near, Candidate(name="other", cost=1, outstanding=999)], "closest").name == "other"  # type: ignore[union-attr]


def test_doubtful_ones_come_last_whatever_they_cost() -> None:
    suspect, draining, sound = Candidate(name="a", doubt=DOUBTFUL), Candidate(name="b", doubt=DRAINING), Candidate(name="c", cost=10**6)
    for strategy in ("balanced", "closest"):
        assert choose([suspect, draining, sound], strategy) == sound  # type: ignore[arg-type]
        assert choose([suspect, draining], strategy) == draining  # type: ignore[arg-type]
        assert choose([suspect], strategy) == suspect  # type: ignore[arg-type]


def test_equals_take_turns() -> None:
    turns, chosen = Turns(), []
    for _ in range(12):
        best = _name(choose(Candidate(name=name, cost=1, last_chosen=turns.last("k", name)) for name in "cab"))
        turns.took("k", best)
        chosen.append(best)
    assert chosen == list("abc") * 4


def test_turns_of_one_key_are_no_turns_of_another() -> None:
    turns = Turns()
    turns.took("k", "a")
    assert turns.last("other", "a") == 0
    turns.took("k", "b")
    assert turns.last("k", "b") > turns.last("k", "a") > 0
    turns.keep("k", {"b"})
    assert turns.last("k", "a") == 0
    assert turns.last("k", "b") > 0
    turns.keep("k", set())
    assert turns._of == {}, "nothing is remembered of what is gone"


@given(candidates)
def test_the_order_of_candidates_does_not_matter(given: list[Candidate]) -> None:
    for strategy in ("balanced", "closest"):
        assert choose(given, strategy) == choose(reversed(given), strategy)  # type: ignore[arg-type]


@given(candidates.filter(bool))
def test_nobody_better_is_passed_over(given: list[Candidate]) -> None:
    best = choose(given)
    assert best is not None
    for other in given:
        assert best.doubt <= other.doubt
        if best.doubt == other.doubt and not (best.is_here and not best.outstanding):
            assert not (other.is_here and not other.outstanding)
            assert best.cost + best.outstanding <= other.cost + other.outstanding


def test_priority_is_the_first_key_that_has_a_target() -> None:
    keys = [KeyWeight("a"), KeyWeight("b"), KeyWeight("c")]
    assert choose_key(keys, {"a", "b", "c"}, "priority", random.Random(1)) == "a"
    assert choose_key(keys, {"b", "c"}, "priority", random.Random(1)) == "b"


def test_weights_are_chances_among_those_that_have_a_target() -> None:
    keys = [KeyWeight("a", 3), KeyWeight("b", 1), KeyWeight("c", 1_000)]
    rng = random.Random(7)
    counts = Counter(choose_key(keys, {"a", "b"}, "weighted", rng) for _ in range(10_000))
    assert set(counts) == {"a", "b"}
    assert 7_300 < counts["a"] < 7_700


def test_equal_chance_gives_equal_choices() -> None:
    keys = [KeyWeight("a", 3), KeyWeight("b", 1)]
    one, other = random.Random(3), random.Random(3)
    for _ in range(50):
        assert choose_key(keys, {"a", "b"}, "weighted", one) == choose_key(keys, {"a", "b"}, "weighted", other)
