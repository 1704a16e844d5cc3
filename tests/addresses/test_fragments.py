"""Our own advertisement in fragments: one key, one fragment; paced; and every receiver ends with the same picture."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from memory_sites import KeyInfo, router, service

from vanrouter.addresses import Advertiser, Remote
from vanrouter.addresses.fragments import BURST, ORIGIN_RATE, REFRESH
from vanrouter.messages import MAX_FRAGMENT, Fragment, Leaf, Neighbour, encode_signed
from vanrouter.model import RouterId

OWN = RouterId.parse(router("north"))


def advertiser() -> Advertiser:
    out = Advertiser(OWN, now=0.0)
    out.due(0.0)
    return out


def info(key: str, targets: int = 1, services: int = 0) -> KeyInfo:
    return KeyInfo(key=key, targets=targets, services=[service("s" * 60, 1 + n) for n in range(services)])


def size(fragment: Fragment) -> int:
    return len(encode_signed(fragment, identity=b"k" * 91, sign=lambda _: b"s" * 72, admissions=[]))


def drain(a: Advertiser, now: float) -> tuple[list[Fragment], float]:
    out = list(a.due(now))
    while any(frame.dirty for frame in a._frames):
        now = max(now, a.deadline)
        out += a.due(now)
    return out, now


def test_the_first_fragment_goes_out_at_once_even_when_it_is_empty() -> None:
    (first,) = Advertiser(OWN, now=0.0).due(0.0)
    assert (first.number, first.sequence, first.keys, first.origin) == (0, 1, [], str(OWN))


def test_adding_a_key_resends_one_fragment_of_many() -> None:
    a, now = advertiser(), 0.0
    for n in range(2000):
        a.set_key(f"key-{n:04}", info(f"key-{n:04}", services=1), now=now)
    everything, now = drain(a, now)
    assert len({f.number for f in everything}) > 5
    now += 60.0
    a.set_key("one-more", info("one-more"), now=now)
    (changed,) = a.due(now)
    assert "one-more" in {i.key for i in changed.keys}
    assert a.position("one-more") == (changed.number, changed.sequence)
    a.set_key("key-0007", info("key-0007", targets=2, services=1), now=now)
    (changed,) = a.due(now)
    assert "key-0007" in {i.key for i in changed.keys}


def test_the_same_again_sends_nothing() -> None:
    a = advertiser()
    a.set_key("a", info("a"), now=0.0)
    assert len(a.due(0.0)) == 1
    a.set_key("a", info("a"), now=0.0)
    a.set_draining(False)
    assert a.due(0.0) == []


def test_several_changes_before_the_send_go_as_one() -> None:
    a = advertiser()
    for n in range(50):
        a.set_key(f"k{n}", info(f"k{n}"), now=0.0)
    (one,) = a.due(0.0)
    assert (len(one.keys), one.sequence) == (50, 1)


def test_a_key_that_outgrows_its_fragment_moves_and_the_gaining_fragment_goes_first() -> None:
    a, now = advertiser(), 0.0
    while len(a._frames) < 3:
        a.set_key(f"k{now}", info(f"k{now}", services=1), now=now)
        now += 1.0
    now += 60.0
    drain(a, now)
    a.set_key("k0.0", info("k0.0", services=4), now=now)
    gaining, losing = a.due(now)
    assert "k0.0" in {i.key for i in gaining.keys}
    assert (gaining.number, losing.number) == (2, 1)
    assert "k0.0" not in {i.key for i in losing.keys}


def test_a_burst_of_ten_and_then_one_a_second_per_fragment() -> None:
    a = Advertiser(OWN, now=0.0)
    times, now = [], 0.0
    for n in range(20):
        a.set_key("flapping", info("flapping", targets=n + 1), now=now)
        while not a.due(now):
            now = a.deadline
        times.append(now)
    assert times[: BURST - 1] == [0.0] * (BURST - 1)
    assert times[-1] - times[BURST] == len(times) - 1 - BURST


def test_a_fragment_is_refreshed_after_300_s() -> None:
    a = advertiser()
    assert a.deadline == REFRESH
    assert a.due(REFRESH - 1.0) == []
    (again,) = a.due(REFRESH)
    assert again.sequence == 2


def test_draining_and_neighbours_are_told() -> None:
    a = advertiser()
    a.set_draining(True)
    a.set_neighbour(router("south"), Neighbour(router=router("south"), cost=3), now=0.0)
    (one,) = a.due(0.0)
    assert one.draining
    assert one.neighbours == [Neighbour(router=router("south"), cost=3)]
    a.set_neighbour(router("south"), None, now=0.0)
    (one,) = a.due(0.0)
    assert one.neighbours == []


operations = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2), st.integers(0, 4), st.integers(1, 255)), max_size=80)


@settings(deadline=None)
@given(script=operations, each=st.integers(1, 10))
def test_whatever_changes_every_receiver_ends_with_our_picture_and_no_fragment_is_too_large(
    script: list[tuple[int, int, int, int]], each: int
) -> None:
    a, remote, want, now = Advertiser(OWN, now=0.0), Remote(), dict[str, KeyInfo](), 0.0
    for step, (n, targets, services, length) in enumerate(script):
        key = f"{n:03}" + "k" * (length - 3)
        a.set_key(key, info(key, targets, services), now=now)
        want.pop(key, None)
        if targets:
            want[key] = info(key, targets, services)
        if step % each == 0:
            for f in a.due(now):
                assert size(f) <= MAX_FRAGMENT
                remote.put_untrusted(f, now=now)
        now += 0.3
    rest, now = drain(a, now)
    for f in rest:
        assert size(f) <= MAX_FRAGMENT
        remote.put_untrusted(f, now=now)
    assert {key: remote.info(str(OWN), key) for key in remote.keys_of(str(OWN))} == want


def test_4096_keys_of_the_largest_size_fit() -> None:
    a, now = Advertiser(OWN, admissions_size=8 * 512, now=0.0), 0.0
    for n in range(4096):
        key = f"{n:0255}"
        a.set_key(key, KeyInfo(key=key, targets=1, services=[service("s" * 63, 1 + m, "t" * 63) for m in range(4)]), now=now)
    everything, _ = drain(a, now)
    assert max(map(size, everything)) + 8 * 515 <= MAX_FRAGMENT


def test_edges_lie_in_fragments_of_their_own_so_that_a_changed_key_does_not_send_them_again() -> None:
    a = advertiser()
    leaves = [Leaf(router=str(RouterId(OWN.site, n + 2)), name=f"edge-{n}") for n in range(3)]
    a.set_key("key", KeyInfo(key="key", targets=1), now=0.0)
    for leaf in leaves:
        a.set_edge(leaf.router, leaf, now=0.0)
    first, second = a.due(0.0)
    assert (first.number, [info.key for info in first.keys], first.edges) == (1, ["key"], [])
    assert (second.number, second.keys, second.edges) == (2, [], leaves)
    a.set_key("more", KeyInfo(key="more", targets=1), now=1.0)
    assert [fragment.number for fragment in a.due(1.0)] == [1]
    a.set_edge(leaves[1].router, None, now=2.0)
    (changed,) = a.due(2.0)
    assert (changed.number, changed.edges) == (2, [leaves[0], leaves[2]])


def test_news_of_a_lost_link_waits_for_no_key_however_often_keys_change() -> None:
    a = advertiser()
    a.set_neighbour(router("south"), Neighbour(router=router("south"), cost=3), now=0.0)
    a.due(0.0)
    for n in range(2 * BURST):
        a.set_key("flapping", info("flapping", targets=n + 1), now=1.0)
        a.due(1.0)
    for n in range(1_000):
        a.set_key(f"key-{n:04}", info(f"key-{n:04}", services=1), now=1.0)
    a.set_neighbour(router("south"), None, now=1.0)
    assert a.due(1.0) == [], "the origin's own rate holds for all fragments"
    (first,) = a.due(1.0 + 1.0 / ORIGIN_RATE)
    assert (first.number, first.neighbours, first.keys) == (0, [], [])
