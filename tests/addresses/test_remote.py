"""What others advertise: newer within an origin only, bounded, and withdrawn when it is over."""

from __future__ import annotations

import pytest
from memory_sites import KeyInfo, fragment, router

from vanrouter.addresses import MAX_KEYS_PER_SITE, Remote
from vanrouter.addresses.remote import MAX_AGE, MAX_JUMP, MAX_ROUTERS_PER_SITE, SWEEP_EVERY
from vanrouter.errors import RemoteProtocolError

SOUTH = router("south")


def keys(*names: str, targets: int = 1) -> list[KeyInfo]:
    return [KeyInfo(key=name, targets=targets) for name in names]


def test_a_newer_sequence_replaces_its_fragment_and_an_older_or_equal_one_changes_nothing() -> None:
    remote = Remote()
    assert remote.put_untrusted(fragment("south", 5, *keys("a", "b")), now=0.0) == {"a", "b"}
    assert remote.put_untrusted(fragment("south", 5, *keys("c")), now=0.0) is None
    assert remote.put_untrusted(fragment("south", 4, *keys("c")), now=0.0) is None
    assert remote.put_untrusted(fragment("south", 6, *keys("b", "c")), now=0.0) == {"a", "c"}
    assert sorted(remote.keys()) == ["b", "c"]


def test_fragments_of_one_origin_are_independent() -> None:
    remote = Remote()
    remote.put_untrusted(fragment("south", 9, *keys("a")), now=0.0)
    assert remote.put_untrusted(fragment("south", 1, *keys("b"), number=1), now=0.0) == {"b"}
    assert remote.put_untrusted(fragment("south", 2, number=1), now=0.0) == {"b"}
    assert list(remote.keys()) == ["a"]


def test_a_key_that_moves_to_another_fragment_is_never_missing() -> None:
    remote = Remote()
    remote.put_untrusted(fragment("south", 1, *keys("a", "b")), now=0.0)
    assert remote.put_untrusted(fragment("south", 1, *keys("a"), number=1), now=0.0) == set()
    assert remote.put_untrusted(fragment("south", 2, *keys("b")), now=0.0) == set()
    assert remote.info(SOUTH, "a") == KeyInfo(key="a", targets=1)


def test_no_boot_number_beats_another() -> None:
    """a restarted router is another origin: both count until the old one is withdrawn"""
    remote = Remote()
    remote.put_untrusted(fragment("south", 700, *keys("a"), boot=1), now=0.0)
    remote.put_untrusted(fragment("south", 1, *keys("a"), boot=2), now=0.0)
    assert set(remote.key("a")) == {router("south", 1), router("south", 2)}
    assert remote.withdraw(router("south", 1), now=1.0) == {"a"}
    assert set(remote.key("a")) == {router("south", 2)}


def test_what_was_withdrawn_does_not_come_back_from_an_old_message() -> None:
    remote = Remote()
    remote.put_untrusted(fragment("south", 1, *keys("a")), now=0.0)
    remote.withdraw(SOUTH, now=1.0)
    assert remote.put_untrusted(fragment("south", 2, *keys("a")), now=2.0) is None
    assert list(remote.keys()) == []


def test_a_jump_of_more_than_2_to_the_32_is_refused() -> None:
    remote = Remote()
    with pytest.raises(RemoteProtocolError, match="jumps"):
        remote.put_untrusted(fragment("south", MAX_JUMP + 1), now=0.0)
    assert remote.put_untrusted(fragment("south", MAX_JUMP), now=0.0) == set()
    with pytest.raises(RemoteProtocolError, match="jumps"):
        remote.put_untrusted(fragment("south", (1 << 64) - 1), now=0.0)


def fill(remote: Remote, count: int, name: str = "south") -> None:
    for number in range(0, count, 1000):
        chunk = keys(*(f"{name}-{n}" for n in range(number, min(number + 1000, count))))
        remote.put_untrusted(fragment(name, 1, *chunk, number=number // 1000), now=0.0)


def test_a_site_has_at_most_4096_keys_and_the_ones_beyond_are_refused_and_named() -> None:
    remote = Remote()
    fill(remote, MAX_KEYS_PER_SITE)
    assert remote.put_untrusted(fragment("south", 1, *keys("one-more"), number=9), now=0.0) == set()
    assert remote.refused(SOUTH.partition("/")[0]) == ["one-more"]
    assert remote.key("one-more") == {}
    fill(remote, 10, "east")
    assert remote.key("east-3")


def test_the_limit_holds_for_all_routers_of_a_site_together() -> None:
    remote = Remote()
    fill(remote, MAX_KEYS_PER_SITE)
    assert remote.put_untrusted(fragment("south", 1, *keys("south-5", "new"), boot=2), now=0.0) == {"south-5"}
    assert len(remote.key("south-5")) == 2
    assert remote.key("new") == {}


def test_a_refused_key_comes_in_when_there_is_room() -> None:
    remote = Remote()
    fill(remote, MAX_KEYS_PER_SITE)
    remote.put_untrusted(fragment("south", 1, *keys("waiting"), number=9), now=0.0)
    changed = remote.put_untrusted(fragment("south", 2, *keys(*(f"south-{n}" for n in range(4000, 4095))), number=4), now=0.0)
    assert changed == {"south-4095", "waiting"}
    assert remote.refused(SOUTH.partition("/")[0]) == []
    assert remote.key("waiting")


def test_a_site_speaks_as_at_most_64_routers() -> None:
    remote = Remote()
    for boot in range(MAX_ROUTERS_PER_SITE):
        remote.put_untrusted(fragment("south", 1, boot=boot), now=0.0)
    with pytest.raises(RemoteProtocolError, match="64 routers"):
        remote.put_untrusted(fragment("south", 1, boot=99), now=0.0)
    remote.remove(router("south", 3))
    remote.put_untrusted(fragment("south", 1, boot=99), now=0.0)


def test_what_is_not_refreshed_for_900_s_is_forgotten_and_not_before() -> None:
    remote = Remote()
    remote.put_untrusted(fragment("south", 1, *keys("a")), now=0.0)
    remote.put_untrusted(fragment("south", 1, *keys("b"), number=1), now=100.0)
    now = 0.0
    while now < MAX_AGE - SWEEP_EVERY:
        now = remote.deadline
        assert remote.expire(now) == {}
    assert remote.expire(MAX_AGE + SWEEP_EVERY) == {SOUTH: {"a"}}
    assert list(remote.keys()) == ["b"]
    assert remote.expire(MAX_AGE + 100.0 + 2 * SWEEP_EVERY) == {SOUTH: {"b"}}
    assert remote.routers() == []
    assert remote.deadline == float("inf")


def test_the_drain_flag_is_that_of_fragment_0() -> None:
    remote = Remote()
    remote.put_untrusted(fragment("south", 1, draining=True, number=1), now=0.0)
    assert not remote.draining(SOUTH)
    remote.put_untrusted(fragment("south", 1, draining=True), now=0.0)
    assert remote.draining(SOUTH)
