"""What one router does with links, messages and time; in small networks drawn above the assertions."""

from __future__ import annotations

import math

import msgspec
import pytest
from engines import World, of_type, reachable, router, sign, site, verify

from vanrouter.errors import RemoteProtocolError
from vanrouter.messages import Fragment, KeyInfo, Neighbour, encode_signed
from vanrouter.routing import LAST_RESORT, Forgot, Learnt, Limits, PathChanged, Problem, RouteChanged
from vanrouter.routing.wire import encode_relayed, encode_summary, relayed_untrusted


def diamond() -> World:
    #       b
    #     1/ \1
    #     a   d ── key
    #     2\ /2
    #       c
    world = World()
    world.add("a", "b", "c", "d")
    world.link("a", "b", "d")
    world.link("a", "c", "d", cost=2)
    world.set("d", "key")
    world.settle()
    return world


def test_a_key_is_reached_over_the_cheapest_path() -> None:
    world = diamond()
    assert world.routes("a") == {"key": [("d", "b", 2)]}
    assert world.routes("d") == {}, "our own connectors are no routes"


def test_a_lost_link_moves_the_path_and_says_only_that() -> None:
    world = diamond()
    world.set("b", "other")
    world.settle()
    for name in world.engines:
        world.take(name)
    world.unlink("b", "d")
    world.settle()
    assert world.routes("a") == {"key": [("d", "c", 4)], "other": [("b", "b", 1)]}
    actions = world.take("a")
    assert [action.router for action in of_type(actions, PathChanged)] == [router("d")]  # type: ignore[union-attr]
    assert of_type(actions, RouteChanged) == [], "routes name routers; how those are reached is said once per router"


def test_equal_paths_give_every_next_hop_lower_ids_first() -> None:
    world = diamond()
    world.link("a", "c", "d", cost=1)
    world.settle()
    assert sorted(world.routes("a")["key"]) == [("d", "b", 2), ("d", "c", 2)]
    path = world.engines["a"].path(router("d"))
    assert path is not None
    assert list(path[1]) == sorted(path[1])


def test_a_suspect_link_is_left_by_everyone_while_there_is_another_path() -> None:
    world = diamond()
    world.state("d", "b", suspect=True)  # only one end noticed
    world.settle()
    assert world.routes("a") == {"key": [("d", "c", 4)]}
    world.unlink("c", "d")
    world.settle()
    assert world.routes("a") == {"key": [("d", "b", 1_000_001)]}, "better than nothing"


def test_a_draining_router_is_left_while_there_is_another_path_and_another_target() -> None:
    world = diamond()
    world.engines["b"].set_draining(True, now=world.now)
    world.settle()
    assert world.routes("a") == {"key": [("d", "c", 4)]}
    world.engines["d"].set_draining(True, now=world.now)
    world.set("c", "key", cost=50)
    world.settle()
    assert world.routes("a")["key"][0][0] == "c"


def test_a_router_that_leaves_is_forgotten_by_all_and_nothing_brings_it_back() -> None:
    world = diamond()
    record = world.engines["a"].database.record(router("d"), 0)
    assert record is not None
    world.engines["d"].leave(now=world.now)
    world.settle()
    assert world.routes("a") == {}
    assert Forgot(router("d")) in world.take("a")
    world.engines["a"].handle_message_untrusted(router("b"), encode_relayed(record.wire, 0), now=world.now)
    assert world.engines["a"].database.record(router("d"), 0) is None


def test_a_changed_address_computes_no_path_and_sends_one_fragment_over_each_link_at_most_twice() -> None:
    world = diamond()
    visited = {name: engine.paths.visited for name, engine in world.engines.items()}
    world.sent.clear()
    world.set("d", "new")
    world.settle()
    assert {name: engine.paths.visited for name, engine in world.engines.items()} == visited
    assert len(world.sent) <= 2 * len(world.links)
    assert world.routes("a")["new"] == [("d", "b", 2)]


