"""
One link, supervised, in virtual time.

    t ──▶  dial A ... dial B after 250 ms ... the first lane decides ... further lanes one by one ... loss ... at once, then backoff
"""

from __future__ import annotations

import itertools
import math
import random

import pytest

from vanrouter.links import CAP, FIRST_MINUTE_CAP, STAGGER, CancelDial, Endpoint, LinkSupervisor, Retire, State
from vanrouter.links.supervisor import LANE_PAUSE, SETTLE, STABLE, TRANSITIONS, USABLE, Input
from vanrouter.plane import Dial, DialResult, LinkState

A, B, C = (Endpoint(host=f"10.0.0.{n}", port=55671) for n in (1, 2, 3))
SITE = "a" * 52
R1, R2 = f"{SITE}/{1:016x}", f"{SITE}/{2:016x}"


def supervisor(*endpoints: Endpoint, now: float = 0.0, **kwargs: object) -> tuple[LinkSupervisor, list[object]]:
    ids = itertools.count(1)
    link = LinkSupervisor("west", rng=random.Random(1), next_id=lambda: next(ids), now=now, **kwargs)  # type: ignore[arg-type]
    return link, list(link.set_endpoints(endpoints, now=now))


def state(router: str = R1, lanes: int = 1, wanted: int = 1, **kwargs: object) -> LinkState:
    dialled = ["west"] if lanes else []
    return LinkState(router=router, site_name="west-site", lanes=lanes, lanes_wanted=wanted, dialled=dialled, **kwargs)  # type: ignore[arg-type]


def up(id: int, router: str = R1) -> DialResult:
    return DialResult(id=id, router=router)


def down(id: int, reason: str = "refused", *, retryable: bool = True) -> DialResult:
    return DialResult(id=id, reason=reason, error=f"it was {reason}", retryable=retryable)  # type: ignore[arg-type]


def dials(actions: object) -> list[str]:
    return [a.host for a in actions if isinstance(a, Dial)]  # type: ignore[attr-defined]


def linked(*endpoints: Endpoint, wanted: int = 1, now: float = 0.0) -> LinkSupervisor:
    link, actions = supervisor(*endpoints, now=now)
    (dial,) = actions
    link.handle_dial_result(up(dial.id), now=now)  # type: ignore[attr-defined]
    link.handle_link_state(state(wanted=wanted), now=now)
    return link


def reason(link: LinkSupervisor) -> str:
    return link.status().condition.reason


def test_every_state_answers_every_input() -> None:
    assert set(TRANSITIONS) == set(State)
    assert all(set(row) == set(Input) for row in TRANSITIONS.values())
    assert set(TRANSITIONS[State.DROPPED].values()) == {State.DROPPED}


def test_it_dials_as_soon_as_there_is_an_endpoint() -> None:
    link, actions = supervisor()
    assert (actions, link.deadline, reason(link)) == ([], math.inf, "NoEndpoints")
    (dial,) = link.set_endpoints([A], now=1.0)
    assert dial == Dial(id=1, link="west", host="10.0.0.1", port=55671, server_name="")
    assert reason(link) == "Connecting"


def test_a_silent_endpoint_costs_the_next_one_250_ms_and_the_first_lane_decides() -> None:
    link, actions = supervisor(A, B, C)
    assert dials(actions) == ["10.0.0.1"]
    assert link.deadline == STAGGER
    assert link.handle_timeout(STAGGER - 0.001) == []
    assert dials(link.handle_timeout(STAGGER)) == ["10.0.0.2"]
    out = link.handle_dial_result(up(2), now=0.3)
    assert out == [CancelDial(1)]
    link.handle_link_state(state(), now=0.31)
    assert link.state is State.UP
    assert link.status().endpoint == str(B)
    assert reason(link) == "Active"


def test_a_link_that_is_reported_before_its_dial_ends_the_race_and_the_endpoint_is_remembered() -> None:
    link, _ = supervisor(A, B)
    link.handle_timeout(STAGGER)
    assert link.handle_link_state(state(wanted=2), now=0.3)[:2] == [CancelDial(1), CancelDial(2)]
    assert link.handle_dial_result(up(2), now=0.31) == ()
    assert link.status().endpoint == str(B)


