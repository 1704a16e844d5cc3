"""
Any order of events: the supervisor stays within its bounds, and a link that can be up comes up.

    random endpoints, answers, losses, drains, times ──▶ supervisor ──▶ at most one dial per endpoint, at most one when up
"""

from __future__ import annotations

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from vanrouter.links import CAP, CancelDial, Endpoint, LinkSupervisor, State
from vanrouter.plane import Dial, DialResult, LinkState

SITE = "a" * 52
ROUTERS = [f"{SITE}/{n:016x}" for n in range(3)]
ENDPOINTS = [Endpoint(host=f"10.0.0.{n}", port=55671) for n in range(4)]
REASONS = ["refused", "timeout", "unreachable", "tls", "policy", "protocol", "self"]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("fail"), st.integers(0, 7), st.sampled_from(REASONS), st.booleans()),
        st.tuples(st.just("lane"), st.integers(0, 7), st.integers(0, 2), st.integers(1, 4)),
        st.tuples(st.just("lose"), st.integers(0, 2), st.booleans(), st.booleans()),
        st.tuples(st.just("wait"), st.floats(0.0, 40.0), st.just(0), st.just(0)),
        st.tuples(st.just("due"), st.just(0), st.just(0), st.just(0)),
        st.tuples(st.just("endpoints"), st.lists(st.sampled_from(ENDPOINTS), max_size=4), st.just(0), st.just(0)),
        st.tuples(st.just("credentials"), st.just(0), st.just(0), st.just(0)),
    ),
    max_size=60,
)


class World:
    """A data plane that answers as the test says."""

    def __init__(self, seed: int) -> None:
        ids = itertools.count(1)
        self.link = LinkSupervisor("west", rng=random.Random(seed), next_id=lambda: next(ids), now=0.0)
        self.now = 0.0
        self.outstanding: dict[int, Dial] = {}
        self.links: dict[str, LinkState] = {}

    def take(self, actions: object) -> None:
        for action in actions:  # type: ignore[attr-defined]
            if isinstance(action, CancelDial):
                assert action.id in self.outstanding, "cancelled what was not dialled"
                del self.outstanding[action.id]
            else:
                assert action.id not in self.outstanding
                self.outstanding[action.id] = action
        hosts = [d.host for d in self.outstanding.values()]
        assert len(hosts) == len(set(hosts)), "two dials to one endpoint"
        if self.link.state is State.UP:
            assert len(hosts) <= 1
        if self.link.state in (State.WAITING, State.SETTLING, State.IDLE, State.DROPPED):
            assert not hosts
        assert self.link.status().condition.since <= self.now

    def report(self, router: str, lanes: int, wanted: int = 2, *, draining: bool = False) -> None:
        state = LinkState(
            router=router, site_name="s", lanes=lanes, lanes_wanted=wanted, draining=draining, dialled=["west"] if lanes else []
        )
        self.links[router] = state
        self.take(self.link.handle_link_state(state, now=self.now))


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(), script=steps)
def test_no_order_of_events_breaks_the_bounds_and_in_the_end_it_comes_up(seed: int, script: list[tuple]) -> None:  # type: ignore[type-arg]
    world = World(seed)
    world.take(world.link.set_endpoints(ENDPOINTS[:2], now=0.0))
    for what, a, b, c in script:
        ids = list(world.outstanding)
        if what == "fail" and ids:
            id = ids[a % len(ids)]
            del world.outstanding[id]
            world.take(world.link.handle_dial_result(DialResult(id=id, reason=b, error="x", retryable=c), now=world.now))
        elif what == "lane" and ids:
            id = ids[a % len(ids)]
            del world.outstanding[id]
            router = ROUTERS[b]
            world.take(world.link.handle_dial_result(DialResult(id=id, router=router), now=world.now))
            before = world.links.get(router)
            world.report(router, (before.lanes if before else 0) + 1, c)
        elif what == "lose" and ROUTERS[a] in world.links:
            before = world.links[ROUTERS[a]]
            world.report(ROUTERS[a], 0 if b else max(0, before.lanes - 1), draining=c)
        elif what == "wait":
            world.now += a
            world.take(world.link.handle_timeout(world.now))
        elif what == "due" and world.link.deadline < float("inf"):
            world.now = max(world.now, world.link.deadline)
            world.take(world.link.handle_timeout(world.now))
        elif what == "endpoints":
            world.take(world.link.set_endpoints(a, now=world.now))
        elif what == "credentials":
            world.take(world.link.credentials_changed(now=world.now))

    # From now on the last endpoint works and every other is silent: it must be dialled, and the link must come up, within cap + stagger.
    world.take(world.link.set_endpoints(ENDPOINTS, now=world.now))
    for router in list(world.links):
        world.report(router, 0)
    began = world.now
    while world.link.state is not State.UP:
        good = [id for id, dial in world.outstanding.items() if dial.host == ENDPOINTS[-1].host]
        if good:
            del world.outstanding[good[0]]
            world.take(world.link.handle_dial_result(DialResult(id=good[0], router=ROUTERS[0]), now=world.now))
            world.report(ROUTERS[0], 1, 1)
        else:
            assert world.link.deadline < float("inf")
            world.now = max(world.now, world.link.deadline)
            world.take(world.link.handle_timeout(world.now))
        assert world.now - began <= CAP + 20.0
    assert world.link.status().condition.reason == "Active"


@given(seed=st.integers())
def test_the_same_seed_and_events_give_the_same_actions(seed: int) -> None:
    def run() -> list[tuple[float, object]]:
        world, out = World(seed), []
        actions = list(world.link.set_endpoints(ENDPOINTS, now=0.0))
        for _ in range(30):
            out += [(world.now, action) for action in actions]
            world.take(actions)
            actions = []
            for id in list(world.outstanding):
                del world.outstanding[id]
                actions += world.link.handle_dial_result(DialResult(id=id, reason="refused", error=""), now=world.now)
            if not actions:
                world.now = world.link.deadline
                actions = list(world.link.handle_timeout(world.now))
        return out

    assert run() == run()
