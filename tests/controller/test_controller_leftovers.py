"""Which namespaces have Services that were taken over and that nobody is there to give back: decisions, without an API server."""

from __future__ import annotations

import math
import types
from typing import Any

import msgspec
import pytest

from vanrouter.controller.leftovers import CAP, FIRST_DELAY, Leftovers, Taken
from vanrouter.kube.calls import Call, Object
from vanrouter.kube.errors import Denied
from vanrouter.kube.listwatch import Changed, Removed


def service(namespace: str, name: str, *, taken: bool = True) -> Changed:
    annotations = {"vanrouter.io/saved": "{}"} if taken else {"why": "see vanrouter.io/saved"}
    return Changed((namespace, name), msgspec.json.encode({"metadata": {"name": name, "annotations": annotations}}))


def nobody(_namespace: str) -> bool:
    return False


def test_only_what_has_our_annotation_in_a_namespace_that_nobody_serves_is_left_over() -> None:
    taken = Taken()
    assert taken.heard([service("one", "b"), service("one", "a"), service("two", "a"), service("three", "a", taken=False)])
    assert taken.due(0.0, lambda namespace: namespace == "two") == [("one", ["a", "b"])]


def test_one_that_is_given_back_or_deleted_is_forgotten() -> None:
    taken = Taken()
    taken.heard([service("one", "a"), service("one", "b")])
    assert not taken.heard([service("one", "a", taken=False)]), "nothing more to do"
    assert taken.due(0.0, nobody) == [("one", ["b"])]
    taken.tried("one", 0.0)
    taken.heard([Removed(("one", "b"))])
    assert taken.due(math.inf, nobody) == []
    assert taken.deadline(nobody) == math.inf


def test_a_namespace_that_was_tried_waits_longer_each_time_and_holds_no_other_up() -> None:
    taken = Taken()
    taken.heard([service("one", "a"), service("two", "a")])
    taken.tried("one", 10.0)
    assert taken.due(10.0, nobody) == [("two", ["a"])]
    assert taken.deadline(nobody) == 10.0 + FIRST_DELAY
    assert [n for n, _ in taken.due(10.0 + FIRST_DELAY, nobody)] == ["one", "two"]
    for _ in range(20):
        taken.tried("one", 100.0)
    assert taken.deadline(nobody) == 100.0 + CAP
    assert taken.deadline(lambda namespace: namespace == "one") == math.inf, "whoever serves it wakes us when it goes"


@pytest.mark.parametrize("text", [b'{"metadata":{"annotations":{"vanrouter.io/saved":"{}"}}}', b'{"metadata":{"annotations":null}}'])
def test_annotations_are_read_and_not_guessed(text: bytes) -> None:
    taken = Taken()
    assert taken.heard([Changed(("one", "a"), text)]) is (b"saved" in text)


async def test_one_that_cannot_be_given_back_keeps_no_other_from_it() -> None:
    """For example because of a policy."""
    given, denied = [], Denied("no", call="patch services/b in one")

    class Server:
        async def call(self, call: Call) -> Object:
            if call.method == "GET":
                return {"items": []}
            if call.name == "b":
                raise denied
            given.append(call.name)
            return {}

    values = {
        ("one", name): {"metadata": {"name": name, "resourceVersion": "1", "annotations": {"vanrouter.io/saved": text}}}
        for name, text in (("a", "{}"), ("b", "{}"), ("c", "{}"))
    }
    share = types.SimpleNamespace(objects={key: msgspec.json.encode(value) for key, value in values.items()})
    watches: Any = types.SimpleNamespace(follow=lambda *_args, **_more: share)
    left = Leftovers(Server(), watches, is_served=nobody)  # type: ignore[arg-type]
    with pytest.raises(Denied):
        await left._give_back("one", ["a", "b", "c"])
    assert given == ["a", "c"]
