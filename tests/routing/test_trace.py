"""A trace runs as an OPEN would, every hop answers, and nobody can make others work or remember without bound."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from engines import World, router, site
from hypothesis import given
from hypothesis import strategies as st

from vanrouter.errors import RemoteProtocolError
from vanrouter.messages import KeyInfo
from vanrouter.plane import LinkState
from vanrouter.routing import LAST_RESORT
from vanrouter.routing.explain import LocalTarget, explain
from vanrouter.routing.trace import BURST, KEPT, MAX_PER_PEER, Run, Tracer
from vanrouter.routing.trace_wire import HOP, TRACE, Hop, Trace, encode_hop, encode_trace, read_untrusted


class TracedWorld(World):
    """Control planes that pass traces on, with 10 ms from each to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.seen_links: dict[str, dict[str, LinkState]] = {}
        self.tracers: dict[str, Tracer] = {}
        self.silent: set[str] = set()
        self.ids = itertools.count(1)
        self.passed = 0

    def state(self, at: str, of: str, **changes: object) -> None:
        super().state(at, of, **changes)
        values: dict[str, object] = {"lanes": 1, "lanes_wanted": 1, "cost": 1, "rtt": 0.02} | changes
        state = LinkState(router=self.engines[of].own, site_name=of, **values)  # type: ignore[arg-type]
        links = self.seen_links.setdefault(at, {})
        self.tracers.setdefault(at, Tracer(self.engines[at], at, links))
        if state.lanes:
            links[state.router] = state
        else:
            links.pop(state.router, None)

    def id(self) -> bytes:
        return next(self.ids).to_bytes(16)

    def pump(self) -> None:
        """Until no message is under way."""
        names = {engine.own: name for name, engine in self.engines.items()}
        while True:
            post = [(name, names[to], data) for name, tracer in self.tracers.items() for to, data in tracer.take()]
            if not post:
                return
            self.now += 0.01
            for sender, receiver, data in post:
                self.passed += 1
                if receiver not in self.silent:
                    self.tracers[receiver].handle_message_untrusted(self.engines[sender].own, data, now=self.now)

    def trace(self, at: str, to: str, key: str = "key") -> Run:
        run = self.tracers[at].start(self.engines[to].own, key, id=self.id(), now=self.now)
        assert run is not None
        self.pump()
        return run


def line(length: int = 4) -> TracedWorld:
    # r0 ── r1 ── r2 ── r3 ── key
    world = TracedWorld()
    names = [f"r{n}" for n in range(length)]
    world.add(*names)
    world.link(*names)
    world.set(names[-1], "key", targets=2)
    world.settle()
    return world


def test_every_hop_answers_with_its_site_and_its_link_and_the_last_with_its_targets() -> None:
    world = line()
    run = world.trace("r0", "r3")
    assert run.done
    assert [(seen.hop.site, seen.hop.cost, seen.hop.rtt_us, seen.hop.end) for seen in run.path] == [
        ("r1", 1, 20_000, ""),
        ("r2", 1, 20_000, ""),
        ("r3", 1, 20_000, "arrived"),
    ]
    assert [round(seen.at, 3) for seen in run.path] == [0.02, 0.04, 0.06], "the round trip to each"
    assert run.path[-1].hop.targets == 2


def test_where_nobody_answers_the_last_hop_says_whom_it_passed_the_trace_to() -> None:
    world = line()
    world.silent.add("r2")
    run = world.trace("r0", "r3")
    assert not run.done
    assert [(seen.hop.site, seen.hop.next) for seen in run.path] == [("r1", router("r2"))]
    world.silent.add("r1")
    assert world.trace("r0", "r3").path == []


def test_a_hop_without_a_path_says_so() -> None:
    world = line()
    world.state("r2", "r3", lanes=0)  # r2 has seen it, nobody has heard of it yet
    world.engines["r2"].take_actions(world.now)
    run = world.trace("r0", "r3")
    assert [(seen.hop.site, seen.hop.end) for seen in run.path] == [("r1", ""), ("r2", "no-path")]
    assert run.done


def test_a_hop_whose_only_way_leads_back_says_so_as_an_open_would_be_refused() -> None:
    # r0 ── r1 ── r2, and r0 ──10── r2: r1 goes by r0 now, r0 has not heard
    world = TracedWorld()
    world.add("r0", "r1", "r2")
    world.link("r0", "r1", "r2")
    world.link("r0", "r2", cost=10)
    world.settle()
    world.state("r1", "r2", lanes=0)
    world.engines["r1"].take_actions(world.now)
    run = world.trace("r0", "r2")
    assert [(seen.hop.site, seen.hop.end) for seen in run.path] == [("r1", "back")]