def test_a_refused_endpoint_costs_nothing() -> None:
    link, _ = supervisor(A, B, C)
    assert dials(link.handle_dial_result(down(1), now=0.01)) == ["10.0.0.2"]
    assert dials(link.handle_dial_result(down(2), now=0.02)) == ["10.0.0.3"]


def test_three_dead_endpoints_cost_less_than_a_second() -> None:
    d = Endpoint(host="10.0.0.4", port=1)
    link, actions = supervisor(A, B, C, d)
    now = 0.0
    while "10.0.0.4" not in dials(actions):
        now = link.deadline
        actions = list(link.handle_timeout(now))
    assert now < 1.0


def test_the_endpoint_that_answered_goes_first_the_next_time() -> None:
    link, _ = supervisor(A, B)
    link.handle_timeout(0.25)
    link.handle_dial_result(up(2), now=0.3)
    link.handle_link_state(state(), now=0.3)
    assert dials(link.handle_link_state(state(lanes=0, error="reset"), now=100.0)) == ["10.0.0.2"]


def test_a_loss_after_a_stable_time_is_redialled_at_once_and_then_with_backoff() -> None:
    link = linked(A)
    (dial,) = link.handle_link_state(state(lanes=0, error="peer closed"), now=STABLE)
    assert "peer closed" in link.status().condition.message
    delays, now = [], STABLE
    for _ in range(5):
        link.handle_dial_result(down(dial.id), now=now)
        assert link.state is State.WAITING
        delays.append(link.deadline - now)
        now = link.deadline
        (dial,) = link.handle_timeout(now)
    for delay, bound in zip(delays, [0.1, 0.2, 0.25, 0.25, 0.25], strict=True):
        assert bound / 2 <= delay <= bound


def flapping(up_for: float) -> list[float]:
    """When a link is dialled in 600 s that comes up at once and is lost ``up_for`` seconds later, each time."""
    link, actions = supervisor(A)
    now, times = 0.0, []
    while now < 600:
        for action in actions:
            if isinstance(action, Dial):
                times.append(now)
                link.handle_dial_result(up(action.id), now=now)
                link.handle_link_state(state(), now=now)
                actions = link.handle_link_state(state(lanes=0), now=now + up_for)
                now += up_for
                break
        else:
            now = link.deadline
            actions = link.handle_timeout(now)
    return times


def test_a_link_that_comes_up_and_dies_again_and_again_is_dialled_at_a_bounded_rate() -> None:
    """up 50 ms, down, up 50 ms, down ...: about one dial a second in the first minute, then one in 30 s"""
    times = flapping(0.05)
    assert len([t for t in times if t < 60]) <= 130
    assert len([t for t in times if t >= 120]) <= 480 / 14
    assert min(b - a for a, b in itertools.pairwise(times[2:])) >= 0.05


def test_a_link_that_comes_up_and_is_closed_at_once_is_not_said_to_come_back_by_itself() -> None:
    for up_for, expected in ((USABLE / 2, "ClosedAtOnce"), (STABLE / 2, "Connecting")):
        link = linked(A)
        link.handle_link_state(state(lanes=0, error="the peer closed it: this site is refused here"), now=up_for)
        condition = link.status().condition
        assert condition.reason == expected
        assert "refused here" in condition.message
        assert ("may refuse this one" in condition.next) is (expected == "ClosedAtOnce")


@pytest.mark.parametrize("up_for", [USABLE + 0.01, STABLE - 0.1])
def test_a_link_that_works_for_a_moment_each_time_is_dialled_again_within_a_second(up_for: float) -> None:
    times = flapping(up_for)
    pauses = [b - a - up_for for a, b in itertools.pairwise(times)]
    assert max(pauses) <= FIRST_MINUTE_CAP + 1e-9
    assert sum(pauses[60:]) / len(pauses[60:]) >= FIRST_MINUTE_CAP / 2


def test_what_redialling_cannot_help_waits_for_the_cap_and_says_what_to_do() -> None:
    link, _ = supervisor(A)
    link.handle_dial_result(down(1, "policy", retryable=False), now=0.0)
    assert CAP / 2 <= link.deadline <= CAP
    condition = link.status().condition
    assert (condition.status, condition.reason) == ("False", "Rejected")
    assert "it was policy" in condition.message
    assert "van link create" in condition.next


