"""Moves at the lane that is asked: what costs a peer its lane, and what does not (docs/wire-protocol.md, sections 5 and 10)."""

from __future__ import annotations

import struct

import pytest
from mux_pair import MuxPair

from vanrouter.baseline.books import GLITCHES
from vanrouter.baseline.frame import Frame, FrameDecoder, FrameType, encode
from vanrouter.baseline.moves import FEATURE_MOVE, MOST_STRAYS
from vanrouter.baseline.mux_events import LeaveAsked
from vanrouter.errors import RemoteProtocolError

NEVER_USED = 100_001


@pytest.fixture
def pair() -> MuxPair:
    return MuxPair(features=FEATURE_MOVE)


def move(stream: int, name: int, total: int = 0) -> bytes:
    return encode(stream, FrameType.MOVE, struct.pack(">QQ", name, total))


def ask(pair: MuxPair, stream: int, name: int) -> None:
    (event,) = pair.acceptor.receive_untrusted([move(stream, name)], pair.now)
    assert isinstance(event, LeaveAsked)
    pair.acceptor.let_go(event.stream, name)


def test_answers_to_moves_that_are_not_written_yet_are_no_strays(pair: MuxPair) -> None:
    streams = [pair.established()[1].id for _ in range(MOST_STRAYS + 1)]
    for name, stream in enumerate(streams, 1):
        ask(pair, stream, name)
    pair.acceptor.receive_untrusted([move(NEVER_USED, 1_000_000)], pair.now)
    got: list[Frame] = []
    FrameDecoder().feed_untrusted(b"".join(pair.acceptor.data_to_send(1 << 20, pair.now)), got)
    assert {frame.stream for frame in got if frame.type == FrameType.MOVE} == set(streams)
    assert [frame.stream for frame in got if frame.type == FrameType.RESET] == [NEVER_USED]


def test_more_unknown_names_than_a_peer_can_have_lost_close_the_lane(pair: MuxPair) -> None:
    for number in range(MOST_STRAYS):
        pair.acceptor.receive_untrusted([move(NEVER_USED + 2 * number, 1)], pair.now)
    with pytest.raises(RemoteProtocolError, match="moves of streams that nobody knows"):
        pair.acceptor.receive_untrusted([move(NEVER_USED + 2 * MOST_STRAYS, 1)], pair.now)


def test_a_move_that_comes_late_costs_nothing_and_one_that_is_answered_costs_a_glitch(pair: MuxPair) -> None:
    _, theirs = pair.established()
    ask(pair, theirs.id, 1)
    for _ in range(GLITCHES + 1):
        assert pair.acceptor.receive_untrusted([move(theirs.id, 2)], pair.now) == [], "the stream has left this lane"
    _, other = pair.established()
    asks = [move(other.id, 3)] * GLITCHES
    with pytest.raises(RemoteProtocolError, match="useless frames"):
        pair.acceptor.receive_untrusted(asks, pair.now)
