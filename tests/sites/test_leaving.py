"""When a router that leaves may refuse what is new."""

from __future__ import annotations

from vanrouter.sites.leaving import ENOUGH, Leaving

GRACE = 30.0


def ends(*another: tuple[float, bool], grace: float = GRACE) -> float:
    """When it is over; from each moment on another router is ready, or is not."""
    leaving, now = Leaving(now=100.0), 100.0
    while not leaving.is_over(now=now, grace=grace, another_is_ready=[ready for at, ready in another if 100.0 + at <= now][-1]):
        now += 0.25
    return now - 100.0


def test_a_router_that_is_alone_serves_to_the_end_of_its_grace() -> None:
    assert ends((0, False)) == GRACE


def test_one_that_has_a_ready_sibling_serves_until_everybody_had_time_to_notice() -> None:
    assert ends((0, True)) == ENOUGH


def test_one_whose_successor_becomes_ready_later_serves_so_long_after_that() -> None:
    assert ends((0, False), (7, True)) == 7 + ENOUGH


def test_a_sibling_that_does_not_stay_ready_does_not_count() -> None:
    assert ends((0, True), (2, False), (9, True)) == 9 + ENOUGH
    assert ends((0, False), (28, True)) == GRACE


def test_without_a_grace_it_is_over_at_once() -> None:
    assert ends((0, True), grace=0.0) == 0.0
