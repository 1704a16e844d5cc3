"""The lane's machine, two of them joined by memory, in virtual time."""

from __future__ import annotations

import contextlib
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from mux_pair import MuxPair, hello, open_, received

from vanrouter.baseline.credit import FLOOR, Budget
from vanrouter.baseline.frame import FrameDecoder, FrameType, encode
from vanrouter.baseline.liveness import Health
from vanrouter.baseline.mux import Mux
from vanrouter.baseline.mux_events import Accepted, Data, Finished, MessageReceived, Opened, Refused, WasReset
from vanrouter.baseline.stream import Stream
from vanrouter.errors import RemoteProtocolError
from vanrouter.model import StreamClass


def frames_of(mux: Mux, now: float = 0.0, limit: int = 1 << 20) -> list[tuple[int, int, bytes]]:
    got = []  # type: ignore[var-annotated]
    FrameDecoder().feed_untrusted(b"".join(mux.data_to_send(limit, now)), got)
    return [(frame.stream, frame.type, bytes(frame.payload)) for frame in got]


def test_a_stream_goes_from_open_to_both_ends() -> None:
    pair = MuxPair()
    mine, theirs = pair.established()
    pair.dialler.send(mine, b"ping")
    pair.dialler.send_eof(mine)
    _, events = pair.exchange()
    assert received(events, theirs) == b"ping"
    assert any(isinstance(event, Finished) for event in events)
    pair.acceptor.send(theirs, b"pong")
    pair.acceptor.send_eof(theirs)
    events, _ = pair.exchange()
    assert received(events, mine) == b"pong"
    pair.acceptor.consumed(theirs, 4, pair.now)
    pair.dialler.consumed(mine, 4, pair.now)
    assert mine.is_gone
    assert theirs.is_gone
    assert pair.dialler.stream_count == pair.acceptor.stream_count == 0


def test_early_data_goes_with_the_open_and_needs_no_answer() -> None:
    pair = MuxPair()
    mine = pair.dialler.open(open_(), None, b"hello", pair.now)
    assert mine is not None
    assert pair.dialler.room(mine) == 16_376 - 5
    pair.dialler.send(mine, b" early")
    _, events = pair.exchange()
    opened = next(event for event in events if isinstance(event, Opened))
    assert received(events, opened.stream) == b"hello early"


def test_no_more_early_data_than_a_frame_per_stream_and_than_the_lane_permits() -> None:
    pair = MuxPair()
    streams = [pair.dialler.open(open_(), None, bytes(16_376), pair.now) for _ in range(6)]
    frames = frames_of(pair.dialler)
    early = {id_: 0 for id_, kind, _ in frames if kind == FrameType.OPEN}
    for id_, kind, payload in frames:
        if kind == FrameType.EARLY:
            early[id_] += len(payload)
        elif kind == FrameType.OPEN:
            early[id_] += len(payload) - 105  # fixed part, key "k", attribute length
    assert max(early.values()) <= 16_376
    assert sum(early.values()) == 65_536
    assert all(stream is not None for stream in streams)


def test_what_did_not_go_early_goes_as_data_after_the_answer() -> None:
    pair = MuxPair()
    mine = pair.dialler.open(open_(), None, b"", pair.now)
    assert mine is not None
    pair.dialler.send(mine, bytes(50_000))  # an earlier attempt's, and more than may go early
    _, events = pair.exchange()
    stream = next(event.stream for event in events if isinstance(event, Opened))
    before = received(events, stream)
    assert len(before) == 16_376
    pair.acceptor.accept(stream)
    _, events = pair.exchange()
    assert len(before) + len(received(events, stream)) == 50_000


def test_opens_beyond_the_open_credit_wait_for_it() -> None:
    pair = MuxPair()
    for _ in range(20):
        pair.dialler.open(open_(), None, b"", pair.now)
    _, events = pair.exchange()
    opened = [event.stream for event in events if isinstance(event, Opened)]
    assert len(opened) == 16
    pair.acceptor.accept(opened[0])
    pair.acceptor.refuse(opened[1], StreamClass.REFUSED, "no")
    events, more = pair.exchange()
    assert len([event for event in more if isinstance(event, Opened)]) >= 2
    assert [type(event) for event in events if isinstance(event, (Accepted, Refused))] == [Accepted, Refused]