def test_a_key_of_an_edge_is_traced_through_to_the_edge() -> None:
    # r0 ── r1 ── e ── key
    world = TracedWorld()
    world.add("r0", "r1")
    world.add("e", edge=True)
    world.link("r0", "r1")
    world.link("r1", "e")
    world.set("e", "key")
    world.settle()
    run = world.trace("r0", "r1")
    assert [(seen.hop.site, seen.hop.end, seen.hop.targets) for seen in run.path] == [("r1", "", 0), ("e", "arrived", 1)]
    back = world.trace("e", "r0", key="other")
    assert [(seen.hop.site, seen.hop.end) for seen in back.path] == [("r1", ""), ("r0", "arrived")]


def test_an_edge_passes_nothing_on() -> None:
    world = TracedWorld()
    world.add("a", "b")
    world.add("e", edge=True)
    world.link("a", "e", "b")
    world.settle()
    tracer = world.tracers["e"]
    tracer.handle_message_untrusted(
        router("a"), encode_trace(Trace(id=world.id(), destination=router("b"), left=5, index=1)), now=world.now
    )
    (back,) = tracer.take()
    answer = read_untrusted(back[1])
    assert isinstance(answer, Hop)
    assert (back[0], answer.end) == (router("a"), "edge")


def request(world: TracedWorld, *, left: int = 8, index: int = 1) -> bytes:
    return encode_trace(Trace(id=world.id(), destination=router("r3"), key="key", left=left, index=index))


def test_a_trace_goes_no_further_than_its_limit() -> None:
    world = line()
    tracer = world.tracers["r1"]
    tracer.handle_message_untrusted(router("r0"), request(world, left=0), now=world.now)
    ((to, data),) = tracer.take()
    answer = read_untrusted(data)
    assert isinstance(answer, Hop)
    assert (to, answer.end) == (router("r0"), "hop-limit")


def test_a_neighbour_that_asks_a_thousand_times_gets_a_burst_and_then_five_per_second() -> None:
    world = line()
    tracer = world.tracers["r1"]
    for _ in range(1_000):
        tracer.handle_message_untrusted(router("r0"), request(world), now=world.now)
    assert len(tracer.take()) == 2 * BURST, "an answer and the trace itself"
    for _ in range(1_000):
        tracer.handle_message_untrusted(router("r0"), request(world), now=world.now + 2.0)
    assert len(tracer.take()) == 2 * 10
    assert tracer.dropped == 2_000 - BURST - 10
    assert len(tracer._passing) <= MAX_PER_PEER
    tracer.handle_message_untrusted(router("r2"), request(world), now=world.now + 2.0)
    assert tracer.take(), "others are not affected"
    tracer.handle_message_untrusted(router("r0"), request(world), now=world.now + 3.0 + KEPT)
    assert len(tracer._passing) == 1, "what is over is forgotten"


def test_the_same_trace_again_is_called_a_loop_and_passed_on_once() -> None:
    world = line()
    tracer, data = world.tracers["r1"], request(world)
    for _ in range(3):
        tracer.handle_message_untrusted(router("r0"), data, now=world.now)
    answers = [read_untrusted(out) for _, out in tracer.take()]
    assert sum(isinstance(a, Trace) for a in answers) == 1
    assert [a.end for a in answers if isinstance(a, Hop)] == ["", "loop", "loop"]


def test_an_answer_counts_once_and_only_from_where_the_trace_went() -> None:
    world = line()
    tracer, id = world.tracers["r1"], world.id()
    trace = encode_trace(Trace(id=id, destination=router("r3"), left=8, index=1))
    tracer.handle_message_untrusted(router("r0"), trace, now=world.now)
    tracer.take()
    forged = encode_hop(Hop(id=id, index=2, router=router("r3"), site="r3", end="arrived"))
    tracer.handle_message_untrusted(router("r0"), forged, now=world.now)
    assert tracer.take() == [], "from the wrong side"
    tracer.handle_message_untrusted(router("r2"), encode_hop(Hop(id=world.id(), index=2, router=router("r3"))), now=world.now)
    assert tracer.take() == [], "of a trace that nobody asked for"
    tracer.handle_message_untrusted(router("r2"), encode_hop(Hop(id=id, index=1, router=router("r3"))), now=world.now)
    assert tracer.take() == [], "of a hop that lies behind"
    for _ in range(5):
        tracer.handle_message_untrusted(router("r2"), forged, now=world.now)
    assert tracer.take() == [(router("r0"), forged)]


@given(st.binary(max_size=200), st.sampled_from([TRACE, HOP]))
def test_any_bytes_are_read_or_refused(body: bytes, kind: int) -> None:
    with contextlib.suppress(RemoteProtocolError):
        read_untrusted(bytes((1, kind)) + body)


