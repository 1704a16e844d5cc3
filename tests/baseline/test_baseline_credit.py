"""Credit is conserved, and what is granted is always reserved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vanrouter.baseline.credit import FLOOR, INITIAL_WINDOW, MAX_WINDOW, Budget, ReceiveWindow, add_credit_untrusted
from vanrouter.errors import RemoteProtocolError


def window(budget: Budget, now: float = 0.0) -> ReceiveWindow:
    assert budget.take_floor()
    return ReceiveWindow(budget, now)


def test_a_window_starts_with_64_kib_if_there_is_room_and_with_the_floor_if_not() -> None:
    budget = Budget(256 * 1024)
    assert [window(budget).outstanding for _ in range(3)] == [INITIAL_WINDOW, INITIAL_WINDOW, FLOOR]


def test_a_stream_whose_floor_does_not_fit_is_not_admitted() -> None:
    budget = Budget(2 * FLOOR)
    only = window(budget)
    assert not budget.take_floor()
    only.close()
    assert budget.granted == 0
    assert budget.take_floor()


def test_credit_is_granted_when_half_of_the_window_was_consumed_and_not_before() -> None:
    receiving = window(Budget(1 << 20))
    receiving.received_untrusted(INITIAL_WINDOW)
    assert receiving.consumed(INITIAL_WINDOW // 2 - 1, 10.0, 0.01) == 0
    assert receiving.consumed(1, 10.0, 0.01) == INITIAL_WINDOW // 2


def test_a_window_that_is_used_in_under_two_round_trips_doubles_and_a_slow_one_does_not() -> None:
    receiving = window(Budget(128 << 20))
    receiving.received_untrusted(40_000)
    assert receiving.consumed(40_000, 0.019, 0.010) == 40_000 + INITIAL_WINDOW
    receiving.received_untrusted(80_000)
    assert receiving.consumed(80_000, 0.040, 0.010) == 80_000


def test_a_window_never_takes_more_than_an_eighth_of_what_is_free() -> None:
    budget = Budget(4 << 20)
    receiving = window(budget)
    for _ in range(20):
        size = receiving.outstanding
        receiving.received_untrusted(size)
        receiving.consumed(size, 0.0, 1.0)
    assert receiving.reserved <= (2 << 20) // 8


def test_windows_shrink_near_the_budget() -> None:
    budget = Budget(8 << 20)
    receiving = window(budget)
    budget.take_regardless(int(0.9 * (4 << 20)))
    receiving.received_untrusted(INITIAL_WINDOW)
    assert receiving.consumed(INITIAL_WINDOW, 1.0, 0.01) == INITIAL_WINDOW // 2
    assert receiving.reserved == INITIAL_WINDOW // 2


def test_bytes_without_credit_are_a_violation() -> None:
    receiving = window(Budget(1 << 20))
    receiving.received_untrusted(INITIAL_WINDOW)
    with pytest.raises(RemoteProtocolError, match="credit"):
        receiving.received_untrusted(1)


def test_credit_that_was_not_given_cannot_be_returned() -> None:
    receiving = window(Budget(1 << 20))
    receiving.returned_untrusted(INITIAL_WINDOW - FLOOR)
    with pytest.raises(RemoteProtocolError, match="outstanding"):
        receiving.returned_untrusted(FLOOR + 1)


def test_credit_never_exceeds_31_bits() -> None:
    assert add_credit_untrusted(2**31 - 2, 1, "x") == 2**31 - 1
    with pytest.raises(RemoteProtocolError):
        add_credit_untrusted(2**31 - 1, 1, "x")


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["receive", "consume", "return", "too much"]), st.integers(0, 200_000), st.floats(0, 0.05)), max_size=100
    ),
    capacity=st.integers(8_192, 4_000_000),
)
def test_credit_is_conserved_and_always_reserved(steps: list[tuple[str, int, float]], capacity: int) -> None:
    budget = Budget(capacity)
    receiving = window(budget)
    now = 0.0
    granted, received, consumed, returned = receiving.outstanding, 0, 0, 0
    for what, amount, later in steps:
        now += later
        match what:
            case "receive":
                size = min(amount, receiving.outstanding)
                receiving.received_untrusted(size)
                received += size
            case "consume":
                size = min(amount, receiving.stored)
                granted += receiving.consumed(size, now, 0.01)
                consumed += size
            case "return":
                size = min(amount, receiving.outstanding)
                receiving.returned_untrusted(size)
                returned += size
            case _:
                with pytest.raises(RemoteProtocolError):
                    receiving.received_untrusted(receiving.outstanding + 1)
        assert granted == received + returned + receiving.outstanding
        assert received == consumed + receiving.stored
        assert receiving.outstanding + receiving.stored <= receiving.reserved
        assert FLOOR <= receiving.reserved <= MAX_WINDOW
        assert budget.granted == receiving.reserved
    receiving.close()
    assert budget.granted == 0
