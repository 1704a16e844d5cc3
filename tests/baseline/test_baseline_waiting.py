"""Streams of ours that wait for open credit: in turn by origin, and never more than are worth waiting."""

from __future__ import annotations

import struct

from mux_pair import MuxPair, open_

from vanrouter.baseline.frame import FrameType, encode
from vanrouter.baseline.mux import Mux
from vanrouter.baseline.mux_events import Opened
from vanrouter.model import StreamClass


def grant(mux: Mux, opens: int) -> None:
    mux.receive_untrusted([encode(0, FrameType.CREDIT, struct.pack(">III", 0, opens, 0))], 0.0)


def keys_that_arrive(pair: MuxPair) -> list[str]:
    _, events = pair.exchange()
    return [event.open.routing_key for event in events if isinstance(event, Opened)]


def test_those_that_wait_are_opened_in_turn_by_origin_and_each_in_its_order() -> None:
    pair = MuxPair()
    for _ in range(16):
        pair.dialler.open(open_(), None, b"", pair.now)
    keys_that_arrive(pair)
    for origin, count in (("flood", 5), ("", 2), ("other", 1)):
        for number in range(count):
            pair.dialler.open(open_(f"{origin or 'own'}-{number}"), None, b"", pair.now, origin=origin)
    assert keys_that_arrive(pair) == []
    pair.acceptor._their_opens += 8  # as if it had granted them
    grant(pair.dialler, 2)
    assert keys_that_arrive(pair) == ["flood-0", "own-0"]
    grant(pair.dialler, 6)
    assert keys_that_arrive(pair) == ["other-0", "flood-1", "own-1", "flood-2", "flood-3", "flood-4"]


def test_one_that_gives_up_waiting_is_passed_over_and_its_turn_is_the_next_ones() -> None:
    pair = MuxPair()
    for _ in range(16):
        pair.dialler.open(open_(), None, b"", pair.now)
    keys_that_arrive(pair)
    waiting = [pair.dialler.open(open_(origin), None, b"", pair.now, origin=origin) for origin in ("a", "b", "c")]
    assert keys_that_arrive(pair) == []
    assert waiting[0] is not None
    pair.dialler.reset(waiting[0], StreamClass.CLIENT, "gone")
    pair.acceptor._their_opens += 1
    grant(pair.dialler, 1)
    assert keys_that_arrive(pair) == ["b"]


def test_a_neighbour_with_256_that_wait_is_crowded_and_others_are_not() -> None:
    pair = MuxPair()
    for _ in range(16 + 256):
        assert not pair.dialler.is_crowded("flood")
        pair.dialler.open(open_(), None, b"", pair.now, origin="flood")
        pair.exchange()
    assert pair.dialler.is_crowded("flood")
    assert not pair.dialler.is_crowded("other")


def test_no_more_than_256_are_unanswered_however_many_a_peer_permits() -> None:
    pair = MuxPair()
    pair.acceptor._their_opens += 100_000
    grant(pair.dialler, 100_000)
    for _ in range(300):
        pair.dialler.open(open_(), None, b"", pair.now)
    _, events = pair.exchange()
    opened = [event.stream for event in events if isinstance(event, Opened)]
    assert len(opened) == 256
    assert not pair.dialler.has_open_credit
    pair.acceptor.accept(opened[0])
    pair.acceptor.refuse(opened[1], StreamClass.REFUSED, "no")
    assert len(keys_that_arrive(pair)) == 2, "an answer makes room for another"