def test_a_changed_link_sends_no_message_per_address() -> None:
    world = diamond()
    for n in range(200):
        world.set("d", f"key-{n}")
    world.settle(20.0)
    world.sent.clear()
    world.unlink("b", "d")
    world.settle()
    assert len(world.sent) <= 4 * len(world.links)
    assert all(target[0][1] == "c" for target in world.routes("a").values())


def test_the_same_advertisement_twice_changes_nothing_and_emits_nothing() -> None:
    world = diamond()
    record = world.engines["a"].database.record(router("d"), 0)
    assert record is not None
    world.take("a")
    world.engines["a"].handle_message_untrusted(router("c"), encode_relayed(record.wire, 3), now=world.now)
    assert world.engines["a"].take_actions(world.now) == []
    assert all(world.engines["a"].next_message(peer, world.now) is None for peer in world.engines["a"].peers())


def test_a_restarted_router_is_a_new_origin_at_once() -> None:
    # a ── b, and b starts again within a second
    world = World()
    world.add("a", "b")
    world.link("a", "b")
    world.set("b", "key")
    world.settle()
    world.unlink("a", "b")
    world.add("b", boot=2)
    world.link("a", "b")
    world.set("b", "key")
    world.settle()
    assert [way[0] for way in reachable(world.engines["a"])["key"]] == [router("b", 2)]
    assert world.engines["a"].path(router("b", 1)) is None


def test_what_is_not_refreshed_ends_900_seconds_after_its_origin_made_it_wherever_it_was_meanwhile() -> None:
    # a ── b ── c: c falls silent; 600 s later b meets d, which learns of c, and gives it back to nobody after its time
    world = World()
    world.add("a", "b", "d")
    world.add("c", admitted_by=("b",))
    world.link("a", "b", "c")
    world.settle(5.0)
    began = world.now
    world.unlink("b", "c")
    del world.engines["c"]
    world.settle(600.0)
    world.link("b", "d")
    world.settle()
    assert world.engines["d"].database.record(router("c"), 0) is not None
    world.settle(began + 880.0 - world.now)
    assert world.engines["d"].database.record(router("c"), 0) is not None
    world.settle(25.0)
    for name in ("a", "b", "d"):
        assert world.engines[name].database.record(router("c"), 0) is None
        assert site("c") not in world.engines[name].membership


def test_who_refreshes_every_300_seconds_stays_for_good() -> None:
    world = diamond()
    world.settle(3_000.0)
    assert world.routes("a") == {"key": [("d", "b", 2)]}


def test_a_later_start_of_the_calls_is_harmless_and_the_deadline_says_when() -> None:
    world = diamond()
    engine = world.engines["a"]
    assert world.now < engine.deadline < math.inf
    before = engine.database.sequences()
    engine.handle_timeout(world.now)
    assert engine.take_actions(world.now) == []
    assert engine.database.sequences() == before


def test_a_message_that_the_plane_did_not_take_stays_due_and_a_newer_one_takes_its_place() -> None:
    world = World()
    world.add("a", "b")
    world.link("a", "b")
    world.settle()
    a = world.engines["a"]
    world.set("a", "one")
    a.take_actions(world.now)
    first = a.next_message(router("b"), world.now)
    assert a.next_message(router("b"), world.now) == first
    world.set("a", "two")
    a.take_actions(world.now)
    second = a.next_message(router("b"), world.now)
    assert first is not None
    assert second is not None
    assert second.version > first.version
    a.sent(first)
    assert a.next_message(router("b"), world.now) == second
    a.sent(second)
    assert a.next_message(router("b"), world.now) is None


def test_lost_messages_are_made_good_by_summaries() -> None:
    world = diamond()
    world.set("d", "more")
    engine = world.engines["d"]
    engine.take_actions(world.now)
    for peer in engine.peers():  # the plane took them, and the lane was lost
        while (send := engine.next_message(peer, world.now)) is not None:
            engine.sent(send)
    world.settle()
    assert "more" not in world.routes("a")
    world.engines["d"].handle_messages_reset(router("b"), now=world.now)
    world.engines["b"].handle_messages_reset(router("d"), now=world.now)
    world.settle()
    assert "more" in world.routes("a")