def test_one_endpoint_that_rejects_us_does_not_slow_down_the_others() -> None:
    link, _ = supervisor(A, B)
    link.handle_dial_result(down(1, "tls", retryable=False), now=0.0)
    link.handle_dial_result(down(2, "refused"), now=0.0)
    assert link.deadline <= 0.1
    assert dials(link.handle_timeout(link.deadline)) == ["10.0.0.2"]


def test_a_hopeless_endpoint_that_fails_otherwise_later_is_retried_as_others_are() -> None:
    link, _ = supervisor(A)
    link.handle_dial_result(down(1, "policy", retryable=False), now=0.0)
    at = link.deadline
    (dial,) = link.handle_timeout(at)
    link.handle_dial_result(down(dial.id, "refused"), now=at)
    assert at < link.deadline <= at + 1.0


def test_new_credentials_are_tried_at_once() -> None:
    link, _ = supervisor(A)
    link.handle_dial_result(down(1, "tls", retryable=False), now=0.0)
    assert dials(link.credentials_changed(now=5.0)) == ["10.0.0.1"]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("self", "SelfLink"),
        ("policy", "Rejected"),
        ("tls", "Rejected"),
        ("protocol", "Rejected"),
        ("refused", "Unreachable"),
        ("timeout", "Unreachable"),
        ("unreachable", "Unreachable"),
    ],
)
def test_each_failure_has_its_reason_and_advice(result: str, expected: str) -> None:
    link, _ = supervisor(A)
    link.handle_dial_result(down(1, result, retryable=result in ("refused", "timeout", "unreachable")), now=3.0)
    status = link.status()
    assert status.condition.reason == expected
    assert status.condition.since == 3.0
    assert status.condition.next
    assert status.endpoints[0].endpoint == "10.0.0.1:55671"
    assert status.endpoints[0].message == f"it was {result}"


def test_another_site_at_the_endpoint_is_said_and_not_taken() -> None:
    link, _ = supervisor(A, expected_site="b" * 52)
    link.handle_dial_result(up(1), now=0.0)
    assert reason(link) == "WrongSite"
    assert link.deadline >= CAP / 2


def test_since_stays_while_the_reason_does() -> None:
    link, _ = supervisor(A)
    link.handle_dial_result(down(1), now=2.0)
    (dial,) = link.handle_timeout(link.deadline)
    link.handle_dial_result(down(dial.id), now=9.0)
    assert link.status().condition.since == 2.0


def test_a_name_that_cannot_be_resolved_is_named() -> None:
    link, _ = supervisor()
    link.unresolved("west.example", "no such host", now=4.0)
    condition = link.status().condition
    assert condition.reason == "Unreachable"
    assert "west.example: no such host" in condition.message
    assert "name servers" in condition.next


def test_lanes_are_dialled_one_after_the_other_to_the_endpoint_that_answered() -> None:
    """lanes wanted 3:  |-- lane 1 --> counted |-- lane 2 --> counted |-- lane 3 --> counted, enough"""
    link, _ = supervisor(A, B)
    link.handle_timeout(0.25)
    link.handle_dial_result(up(2), now=0.3)
    (second,) = link.handle_link_state(state(lanes=1, wanted=3), now=0.3)
    assert dials([second]) == ["10.0.0.2"]
    assert link.handle_dial_result(up(second.id), now=0.4) == []  # type: ignore[union-attr]
    (third,) = link.handle_link_state(state(lanes=2, wanted=3), now=0.5)
    link.handle_dial_result(up(third.id), now=0.6)  # type: ignore[union-attr]
    assert link.handle_link_state(state(lanes=3, wanted=3), now=0.7) == []
    assert link.deadline == math.inf


def test_a_lane_that_the_plane_never_counts_is_dialled_again_later() -> None:
    link = linked(A, wanted=2)
    link.handle_dial_result(up(2), now=1.0)
    assert link.deadline == 1.0 + SETTLE
    assert dials(link.handle_timeout(1.0 + SETTLE)) == ["10.0.0.1"]


