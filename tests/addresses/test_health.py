"""
Whose target is sound: checks and connects in, verdicts and due times out. The clock is the test's.

    checks of a sound target, interval 5 s:    |◀ at most 2.75 s ▶|
    one that refuses:   died · fails ·0.25 s· fails ▸ out
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vanrouter.addresses.health import MAX_PER_SECOND, MAX_RUNNING, TRANSITIONS, Health, Input, Outcome, Probe, State
from vanrouter.checks import Check, longest_timeout

PASSED = Outcome(kind="passed")
REFUSED = Outcome(kind="failed", error="connection refused", refused=True)
SILENT = Outcome(kind="failed", error="no answer")
VOID = Outcome(kind="void", error="too many open files")
CHECK = Check()


class Targets:
    """Targets that are alive, refuse or hang, checked as a driver would, on a clock that jumps from event to event."""

    def __init__(self, seed: int = 1) -> None:
        self.health = Health(random.Random(seed))
        self.now = 0.0
        self.behaves: dict[str, Outcome] = {}
        self.running: list[tuple[float, int, Probe, Outcome]] = []
        self.started: list[tuple[float, str]] = []
        self.became: list[tuple[float, str, bool]] = []  # when, who, whether out
        self._out: set[str] = set()
        self._order = itertools.count()

    def put(self, name: str, check: Check = CHECK, behaves: Outcome = PASSED) -> None:
        self.behaves[name] = behaves
        self.health.put(name, "127.0.0.1", 8080, check, now=self.now)

    def run(self, until: float) -> None:
        while True:
            for probe in self.health.take_due(self.now):
                self.started.append((self.now, probe.name))
                outcome = self.behaves[probe.name]
                took = probe.check.timeout if outcome is SILENT else 0.0
                self.running.append((self.now + took, next(self._order), probe, outcome))
            self.running.sort()
            next_time = min(self.health.deadline, self.running[0][0] if self.running else math.inf)
            if next_time > until:
                self.now = until
                return
            self.now = max(self.now, next_time)
            while self.running and self.running[0][0] <= self.now:
                _, _, probe, outcome = self.running.pop(0)
                self.health.handle_outcome(probe, outcome, now=self.now)
            self.note()

    def run_while(self, going_on: Callable[[], bool], *, most: float = 1000.0) -> None:
        end = self.now + most
        while going_on() and self.now < end:
            self.run(min(end, max(self.now + 0.001, min(self.health.deadline, self.running[0][0] if self.running else math.inf))))
        assert not going_on()

    def note(self) -> None:
        for name, verdict in self.health.take_changed().items():
            is_out = verdict is not None and verdict.is_out
            if is_out != (name in self._out):
                self._out ^= {name}
                self.became.append((self.now, name, is_out))

    def state(self, name: str) -> State:
        verdict = self.health.verdict(name)
        assert verdict is not None
        return verdict.state


def test_every_state_answers_every_input() -> None:
    assert set(TRANSITIONS) == set(State)
    for row in TRANSITIONS.values():
        assert set(row) == set(Input)


def test_nothing_but_enough_failed_checks_takes_a_target_out_and_nothing_but_enough_passed_ones_brings_it_back() -> None:
    out = {State.EJECTED, State.PROBATION}
    for state, row in TRANSITIONS.items():
        for trigger, after in row.items():
            if state not in out and after in out:
                assert trigger is Input.FAILED_ENOUGH
            if state in out and after not in out:
                assert trigger is Input.PASSED_ENOUGH


def test_a_new_target_is_trusted_and_checked_at_once() -> None:
    world = Targets()
    world.put("a")
    assert world.state("a") is State.NEW
    assert world.health.deadline == 0.0
    world.run(0.0)
    assert world.started == [(0.0, "a")]
    assert world.state("a") is State.HEALTHY


def test_a_sound_target_is_checked_about_every_half_interval_and_no_two_in_step() -> None:
    world = Targets()
    for name in "abc":
        world.put(name)
    world.run(100.0)
    for name in "abc":
        times = [t for t, who in world.started if who == name]
        pauses = [b - a for a, b in itertools.pairwise(times)]
        assert all(0.8 * 2.75 <= pause <= 2.75 + 1e-9 for pause in pauses)
        assert len(set(pauses)) == len(pauses)
    assert world.became == []


def test_two_failed_checks_in_a_row_take_it_out_and_one_does_not() -> None:
    world = Targets()
    world.put("a", behaves=REFUSED)
    world.run(0.0)
    verdict = world.health.verdict("a")
    assert verdict is not None
    assert (verdict.state, verdict.failed, verdict.error, verdict.is_out) == (State.SUSPECT, 1, "connection refused", False)
    world.behaves["a"] = PASSED
    world.run(0.5)
    assert world.state("a") is State.HEALTHY
    world.behaves["a"] = REFUSED
    world.run_while(lambda: world.state("a") is not State.SUSPECT)
    suspected = world.now
    world.run_while(lambda: world.state("a") is not State.EJECTED)
    assert world.now - suspected <= 0.25


CHECKS = st.builds(
    lambda interval, failures, share: Check(
        interval=interval, failures=failures, passes=min(failures, 2), timeout=longest_timeout(interval, failures) * share
    ),
    st.floats(1.0, 120.0),
    st.integers(1, 5),
    st.floats(0.05, 1.0),
)


@given(seed=st.integers(0, 1 << 20), checks=st.lists(CHECKS, min_size=1, max_size=4), died_at=st.floats(0.0, 300.0), how=st.booleans())
def test_a_dead_target_is_taken_out_within_one_probe_interval(seed: int, checks: list[Check], died_at: float, how: bool) -> None:
    """Whenever it dies, whether it refuses or hangs, whatever the settings."""
    world = Targets(seed)
    for number, check in enumerate(checks):
        world.put(f"t{number}", check)
    world.run(died_at)
    assert world.became == []
    world.behaves = dict.fromkeys(world.behaves, SILENT if how else REFUSED)
    world.run(died_at + max(check.interval for check in checks))
    assert len(world.became) == len(checks)
    for when, name, is_out in world.became:
        assert is_out
        assert when - died_at <= checks[int(name[1:])].interval + 1e-6


@given(seed=st.integers(0, 1 << 20), check=CHECKS, away=st.floats(0.0, 300.0), how=st.booleans())
def test_a_target_that_returns_is_back_within_one_probe_interval(seed: int, check: Check, away: float, how: bool) -> None:
    world = Targets(seed)
    world.put("a", check, behaves=SILENT if how else REFUSED)
    world.run_while(lambda: world.state("a") is not State.EJECTED)
    world.run(world.now + away)
    returned = world.now
    world.behaves["a"] = PASSED
    world.run_while(lambda: world.state("a") is not State.HEALTHY)
    assert world.now - returned <= check.interval + 1e-6


def test_it_is_back_after_two_passed_checks_and_a_failed_one_between_them_begins_anew() -> None:
    world = Targets()
    world.put("a", behaves=REFUSED)
    world.run(10.0)
    world.behaves["a"] = PASSED
    world.run_while(lambda: world.state("a") is not State.PROBATION)
    verdict = world.health.verdict("a")
    assert verdict is not None
    assert (verdict.passed, verdict.is_out, verdict.error, verdict.may_serve) == (1, True, "connection refused", True)
    world.behaves["a"] = REFUSED
    world.run_while(lambda: world.state("a") is not State.EJECTED)
    world.behaves["a"] = PASSED
    world.run_while(lambda: world.state("a") is not State.HEALTHY)
    assert [is_out for _, _, is_out in world.became] == [True, False]


def test_a_short_absence_is_noticed_soon_because_checks_come_quickly_at_first() -> None:
    """A server that restarts in a second is back before a client that waits for a target gives up (3 s)."""
    world = Targets()
    world.put("a", behaves=REFUSED)
    world.run(1.0)
    world.behaves["a"] = PASSED
    world.run_while(lambda: world.state("a") is not State.HEALTHY)
    assert world.now < 2.5


def test_who_comes_and_goes_stays_out_longer_each_time_but_not_for_ever() -> None:
    world, absences = Targets(), []
    world.put("a", behaves=REFUSED)
    for _ in range(8):
        world.run_while(lambda: world.state("a") is not State.EJECTED)
        out = world.now
        world.behaves["a"] = PASSED
        world.run_while(lambda: world.state("a") is not State.HEALTHY)
        absences.append(world.now - out)
        world.behaves["a"] = REFUSED
    assert absences[0] < 1.0
    assert 5.0 <= absences[1] < 10.0
    assert 20.0 <= absences[3] < 25.0
    assert max(absences) < 60.0 + 2.75
    world.behaves["a"] = PASSED
    world.run_while(lambda: world.state("a") is not State.HEALTHY, most=100)
    world.run(world.now + 61.0)
    world.behaves["a"] = REFUSED
    world.run_while(lambda: world.state("a") is not State.EJECTED)
    out = world.now
    world.behaves["a"] = PASSED
    world.run_while(lambda: world.state("a") is not State.HEALTHY)
    assert world.now - out < 1.0, "a calm minute is enough"


# ---- what the data plane's own connects say ---------------------------------------------------------------------------------------------


def test_a_connect_that_failed_makes_a_check_due_at_once() -> None:
    world = Targets()
    world.put("a")
    world.run(1.0)
    assert world.health.deadline > 2.0
    world.health.handle_connects("a", 1, "refused", now=1.0)
    assert world.health.deadline == 1.0
    assert world.state("a") is State.HEALTHY


def test_connects_that_fail_in_a_row_count_as_a_failed_check_and_the_next_check_decides() -> None:
    for behaves, after in ((REFUSED, State.EJECTED), (PASSED, State.HEALTHY)):
        world = Targets()
        world.put("a")
        world.run(1.0)
        world.health.handle_connects("a", 2, "refused", now=1.0)
        assert world.state("a") is State.SUSPECT
        world.behaves["a"] = behaves
        world.run(1.0)
        assert world.state("a") is after


def test_connects_alone_take_nobody_out_however_many_fail() -> None:
    """They may fail because this router has no descriptors; so do its checks then."""
    world = Targets()
    world.put("a")
    world.run(1.0)
    world.behaves["a"] = VOID
    for number in range(1, 1000):
        world.health.handle_connects("a", number, "too many open files", now=world.now)
        world.run(world.now + 0.1)
    assert world.became == []
    assert world.state("a") is State.SUSPECT
    world.behaves["a"] = PASSED
    world.run(world.now + 5.0)
    assert world.state("a") is State.HEALTHY


def test_however_often_connects_fail_one_target_is_checked_at_most_once_per_recheck() -> None:
    world = Targets()
    world.put("a")
    for number in range(1, 1001):
        world.health.handle_connects("a", number, "refused", now=world.now)
        world.run(world.now + 0.01)
    assert len(world.started) <= 10.0 / CHECK.recheck + 2


def test_a_connect_that_works_again_is_no_verdict_but_a_reason_to_check() -> None:
    world = Targets()
    world.put("a", behaves=SILENT)
    world.run(20.0)
    assert world.state("a") is State.EJECTED
    world.health.handle_connects("a", 3, "late news of a connect", now=world.now)
    world.health.handle_connects("a", 0, "", now=world.now)
    assert world.state("a") is State.EJECTED
    assert world.health.deadline <= world.now + CHECK.recheck or world.running


# ---- what is not the target's fault -----------------------------------------------------------------------------------------------------


def test_checks_that_this_router_cannot_make_change_nothing_and_are_tried_again_soon() -> None:
    for behaves in (PASSED, REFUSED):
        world = Targets()
        world.put("a", behaves=behaves)
        world.run(10.0)
        before, world.behaves["a"] = world.state("a"), VOID
        world.run(60.0)
        verdict = world.health.verdict("a")
        assert verdict is not None
        assert verdict.state is before
        assert verdict.blocked == "too many open files"
        assert world.health.deadline - world.now <= 1.0
        world.behaves["a"] = behaves
        world.run(62.0)
        verdict = world.health.verdict("a")
        assert verdict is not None
        assert verdict.blocked == ""


# ---- targets that change ----------------------------------------------------------------------------------------------------------------


def test_the_answer_of_a_check_that_was_overtaken_says_nothing() -> None:
    health = Health(random.Random(1))
    health.put("a", "127.0.0.1", 1, CHECK, now=0.0)
    (old,) = health.take_due(0.0)
    health.put("a", "127.0.0.1", 2, CHECK, now=0.0)
    (new,) = health.take_due(0.0)
    assert new.port == 2
    health.handle_outcome(new, PASSED, now=0.0)
    health.handle_outcome(old, REFUSED, now=0.0)
    verdict = health.verdict("a")
    assert verdict is not None
    assert (verdict.state, verdict.failed) == (State.HEALTHY, 0)
    health.drop("a")
    health.handle_outcome(old, REFUSED, now=0.0)
    assert health.take_changed() == {"a": None}
    assert health.deadline == math.inf


def test_another_address_is_another_target_and_another_check_is_not() -> None:
    world = Targets()
    world.put("a", behaves=REFUSED)
    world.run(10.0)
    world.health.put("a", "127.0.0.1", 8080, Check(interval=20.0), now=world.now)
    assert world.state("a") is State.EJECTED
    assert world.health.deadline == world.now
    world.health.put("a", "127.0.0.1", 8081, Check(interval=20.0), now=world.now)
    assert world.state("a") is State.NEW


def test_a_target_that_is_not_to_be_checked_is_never_checked_and_never_out() -> None:
    world = Targets()
    world.put("a", behaves=REFUSED)
    world.run(10.0)
    world.put("a", Check(type="none"), behaves=REFUSED)
    world.health.handle_connects("a", 50, "refused", now=world.now)
    world.note()
    assert world.state("a") is State.NEW
    assert world.health.deadline == math.inf
    verdict = world.health.verdict("a")
    assert verdict is not None
    assert (verdict.connects_failed, verdict.error) == (50, "refused")


def test_putting_the_same_again_changes_nothing() -> None:
    world = Targets()
    world.put("a")
    world.run(1.0)
    world.health.take_changed()
    deadline = world.health.deadline
    world.put("a")
    assert world.health.take_changed() == {}
    assert world.health.deadline == deadline


def test_a_check_on_another_port_goes_there() -> None:
    health = Health(random.Random(1))
    health.put("a", "127.0.0.1", 80, Check(type="http", port=9000), now=0.0)
    assert [probe.port for probe in health.take_due(0.0)] == [9000]


# ---- bounds -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behaves", [PASSED, REFUSED, SILENT])
def test_never_more_than_the_limit_of_checks_in_any_second_nor_at_a_time(behaves: Outcome) -> None:
    world = Targets()
    for number in range(1000):
        world.put(f"t{number}", behaves=behaves)
    most = 0
    while world.now < 30.0:
        world.run(min(30.0, max(world.now + 0.01, world.health.deadline)))
        most = max(most, len(world.running))
    times = [when for when, _ in world.started]
    for first, last in zip(times, times[MAX_PER_SECOND:], strict=False):
        assert last - first >= 1.0
    assert most <= MAX_RUNNING
    assert len(times) > 20 * MAX_PER_SECOND, "and not much fewer either"
    assert len({who for _, who in world.started}) == 1000, "nobody waits for ever"


def test_what_confirms_a_failure_does_not_wait_for_the_round() -> None:
    """A thousand sound targets take ten seconds for one round; the one whose connects fail is out in a second."""
    world = Targets()
    for number in range(1000):
        world.put(f"t{number}")
    world.run(60.0)
    world.behaves["t500"] = REFUSED
    world.health.handle_connects("t500", 2, "refused", now=world.now)
    world.run_while(lambda: world.state("t500") is not State.EJECTED)
    assert world.now <= 61.5


@given(st.lists(st.tuples(st.sampled_from(["pass", "fail", "void", "connect", "works", "wait"]), st.floats(0.0, 3.0)), max_size=60))
def test_in_any_order_of_events_a_checked_target_always_has_a_next_check(events: list[tuple[str, float]]) -> None:
    world, failures = Targets(), 0
    world.put("a")
    for what, seconds in events:
        match what:
            case "connect":
                failures += 1
                world.health.handle_connects("a", failures, "refused", now=world.now)
            case "works":
                failures = 0
                world.health.handle_connects("a", 0, "", now=world.now)
            case "wait":
                world.run(world.now + seconds)
            case _:
                world.behaves["a"] = {"pass": PASSED, "fail": REFUSED, "void": VOID}[what]
                world.run(world.now + seconds)
        assert world.health.deadline - world.now <= CHECK.interval or world.running
        verdict = world.health.verdict("a")
        assert verdict is not None
        assert verdict.failed < CHECK.failures or verdict.is_out
