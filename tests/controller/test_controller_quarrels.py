"""How often the same is written over somebody else's change."""

from __future__ import annotations

from vanrouter.controller.quarrels import CAP, FIRST, FREE, WITHIN, Quarrels


def test_a_few_times_cost_nothing_then_each_wait_is_twice_as_long() -> None:
    quarrels, now, waits = Quarrels(), 100.0, []
    for _ in range(FREE + 9):
        now = max(now + 0.1, quarrels.again_at("services/a", 1))
        quarrels.tried("services/a", 1, now)
        waits.append(quarrels.again_at("services/a", 1) - now)
    assert waits[: FREE - 1] == [0.0] * (FREE - 1)
    assert [round(wait) for wait in waits[FREE - 1 :]] == [5, 10, 20, 40, 80, 160, 300, 300, 300, 300]
    assert round(max(waits)) == CAP


def test_what_is_written_seldom_is_no_quarrel() -> None:
    quarrels = Quarrels()
    for hour in range(20):
        quarrels.tried("services/a", 1, hour * 3600.0)
        assert quarrels.again_at("services/a", 1) <= hour * 3600.0
        assert quarrels.waiting(hour * 3600.0) == {}


def test_another_wish_and_another_object_begin_anew() -> None:
    quarrels = Quarrels()
    for _ in range(FREE):
        quarrels.tried("services/a", 1, 100.0)
    assert quarrels.waiting(100.0) == {"services/a": 100.0 + FIRST}
    assert quarrels.again_at("services/a", 2) == 0.0
    assert quarrels.again_at("services/b", 1) == 0.0
    quarrels.settled("services/a")
    assert quarrels.again_at("services/a", 1) == 0.0


def test_it_does_not_remember_what_is_long_over() -> None:
    quarrels = Quarrels()
    for number in range(1000):
        quarrels.tried(f"services/{number}", 1, 0.0)
    for number in range(101):
        quarrels.tried(f"services/more-{number}", 1, WITHIN)
    assert len(quarrels._tries) == 101
