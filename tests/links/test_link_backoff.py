"""Delays: at once, 0.1 to 0.25 s in the first seconds, up to 1 s in the first minute, then up to 30 s; jitter from the given rng only."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from vanrouter.links import CAP, FIRST_MINUTE, FIRST_MINUTE_CAP, Backoff
from vanrouter.links.backoff import FIRST_SECONDS, FIRST_SECONDS_CAP


class NoJitter(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return b


def test_the_first_redial_is_at_once_and_then_the_delay_grows_from_100_ms_to_1_s() -> None:
    backoff = Backoff(NoJitter())
    assert [backoff.next_delay(0.0) for _ in range(5)] == [0.0, 0.1, 0.2, FIRST_SECONDS_CAP, FIRST_SECONDS_CAP]
    assert [backoff.next_delay(FIRST_SECONDS) for _ in range(3)] == [0.5, 1.0, 1.0]


def test_a_router_that_is_back_within_a_second_is_dialled_within_a_quarter_of_one() -> None:
    backoff, now, dials = Backoff(NoJitter()), 0.0, []
    while now < 1.5:
        now += backoff.next_delay(now)
        dials.append(now)
    assert max(later - earlier for earlier, later in itertools.pairwise(dials)) <= FIRST_SECONDS_CAP


def test_after_the_first_minute_it_doubles_on_to_the_cap_of_30_s() -> None:
    backoff = Backoff(NoJitter())
    for _ in range(7):
        backoff.next_delay(30.0 if backoff.began is not None else 0.0)
    assert backoff.next_delay(59.999) == 1.0
    assert [backoff.next_delay(60.0) for _ in range(6)] == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_a_reset_begins_anew() -> None:
    backoff = Backoff(NoJitter())
    for _ in range(20):
        backoff.next_delay(100.0)
    backoff.reset()
    assert backoff.began is None
    assert backoff.next_delay(500.0) == 0.0
    assert backoff.began == 500.0


def test_what_worked_for_a_moment_is_waited_for_as_in_the_first_minute() -> None:
    backoff, now = Backoff(NoJitter()), 0.0
    while now < 200.0:
        now += backoff.next_delay(now)
    assert backoff.next_delay(now) == CAP
    backoff.restart_minute(now)
    assert [backoff.next_delay(now + second) for second in (0.0, 1.0, 54.9)] == [1.0, 1.0, 1.0]
    assert backoff.next_delay(now + 55.0) == 2.0


def test_the_same_rng_gives_the_same_delays() -> None:
    one, two = Backoff(random.Random(7)), Backoff(random.Random(7))
    assert [one.next_delay(0.0) for _ in range(50)] == [two.next_delay(0.0) for _ in range(50)]


@given(seed=st.integers(), steps=st.lists(st.floats(0, 40), min_size=1, max_size=60))
def test_no_delay_is_ever_beyond_its_bound_or_under_half_of_the_first(seed: int, steps: list[float]) -> None:
    backoff, now, first = Backoff(random.Random(seed)), 0.0, True
    for step in steps:
        delay = backoff.next_delay(now)
        assert delay <= (FIRST_MINUTE_CAP if now < FIRST_MINUTE else CAP)
        assert first or delay >= 0.05
        first = False
        now += delay + step
    assert CAP / 2 <= backoff.cap_delay(now) <= CAP
