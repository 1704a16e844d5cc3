"""
Which targets of this site are sound: when to check which, and what the answers make of it.

Sans-IO: time is an argument, chance an ``rng``. Callers start the checks that `Health.take_due` gives and hand back each one's `Outcome`;
they report what the data plane's own connects gave with `handle_connects`. Refuses to connect, and to decide what is offered: a target that
is out is merely said to be out (`offered.py` decides).

    checks ──▶ PASSED, FAILED ─▶ machine ─▶ Verdict per target, when it changed
    connects ─▶ DOUBTED ──────┘      └────▶ when to check next

Invariants:

* A target that dies is out within one interval of its check. One that returns is back within one, unless it came and went lately.
* Failed connects alone take nobody out: they count as a failed check, short of the last one, and a check is due at once. It decides.
* A check that this router could not make says nothing about the target.
* At most `MAX_PER_SECOND` checks start in any second and `MAX_RUNNING` run at a time, whatever the number of targets. Those that confirm a
  failure or a return go first, so with more targets it is rounds that become longer, not reactions.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import math
import random
from collections import deque
from typing import Final, Literal

import msgspec

from vanrouter.checks import Check

__all__ = ["MAX_PER_SECOND", "MAX_RUNNING", "TRANSITIONS", "Health", "Input", "Outcome", "Probe", "State", "Verdict"]

MAX_PER_SECOND: Final = 100  # at 0.4 ms each this is 4 % of a core, and 250 targets at the default interval
MAX_RUNNING: Final = 128  # descriptors
CALM: Final = 60.0  # seconds: who goes out again so soon after a return stays out longer each time
LONGEST_HOLD: Final = 60.0
AFTER_VOID: Final = 1.0  # seconds until a check that could not be made is tried again
MAX_ERROR: Final = 200  # characters


class State(enum.Enum):
    NEW = enum.auto()  # not checked yet: trusted
    HEALTHY = enum.auto()  # the last check passed
    SUSPECT = enum.auto()  # checks or connects fail, not yet often enough
    EJECTED = enum.auto()  # out
    PROBATION = enum.auto()  # out still; checks pass, not yet often enough


class Input(enum.Enum):
    PASSED = enum.auto()  # a check passed; to return it takes more of them, or more time
    PASSED_ENOUGH = enum.auto()  # ... and that is enough
    FAILED = enum.auto()  # a check failed; to go out it takes more of them
    FAILED_ENOUGH = enum.auto()  # ... and that is enough
    DOUBTED = enum.auto()  # streams could not connect, several in a row
    VOID = enum.auto()  # the check could not be made, for a reason of our own


# The whole machine. Every state answers every input; a test checks that.
TRANSITIONS: Final[dict[State, dict[Input, State]]] = {
    state: dict(zip(Input, row, strict=True))
    for state, row in {
        #                 PASSED           PASSED_ENOUGH  FAILED         FAILED_ENOUGH  DOUBTED          VOID
        State.NEW: (State.HEALTHY, State.HEALTHY, State.SUSPECT, State.EJECTED, State.SUSPECT, State.NEW),
        State.HEALTHY: (State.HEALTHY, State.HEALTHY, State.SUSPECT, State.EJECTED, State.SUSPECT, State.HEALTHY),
        State.SUSPECT: (State.HEALTHY, State.HEALTHY, State.SUSPECT, State.EJECTED, State.SUSPECT, State.SUSPECT),
        State.EJECTED: (State.PROBATION, State.HEALTHY, State.EJECTED, State.EJECTED, State.EJECTED, State.EJECTED),
        State.PROBATION: (State.PROBATION, State.HEALTHY, State.EJECTED, State.EJECTED, State.PROBATION, State.PROBATION),
    }.items()
}

_OUT: Final = (State.EJECTED, State.PROBATION)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a check gave. ``void``: it could not be made because of this router (no descriptors, it stood still)."""

    kind: Literal["passed", "failed", "void"]
    error: str = ""
    refused: bool = False  # nothing is there: it refuses, or cannot be reached. Silence is not that: it may be busy


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """A check to make now."""

    name: str
    host: str
    port: int
    check: Check
    serial: int


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one target, for whoever decides about offers and for status."""

    state: State
    check: Check
    failed: int = 0  # checks in a row
    passed: int = 0
    error: str = ""  # of the last failed check; of the last failed connect where there are no checks
    may_serve: bool = True  # the last check does not show that nothing is there
    connects_failed: int = 0  # streams in a row that could not connect
    blocked: str = ""  # why the last check could not be made

    @property
    def is_out(self) -> bool:
        return self.state in _OUT


class _Target:
    def __init__(self, name: str, host: str, port: int, check: Check) -> None:
        self.name, self.host, self.port, self.check = name, host, port, check
        self.state = State.NEW
        self.failed = self.passed = 0
        self.error, self.blocked, self.may_serve = "", "", True
        self.connects_failed = self.counted = 0  # of the connects that failed: how many have counted as failed checks
        self.due, self.started, self.ticket, self.running = math.inf, -math.inf, 0, 0
        self.is_urgent = False
        self.quick = 0  # checks since it went out: the pause grows with them
        self.returned, self.ejections, self.hold = -math.inf, 0, -math.inf

    def verdict(self) -> Verdict:
        return Verdict(
            state=self.state,
            check=self.check,
            failed=self.failed,
            passed=self.passed,
            error=self.error,
            may_serve=self.may_serve,
            connects_failed=self.connects_failed,
            blocked=self.blocked,
        )


class Health:
    """All targets of one site. Feed outcomes and connects in; start what is due; take the verdicts that changed."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._targets: dict[str, _Target] = {}
        self._heaps: tuple[list[tuple[float, int, str]], list[tuple[float, int, str]]] = ([], [])  # urgent, regular
        self._tickets = itertools.count(1)
        self._starts: deque[float] = deque(maxlen=MAX_PER_SECOND)
        self._running: set[int] = set()
        self._changed: dict[str, None] = {}

    # ---- inputs ------------------------------------------------------------------------------------------------------------------------

    def put(self, name: str, host: str, port: int, check: Check, *, now: float) -> None:
        """A target and how it is checked. Another address is another target, of which nothing is known; it is checked at once."""
        target = self._targets.get(name)
        if target is not None and (target.host, target.port, target.check) == (host, port, check):
            return
        if target is None or (target.host, target.port) != (host, port) or check.type == "none":
            target = self._targets[name] = _Target(name, host, port, check)
        target.check, target.running, target.ticket = check, 0, 0
        if check.type != "none":
            self._schedule(target, now, urgent=True)
        self._changed[name] = None

    def drop(self, name: str) -> None:
        if self._targets.pop(name, None) is not None:
            self._changed[name] = None

    def handle_outcome(self, probe: Probe, outcome: Outcome, *, now: float) -> None:
        """The answer to a `Probe`. Each must be given exactly once; it counts unless the target has changed meanwhile."""
        self._running.discard(probe.serial)
        target = self._targets.get(probe.name)
        if target is None or target.running != probe.serial:
            return
        target.running = 0
        before = target.verdict()
        self._step(target, self._judge(target, outcome, now), now)
        self._schedule_next(target, now)
        if target.verdict() != before:
            self._changed[target.name] = None

    def handle_connects(self, name: str, failures: int, error: str, *, now: float) -> None:
        """What the data plane's connects to this target gave: how many failed in a row; none: the last one worked."""
        target = self._targets.get(name)
        if target is None or failures == target.connects_failed:
            return
        self._changed[name] = None
        grew = failures > target.connects_failed
        target.connects_failed = failures
        target.counted = min(target.counted, failures)
        if target.check.type == "none":
            target.error = error[:MAX_ERROR]
            return
        if grew and failures - target.counted >= target.check.failures:
            target.counted = failures
            self._step(target, Input.DOUBTED, now)
            if target.state is State.SUSPECT:
                target.failed = max(target.failed, min(target.failed + 1, target.check.failures - 1))
                target.error = target.error or error[:MAX_ERROR]
        soonest = max(now, target.started + target.check.recheck)
        if not target.running and not (target.is_urgent and target.due <= soonest):
            self._schedule(target, soonest, urgent=True)

    # ---- outputs -----------------------------------------------------------------------------------------------------------------------

    def take_due(self, now: float) -> list[Probe]:
        """The checks to start now, as many as the limits permit."""
        out: list[Probe] = []
        for heap in self._heaps:
            while (head := self._head(heap)) is not None and head.due <= now and self._may_start(now):
                heapq.heappop(heap)
                serial = head.running = head.ticket
                head.ticket, head.due, head.started = 0, math.inf, now
                self._running.add(serial)
                self._starts.append(now)
                port = head.check.port or head.port
                out.append(Probe(name=head.name, host=head.host, port=port, check=head.check, serial=serial))
        return out

    @property
    def deadline(self) -> float:
        """When `take_due` is next worth calling; ``inf`` means never (before the next input)."""
        if len(self._running) >= MAX_RUNNING:
            return math.inf
        due = min((head.due for heap in self._heaps if (head := self._head(heap)) is not None), default=math.inf)
        full = len(self._starts) == MAX_PER_SECOND
        return max(due, self._starts[0] + 1.0) if full and due < math.inf else due

    def take_changed(self) -> dict[str, Verdict | None]:
        """The targets whose verdict changed since the last call; None: there is no such target any more."""
        out = {name: self.verdict(name) for name in self._changed}
        self._changed.clear()
        return out

    def verdict(self, name: str) -> Verdict | None:
        target = self._targets.get(name)
        return target.verdict() if target is not None else None

    # ---- inside ------------------------------------------------------------------------------------------------------------------------

    @staticmethod
    def _judge(target: _Target, outcome: Outcome, now: float) -> Input:
        """Count the outcome, and say which input it is."""
        if outcome.kind == "void":
            target.blocked = outcome.error[:MAX_ERROR]
            return Input.VOID
        target.blocked = ""
        if outcome.kind == "passed":
            target.may_serve = True
            target.passed, target.failed = min(target.passed + 1, target.check.passes), 0
            target.counted = target.connects_failed
            return Input.PASSED_ENOUGH if target.passed >= target.check.passes and now >= target.hold else Input.PASSED
        target.failed, target.passed = min(target.failed + 1, target.check.failures), 0
        target.error, target.may_serve = outcome.error[:MAX_ERROR], not outcome.refused
        return Input.FAILED_ENOUGH if target.failed >= target.check.failures else Input.FAILED

    @staticmethod
    def _step(target: _Target, trigger: Input, now: float) -> None:
        was_out = target.state in _OUT
        target.state = TRANSITIONS[target.state][trigger]
        is_out = target.state in _OUT
        if is_out and not was_out:
            target.ejections = target.ejections + 1 if now - target.returned < CALM else 1
            again = target.ejections - 2
            target.hold = now + min(LONGEST_HOLD, target.check.interval * 2.0 ** min(again, 16)) if again >= 0 else -math.inf
            target.quick = 0
            # The data plane forgets a target that is taken out, and begins anew when it is back.
            target.connects_failed = target.counted = 0
        elif was_out and not is_out:
            target.returned, target.error = now, ""
            target.connects_failed = target.counted = 0
        elif target.state is State.HEALTHY:
            target.error = ""

    def _schedule_next(self, target: _Target, now: float) -> None:
        check, jitter = target.check, self._rng.uniform(0.8, 1.0)
        if target.blocked:
            self._schedule(target, now + min(AFTER_VOID, check.longest_pause) * jitter)
        elif target.state is State.SUSPECT or (target.state is State.PROBATION and target.passed < check.passes):
            self._schedule(target, now + check.recheck * jitter, urgent=True)
        elif target.state is State.PROBATION:  # it has passed often enough; only its hold is left
            left = max(check.recheck, target.hold - now)
            self._schedule(target, now + min(left, check.longest_pause * jitter))
        elif target.state is State.EJECTED:
            pause = min(check.recheck * 2.0 ** min(target.quick, 16), check.longest_pause)
            target.quick += 1
            self._schedule(target, now + pause * jitter)
        else:
            self._schedule(target, now + check.longest_pause * jitter)

    def _schedule(self, target: _Target, due: float, *, urgent: bool = False) -> None:
        target.due, target.ticket, target.is_urgent = due, next(self._tickets), urgent
        heapq.heappush(self._heaps[0 if urgent else 1], (due, target.ticket, target.name))

    def _head(self, heap: list[tuple[float, int, str]]) -> _Target | None:
        """The target that is due first, without those that were scheduled anew since."""
        while heap:
            target = self._targets.get(heap[0][2])
            if target is not None and target.ticket == heap[0][1]:
                return target
            heapq.heappop(heap)
        return None

    def _may_start(self, now: float) -> bool:
        full = len(self._starts) == MAX_PER_SECOND and self._starts[0] > now - 1.0
        return len(self._running) < MAX_RUNNING and not full