# ---- edges ----------------------------------------


def leaves() -> World:
    #  e1 ─1─ i1 ─1─ i2 ─5─ e2
    world = World()
    world.add("i1", "i2")
    world.add("e1", "e2", edge=True)
    world.link("i1", "i2")
    world.link("e1", "i1")
    world.link("e2", "i2", cost=5)
    world.set("e2", "far", cost=2)
    world.set("e1", "near", targets=2)
    world.settle()
    return world


def test_an_interior_advertises_its_edges_addresses_and_edges_are_in_no_database() -> None:
    world = leaves()
    assert world.routes("i2")["far"] == [("e2", "e2", 7)]
    assert world.routes("i1")["far"] == [("i2", "i2", 8)]
    assert world.routes("e1")["far"] == [("i1", "i1", 9)] or world.routes("e1")["far"] == [("i2", "i1", 9)]
    assert {origin.partition("/")[0] for origin, _ in world.engines["i1"].database.sequences()} == {site("i1"), site("i2")}


def test_an_edges_own_targets_are_not_offered_back_to_it() -> None:
    world = leaves()
    assert "near" not in world.routes("e1")
    world.set("i1", "near")
    world.settle()
    assert world.routes("e1")["near"] == [("i1", "i1", 1)]


def test_an_edge_that_goes_takes_its_addresses_with_it() -> None:
    world = leaves()
    world.unlink("e2", "i2")
    world.settle()
    assert all("far" not in world.routes(name) for name in ("i1", "i2", "e1"))


def test_an_edge_with_two_uplinks_is_reached_over_either() -> None:
    world = leaves()
    world.link("e1", "i2")
    world.set("i1", "k")
    world.settle()
    assert world.routes("i2")["near"][0] == ("e1", "e1", 1)
    world.unlink("e1", "i1")
    world.settle()
    assert world.routes("i1")["near"] == [("i2", "i2", 2)]
    assert world.routes("e1")["k"] == [("i1", "i2", 2)]


def test_an_edge_carries_no_transit_even_with_two_uplinks() -> None:
    world = leaves()
    world.link("e1", "i2")
    world.unlink("i1", "i2")
    world.settle()
    assert world.path("i1", "i2") is None
    assert "far" not in world.routes("i1")


def test_what_an_edge_says_that_its_link_costs_counts_at_once_up_and_down_and_everywhere() -> None:
    world = leaves()
    for cost in (40, 2):
        world.state("e2", "i2", cost=cost)  # at the edge alone: the lanes, and what the interior knows of them, are as old as before
        world.settle(1.0)
        assert world.path("i2", "e2") == (cost, ["e2"])
        assert world.path("e2", "i2") == (cost, ["i2"])
        assert world.routes("i2")["far"] == [("e2", "e2", 2 + cost)]
        assert world.routes("i1")["far"] == [("i2", "i2", 3 + cost)]
        (leaf,) = [leaf for fragment in world.engines["i1"].remote.fragments(router("i2")) for leaf in fragment.edges]
        assert leaf.cost == cost
    world.state("i2", "e2", cost=2, suspect=True)
    assert world.path("i2", "e2") == (LAST_RESORT, ["e2"])


def test_an_edge_speaks_for_itself_only() -> None:
    world = leaves()
    record = world.engines["i2"].database.record(router("i2"), 0)
    assert record is not None
    newer = Fragment(origin=router("i2"), number=7, sequence=1, keys=[KeyInfo(key="x", targets=1)])
    wire = encode_signed(newer, identity=b"i2", sign=sign("i2"), admissions=[])
    world.engines["i1"].handle_message_untrusted(router("e1"), encode_relayed(wire, 0), now=world.now)
    problems = of_type(world.engines["i1"].take_actions(world.now), Problem)
    assert [problem.reason for problem in problems] == ["EdgeRelays"]  # type: ignore[union-attr]