def test_who_opens_much_may_open_more_at_once_up_to_256() -> None:
    pair = MuxPair()
    for _ in range(2_000):
        pair.dialler.open(open_(), None, b"", pair.now)
    most = 0
    while True:
        _, events = pair.exchange()
        opened = [event.stream for event in events if isinstance(event, Opened)]
        if not opened:
            break
        most = max(most, len(opened))
        for stream in opened:
            pair.acceptor.refuse(stream, StreamClass.REFUSED, "no")
    assert 128 < most <= 256


def test_an_unanswered_stream_may_be_reset_instead_and_its_open_comes_back() -> None:
    """Only a router in between does that: what it passed on may have reached a target."""
    pair = MuxPair()
    for round_ in range(40):
        mine = pair.dialler.open(open_(), None, b"early", pair.now)
        assert mine is not None, round_
        _, events = pair.exchange()
        (theirs,) = [event.stream for event in events if isinstance(event, Opened)]
        pair.acceptor.reset(theirs, StreamClass.LINK, "lost")
        events, _ = pair.exchange()
        assert [event for event in events if isinstance(event, (WasReset, Refused))] == [WasReset(mine, StreamClass.LINK, "lost")]
    assert not pair.dialler.streams
    assert not pair.acceptor.streams


def test_what_is_queued_beyond_the_credit_goes_when_it_comes_and_the_end_behind_it() -> None:
    """A router in between queues whatever the hop before was permitted to send."""
    pair = MuxPair()
    mine, theirs = pair.established()
    size = mine.credit + 100_000
    pair.dialler.send(mine, bytes(size))
    pair.dialler.send_eof(mine)
    got = 0
    while True:
        _, events = pair.exchange()
        more = len(received(events, theirs))
        got += more
        if any(isinstance(event, Finished) for event in events):
            break
        assert more, "it must not come to a stop"
        assert not mine.fin_sent
        pair.acceptor.consumed(theirs, more, pair.now)
    assert got == size


def test_nothing_is_sent_beyond_the_credit_and_all_of_it_when_credit_comes() -> None:
    pair = MuxPair()
    mine, theirs = pair.established()
    pair.dialler.send(mine, bytes(200_000))
    _, events = pair.exchange()
    assert len(received(events, theirs)) == 65_536
    got = 65_536
    while got < 200_000:
        pair.acceptor.consumed(theirs, theirs.window.stored, pair.now)
        _, events = pair.exchange()
        got += len(received(events, theirs))
    assert got == 200_000


def test_urgent_frames_go_ahead_of_data_and_a_fin_behind_its_own() -> None:
    pair = MuxPair()
    mine, _ = pair.established()
    other, _ = pair.established()
    pair.dialler.send(mine, bytes(30_000))
    pair.dialler.send_eof(mine)
    pair.dialler.reset(other, StreamClass.CLIENT, "gone")
    kinds = [(id_, kind) for id_, kind, _ in frames_of(pair.dialler)]
    assert kinds[0] == (other.id, FrameType.RESET)
    assert kinds[-1] == (mine.id, FrameType.FIN)


def test_an_idle_streams_first_frame_passes_a_bulk_streams_queue() -> None:
    pair = MuxPair()
    bulk, bulk_there = pair.established()
    quick, _ = pair.established()
    for _ in range(40):  # let its window grow
        pair.dialler.send(bulk, bytes(max(0, bulk.credit)))
        pair.exchange()
        pair.acceptor.consumed(bulk_there, bulk_there.window.stored, pair.now)
        pair.exchange()
    pair.dialler.send(bulk, bytes(min(bulk.credit, 400_000)))
    frames_of(pair.dialler, limit=70_000)  # it is in the ring now
    pair.dialler.send(quick, b"!")
    assert frames_of(pair.dialler, limit=70_000)[0][0] == quick.id


def test_bulk_streams_take_turns() -> None:
    pair = MuxPair()
    streams = [pair.established()[0] for _ in range(4)]
    for stream in streams:
        pair.dialler.send(stream, bytes(65_536))
    order = [id_ for id_, kind, _ in frames_of(pair.dialler) if kind == FrameType.DATA]
    assert order[:4] == [stream.id for stream in streams]
    assert set(order[4:8]) == {streams[0].id}