@given(st.integers(2, 300), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(at: int, value: int) -> None:
    for message in (
        encode_trace(Trace(id=bytes(16), destination=router("a"), key="key", left=8, index=1)),
        encode_hop(Hop(id=bytes(16), index=2, router=router("a"), site="a", rtt_us=5, cost=1, next=router("b"))),
    ):
        data = bytearray(message)
        data[at % len(data)] = value
        with contextlib.suppress(RemoteProtocolError):
            read_untrusted(bytes(data))


@pytest.mark.parametrize(
    "hop",
    [
        Hop(id=bytes(16), index=1, router="x" * 69),
        Hop(id=bytes(16), index=1, router=router("a"), site="\x1b[2J"),
        Hop(id=bytes(16), index=1, router=router("a"), end="\x1b[2J"),
        Hop(id=bytes(16), index=1, router=router("a"), next="\x1b"),
    ],
)
def test_what_would_end_on_somebodys_terminal_is_names_and_words(hop: Hop) -> None:
    with pytest.raises(RemoteProtocolError):
        read_untrusted(encode_hop(hop))


# ---- the choice -------------------------------------------------------------------------------------------------------------------------


def choices(world: TracedWorld, at: str, *local: LocalTarget, **streams: int) -> list[tuple[str, bool, str]]:
    by_link = {router(name): count for name, count in streams.items()}
    names = {engine.own: name for name, engine in world.engines.items()}
    found = explain(world.engines[at], "key", local=local, links=world.seen_links[at], streams_by_link=by_link)
    return [(c.connector or names[c.router], c.chosen, c.reason) for c in found]


def star() -> TracedWorld:
    #  b(1), c(1), d(50) around a
    world = TracedWorld()
    world.add("a", "b", "c", "d")
    for name, cost in (("b", 1), ("c", 1), ("d", 50)):
        world.link("a", name, cost=cost)
        world.set(name, "key")
    world.settle()
    return world


def test_the_cheapest_by_cost_and_streams_is_chosen_and_the_others_say_why_not() -> None:
    world = star()
    assert choices(world, "a", b=3) == [
        ("c", True, ""),
        ("b", False, "cost 1 and 3 open streams are more than 1 and 0"),
        ("d", False, "cost 50 and 0 open streams are more than 1 and 0"),
    ]
    assert choices(world, "a", b=60, c=60)[0] == ("d", True, "")


def test_an_idle_target_of_the_site_comes_first_and_one_that_fails_last() -> None:
    world = star()
    idle = LocalTarget(name="local", where="127.0.0.1:80")
    assert choices(world, "a", idle)[0] == ("local", True, "")
    assert choices(world, "a", idle)[1][2].startswith("a target in this site is idle")
    dead = LocalTarget(name="local", where="127.0.0.1:80", error="connection refused")
    assert choices(world, "a", dead)[0][1]
    assert choices(world, "a", dead)[-1] == ("local", False, "connection refused")


def test_suspect_draining_and_unreachable_targets_are_named_as_such() -> None:
    world = star()
    world.state("a", "b", suspect=True)
    world.engines["c"].set_draining(True, now=world.now)
    world.unlink("a", "d")
    world.settle()
    found = {name: reason for name, _, reason in choices(world, "a")}
    assert "suspect" in found["b"]
    assert "draining" in found["c"]
    assert found["d"] == "no path leads there now"
    assert choices(world, "a")[0][1], "better than nothing"


@pytest.mark.parametrize(("drains", "is_silent"), ["bc", "cb"])
def test_a_link_that_drains_comes_before_one_that_is_silent_as_in_the_data_plane(drains: str, is_silent: str) -> None:
    world = star()
    world.state("a", is_silent, suspect=True)
    world.state("a", drains, draining=True)
    world.unlink("a", "d")
    world.settle()
    assert [name for name, _, _ in choices(world, "a")] == [drains, is_silent, "d"]


def test_a_site_that_was_killed_again_and_again_is_one_row() -> None:
    world = star()
    for boot in (2, 3):
        world.unlink("a", "d")
        world.settle()
        world.add("d", boot=boot)
        world.link("a", "d", cost=50)
        world.set("d", "key")
        world.settle()
    routers = [c.router for c in explain(world.engines["a"], "key", local=[], links=world.seen_links["a"], streams_by_link={})]
    assert sorted(routers) == sorted([router("b"), router("c"), router("d", 3)])
    world.unlink("a", "d")
    world.settle()
    found = explain(world.engines["a"], "key", local=[], links=world.seen_links["a"], streams_by_link={})
    assert [(c.router.partition("/")[0], c.reason) for c in found if not c.usable] == [(site("d"), "no path leads there now")]


def test_targets_that_fail_their_checks_are_named_there_too() -> None:
    world = star()
    world.engines["b"].set_local("key", KeyInfo(key="key", down=2), now=world.now)
    world.engines["c"].set_local("key", KeyInfo(key="key", targets=1, down=1, cost=LAST_RESORT), now=world.now)
    world.settle()
    assert choices(world, "a") == [
        ("d", True, ""),
        ("c", False, "its targets fail their checks: a last resort"),
        ("b", False, "all 2 targets fail their checks"),
    ]