# ---- bad input ----------------------------------------


def pair(limits: Limits | None = None) -> World:
    world = World()
    world.add("a", limits=limits)
    world.add("b")
    world.link("a", "b")
    world.settle()
    return world


def fragment(origin: str, sequence: int = 1, number: int = 0, *, by: str = "", boot: int = 1, admissions: tuple[str, ...] = ()) -> bytes:
    content = Fragment(origin=router(origin, boot), number=number, sequence=sequence, neighbours=[Neighbour(router=router("b"))])
    name = by or origin
    return encode_signed(content, identity=name.encode(), sign=sign(name), admissions=[a.encode() for a in admissions])


def test_who_signs_for_another_is_cut() -> None:
    world = pair()
    with pytest.raises(RemoteProtocolError, match="another site's key"):
        world.engines["a"].handle_message_untrusted(router("b"), fragment("c", by="b"), now=world.now)


def test_a_signature_that_does_not_hold_is_the_peers_fault() -> None:
    world = pair()
    wire = bytearray(fragment("b", 9))
    at = wire.index(b"signature") + 12
    wire[at] ^= 1
    with pytest.raises(RemoteProtocolError, match="signature"):
        world.engines["a"].handle_message_untrusted(router("b"), bytes(wire), now=world.now)


@pytest.mark.parametrize(
    "data", [b"\x01\x10", b"\x01\x11\x80", b"\x01\x02\xc0", b"\x01\x03" + b"\x91" * 60_000, b"\x01\x10" + b"\x00" * 70_000]
)
def test_garbage_is_refused_with_one_kind_of_error(data: bytes) -> None:
    world = pair()
    with pytest.raises(RemoteProtocolError):
        world.engines["a"].handle_message_untrusted(router("b"), data, now=world.now)


def test_other_messages_are_left_to_others_and_later_versions_are_kept_byte_for_byte() -> None:
    world = pair()
    world.add("c")
    world.link("a", "c")
    world.settle()
    assert not world.engines["a"].handle_message_untrusted(router("b"), b"\x01\x01\x80", now=world.now)
    body = msgspec.msgpack.encode({"origin": router("b"), "number": 5, "sequence": 1, "of a later version": [1, 2]})
    envelope = {"body": body, "identity": b"b", "signature": sign("b")(b"vanrouter advertisement v1\0" + body), "more": 1}
    wire = b"\x01\x02" + msgspec.msgpack.encode(envelope)
    world.engines["a"].handle_message_untrusted(router("b"), wire, now=world.now)
    world.engines["a"].take_actions(world.now)
    send = world.engines["a"].next_message(router("c"), world.now)
    assert send is not None
    assert relayed_untrusted(send.data)[0] == wire


def test_a_site_that_nothing_joins_to_us_is_kept_out_and_let_in_once_something_does() -> None:
    world = pair()
    a = world.engines["a"]
    stranger = encode_signed(Fragment(origin=router("c"), number=0, sequence=1), identity=b"c", sign=sign("c"), admissions=[])
    a.handle_message_untrusted(router("b"), encode_relayed(stranger, 0), now=world.now)
    assert a.database.record(router("c"), 0) is None
    admitted = fragment("c", admissions=("b>c",))
    a.handle_message_untrusted(router("b"), encode_relayed(admitted, 0), now=world.now)
    assert a.database.record(router("c"), 0) is not None


def test_a_revoked_site_is_forgotten_and_stays_out() -> None:
    world = diamond()
    world.engines["a"].set_refused([str(site("d"))], now=world.now)
    world.settle()
    assert world.routes("a") == {}
    world.set("d", "again")
    world.settle(5.0)
    assert world.routes("a") == {}
    world.engines["a"].set_refused([], now=world.now)
    world.settle(30.0)
    assert sorted(world.routes("a")) == ["again", "key"]


