"""A status document told in parts: what is put together is what was said, and what is said is small."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

import pytest
from fake_router import automatic, service
from hypothesis import given
from hypothesis import strategies as st

from vanrouter.controller.report import merge_documents, slots_of
from vanrouter.errors import RemoteProtocolError
from vanrouter.kube.status_parts import BY_NAME, difference, heard_untrusted

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