def test_a_lost_lane_is_redialled_after_a_pause_and_then_with_backoff() -> None:
    link = linked(A, wanted=2)
    link.handle_dial_result(up(2), now=0.0)
    link.handle_link_state(state(lanes=2, wanted=2), now=0.0)
    assert link.handle_link_state(state(lanes=1, wanted=2), now=20.0) == []
    assert link.deadline == 20.0 + LANE_PAUSE
    (dial,) = link.handle_timeout(20.0 + LANE_PAUSE)
    link.handle_dial_result(down(dial.id), now=20.3)  # type: ignore[union-attr]
    assert 20.3 < link.deadline <= 20.4
    assert reason(link) == "Active"
    assert "1 of 2 lanes" in link.status().condition.message


def test_lanes_that_are_lost_one_right_after_the_other_are_a_lost_link_with_its_own_date() -> None:
    link = linked(A, wanted=2)
    link.handle_dial_result(up(2), now=0.0)
    link.handle_link_state(state(lanes=2, wanted=2), now=0.0)
    assert link.handle_link_state(state(lanes=1, wanted=2), now=20.0) == []
    (dial,) = link.handle_link_state(state(lanes=0), now=20.2)
    link.handle_dial_result(up(dial.id), now=20.3)  # type: ignore[union-attr]
    link.handle_link_state(state(lanes=1, wanted=2), now=20.3)
    assert (reason(link), link.status().condition.since) == ("Active", 20.3)


def test_lanes_never_exceed_what_the_link_is_configured_for() -> None:
    link, _ = supervisor(A, lanes=1)
    link.handle_dial_result(up(1), now=0.0)
    assert link.handle_link_state(state(wanted=4), now=0.0) == []


def test_behind_a_load_balancer_lanes_at_two_routers_are_enough_together() -> None:
    link = linked(A, wanted=2)
    link.handle_dial_result(up(2, R2), now=0.1)
    assert link.handle_link_state(state(R2, lanes=1, wanted=2), now=0.1) == []
    assert link.status().routers == [R1, R2]
    link.handle_link_state(state(R2, lanes=0), now=0.2)
    assert dials(link.handle_timeout(0.2 + LANE_PAUSE)) == ["10.0.0.1"]
    assert link.state is State.UP


def test_a_lane_dialled_by_the_other_end_alone_is_not_this_link() -> None:
    link, _ = supervisor(A)
    other = LinkState(router=R1, site_name="x", lanes=2, lanes_wanted=2, accepted=["default"])
    assert link.handle_link_state(other, now=0.1) == ()
    assert link.state is State.RACING


def test_an_accepted_lane_counts_once_ours_is_up() -> None:
    link, _ = supervisor(A)
    link.handle_dial_result(up(1), now=0.0)
    assert link.handle_link_state(state(lanes=2, wanted=2, accepted=["default"]), now=0.0) == []


def test_a_lane_that_closes_before_it_is_reported_is_redialled_with_backoff() -> None:
    link, _ = supervisor(A)
    link.handle_dial_result(up(1), now=0.0)
    assert link.state is State.SETTLING
    link.handle_timeout(SETTLE)
    assert link.state is State.WAITING
    assert link.status().endpoints[0].reason == "ClosedAtOnce"
    assert dials(link.handle_timeout(link.deadline)) == ["10.0.0.1"]


def test_suspect_and_draining_are_said() -> None:
    link = linked(A)
    link.handle_link_state(state(suspect=True), now=1.0)
    assert (reason(link), link.status().condition.status) == ("Suspect", "Unknown")
    link.handle_link_state(state(draining=True), now=2.0)
    assert (reason(link), link.status().condition.status) == ("Draining", "True")


def test_while_the_router_leaves_another_one_behind_the_endpoint_is_looked_for_soon_and_then_now_and_then() -> None:
    """R1 drains; the load balancer still leads to R1 for a while, then to R2. A successor on a host is there at once."""
    link = linked(A)
    (dial,) = link.handle_link_state(state(draining=True), now=20.0)
    now = 20.1
    for most in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
        link.handle_dial_result(up(dial.id, R1), now=now)  # type: ignore[union-attr]
        link.handle_link_state(state(lanes=2, draining=True), now=now)
        assert now + most / 2 <= link.deadline <= now + most
        now = link.deadline
        (dial,) = link.handle_timeout(now)
    link.handle_dial_result(up(dial.id, R2), now=now)  # type: ignore[union-attr]
    assert link.handle_link_state(state(R2), now=now) == []
    assert reason(link) == "Active"