def test_a_site_that_starts_again_and_again_keeps_its_latest_starts() -> None:
    world = pair()
    a = world.engines["a"]
    for boot in range(2, 200):
        a.handle_message_untrusted(router("b"), fragment("b", boot=boot), now=world.now)
    boots = sorted(int(origin.rpartition("/")[2], 16) for origin, _ in a.database.sequences() if origin.startswith(site("b")))
    assert len(boots) == 64
    assert boots[0] == 1, "the one that is linked to us stays"
    assert boots[-1] == 199


def test_one_site_has_room_for_so_many_bytes_and_says_who_wants_more() -> None:
    world = pair(Limits(bytes_per_site=5_000))
    a = world.engines["a"]
    for number in range(1, 40):
        a.handle_message_untrusted(router("b"), fragment("b", number=number), now=world.now)
    assert a.database.size()[1] <= 10_000
    reasons = {p.reason for p in of_type(a.take_actions(world.now), Problem)}  # type: ignore[union-attr]
    assert reasons == {"NoRoom"}
    assert a.problems(world.now)


def test_a_link_to_itself_is_named_and_ignored() -> None:
    world = pair()
    a = world.engines["a"]
    world.state("a", "a")
    assert router("a") not in a.peers()
    assert [p.reason for p in of_type(a.take_actions(world.now), Problem)] == ["LinkToItself"]  # type: ignore[union-attr]


def test_another_router_that_signs_as_this_start_of_ours_is_named() -> None:
    world = pair()
    a = world.engines["a"]
    a.handle_message_untrusted(router("b"), fragment("a", 1_000), now=world.now)
    assert [p.reason for p in of_type(a.take_actions(world.now), Problem)] == ["DuplicateRouter"]  # type: ignore[union-attr]
    assert world.path("b", "a") == (1, ["a"])


def test_asking_for_everything_often_is_answered_at_a_bounded_rate() -> None:
    world = pair()
    a = world.engines["a"]
    summary = encode_summary(bytes(40), b"\xff" * 40, [])
    answers = 0
    for _ in range(1_000):
        a.handle_message_untrusted(router("b"), summary, now=world.now)
        while (send := a.next_message(router("b"), world.now)) is not None:
            a.sent(send)
            answers += 1
    assert answers <= 64
    assert a.deadline <= world.now + 1.0, "the last one is answered in the end"


def test_actions_tell_the_address_table_what_it_needs() -> None:
    world = pair()
    world.take("a")
    world.set("b", "k", listeners=1)
    world.settle()
    kinds = [type(action) for action in world.take("a")]
    assert kinds == [Learnt, RouteChanged]
    world.unlink("a", "b")
    world.settle()
    kinds = [type(action) for action in world.take("a")]
    assert kinds == [PathChanged], "b's record is kept, and its routes with it: they do not count without a path"


def test_the_hop_limit_is_twice_the_longest_way_and_never_small() -> None:
    world = World()
    names = [f"r{n}" for n in range(8)]
    world.add(*names)
    world.link(*names)
    world.settle(5.0)
    assert world.engines["r0"].hop_limit() == 14
    assert world.engines["r3"].hop_limit() == 8


def test_where_a_key_of_ours_stands_is_known_before_it_is_sent() -> None:
    world = pair()
    world.set("a", "another")
    world.settle()
    number, sequence = max(world.engines["a"].positions().items())
    world.set("a", "k")
    assert world.engines["a"].position("k") == (number, sequence + 1)
    world.settle()
    assert world.engines["b"].database.record(router("a"), number).sequence == sequence + 1  # type: ignore[union-attr]


def test_the_stand_in_signature_is_one() -> None:
    assert verify(b"x", b"m", sign("x")(b"m"))
    assert not verify(b"x", b"m", sign("y")(b"m"))
