"""Suspect, dead and probes at exact times."""

from __future__ import annotations

from vanrouter.baseline.liveness import Health, Liveness, Others


def alive(now: float = 0.0) -> Liveness:
    """A lane that has just measured its round trip."""
    liveness = Liveness(suspect_after=1.0, dead_after=6.0, now=now)
    liveness.pong_untrusted(liveness.ping(now), now)
    return liveness


def test_an_idle_lane_is_probed_after_two_seconds_and_not_before() -> None:
    liveness = alive()
    assert not liveness.tick(1.999, outstanding=False)
    assert liveness.tick(2.0, outstanding=False)


def test_a_lane_that_owes_an_answer_is_probed_after_400_ms() -> None:
    liveness = alive()
    assert not liveness.tick(0.399, outstanding=True)
    assert liveness.tick(0.4, outstanding=True)


def test_an_idle_silence_is_no_reason_for_suspicion() -> None:
    liveness = alive()
    liveness.tick(1.9, outstanding=False)
    assert liveness.health is Health.ALIVE
    liveness.tick(1.95, outstanding=True)  # it owes us something only now
    assert liveness.health is Health.ALIVE
    liveness.tick(2.949, outstanding=True)
    assert liveness.health is Health.ALIVE
    liveness.tick(2.95, outstanding=True)
    assert liveness.health is Health.SUSPECT


def test_an_idle_lane_beside_a_silent_one_is_suspect_with_it() -> None:
    busy, idle = alive(), alive()
    first: dict[str, int] = {}
    for tenth in range(1, 13):
        now = tenth / 10
        others = Others.SUSPECT if busy.health is Health.SUSPECT else Others.SILENT if busy.is_silent else Others.WELL
        if idle.tick(now, outstanding=False, others=others):
            idle.ping(now)
        if busy.tick(now, outstanding=True):
            busy.ping(now)
        for name, one in (("busy", busy), ("idle", idle)):
            if one.health is Health.SUSPECT:
                first.setdefault(name, tenth)
    assert first == {"busy": 11, "idle": 12}  # 1 s after something was owed, and on the tick after that


def test_a_lane_that_answers_is_well_beside_a_suspect_one() -> None:
    liveness = alive()
    for tenth in range(1, 31):
        if liveness.tick(tenth / 10, outstanding=False, others=Others.SUSPECT):
            liveness.ping(tenth / 10)
        assert liveness.health is Health.ALIVE
        if tenth % 2 == 0:
            liveness.heard(tenth / 10)  # nothing for 0.2 s at most


def test_any_byte_ends_the_suspicion() -> None:
    liveness = alive()
    liveness.tick(0.0, outstanding=True)
    liveness.tick(1.0, outstanding=True)
    assert liveness.health is Health.SUSPECT
    liveness.heard(1.5)
    assert liveness.health is Health.ALIVE


def test_silence_ends_the_lane_at_six_seconds_and_not_before() -> None:
    liveness = alive()
    for tenth in range(60):
        if liveness.tick(tenth / 10, outstanding=False):
            liveness.ping(tenth / 10)
    assert liveness.health is Health.SUSPECT  # a PING went unanswered
    liveness.tick(5.999, outstanding=False)
    assert liveness.health is Health.SUSPECT
    liveness.tick(6.0, outstanding=False)
    assert liveness.health is Health.DEAD


def test_a_busy_lane_is_measured_now_and_then() -> None:
    liveness = alive()
    for second in range(5):
        liveness.heard(float(second))
        assert not liveness.tick(float(second), outstanding=False)
    liveness.heard(5.0)
    assert liveness.tick(5.0, outstanding=False)


def test_the_round_trip_is_the_smallest_recent_one() -> None:
    liveness = Liveness(suspect_after=1.0, dead_after=6.0, now=0.0)
    assert liveness.round_trip == 0.0
    for began, took in ((0.0, 0.05), (1.0, 0.02), (2.0, 0.04)):
        assert liveness.pong_untrusted(liveness.ping(began), began + took)
    assert abs(liveness.round_trip - 0.02) < 1e-9


def test_a_pong_nobody_asked_for_is_noticed() -> None:
    liveness = alive()
    assert not liveness.pong_untrusted(bytes(8), 1.0)
