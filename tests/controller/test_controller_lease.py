"""Which of several controllers acts: a machine, in virtual time; the server is a version and a value."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from vanrouter.controller.lease import DURATION, GIVE_UP, LEASE, Leadership


class Server:
    """One object under its version, as the API server keeps it."""

    def __init__(self) -> None:
        self.value: dict[str, Any] | None = None
        self._version = 0

    def write(self, value: dict[str, Any]) -> dict[str, Any] | None:
        """None: a conflict."""
        known = self.value["metadata"]["resourceVersion"] if self.value else None
        if value["metadata"].get("resourceVersion") != known:
            return None
        self._version += 1
        self.value = {"metadata": {"name": LEASE, "uid": "u", "resourceVersion": str(self._version)}, "spec": value["spec"]}
        return self.value


def turn(machine: Leadership, server: Server, now: float, *, lasts: float = 0.0) -> None:
    machine.handle_seen(server.value, now)
    wish = machine.wish(now, 1_000_000.0 + now)
    if wish is not None:
        written = server.write(wish)
        if written is None:
            machine.handle_failed(now)
        else:
            machine.handle_written(written, began=now, now=now + lasts)


def machines(count: int) -> list[Leadership]:
    return [Leadership(f"c-{n}", rng=random.Random(n)) for n in range(count)]


def test_the_first_leads_and_the_second_waits_for_as_long_as_it_renews() -> None:
    server, (first, second) = Server(), machines(2)
    turn(first, server, 0.0)
    for now in (1.0, 3.0, 20.0, 40.0):
        turn(first, server, now)
        turn(second, server, now + 0.1)
        assert (first.leads(now + 0.1), second.leads(now + 0.1)) == (True, False)
    assert server.value is not None
    assert server.value["spec"]["leaseTransitions"] == 0


def test_after_a_kill_the_second_leads_within_the_duration_of_the_lease_and_not_before() -> None:
    server, (first, second) = Server(), machines(2)
    turn(first, server, 0.0)
    turn(second, server, 1.0)
    turn(second, server, 1.0 + DURATION - 0.001)
    assert not second.leads(1.0 + DURATION)
    turn(second, server, 1.0 + DURATION)
    assert second.leads(1.0 + DURATION)
    assert server.value is not None
    assert server.value["spec"]["leaseTransitions"] == 1


def test_who_ends_says_so_and_the_next_one_leads_at_once() -> None:
    server, (first, second) = Server(), machines(2)
    turn(first, server, 0.0)
    turn(second, server, 1.0)
    last = first.handle_ended()
    assert last is not None
    assert server.write(last)
    assert not first.leads(1.0)
    turn(second, server, 2.0)
    assert second.leads(2.0)


def test_who_never_led_takes_nothing_from_another_when_it_ends() -> None:
    server, (first, second) = Server(), machines(2)
    turn(first, server, 0.0)
    turn(second, server, 1.0)
    assert second.handle_ended() is None


def test_who_cannot_renew_stops_before_anybody_may_take_it() -> None:
    server, (first, second) = Server(), machines(2)
    turn(first, server, 0.0, lasts=4.0)
    turn(second, server, 0.0)
    first.handle_failed(5.0)
    assert first.leads(GIVE_UP - 0.001)
    assert not first.leads(GIVE_UP)
    assert GIVE_UP + 4.0 < DURATION, "a call that was sent at the last moment is over by then"


def test_a_restarted_process_has_another_name_and_does_not_take_itself_for_the_holder() -> None:
    server, (first, _) = Server(), machines(2)
    turn(first, server, 0.0)
    again = Leadership("c-0-again", rng=random.Random(3))
    turn(again, server, 1.0)
    assert not again.leads(1.0)


PAUSES = st.sampled_from([0.0, 1.0, GIVE_UP - 0.1, GIVE_UP + 0.1, DURATION - 0.1, DURATION + 0.1])


@settings(max_examples=200)
@given(steps=st.lists(st.tuples(st.integers(0, 2), PAUSES, st.booleans(), st.floats(0.0, 4.0)), min_size=5, max_size=24))
def test_never_do_two_lead_whatever_is_late_or_lost(steps: list[tuple[int, float, bool, float]]) -> None:
    """Any machine at any time; its answer may be lost (the write is not), or late."""
    server, three, now = Server(), machines(3), 0.0
    for which, pause, answered, lasts in steps:
        now += pause
        machine = three[which]
        machine.handle_seen(server.value, now)
        wish = machine.wish(now, now)
        if wish is not None and (written := server.write(wish)) is not None and answered:
            machine.handle_written(written, began=now, now=now + lasts)
        assert sum(m.leads(now) for m in three) <= 1


def test_who_sees_another_holder_leads_no_longer_whatever_its_clock_says() -> None:
    server, (first, second) = Server(), machines(2)
    turn(first, server, 0.0)
    turn(second, server, 0.5)
    turn(second, server, 0.5 + DURATION)  # to the first one, whose machine slept, a second has gone by
    assert second.leads(0.5 + DURATION)
    first.handle_seen(server.value, 1.0)
    assert not first.leads(1.0)