def test_control_messages_arrive_whole_while_data_flows() -> None:
    pair = MuxPair()
    mine, _ = pair.established()
    pair.dialler.send(mine, bytes(65_536))
    pair.dialler.send_message(b"m" * 60_000)
    pair.dialler.send_message(b"second" * 2_000)
    _, events = pair.exchange()
    assert [len(event.data) for event in events if isinstance(event, MessageReceived)] == [60_000]
    pair.acceptor.message_taken(60_000)
    _, events = pair.exchange()
    assert [event.data for event in events if isinstance(event, MessageReceived)] == [b"second" * 2_000]


def test_a_reset_before_the_open_was_written_says_nothing_at_all() -> None:
    pair = MuxPair()
    mine = pair.dialler.open(open_(), None, b"x", pair.now)
    assert mine is not None
    pair.dialler.reset(mine, StreamClass.CLIENT, "gone")
    assert frames_of(pair.dialler) == []
    assert pair.dialler.stream_count == 0


def test_a_reset_stream_counts_until_its_reset_is_written() -> None:
    pair = MuxPair()
    mine, _ = pair.established()
    pair.dialler.reset(mine, StreamClass.CLIENT, "gone")
    assert pair.dialler.stream_count == 1
    pair.exchange()
    assert pair.dialler.stream_count == 0


def test_an_idle_sender_returns_what_it_holds_above_the_floor() -> None:
    pair = MuxPair()
    mine, theirs = pair.established()
    pair.now = 4.9
    pair.dialler.tick(pair.now, kernel_holds=False)
    pair.exchange()
    assert mine.credit == 65_536
    pair.now = 6.0
    pair.dialler.tick(pair.now, kernel_holds=False)
    pair.exchange()
    assert mine.credit == theirs.window.outstanding == theirs.window.reserved == FLOOR


def test_a_stream_whose_floor_does_not_fit_is_refused_with_class_resource() -> None:
    pair = MuxPair(budget=2 * FLOOR * 4)
    opened = [pair.dialler.open(open_(), None, b"x", pair.now) for _ in range(6)]
    assert [stream is None for stream in opened] == [False] * 4 + [True] * 2
    _, events = pair.exchange()
    for event in events:
        if isinstance(event, Opened):
            pair.acceptor.accept(event.stream)
    small = MuxPair(budget=64 << 20)
    small.acceptor._budget = Budget(0)
    small.dialler.open(open_(), None, b"x", 0.0)
    events, _ = small.exchange()
    (refused,) = [event for event in events if isinstance(event, Refused)]
    assert refused.stream_class is StreamClass.RESOURCE


def test_a_lane_near_its_last_id_takes_no_more_streams() -> None:
    pair = MuxPair()
    pair.dialler._outbox.next_id = 2**31 - 1023
    assert not pair.dialler.may_open


def test_silence_kills_and_pings_keep_alive() -> None:
    pair = MuxPair()
    for second in range(20):
        pair.now = float(second)
        for mux in (pair.dialler, pair.acceptor):
            mux.tick(pair.now, kernel_holds=False)
        pair.exchange()
    assert pair.dialler.health is Health.ALIVE
    pair.dialler.tick(25.1, kernel_holds=False)
    assert pair.dialler.health is Health.DEAD


def test_closing_a_lane_gives_back_everything() -> None:
    pair = MuxPair()
    for _ in range(5):
        mine, _ = pair.established()
        pair.dialler.send(mine, bytes(1_000))
    pair.dialler.open(open_(), None, b"waiting", pair.now)
    pair.exchange()
    assert len(pair.dialler.close()) == 6
    assert len(pair.acceptor.close()) == 6
    assert [budget.granted for budget in pair.budgets] == [0, 0]


# ---- Any bytes ---------------------------------------------------------------------------------------------------------------------


def receiving() -> Mux:
    mux = Mux(dialler=False, hello=b"", check_hello_untrusted=lambda _: hello(), budget=Budget(1 << 24), now=0.0)
    mux.receive_untrusted([encode(0, FrameType.HELLO)], 0.0)
    return mux


frame_like = st.builds(
    lambda stream, kind, payload: encode(stream, kind, payload),
    st.integers(0, 9),
    st.sampled_from([*FrameType, 0x0A, 0x0E, 0x10, 0x80]),
    st.one_of(
        st.binary(max_size=20),
        st.integers(0, 2**32 - 1).map(lambda n: struct.pack(">I", n)),
        st.integers(0, 100).map(lambda n: struct.pack(">Q", n)),
    ),
)
valid_open = st.integers(0, 20).map(
    lambda n: encode(2 * n + 1, FrameType.OPEN, bytes(96) + struct.pack(">I", 5_000) + b"\x08\x01k\0\0early")
)


