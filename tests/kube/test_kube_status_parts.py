"""A status document told in parts: what is put together is what was said, and what is said is small."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

import msgspec
import pytest
from fake_router import automatic, service
from hypothesis import given
from hypothesis import strategies as st

from vanrouter.controller.report import merge_documents, slots_of
from vanrouter.controller.routers import Routers
from vanrouter.errors import LocalProtocolError, RemoteProtocolError
from vanrouter.kube.channel import Channel
from vanrouter.kube.conversation import Conversation, Size
from vanrouter.kube.status_parts import BY_NAME, MAX_STATUS, SLICE, difference, heard_untrusted, slices

Doc = dict[str, Any]

names = st.sampled_from("abcd")
elements = st.lists(st.builds(lambda name, n: {"name": name, "n": n}, names, st.integers(0, 2)), max_size=5)  # some of one name
services = st.lists(st.builds(lambda n, p: {**service(n, p), "n": p}, names, st.integers(1, 3)), max_size=4)
sites = st.builds(lambda ready, n: {"ready": ready, "linkedSites": n, "conditions": []}, st.booleans(), st.integers(0, 2))
documents = st.fixed_dictionaries(
    {"site": sites, "listeners": elements, "connectors": elements, "services": services},
    optional={"links": elements, "problems": st.lists(st.builds(lambda n: {"path": n}, names)), "new": st.integers(0, 2)},
)


def over_the_wire(value: Doc) -> Doc:
    return json.loads(json.dumps(value))  # type: ignore[no-any-return]


def sorted_lists(document: Doc) -> Doc:
    return {key: sorted(value, key=json.dumps) if key in BY_NAME else value for key, value in document.items()}


@given(st.lists(documents, min_size=1, max_size=5))
def test_what_is_put_together_of_parts_is_the_document(said: list[Doc]) -> None:
    heard = heard_untrusted(None, over_the_wire({"document": said[0]}))
    for before, after in itertools.pairwise(said):
        known = copy.deepcopy(heard)
        now = heard_untrusted(heard, over_the_wire(difference(before, after)))
        assert heard == known  # others still read it
        heard = now
        assert sorted_lists(heard) == sorted_lists(after)


@given(st.lists(documents, min_size=1, max_size=4), st.integers(20, 400))
def test_what_is_told_in_slices_is_what_is_told_in_one(said: list[Doc], size: int) -> None:
    heard: Doc | None = None
    told = [{"document": said[0]}, *(difference(before, after) for before, after in itertools.pairwise(said) if before != after)]
    for whole in told:
        cut = [over_the_wire(message) for message in slices(whole, size=size)]
        assert [message.get("more", False) for message in cut] == [True] * (len(cut) - 1) + [False]
        before, heard = heard, heard_untrusted(heard, over_the_wire(whole))
        for message in cut:
            before = heard_untrusted(before, message)
        assert before == heard


def test_a_status_above_four_mebibytes_goes_in_messages_of_half_a_mebibyte_and_one_without_end_does_not_go() -> None:
    found = [{**service(f"svc-{number}", 80), "why": "x" * 400} for number in range(12_000)]
    document = {"site": {"ready": True}, "services": found, "problems": [{"path": "p" * 2000}] * 400}
    cut = slices({"document": document})
    assert sum(len(json.dumps(message)) for message in cut) > 5 << 20
    assert max(len(msgspec.json.encode(message)) for message in cut) <= SLICE + 1024
    with pytest.raises(LocalProtocolError, match="a controller is told 16777216 bytes and 1048576 values at most"):
        slices({"document": {**document, "problems": [{"path": "p" * 20_000}] * 1000}})
    with pytest.raises(LocalProtocolError, match="in one piece"):
        slices({"document": {"site": {"name": "x" * (4 << 20)}}})


@pytest.mark.parametrize("append", [[], {"links": []}, {"site": []}, {"services": {}}, {"grants": 1}])
def test_a_slice_that_fits_to_nothing_ends_the_connection(append: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="fits to nothing"):
        heard_untrusted({"site": {}, "services": []}, {"changed": {}, "lists": {}, "append": append or [0]})


async def test_of_a_status_in_slices_nothing_counts_before_the_last_one_came() -> None:
    woken: list[None] = []
    routers = Routers(wake=lambda: woken.append(None), hello=dict)
    channel = Channel(None, routers.handle)  # type: ignore[arg-type] - nothing is sent on it
    routers.changed(channel, True)
    assert (await routers.handle(channel, "hello", {"pod": "p"}))["slices"] is True
    before = {"site": {"ready": True, "conditions": []}, "services": [service("old", 80)]}
    await routers.handle(channel, "status", {"document": before})
    wakings = len(woken)
    after = {**before, "services": [service(f"svc-{number}", 80) for number in range(40)]}
    *first, last = slices({"document": after}, size=500)
    assert len(first) > 3
    for message in first:
        await routers.handle(channel, "status", over_the_wire(message))
    assert [s["name"] for s in routers.document()["services"]] == ["old"]
    assert len(woken) == wakings
    await routers.handle(channel, "status", over_the_wire(last))
    assert len(routers.document()["services"]) == 40


async def test_what_a_router_says_has_a_bound_however_it_comes() -> None:
    routers = Routers(wake=lambda: None, hello=dict)
    channel = Channel(None, routers.handle)  # type: ignore[arg-type] - nothing is sent on it
    routers.changed(channel, True)
    part = MAX_STATUS // 8

    async def tell(params: Doc) -> None:
        channel.told = Size.of(json.dumps(params).encode())
        await routers.handle(channel, "status", params)

    def put(name: str, why: str) -> Doc:
        return {"changed": {}, "lists": {"services": {"put": [{**service(name, 80), "why": why}], "gone": []}}}

    await tell({"document": {"site": {}, "services": []}})
    for number in range(20):  # it changes all the time, and is no longer for it
        await tell(put("one", str(number % 10) * part))
    for number in range(6):
        await tell(put(f"svc-{number}", "x" * part) | {"more": number % 2 == 0})
    with pytest.raises(RemoteProtocolError, match="at most 16777216 bytes"):
        await tell(put("svc-7", "x" * part))


async def test_short_values_and_many_routers_of_a_site_are_bounded_as_long_ones_are() -> None:
    """A value takes a hundred bytes in memory, however short it is written; and a controller serves many sites."""
    routers = Routers(wake=lambda: None, hello=dict)

    async def tell(params: Doc, channel: Channel) -> None:
        channel.told = Size.of(json.dumps(params).encode())
        await routers.handle(channel, "status", params)

    def come() -> Channel:
        channel = Channel(None, routers.handle)  # type: ignore[arg-type] - nothing is sent on it
        routers.changed(channel, True)
        return channel

    def odd(count: int) -> Doc:
        return {"document": {"site": {}, "odd": [[] for _ in range(count)]}}

    first = come()
    with pytest.raises(RemoteProtocolError, match="at most 16777216 bytes and 1048576 values are read"):
        await tell(odd(600_000), first)
    routers.changed(first, False)
    whole = [come() for _ in range(2)]
    for channel in whole:
        await tell(odd(500_000), channel)
    last = come()
    await tell(odd(40_000), last)
    for turn in range(20):  # it changes all the time, and says no more
        await tell({"changed": {"odd": [[turn] for _ in range(30_000)]}, "lists": {}}, last)
    with pytest.raises(RemoteProtocolError, match="that the routers of this site say"):
        await tell(odd(60_000), last)
    for channel in whole:
        routers.changed(channel, False)
    await tell(odd(500_000), last)


def test_a_status_of_more_values_than_a_controller_keeps_is_not_told() -> None:
    with pytest.raises(LocalProtocolError, match="1048576 values at most"):
        slices({"document": {"odd": [[] for _ in range(600_000)]}})


async def test_a_line_of_too_many_values_is_not_read() -> None:
    conversation = Conversation(now=0.0)
    line = b'{"method":"status","params":{"document":{"odd":[' + b"[]," * 600_000 + b"0]}}}\n"
    with pytest.raises(RemoteProtocolError, match="at most 524288 are read"):
        conversation.receive_untrusted(line, now=0.0)


def test_of_five_hundred_services_one_change_is_told_in_a_few_hundred_bytes() -> None:
    listed = [f"svc-{number}" for number in range(500)]
    before = {"site": {"ready": True}, "listeners": [automatic(n, 80) for n in listed], "services": [service(n, 80) for n in listed]}
    after = copy.deepcopy(before)
    after["services"][250]["ports"] = [80, 81]  # type: ignore[index, call-overload]
    assert len(json.dumps(difference(before, after))) < 300 < len(json.dumps(before)) / 100


@pytest.mark.parametrize(
    "params",
    [
        {"document": []},
        {},
        {"changed": [], "lists": {}},
        {"changed": {}, "lists": {"site": {"put": [], "gone": []}}},
        {"changed": {}, "lists": {"services": []}},
    ],
)
def test_a_part_that_fits_to_nothing_ends_the_connection(params: Doc) -> None:
    with pytest.raises(RemoteProtocolError):
        heard_untrusted({"site": {}}, params)


def test_a_part_without_the_whole_ends_the_connection() -> None:
    with pytest.raises(RemoteProtocolError, match="never told"):
        heard_untrusted(None, {"changed": {}, "lists": {}})


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "conditions", "type", "ports"]), inner, max_size=4)
    ),
    max_leaves=8,
)
members = st.sampled_from(["site", "links", "listeners", "connectors", "services", "problems", "grants"])


@given(st.dictionaries(members, anything), st.dictionaries(members, anything))
def test_what_another_version_says_is_merged_or_left_out(first: Doc, second: Doc) -> None:
    """Elements that are not understood are no reason to do nothing at all."""
    try:
        heard = heard_untrusted(heard_untrusted(None, {"document": first}), {"changed": second, "lists": {}})
    except RemoteProtocolError:
        return
    merge_documents({"a": heard, "b": heard_untrusted(None, {"document": second})})
    slots_of(heard)
