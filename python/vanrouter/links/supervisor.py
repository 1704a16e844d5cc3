"""
The supervisor of one configured link: keeps it up, with all its lanes, at bounded effort.

Refuses to touch a socket, a resolver or a clock. The data plane dials and reports (`DialResult`, `LinkState`); the caller passes that in
with the time, carries out the `Dial` and `CancelDial` that come out, and calls `handle_timeout` at `deadline`.
"""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec

from vanrouter.conditions import Conditions, Status
from vanrouter.links.backoff import JITTER, Backoff
from vanrouter.links.race import Endpoint, Race
from vanrouter.links.status import AFTER_LOSS, EndpointStatus, LinkStatus, words_for_failure, words_for_silence
from vanrouter.plane import Dial, DialResult, LinkState

__all__ = ["Action", "CancelDial", "Endpoint", "LinkSupervisor", "Retire", "State"]

STABLE: Final = 3.0  # up for so long: the next loss is a new trouble, and is redialled at once
USABLE: Final = 0.2  # up for so long: there is a way and somebody who answers, so do not wait as long as for one who is gone
SETTLE: Final = 2.0  # a lane came up: within this the data plane reports the link it belongs to
DIAL_DEADLINE: Final = 15.0  # the data plane gives up a dial after 10 s; this only catches one that it forgot
# A lost lane is often the first of all of them: a new one that overlaps with the last would hide from status that the link was lost.
LANE_PAUSE: Final = 0.25
# Every router at the other end is leaving, and the endpoint led to one of them once more: look for another one behind it soon, because on a
# host the successor is there at once, and then so often.
REPLACE_FIRST: Final = 0.1
REPLACE_EVERY: Final = 5.0
MOVE_AGAIN: Final = 1.0  # a lane away from an address that is about to go failed: the next try, at the soonest
MAX_LANES: Final = 4
MAX_ENDPOINTS: Final = 16


class CancelDial(msgspec.Struct, frozen=True):
    id: int


class Retire(msgspec.Struct, frozen=True):
    """Lanes to this endpoint take no new streams, and go with their last one: there are others now."""

    link: str
    endpoint: Endpoint


Action = Dial | CancelDial | Retire


class State(enum.Enum):
    IDLE = enum.auto()  # there is no endpoint to dial
    RACING = enum.auto()  # endpoints are being dialled for the first lane
    WAITING = enum.auto()  # none of them answered: waiting for the next round
    SETTLING = enum.auto()  # a lane is up; the data plane has not yet said to which router
    UP = enum.auto()  # at least one lane is up: lanes are added until there are enough
    DROPPED = enum.auto()  # not wanted any more


class Input(enum.Enum):
    ENDPOINTS = enum.auto()  # there is something to dial that was not there before
    EMPTIED = enum.auto()  # there is nothing to dial any more
    LANE = enum.auto()  # a dial succeeded
    EXHAUSTED = enum.auto()  # every endpoint of the round failed
    DUE = enum.auto()  # the time that this state waits for has come
    LINKED = enum.auto()  # the data plane reports a link that our lanes are in
    LOST = enum.auto()  # ... and now none any more
    DROP = enum.auto()


# The whole machine. Every state answers every input; a test checks that.
_S = State
TRANSITIONS: Final[dict[State, dict[Input, State]]] = {
    state: dict(zip(Input, row, strict=True))
    for state, row in {
        #            ENDPOINTS    EMPTIED      LANE         EXHAUSTED    DUE          LINKED      LOST        DROP
        _S.IDLE: (_S.RACING, _S.IDLE, _S.SETTLING, _S.IDLE, _S.IDLE, _S.UP, _S.IDLE, _S.DROPPED),
        _S.RACING: (_S.RACING, _S.IDLE, _S.SETTLING, _S.WAITING, _S.RACING, _S.UP, _S.RACING, _S.DROPPED),
        _S.WAITING: (_S.RACING, _S.IDLE, _S.SETTLING, _S.WAITING, _S.RACING, _S.UP, _S.WAITING, _S.DROPPED),
        _S.SETTLING: (_S.SETTLING, _S.SETTLING, _S.SETTLING, _S.SETTLING, _S.WAITING, _S.UP, _S.WAITING, _S.DROPPED),
        _S.UP: (_S.UP, _S.UP, _S.UP, _S.UP, _S.UP, _S.UP, _S.WAITING, _S.DROPPED),
        _S.DROPPED: (_S.DROPPED,) * 8,
    }.items()
}