@settings(max_examples=300)
@given(st.lists(st.one_of(frame_like, valid_open), max_size=40), st.booleans())
def test_no_frames_raise_anything_but_remote_protocol_error(frames: list[bytes], accepts: bool) -> None:
    mux = receiving()
    for number, frame in enumerate(frames):
        try:
            events = mux.receive_untrusted([frame], float(number))
        except RemoteProtocolError:
            break
        for event in events:
            if isinstance(event, Opened) and accepts:
                mux.accept(event.stream)
            elif isinstance(event, Data):
                mux.consumed(event.stream, len(event.data), float(number))
        mux.tick(float(number), kernel_holds=False)
        mux.data_to_send(1 << 20, float(number))
        mux.progressed()
    mux.close()
    assert mux._budget.granted == 0


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_but_remote_protocol_error(noise: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        receiving().receive_untrusted([noise], 1.0)


# ---- Credit is conserved, whatever both ends do --------------------------------------------------------------------------------------


class TwoEnds(RuleBasedStateMachine):
    """Both ends act at random; bytes cross in pieces at random. What one sent is what the other got, and the books agree."""

    @initialize()
    def start(self) -> None:
        self.pair = MuxPair(budget=4 << 20)
        self.streams: list[tuple[Stream, Stream]] = []
        self.sent: dict[tuple[int, int], bytearray] = {}
        self.got: dict[tuple[int, int], bytearray] = {}

    @precondition(lambda self: len(self.streams) < 6)
    @rule()
    def open(self) -> None:
        self.streams.append(self.pair.established())

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), size=st.integers(1, 100_000), side=st.integers(0, 1))
    def send(self, data: st.DataObject, size: int, side: int) -> None:
        number = data.draw(st.integers(0, len(self.streams) - 1))
        stream = self.streams[number][side]
        mux = (self.pair.dialler, self.pair.acceptor)[side]
        size = min(size, max(0, mux.room(stream)))
        if size and not stream.fin_wanted and not stream.is_gone:
            piece = bytes([number, side]) * (size // 2 + 1)
            mux.send(stream, piece[:size])
            self.sent.setdefault((number, side), bytearray()).extend(piece[:size])

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), side=st.integers(0, 1))
    def end(self, data: st.DataObject, side: int) -> None:
        stream = data.draw(st.sampled_from(self.streams))[side]
        (self.pair.dialler, self.pair.acceptor)[side].send_eof(stream)

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), side=st.integers(0, 1))
    def consume(self, data: st.DataObject, side: int) -> None:
        stream = data.draw(st.sampled_from(self.streams))[side]
        if not stream.is_gone:
            size = data.draw(st.integers(0, stream.window.stored))
            (self.pair.dialler, self.pair.acceptor)[side].consumed(stream, size, self.pair.now)

    @rule(cuts=st.lists(st.integers(1, 40_000), max_size=20))
    def cross(self, cuts: list[int]) -> None:
        self._note(self.pair.exchange(iter(cuts)))

    @rule(seconds=st.floats(0, 1.9))
    def wait(self, seconds: float) -> None:
        self.pair.now += seconds
        for mux in (self.pair.dialler, self.pair.acceptor):
            mux.tick(self.pair.now, kernel_holds=False)
        self._note(self.pair.exchange())

    def _note(self, learned: tuple[list[object], list[object]]) -> None:  # type: ignore[type-arg]
        for side, events in enumerate(learned):
            for event in events:
                if isinstance(event, Data):
                    number = next(n for n, ends in enumerate(self.streams) if ends[side] is event.stream)
                    self.got.setdefault((number, 1 - side), bytearray()).extend(event.data)
                assert not isinstance(event, WasReset)

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "pair"):
            return
        self._note(self.pair.exchange())
        for key, got in self.got.items():
            assert self.sent[key].startswith(got)
        for mine, theirs in self.streams:
            for sender, receiver in ((mine, theirs), (theirs, mine)):
                if not sender.is_gone and not receiver.is_gone:
                    assert sender.credit == receiver.window.outstanding
                    assert sender.sent == receiver.received
        for mux, budget in zip((self.pair.dialler, self.pair.acceptor), self.pair.budgets, strict=True):
            assert budget.granted == mux._reserved + sum(stream.window.reserved for stream in mux.streams)


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
