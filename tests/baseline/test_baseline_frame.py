"""The codec: any chunking gives the same frames, and no bytes raise anything but RemoteProtocolError."""

from __future__ import annotations

import contextlib
import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vanrouter.baseline.frame import (
    MAX_PAYLOAD,
    FrameDecoder,
    FrameType,
    GoAwayCode,
    Open,
    decode_attributes_untrusted,
    decode_class_and_reason_untrusted,
    decode_open_untrusted,
    decode_stream_class,
    encode,
    encode_attributes,
    encode_class_and_reason,
    encode_open,
)
from vanrouter.errors import RemoteProtocolError
from vanrouter.model import StreamClass

KINDS = [*FrameType, 0x80, 0xFF]
frames = st.lists(
    st.tuples(
        st.integers(0, 2**32 - 1),
        st.sampled_from(KINDS),
        st.one_of(st.binary(max_size=40), st.binary(min_size=MAX_PAYLOAD, max_size=MAX_PAYLOAD)),
    ),
    max_size=12,
)


def decode(chunks: list[bytes]) -> list[tuple[int, int, bytes]]:
    decoder, got = FrameDecoder(), []  # type: ignore[var-annotated]
    for chunk in chunks:
        decoder.feed_untrusted(chunk, got)
    return [(frame.stream, frame.type, bytes(frame.payload)) for frame in got]


@given(sent=frames, cuts=st.lists(st.integers(0, 60_000), max_size=20))
def test_how_bytes_are_chunked_never_changes_the_frames(sent: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    wire = b"".join(encode(*frame) for frame in sent)
    edges = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    assert decode([wire[lo:hi] for lo, hi in itertools.pairwise(edges)]) == sent


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 10, 512, 16_384])
def test_reads_of_every_size_give_the_same_frames(size: int) -> None:
    sent = [(1, int(FrameType.DATA), bytes([n % 256]) * n) for n in (1, 7, 8, 9, 255, 16_375, 16_376)]
    wire = b"".join(encode(*frame) for frame in sent)
    assert decode([wire[at : at + size] for at in range(0, len(wire), size)]) == sent


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_remote_protocol_error(noise: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode([noise])
    for parse in (
        lambda: decode_open_untrusted(memoryview(noise)),
        lambda: decode_attributes_untrusted(memoryview(noise), "x"),
        lambda: decode_class_and_reason_untrusted(memoryview(noise), "x"),
    ):
        with contextlib.suppress(RemoteProtocolError):
            parse()


def test_a_frame_that_is_too_long_is_refused_by_its_header_alone() -> None:
    decoder = FrameDecoder()
    with pytest.raises(RemoteProtocolError, match="16377"):
        decoder.feed_untrusted(encode(1, FrameType.DATA, bytes(MAX_PAYLOAD + 1))[:8], [])


def test_bytes_one_by_one_cost_no_more_than_their_number() -> None:
    def cost(size: int) -> float:
        wire = encode(1, FrameType.DATA, bytes(size))
        began = time.process_time()  # others use this machine, too
        for _ in range(3):
            decode([wire[at : at + 1] for at in range(len(wire))])
        return time.process_time() - began

    assert min(cost(16_000) for _ in range(5)) <= 60 * min(cost(1_000) for _ in range(5))


opens = st.builds(
    Open,
    routing_key=st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=60),
    source_site=st.binary(min_size=32, max_size=32),
    source_boot=st.integers(0, 2**64 - 1),
    uuid=st.binary(min_size=16, max_size=16),
    credit=st.integers(0, 2**32 - 1),
    destination_site=st.binary(min_size=32, max_size=32),
    destination_boot=st.integers(0, 2**64 - 1),
    hop_limit=st.integers(0, 255),
    attributes=st.dictionaries(st.integers(0, 65_535), st.binary(max_size=50), max_size=4).map(
        lambda d: encode_attributes(list(d.items()))
    ),
)


@given(opens, st.binary(max_size=100))
def test_an_open_is_read_as_it_was_written(open_: Open, early: bytes) -> None:
    got, rest = decode_open_untrusted(memoryview(encode_open(open_) + early))
    assert got == open_
    assert rest == early


@given(opens, st.data())
def test_an_open_that_is_cut_off_is_refused(open_: Open, data: st.DataObject) -> None:
    wire = encode_open(open_)
    with pytest.raises(RemoteProtocolError):
        decode_open_untrusted(memoryview(wire[: data.draw(st.integers(0, len(wire) - 1))]))


@given(st.text(max_size=400))
def test_a_reason_is_cut_at_a_character(reason: str) -> None:
    number, got = decode_class_and_reason_untrusted(memoryview(encode_class_and_reason(7, reason)), "x")
    assert number == 7
    assert reason.startswith(got)
    assert len(got.encode()) <= 255


def test_unknown_classes_and_codes_have_a_meaning() -> None:
    assert decode_stream_class(200) is StreamClass.LINK
    assert GoAwayCode(200) is GoAwayCode.REPLACED