class _Outstanding(msgspec.Struct):
    endpoint: Endpoint
    deadline: float


class _Failure(msgspec.Struct, frozen=True):
    reason: str  # as in DialResult, or ours
    error: str
    at: float
    retryable: bool


class LinkSupervisor:
    """Keep one link up. Feed endpoints, results, link states and deadlines in; carry out what comes back."""

    def __init__(
        self,
        name: str,
        *,
        rng: random.Random,
        next_id: Callable[[], int],
        now: float,
        expected_site: str = "",
        lanes: int = 0,
    ) -> None:
        self.name = name
        self.state = State.IDLE
        self.expected_site = expected_site
        self._rng, self._next_id = rng, next_id
        self._lanes_configured = lanes
        self._endpoints: list[Endpoint] = []
        self._unresolved: dict[str, _Failure] = {}
        self._good: Endpoint | None = None
        self._at: set[Endpoint] = set()  # where lanes of this link lead, since it is up
        self._leaving: set[Endpoint] = set()
        self._move_due = now
        self._failures: dict[Endpoint, _Failure] = {}
        self._not_before: dict[Endpoint, float] = {}  # set only where redialling cannot help
        self._dials: dict[int, _Outstanding] = {}
        self._called_off: dict[int, Endpoint] = {}  # of the last race: one of them may have succeeded meanwhile
        self._race: Race | None = None
        self._backoff = Backoff(rng)
        self._due = math.inf  # of WAITING and SETTLING
        self._links: dict[str, LinkState] = {}  # by RouterId: links with lanes of ours
        self._up_since = now
        self._lane_backoff = Backoff(rng)
        self._lane_due = now
        self._replace = 0.0  # the last wait for another router than those that are leaving
        self._complete_since = math.inf
        self._loss = ""
        self._conditions = Conditions()
        self._describe(now)

    # ---- inputs ------------------------------------------------------------------------------------------------------------------------

    def set_endpoints(self, endpoints: Sequence[Endpoint], *, now: float, leaving: Collection[Endpoint] = ()) -> Sequence[Action]:
        """What the endpoints' names resolve to now, in order of preference. Lanes to endpoints that are gone stay up.

        ``leaving``: the other site says that these go, whether they are among the others still or not. Once there is a lane to another one,
        lanes to them are retired; they are dialled last.
        """
        self._leaving = set(leaving)
        wanted = list(dict.fromkeys(endpoints))[:MAX_ENDPOINTS]
        before, self._endpoints = set(self._endpoints), wanted
        self._unresolved.clear()
        gone, new = before - set(wanted), [e for e in wanted if e not in before]
        out: list[Action] = []
        for endpoint in gone:
            self._failures.pop(endpoint, None)
            self._not_before.pop(endpoint, None)
            out += self._cancel_endpoint(endpoint, now)
        if not wanted:
            self._step(Input.EMPTIED)
        elif new and self.state in (State.IDLE, State.WAITING):
            if self.state is State.IDLE:
                self._backoff.next_delay(now)  # the first round of this trouble is the one that starts here
            self._step(Input.ENDPOINTS)
            self._race = Race(self._order(new), now=now)
        elif self._race is not None:
            for endpoint in new:
                self._race.add(endpoint)
        return self._settle(out, now)

    def unresolved(self, name: str, error: str, *, now: float) -> None:
        """A host name of this link could not be resolved. `set_endpoints` with what could be comes before this."""
        self._unresolved[name] = _Failure("unresolved", error, now, retryable=True)
        self._describe(now)

    def credentials_changed(self, *, now: float) -> Sequence[Action]:
        """New credentials, another cost, or a person who says "try now": what could not be helped by redialling may work now."""
        self._not_before.clear()
        self._backoff.reset()
        if self.state is State.WAITING:
            self._due = now + self._backoff.next_delay(now)
        return self._settle([], now)

    def handle_dial_result(self, result: DialResult, *, now: float) -> Sequence[Action]:
        """The answer to a `Dial`. Answers to dials that are not ours or were given up are ignored."""
        dial = self._dials.pop(result.id, None)
        if dial is None or self.state is State.DROPPED:
            called_off = self._called_off.pop(result.id, None)
            if called_off is not None and result.router in self._links:
                self._good = called_off  # the link was reported before the dial that made it
                self._at.add(called_off)
                self._failures.pop(called_off, None)
            return ()
        if not result.router:
            self._dial_failed(dial.endpoint, result.reason, result.error, result.retryable, now)
            return self._settle([], now)
        if self.expected_site and result.router.partition("/")[0] != self.expected_site:
            error = f"site {result.router.partition('/')[0]} answered, expected {self.expected_site}"
            self._dial_failed(dial.endpoint, "wrong_site", error, False, now)
            return self._settle([], now)
        return self._settle(self._lane_up(dial.endpoint, result.router, now), now)

    def handle_link_state(self, state: LinkState, *, now: float) -> Sequence[Action]:
        """The latest state of a link to any router; links without lanes that we dialled do not concern us."""
        if self.state is State.DROPPED:
            return ()
        before = self._usable()
        known = self._links.pop(state.router, None)
        if state.lanes > 0 and self.name in state.dialled:
            self._links[state.router] = state
        elif known is None:
            return ()
        else:
            self._loss = state.error or self._loss
        out: list[Action] = []
        if self._links and self.state is not State.UP:
            out += self._cancel_all()
            self._race = None
            self._step(Input.LINKED)
            self._up_since, self._lane_due = now, now
        elif not self._links and self.state is State.UP:
            out += self._cancel_all()
            self._lost(now)
        elif self._usable() < before:
            if now - self._complete_since >= STABLE:
                self._lane_backoff.reset()
            self._lane_due = now + max(0.0 if state.draining else LANE_PAUSE, self._lane_backoff.next_delay(now))
        elif self._usable() > before:
            self._replace = 0.0
            self._lane_due = min(self._lane_due, now)  # what we were waiting for is there: the next lane may follow
        return self._settle(out, now)

    def drop(self, *, now: float) -> Sequence[Action]:
        """The link is not wanted any more. Nothing comes out afterwards; dropping the `Link` entry closes its lanes."""
        out = self._cancel_all()
        self._race = None
        self._links.clear()
        self._step(Input.DROP)
        return self._settle(out, now)

    def handle_timeout(self, now: float) -> Sequence[Action]:
        """Do what is due. Calling early is harmless."""
        out: list[Action] = []
        for id, dial in list(self._dials.items()):
            if now >= dial.deadline:
                del self._dials[id]
                out.append(CancelDial(id))
                self._dial_failed(dial.endpoint, "timeout", f"no answer within {DIAL_DEADLINE:g} s", True, now)
        if now >= self._due:
            if self.state is State.SETTLING:
                if self._good is not None:
                    self._failures[self._good] = _Failure("lost", self._loss, now, retryable=True)
                self._step(Input.DUE)
                self._due = now + self._backoff.next_delay(now)
            elif self.state is State.WAITING:
                self._begin_round(now)
        return self._settle(out, now)

    # ---- outputs -----------------------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `handle_timeout` is next worth calling; ``inf`` means never."""
        if self.state is State.DROPPED:
            return math.inf
        times = [dial.deadline for dial in self._dials.values()]
        if self.state in (State.WAITING, State.SETTLING):
            times.append(self._due)
        if self.state is State.RACING and self._race is not None:
            times.append(self._race.deadline)
        if self._wants_lane():
            times.append(self._lane_due)
        if self._wants_move():
            times.append(self._move_due)
        return min(times, default=math.inf)

    def status(self) -> LinkStatus:
        states = list(self._links.values())
        condition = self._conditions.get("Operational")
        assert condition is not None
        return LinkStatus(
            name=self.name,
            state=self.state.name.lower(),
            condition=condition,
            endpoints=self._endpoint_statuses(),
            routers=list(self._links),
            site_name=states[0].site_name if states else "",
            lanes=sum(s.lanes for s in states),
            lanes_wanted=self._wanted(),
            cost=states[0].cost if states else 1,
            endpoint=str(self._good) if self._good is not None else "",
            next_dial=self._due if self.state is State.WAITING else None,
        )

    # ---- rounds ------------------------------------------------------------------------------------------------------------------------

    def _order(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        # Stable: the good one first, then as configured; what goes comes last.
        return sorted(endpoints, key=lambda e: (e in self._leaving, e != self._good))

    def _begin_round(self, now: float) -> None:
        due = [e for e in self._endpoints if self._not_before.get(e, -math.inf) <= now]
        if due:
            self._step(Input.DUE)
            self._due = math.inf
            self._race = Race(self._order(due), now=now)
        else:
            self._due = min(self._not_before.values(), default=math.inf)

    def _dial_failed(self, endpoint: Endpoint, reason: str, error: str, retryable: bool, now: float) -> None:
        self._failures[endpoint] = _Failure(reason, error.removeprefix(f"link {self.name}: "), now, retryable)
        if retryable:
            self._not_before.pop(endpoint, None)
        else:
            self._not_before[endpoint] = now + self._backoff.cap_delay(now)
        if self.state is State.RACING and self._race is not None:
            self._race.failed(now)
        elif self.state is State.UP:
            delay = self._lane_backoff.next_delay(now) if retryable else self._lane_backoff.cap_delay(now)
            self._lane_due = now + delay
            self._move_due = now + max(delay, MOVE_AGAIN)

    def _round_failed(self, now: float) -> None:
        self._race = None
        self._step(Input.EXHAUSTED)
        hopeless = all(e in self._not_before for e in self._endpoints)
        self._due = min(self._not_before.values()) if hopeless else now + self._backoff.next_delay(now)

    def _lane_up(self, endpoint: Endpoint, router: str, now: float) -> list[Action]:
        self._good = endpoint
        self._failures.pop(endpoint, None)
        self._not_before.pop(endpoint, None)
        self._at.add(endpoint)
        if self.state is not State.UP:
            self._race = None
            self._step(Input.LANE)
            self._due = now + SETTLE
            return self._cancel_all()
        retired: list[Action] = []
        if endpoint not in self._leaving:
            retired += [Retire(self.name, e) for e in sorted(self._at & self._leaving)]
            self._at -= self._leaving
        link = self._links.get(router)
        if link is not None and link.draining:
            self._replace = min(max(REPLACE_FIRST, self._replace * 2), REPLACE_EVERY)
            self._lane_due = now + self._replace * self._rng.uniform(JITTER, 1.0)
        else:
            self._lane_due = now + SETTLE  # the next one when the data plane has counted this one, see handle_link_state
        return retired

    def _lost(self, now: float) -> None:
        self._step(Input.LOST)
        self._at.clear()
        if now - self._up_since >= STABLE:
            self._backoff.reset()
        elif now - self._up_since >= USABLE:
            self._backoff.restart_minute(now)
        elif self._good in self._endpoints:
            # As one does that refuses us: it is not something that was well and comes back by itself.
            self._failures[self._good] = _Failure("lost", self._loss, now, retryable=True)
        self._complete_since = math.inf
        self._due = now + self._backoff.next_delay(now)
        if not self._endpoints:
            self._step(Input.EMPTIED)

    # ---- lanes -------------------------------------------------------------------------------------------------------------------------

    def _usable(self) -> int:
        return sum(s.lanes for s in self._links.values() if not s.draining)

    def _wanted(self) -> int:
        wanted = max((s.lanes_wanted for s in self._links.values() if not s.draining), default=1)
        return max(1, min(wanted, self._lanes_configured or MAX_LANES, MAX_LANES))

    def _wants_lane(self) -> bool:
        return self.state is State.UP and not self._dials and bool(self._endpoints) and self._usable() < self._wanted()

    def _ways_out(self) -> list[Endpoint]:
        return [e for e in self._endpoints if e not in self._leaving]

    def _wants_move(self) -> bool:
        """A lane leads to an address that is about to go, and there are others: one lane more than is wanted, before the first goes."""
        return self.state is State.UP and not self._dials and bool(self._at & self._leaving) and bool(self._ways_out())

    # ---- carrying out ------------------------------------------------------------------------------------------------------------------

    def _settle(self, out: list[Action], now: float) -> list[Action]:
        """Start whatever may start now, and say how things are."""
        for _ in range(2):
            if self.state is State.WAITING and now >= self._due:
                self._begin_round(now)
            if self.state is State.RACING and self._race is not None:
                while (endpoint := self._race.start_next(now)) is not None:
                    out.append(self._dial(endpoint, now))
                if self._race.exhausted:
                    self._round_failed(now)
        if self._wants_lane() and now >= self._lane_due:
            out.append(self._dial(self._order(self._endpoints)[0], now))
        if self._wants_move() and now >= self._move_due:
            out.append(self._dial(min(self._ways_out(), key=lambda e: e in self._failures), now))
        if self.state is State.UP and self._usable() >= self._wanted():
            self._complete_since = min(self._complete_since, now)
        else:
            self._complete_since = math.inf
        self._describe(now)
        return out

    def _dial(self, endpoint: Endpoint, now: float) -> Dial:
        id = self._next_id()
        self._dials[id] = _Outstanding(endpoint, now + DIAL_DEADLINE)
        return Dial(id=id, link=self.name, host=endpoint.host, port=endpoint.port, server_name=endpoint.server_name)

    def _cancel_all(self) -> list[Action]:
        out: list[Action] = [CancelDial(id) for id in self._dials]
        self._called_off = {id: dial.endpoint for id, dial in self._dials.items()}
        self._dials.clear()
        return out

    def _cancel_endpoint(self, endpoint: Endpoint, now: float) -> list[Action]:
        out: list[Action] = []
        if self._race is not None:
            self._race.discard(endpoint)
        for id, dial in list(self._dials.items()):
            if dial.endpoint == endpoint:
                del self._dials[id]
                out.append(CancelDial(id))
                if self._race is not None:
                    self._race.failed(now)
        return out

    def _step(self, trigger: Input) -> None:
        self.state = TRANSITIONS[self.state][trigger]
        if self.state in (State.IDLE, State.UP, State.DROPPED):
            self._due = math.inf
            self._race = None

    # ---- words -------------------------------------------------------------------------------------------------------------------------

    def _endpoint_statuses(self) -> list[EndpointStatus]:
        dialling = {dial.endpoint for dial in self._dials.values()}
        out = []
        for endpoint in self._endpoints:
            failure = self._failures.get(endpoint)
            if failure is not None:
                words = words_for_failure(failure.reason)
                message = failure.error or words.cause
                out.append(EndpointStatus(endpoint=str(endpoint), reason=words.reason, message=message, since=failure.at, next=words.next))
            else:
                reason = "Good" if endpoint == self._good else "Dialling" if endpoint in dialling else "NotTried"
                out.append(EndpointStatus(endpoint=str(endpoint), reason=reason))
        for name, failure in self._unresolved.items():
            words = words_for_failure(failure.reason)
            out.append(
                EndpointStatus(endpoint=name, reason=words.reason, message=failure.error or words.cause, since=failure.at, next=words.next)
            )
        return out

    def _describe(self, now: float) -> None:
        status, reason, message, todo = self._words()
        self._conditions.set("Operational", status, reason, message, now=now, next=todo)

    def _words(self) -> tuple[Status, str, str, str]:
        if self.state is State.DROPPED:
            return "False", "Dropped", f"link {self.name} was deleted", ""
        if self.state is State.UP:
            return self._words_up()
        failures = [(str(e), self._failures[e]) for e in self._endpoints if e in self._failures] + list(self._unresolved.items())
        if not self._endpoints and not self._unresolved:
            return "False", "NoEndpoints", f"link {self.name} has no endpoint to dial", "give the link an endpoint: host and port"
        if not failures:
            loss = f" after it was lost: {self._loss}" if self._loss else ""
            return "False", "Connecting", f"link {self.name} is being dialled{loss}", AFTER_LOSS if self._loss else ""
        why = "; ".join(f"{where}: {f.error or words_for_failure(f.reason).cause}" for where, f in failures)
        worst = next((f for _, f in failures if not f.retryable), failures[0][1])
        words = words_for_failure(worst.reason)
        if len(failures) < len(self._endpoints) + len(self._unresolved):
            return "False", "Connecting", f"link {self.name} is being dialled; so far {why}", words.next
        reasons = {"self": "SelfLink", "wrong_site": "WrongSite", "policy": "Rejected", "tls": "Rejected", "protocol": "Rejected"}
        reasons["lost"] = words_for_failure("lost").reason
        return "False", reasons.get(worst.reason, "Unreachable"), f"link {self.name} cannot be brought up: {why}", words.next

    def _words_up(self) -> tuple[Status, str, str, str]:
        states = list(self._links.values())
        names = ", ".join(sorted({s.site_name or s.router for s in states}))
        if all(s.draining for s in states):
            return "True", "Draining", f"the router of {names} is leaving; its streams go on until its deadline", ""
        if all(s.suspect or s.draining for s in states):
            return "Unknown", "Suspect", words_for_silence(names), AFTER_LOSS
        missing = self._wanted() - self._usable()
        lanes = (
            f"{self._usable()} of {self._wanted()} lanes" if missing > 0 else f"{self._usable()} lane{'s' if self._usable() > 1 else ''}"
        )
        return "True", "Active", f"linked to {names} with {lanes}", ""