def test_endpoints_may_change_while_they_are_dialled() -> None:
    link, _ = supervisor(A, B)
    out = link.set_endpoints([B, C], now=0.1)
    assert CancelDial(1) in out
    assert dials(out) == ["10.0.0.2"]
    assert dials(link.handle_timeout(0.35)) == ["10.0.0.3"]


def test_a_new_endpoint_ends_the_waiting() -> None:
    link, _ = supervisor(A)
    link.handle_dial_result(down(1, "policy", retryable=False), now=0.0)
    assert dials(link.set_endpoints([A, B], now=1.0)) == ["10.0.0.2"]


def test_endpoints_that_vanish_leave_live_lanes_alone() -> None:
    link = linked(A)
    assert link.set_endpoints([], now=1.0) == []
    assert link.state is State.UP
    assert link.handle_link_state(state(lanes=0), now=2.0) == []
    assert link.state is State.IDLE


def test_a_dropped_link_cancels_its_dials_and_stays_silent() -> None:
    link, _ = supervisor(A, B)
    assert link.drop(now=0.1) == [CancelDial(1)]
    assert link.deadline == math.inf
    assert link.set_endpoints([C], now=1.0) == []
    assert link.handle_dial_result(up(1), now=1.0) == ()
    assert reason(link) == "Dropped"


def test_a_dial_that_is_never_answered_is_given_up() -> None:
    link, _ = supervisor(A)
    out = link.handle_timeout(15.0)
    assert CancelDial(1) in out
    assert link.status().endpoints[0].reason == "TimedOut"


def test_an_answer_to_somebody_elses_dial_is_ignored() -> None:
    link, _ = supervisor(A)
    assert link.handle_dial_result(up(99), now=0.0) == ()
    assert link.state is State.RACING


# ---- An address that goes ---------------------------------------------------------------------------------------------------------


def retired(actions: object) -> list[str]:
    return [a.endpoint.host for a in actions if isinstance(a, Retire)]  # type: ignore[attr-defined]


def test_lanes_leave_an_address_that_goes_once_there_is_one_to_another() -> None:
    link = linked(A)
    actions = link.set_endpoints([B, A], now=10.0, leaving=[A])
    assert (dials(actions), retired(actions)) == (["10.0.0.2"], [])
    (dial,) = actions
    actions = link.handle_dial_result(up(dial.id), now=10.1)  # type: ignore[union-attr]
    assert retired(actions) == ["10.0.0.1"]
    link.handle_link_state(state(lanes=2, wanted=2), now=10.2)
    assert link.status().endpoint == str(B)
    actions = link.handle_link_state(state(lanes=1, wanted=1), now=11.0)  # the last stream of the old one ended
    assert (list(actions), link.deadline, link.state) == ([], math.inf, State.UP)


def test_an_address_that_goes_is_left_only_for_one_that_works() -> None:
    link = linked(A)
    (dial,) = link.set_endpoints([A, B, C], now=10.0, leaving=[A])
    assert dial.host == "10.0.0.2"  # type: ignore[union-attr]
    assert retired(link.handle_dial_result(down(dial.id), now=10.1)) == []  # type: ignore[union-attr]
    assert link.deadline >= 11.1
    (dial,) = link.handle_timeout(link.deadline)
    assert dial.host == "10.0.0.3", "the one that has not failed"  # type: ignore[union-attr]
    assert retired(link.handle_dial_result(up(dial.id), now=12.0)) == ["10.0.0.1"]  # type: ignore[union-attr]
    alone = linked(A)
    assert list(alone.set_endpoints([A], now=10.0, leaving=[A])) == [], "there is nothing better"
    assert alone.state is State.UP


def test_an_address_that_went_is_left_too_and_one_that_goes_is_dialled_last() -> None:
    link = linked(A)
    (dial,) = link.set_endpoints([B], now=10.0, leaving=[A])
    assert retired(link.handle_dial_result(up(dial.id), now=10.1)) == ["10.0.0.1"]  # type: ignore[union-attr]
    lost = linked(A)
    lost.set_endpoints([A, B], now=10.0, leaving=[A])
    actions = lost.handle_link_state(state(lanes=0), now=20.0)
    assert dials(actions) == ["10.0.0.2"]
