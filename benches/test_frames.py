"""The baseline's frame codec: what a lane costs in Python before any socket."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from vanrouter.baseline.frame import (
    HEADER_SIZE,
    MAX_PAYLOAD,
    Frame,
    FrameDecoder,
    FrameType,
    Open,
    decode_open_untrusted,
    encode,
    encode_open,
)

WIRE_BYTES = 1 << 20


@pytest.mark.parametrize("payload", [64, 1024, MAX_PAYLOAD])
@pytest.mark.parametrize("chunk", [16_384, 262_144])
def test_decode_a_megabyte(benchmark: BenchmarkFixture, payload: int, chunk: int) -> None:
    count = WIRE_BYTES // (HEADER_SIZE + payload)
    wire = memoryview(encode(1, FrameType.DATA, bytes(payload)) * count)

    def decode() -> int:
        decoder, seen, frames = FrameDecoder(), 0, list[Frame]()
        for at in range(0, len(wire), chunk):
            decoder.feed_untrusted(wire[at : at + chunk], frames)
            seen += len(frames)
            frames.clear()
        return seen

    assert benchmark(decode) == count


@pytest.mark.parametrize("payload", [64, MAX_PAYLOAD])
def test_encode_one_frame(benchmark: BenchmarkFixture, payload: int) -> None:
    data = bytes(payload)
    assert len(benchmark(encode, 1, FrameType.DATA, data)) == HEADER_SIZE + payload


def test_encode_and_decode_an_open(benchmark: BenchmarkFixture) -> None:
    request = Open(routing_key="hello", source_site=bytes(32), source_boot=1, uuid=bytes(16), credit=65_536)

    def both_ways() -> Open:
        return decode_open_untrusted(memoryview(encode_open(request)))[0]

    assert benchmark(both_ways) == request
