"""The messages of flooding: whatever arrives, there is one kind of error, and nothing is built that is larger than it may be."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from engines import World, router, sign
from hypothesis import given, settings
from hypothesis import strategies as st

from vanrouter.errors import RemoteProtocolError
from vanrouter.messages import Fragment, Withdrawal, encode_signed
from vanrouter.routing.wire import (
    FIRST,
    LAST,
    MAX_RECORDS,
    WITHDRAWN,
    Head,
    encode_relayed,
    encode_summary,
    head_untrusted,
    origin_key,
    relayed_untrusted,
    summary_untrusted,
)

records = st.lists(
    st.tuples(st.binary(min_size=40, max_size=40), st.integers(0, WITHDRAWN), st.integers(0, (1 << 64) - 1)),
    max_size=MAX_RECORDS,
    unique=True,
)


@given(records)
@settings(max_examples=30, deadline=None)
def test_a_summary_says_the_same_at_the_other_end(items: list[tuple[bytes, int, int]]) -> None:
    summary = summary_untrusted(encode_summary(FIRST, LAST, items))
    assert summary.items() == {(origin, number): sequence for origin, number, sequence in items}


def test_the_largest_summary_fits_into_a_message() -> None:
    assert len(encode_summary(FIRST, LAST, [(LAST, 1, 1)] * MAX_RECORDS)) <= 65_536


def test_what_is_relayed_is_what_its_origin_made_and_still_fits_into_one_frame() -> None:
    record = b"\x01\x02" + bytes(15_998)
    relayed = encode_relayed(record, 12.7)
    assert relayed_untrusted(relayed) == (record, 12)
    assert len(relayed) <= 16_376


def test_an_age_beyond_the_field_is_the_largest() -> None:
    assert relayed_untrusted(encode_relayed(b"\x01\x02", 1e9))[1] == 0xFFFF


def test_the_head_of_a_record_is_what_it_claims() -> None:
    fragment = encode_signed(Fragment(origin=router("a"), number=3, sequence=9), identity=b"a", sign=sign("a"), admissions=[])
    withdrawal = encode_signed(Withdrawal(origin=router("a")), identity=b"a", sign=sign("a"), admissions=[])
    assert head_untrusted(fragment) == Head(router("a"), 3, 9)
    assert head_untrusted(withdrawal) == Head(router("a"), WITHDRAWN, 0)


def test_router_ids_and_their_forty_bytes_are_one_to_one() -> None:
    assert origin_key(router("a", 5)) == origin_key(router("a", 4))[:-1] + b"\x05"


@pytest.mark.parametrize(
    "body", [{"origin": "x" * 69}, {"origin": router("a"), "number": 1}, {"origin": router("a"), "number": -1}, [], None]
)
def test_a_record_without_a_proper_head_is_refused(body: object) -> None:
    wire = b"\x01\x02" + msgspec.msgpack.encode({"body": msgspec.msgpack.encode(body), "identity": b"", "signature": b""})
    with pytest.raises(RemoteProtocolError):
        head_untrusted(wire)


@given(st.sampled_from([2, 3, 16, 17]), st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_bytes_from_anywhere_raise_one_kind_of_error_and_change_nothing(kind: int, noise: bytes) -> None:
    world = World()
    world.add("a", "b")
    world.link("a", "b")
    world.settle()
    before = world.engines["a"].database.sequences()
    with contextlib.suppress(RemoteProtocolError):
        world.engines["a"].handle_message_untrusted(router("b"), bytes((1, kind)) + noise, now=world.now)
    assert world.engines["a"].database.sequences() == before


@given(st.integers(0, 300), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_one_changed_byte_of_a_record_is_refused_or_changes_nothing_that_counts(at: int, to: int) -> None:
    world = World()
    world.add("a", "b")
    world.link("a", "b")
    world.settle()
    content = Fragment(origin=router("b"), number=1, sequence=1)
    wire = bytearray(encode_signed(content, identity=b"b", sign=sign("b"), admissions=[]))
    wire[at % len(wire)] = to
    with contextlib.suppress(RemoteProtocolError):
        world.engines["a"].handle_message_untrusted(router("b"), bytes(wire), now=world.now)
    record = world.engines["a"].database.record(router("b"), 1)
    assert record is None or record.sequence == 1
    assert {origin for origin, _ in world.engines["a"].database.sequences()} == {router("a"), router("b")}


def test_deep_nesting_is_refused_without_falling_into_it() -> None:
    deep = b"\x91" * 10_000 + b"\xc0"
    envelope = msgspec.msgpack.encode({"body": b"", "identity": b"", "signature": b""})
    for wire in (b"\x01\x02" + deep, b"\x01\x02\x81\xa4body" + deep, b"\x01\x02\x84\xa1x" + deep + envelope[1:]):
        with pytest.raises(RemoteProtocolError):
            head_untrusted(wire)
