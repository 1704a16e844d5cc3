"""
Control messages: what goes out comes in, extensions pass, and no bytes of a peer do more than be refused.

    version 1 | type | MessagePack map
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vanrouter.errors import LocalProtocolError, RemoteProtocolError
from vanrouter.messages import (
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_FRAGMENT,
    MAX_MESSAGE,
    Applied,
    AppliedItem,
    Fragment,
    KeyInfo,
    Neighbour,
    Problem,
    Problems,
    Sealed,
    ServicePort,
    SiteInfo,
    Unknown,
    Withdrawal,
    check_shape_untrusted,
    decode_untrusted,
    encode,
    encode_signed,
)
from vanrouter.messages.sealed import DOMAINS
from vanrouter.model import RouterId
from vanrouter.pki import IdentityKey

KEY, OTHER = IdentityKey.generate(), IdentityKey.generate()
OWN = str(RouterId(KEY.site_id, 7))
pack = msgspec.msgpack.encode


def sealed(content: Fragment | Withdrawal, key: IdentityKey = KEY, admissions: list[bytes] | None = None) -> bytes:
    return encode_signed(content, identity=key.public_der, sign=key.sign, admissions=admissions or [])


def sealed_raw(body: bytes, type: int = 2, **fields: object) -> bytes:
    """A signed message with any body, as a later version or a liar would make it."""
    domain = DOMAINS[Fragment if type == 2 else Withdrawal]
    envelope = {"body": body, "identity": KEY.public_der, "signature": KEY.sign(domain + body)} | fields
    return bytes((1, type)) + pack(envelope)


SERVICE = ServicePort(address="hello", port=9090)
FRAGMENT = Fragment(
    origin=OWN,
    number=3,
    sequence=(1 << 64) - 1,
    keys=[KeyInfo(key="hello:9090", targets=2, cost=1, services=[SERVICE], strategy="weighted"), KeyInfo(key="ü", listeners=1)],
    neighbours=[Neighbour(router=str(RouterId(OTHER.site_id, 1)), cost=5)],
    draining=True,
)


@pytest.mark.parametrize(
    "message",
    [
        SiteInfo(name="north", version="0.1.0", platform="linux", namespace="x", routers=[OWN], service_sync=False),
        SiteInfo(name="n"),
        Problems(problems=[Problem(reason="PortTaken", message="why", key="k", address="a", port=9)], more=3),
        Problems(),
        Applied(origin=OWN, items=[AppliedItem(0, 1), AppliedItem(511, (1 << 64) - 1)]),
    ],
)
def test_what_goes_out_comes_in(message: SiteInfo | Problems | Applied) -> None:
    assert decode_untrusted(encode(message)) == message


def test_what_is_signed_comes_in_with_who_signed_it() -> None:
    wire = sealed(FRAGMENT, admissions=[b"a" * 300])
    got = decode_untrusted(wire)
    assert got == Sealed(FRAGMENT, RouterId(KEY.site_id, 7), KEY.public_der, [b"a" * 300], wire)
    assert decode_untrusted(sealed(Withdrawal(origin=OWN))).content == Withdrawal(origin=OWN)  # type: ignore[union-attr]


def test_a_later_versions_message_is_kept_as_it_is() -> None:
    assert decode_untrusted(b"\x01\x63anything") == Unknown(0x63, b"\x01\x63anything")


def test_a_later_versions_fields_are_ignored_and_forwarded() -> None:
    body = pack({"origin": OWN, "number": 0, "sequence": 1, "tomorrow": [1, {"x": 2}]})
    wire = sealed_raw(body, extra=True)
    got = decode_untrusted(wire)
    assert isinstance(got, Sealed)
    assert got.content == Fragment(origin=OWN, number=0, sequence=1)
    assert got.wire == wire
    assert decode_untrusted(b"\x01\x01" + pack({"name": "n", "tomorrow": None})) == SiteInfo(name="n")


def test_another_version_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="version 2"):
        decode_untrusted(b"\x02\x01" + pack({"name": "n"}))


def test_a_site_cannot_speak_for_another() -> None:
    with pytest.raises(RemoteProtocolError, match="another site's key"):
        decode_untrusted(sealed(FRAGMENT, OTHER))


def test_one_changed_bit_anywhere_in_what_is_signed_is_noticed() -> None:
    wire = sealed(FRAGMENT)
    body = pack(FRAGMENT)
    start = wire.index(body)
    for at in random.Random(3).sample(range(start, start + len(body)), 40):
        broken = bytearray(wire)
        broken[at] ^= 1
        with pytest.raises(RemoteProtocolError):
            decode_untrusted(bytes(broken))


def test_a_withdrawal_cannot_pass_for_an_advertisement() -> None:
    wire = bytearray(sealed(Withdrawal(origin=OWN)))
    wire[1] = 2
    with pytest.raises(RemoteProtocolError, match="signature"):
        decode_untrusted(bytes(wire))


@pytest.mark.parametrize(
    "body",
    [
        {"origin": OWN, "number": 0, "sequence": 0},
        {"origin": OWN, "number": 512, "sequence": 1},
        {"origin": OWN, "number": -1, "sequence": 1},
        {"origin": OWN.upper(), "number": 0, "sequence": 1},
        {"origin": OWN[:-1], "number": 0, "sequence": 1},
        {"origin": 5, "number": 0, "sequence": 1},
        {"number": 0, "sequence": 1},
        {"origin": OWN, "number": 0, "sequence": 1, "keys": [{"key": "a"}, {"key": "a"}]},
        {"origin": OWN, "number": 0, "sequence": 1, "keys": [{"key": ""}]},
        {"origin": OWN, "number": 0, "sequence": 1, "keys": [{"key": "a b"}]},
        {"origin": OWN, "number": 0, "sequence": 1, "keys": [{"key": "ü" * 200}]},
        {"origin": OWN, "number": 0, "sequence": 1, "keys": [{"key": "a", "cost": -1}]},
        {"origin": OWN, "number": 0, "sequence": 1, "keys": [{"key": "a", "targets": 1.5}]},
        {"origin": OWN, "number": 0, "sequence": 1, "keys": [{"key": "a", "services": [{"address": "h", "port": 0}]}]},
        {"origin": OWN, "number": 0, "sequence": 1, "keys": [{"key": "a", "services": [{"address": "127.0.0.1 evil\n", "port": 1}]}]},
        {"origin": OWN, "number": 0, "sequence": 1, "keys": [{"key": "a", "services": [{"address": "", "port": 1}]}]},
        {"origin": OWN, "number": 0, "sequence": 1, "keys": [{"key": "a", "services": [{"address": "h", "port": 1, "protocol": "\n"}]}]},
        {"origin": OWN, "number": 0, "sequence": 1, "neighbours": [{"router": "x" * 69}]},
        {"origin": OWN, "number": 0, "sequence": 1, "neighbours": [{"router": OWN, "cost": 0}]},
        {"origin": OWN, "number": 0, "sequence": 1, "neighbours": [{"router": OWN}, {"router": OWN}]},
    ],
)
def test_a_signed_lie_about_shape_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(sealed_raw(pack(body)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x01\x01",
        b"\x01\x01\x80",
        b"\x01\x01" + pack({"name": "North!"}),
        b"\x01\x01" + pack({"name": "n"}) + b"x",
        b"\x01\x01\x82" + pack("name") + pack("n") + pack("name") + pack("m"),
        b"\x01\x01\x81" + pack("name") + b"\xa1\xff",
        b"\x01\x01\x81" + pack("name") + b"\xc7\x01\x01\x01",
        b"\x01\x01\x81" + pack("name") + b"\xc1",
        b"\x01\x04" + pack({"problems": [{"reason": "x", "message": "m" * 513}]}),
        b"\x01\x04" + pack({"problems": [{"reason": "x", "message": "m"}] * 65}),
        b"\x01\x05" + pack({"origin": "nobody", "items": []}),
        b"\x01\x05" + pack({"origin": OWN, "items": [[1]]}),
        b"\x01\x02" + pack({"body": b"", "identity": b"", "signature": b""}),
        b"\x01\x02" + pack({"body": b"", "identity": KEY.public_der, "signature": b"x" * 80}),
        b"\x01\x01\x81\xdb\xff\xff\xff\xff",
    ],
    ids=itertools.count(),  # the bytes hold keys, which differ from run to run
)
def test_what_is_malformed_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(data)


def test_64_kib_of_nested_lists_are_refused_flat_and_at_once() -> None:
    """[[[[[[[[[ ... 65,534 deep"""
    bomb = b"\x01\x01" + b"\x91" * (MAX_MESSAGE - 2)
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(RemoteProtocolError, match="nested"):
        decode_untrusted(bomb)
    assert time.perf_counter() - began < 0.05
    assert tracemalloc.get_traced_memory()[1] < 512 * 1024
    tracemalloc.stop()


@pytest.mark.parametrize(
    "opener", [b"\x91", b"\x81\xa1a", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01", b"\xde\x00\x01\xa1a", b"\xdf\x00\x00\x00\x01\xa1a"]
)
def test_eight_levels_pass_and_nine_do_not(opener: bytes) -> None:
    check_shape_untrusted(opener * MAX_DEPTH + b"\xc0")
    with pytest.raises(RemoteProtocolError, match="nested"):
        check_shape_untrusted(opener * (MAX_DEPTH + 1) + b"\xc0")


@pytest.mark.parametrize("make", [lambda n: list(range(n)), lambda n: {str(i): i for i in range(n)}])
def test_1024_entries_pass_and_one_more_does_not(make: object) -> None:
    check_shape_untrusted(pack(make(MAX_ENTRIES)))  # type: ignore[operator]
    with pytest.raises(RemoteProtocolError, match="entries"):
        check_shape_untrusted(pack(make(MAX_ENTRIES + 1)))  # type: ignore[operator]


def test_a_list_that_announces_four_billion_entries_costs_nothing() -> None:
    with pytest.raises(RemoteProtocolError, match="4294967295"):
        check_shape_untrusted(b"\xdd\xff\xff\xff\xff")


def test_more_than_64_kib_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(RemoteProtocolError, match="65537 bytes"):
        decode_untrusted(b"\x01\x01" + b"\x00" * (MAX_MESSAGE - 1))
    with pytest.raises(RemoteProtocolError, match="16000"):
        decode_untrusted(b"\x01\x02" + b"\x00" * MAX_FRAGMENT)


def test_we_do_not_make_what_others_would_refuse() -> None:
    keys = [KeyInfo(key=f"{n:0255}", targets=1) for n in range(64)]
    with pytest.raises(LocalProtocolError, match="16000"):
        sealed(Fragment(origin=OWN, number=0, sequence=1, keys=keys))


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=30,
)


def depth(value: object) -> int:
    inner = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(value=json_like)
def test_the_shape_check_agrees_with_what_was_encoded(value: object) -> None:
    if depth(value) <= MAX_DEPTH:
        check_shape_untrusted(pack(value))
    else:
        with pytest.raises(RemoteProtocolError):
            check_shape_untrusted(pack(value))


@settings(max_examples=500)
@given(type=st.integers(0, 255), body=st.binary(max_size=300) | json_like.map(pack))
def test_no_bytes_raise_anything_but_remote_protocol_error(type: int, body: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode_untrusted(b"\x01" + bytes([type]) + body)


@settings(max_examples=500)
@given(body=st.binary(max_size=100) | json_like.map(pack), type=st.sampled_from([2, 3]))
def test_no_signed_bytes_raise_anything_but_remote_protocol_error(body: bytes, type: int) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode_untrusted(sealed_raw(body, type))


@settings(max_examples=300)
@given(data=st.data())
def test_no_mutation_of_a_good_message_raises_anything_else(data: st.DataObject) -> None:
    wire = bytearray(data.draw(st.sampled_from(GOOD)))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RemoteProtocolError):
        decode_untrusted(bytes(wire[: data.draw(st.integers(0, len(wire)))]))


@given(data=st.binary(max_size=400))
def test_the_shape_check_alone_raises_nothing_else(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        check_shape_untrusted(data)


GOOD = [
    sealed(FRAGMENT),
    sealed(Withdrawal(origin=OWN)),
    encode(SiteInfo(name="n")),
    encode(Applied(origin=OWN, items=[AppliedItem(1, 2)])),
]
