"""The copy of a cluster's objects: what it does when lists and watches fail, in virtual time."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vanrouter.kube.errors import Forbidden, Gone, ServerFailed, Throttled, Unreachable
from vanrouter.kube.listwatch import CAP, IDLE, Changed, ListPage, ListWatch, OpenWatch, Removed


def thing(name: str, version: str = "1", uid: str = "") -> dict[str, Any]:
    return {"metadata": {"namespace": "north", "name": name, "uid": uid or f"uid-{name}", "resourceVersion": version}}


def page(*names: str, version: str = "10", more: str = "") -> dict[str, Any]:
    metadata = {"resourceVersion": version} | ({"continue": more} if more else {})
    return {"metadata": metadata, "items": [thing(name) for name in names]}


def event(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": value}


def key(name: str) -> tuple[str, str]:
    return ("north", name)


@pytest.fixture
def copy() -> ListWatch:
    return ListWatch(random.Random(7))


@pytest.fixture
def watching(copy: ListWatch) -> ListWatch:
    copy.handle_page_untrusted(page("a", "b"), 0.0)
    copy.handle_opened(0.0)
    return copy


def test_nothing_is_concluded_before_the_last_page(copy: ListWatch) -> None:
    assert copy.next_step(0.0).do == ListPage("", 500)
    assert copy.handle_page_untrusted(page("a", more="t"), 0.0) == ()
    assert (copy.objects, copy.synced) == ({}, False)
    assert copy.next_step(0.0).do == ListPage("t", 500)
    changes = copy.handle_page_untrusted(page("b"), 0.0)
    assert [c.key for c in changes] == [key("a"), key("b")]
    assert copy.synced
    assert not copy.current, "no watch is open yet"
    step = copy.next_step(0.0)
    assert isinstance(step.do, OpenWatch)
    assert step.do.resource_version == "10"


def test_events_change_the_copy_and_one_heard_twice_does_not(watching: ListWatch) -> None:
    assert watching.current
    added = event("ADDED", thing("c", "11"))
    assert watching.handle_event_untrusted(added) == [Changed(key("c"), added["object"])]
    assert watching.handle_event_untrusted(added) == ()
    assert watching.handle_event_untrusted(event("DELETED", thing("a", "12"))) == [Removed(key("a"))]
    assert watching.handle_event_untrusted(event("DELETED", thing("a", "12"))) == ()
    again = watching.handle_event_untrusted(event("ADDED", thing("a", "13", uid="another")))
    assert [type(c) for c in again] == [Changed]


def test_a_watch_goes_on_from_the_last_bookmark(watching: ListWatch) -> None:
    watching.handle_event_untrusted(event("BOOKMARK", {"metadata": {"resourceVersion": "77"}}))
    watching.handle_ended(270.0)
    step = watching.next_step(270.0)
    assert isinstance(step.do, OpenWatch)
    assert (step.do.resource_version, step.at) == ("77", 270.0)


def test_history_that_is_gone_means_a_list_in_which_nothing_is_shown_as_deleted(watching: ListWatch) -> None:
    watching.handle_failed(Gone("410"), 20.0)
    assert set(watching.objects) == {key("a"), key("b")}, "the copy stays while it is made anew"
    assert watching.next_step(20.0).do == ListPage("", 500)
    assert watching.next_step(20.0).at == 20.0, "at once"
    assert watching.handle_page_untrusted(page("a", more="t", version="50"), 20.0) == ()
    changes = watching.handle_page_untrusted({"metadata": {"resourceVersion": "50"}, "items": [thing("c", "40")]}, 20.0)
    assert changes == [Removed(key("b")), Changed(key("c"), thing("c", "40"))], "a is as it was: nothing is said of it"


def test_history_that_is_gone_again_and_again_is_no_storm(watching: ListWatch) -> None:
    now, lists = 20.0, 0
    while now < 80.0:
        step = watching.next_step(now)
        now = max(now, step.at)
        if isinstance(step.do, ListPage):
            lists += 1
            watching.handle_page_untrusted(page("a"), now)
        else:
            watching.handle_opened(now)
            watching.handle_failed(Gone("410"), now)
    assert lists < 30


def test_a_token_of_a_list_that_is_too_old_means_one_list_without_pages(copy: ListWatch) -> None:
    copy.handle_page_untrusted(page("a", more="t"), 0.0)
    copy.handle_failed(Gone("410"), 0.0)
    assert copy.next_step(0.0).do == ListPage("", 0)


def test_an_outage_of_a_day_removes_nothing_and_asks_every_five_seconds_at_most(watching: ListWatch) -> None:
    now, tries = 100.0, []
    watching.handle_failed(Unreachable("cut"), now)
    assert watching.next_step(now).at == now, "a watch that was well is tried again at once"
    while now < 86_400.0:
        watching.handle_failed(Unreachable("refused"), now)
        now = watching.next_step(now).at
        tries.append(now)
    gaps = [b - a for a, b in itertools.pairwise(tries)][8:]
    assert all(CAP / 2 <= gap <= CAP for gap in gaps)
    assert len({round(gap, 3) for gap in gaps}) > 100, "jittered: controllers do not return in step"
    assert set(watching.objects) == {key("a"), key("b")}
    assert watching.problem_since == 100.0
    assert not watching.current
    watching.handle_opened(now)
    assert watching.problem is None
    assert watching.current


def test_a_server_that_asks_to_wait_is_waited_for(watching: ListWatch) -> None:
    watching.handle_failed(Throttled("busy", retry_after=17.0), 1.0)
    assert watching.next_step(1.0).at == 18.0


def test_a_server_that_ends_each_watch_at_once_is_not_hammered(watching: ListWatch) -> None:
    now, opened = 0.0, 0
    while now < 60.0:
        step = watching.next_step(now)
        now = max(now, step.at)
        opened += 1
        watching.handle_opened(now)
        watching.handle_ended(now)
    assert opened < 30


def test_a_missing_right_keeps_what_is_known_and_says_so(watching: ListWatch) -> None:
    error = Forbidden("no", call="", hint="", verb="watch", resource="secrets", namespace="north", role="")
    watching.handle_failed(error, 1.0)
    assert watching.problem is error
    assert len(watching.objects) == 2


@pytest.mark.parametrize(
    "nonsense",
    [
        {},
        {"type": "ADDED"},
        {"type": "ADDED", "object": []},
        {"type": "ADDED", "object": {"metadata": {"resourceVersion": "5"}}},
        {"type": "ADDED", "object": {"metadata": {"name": "x", "resourceVersion": 5}}},
        {"type": "REPLACED", "object": thing("x")},
        {"type": None, "object": thing("x")},
    ],
)
def test_what_is_no_event_is_a_failure_and_changes_nothing(watching: ListWatch, nonsense: dict[str, Any]) -> None:
    with pytest.raises(ServerFailed):
        watching.handle_event_untrusted(nonsense)
    assert set(watching.objects) == {key("a"), key("b")}


@pytest.mark.parametrize("nonsense", [{}, {"metadata": []}, {"metadata": {"resourceVersion": ""}}, {"metadata": {}, "items": [thing("x")]}])
def test_what_is_no_list_removes_nothing(watching: ListWatch, nonsense: dict[str, Any]) -> None:
    watching.handle_failed(Gone("410"), 0.0)
    assert watching.handle_page_untrusted(nonsense, 0.0) == ()
    assert isinstance(watching.problem, ServerFailed)
    assert set(watching.objects) == {key("a"), key("b")}


def test_a_list_is_made_again_after_an_hour_and_shows_only_what_was_missed(watching: ListWatch) -> None:
    watching.handle_ended(4000.0)
    assert isinstance(watching.next_step(4000.0).do, ListPage)
    assert watching.handle_page_untrusted(page("a", "b", "c"), 4000.0) == [Changed(key("c"), thing("c"))]
    assert isinstance(watching.next_step(4000.0).do, OpenWatch)


def test_a_watch_says_after_how_much_silence_it_is_dead(watching: ListWatch) -> None:
    step = watching.next_step(0.0)
    assert isinstance(step.do, OpenWatch)
    assert step.do.idle == IDLE <= 300
    assert 200 < step.do.timeout_seconds <= 270


class Cluster:
    """An API server's memory: a history of events that forgets, lists in pages, and versions that are words."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.now_is, self.forgotten = rng, 0, 0
        self.objects: dict[str, dict[str, Any]] = {}
        self.history: list[tuple[int, str, dict[str, Any]]] = []
        self.tokens: dict[str, Any] = {}

    def change(self) -> None:
        name = self.rng.choice("abcdef")
        self.now_is += 1
        if name in self.objects and self.rng.random() < 0.4:
            kind, value = "DELETED", thing(name, f"v{self.now_is}", self.objects.pop(name)["metadata"]["uid"])
        else:
            kind = "MODIFIED" if name in self.objects else "ADDED"
            uid = self.objects[name]["metadata"]["uid"] if name in self.objects else f"u{self.now_is}"
            value = self.objects[name] = thing(name, f"v{self.now_is}", uid)
        self.history.append((self.now_is, kind, value))

    def page(self, size: int, token: str) -> dict[str, Any]:
        """As of the version of the first page, as a real one does it."""
        if token:
            version, snapshot, start = self.tokens[token]
            if version < self.forgotten:
                raise Gone("410")
        else:
            version, snapshot, start = self.now_is, sorted(self.objects.items()), 0
        items = [value for _, value in snapshot[start : start + size]]
        metadata = {"resourceVersion": f"v{version}"}
        if start + size < len(snapshot):
            metadata["continue"] = f"t{len(self.tokens)}"
            self.tokens[metadata["continue"]] = (version, snapshot, start + size)
        return {"metadata": metadata, "items": items}


@given(seed=st.integers(0, 2**32))
def test_whatever_fails_the_copy_ends_equal_and_shows_no_deletion_that_was_none(seed: int) -> None:
    rng = random.Random(seed)
    cluster, copy = Cluster(rng), ListWatch(random.Random(seed))
    shown: dict[str, tuple[str, str]] = {}

    def see(changes: Any) -> None:
        for change in changes:
            name = change.key[1]
            alive = cluster.objects.get(name, {}).get("metadata", {}).get("uid")
            if isinstance(change, Removed):
                assert shown.pop(name)[0] != alive, f"{name} was shown as deleted and never was"
            else:
                shown[name] = (change.object["metadata"]["uid"], change.object["metadata"]["resourceVersion"])

    def happen() -> None:
        for _ in range(rng.randrange(4)):
            cluster.change()
        if rng.random() < 0.1:
            cluster.forgotten = cluster.now_is

    now = 0.0
    for turn in range(60):
        quiet = turn >= 50
        step = copy.next_step(now)
        now = max(now + 0.01, step.at)
        if not quiet:
            happen()
            if rng.random() < 0.2:
                see(copy.handle_failed(rng.choice([Unreachable("x"), ServerFailed("x"), Throttled("x", retry_after=1.0)]), now))
                continue
        try:
            if isinstance(step.do, ListPage):
                see(copy.handle_page_untrusted(cluster.page(2 if step.do.limit else 999, step.do.continue_token), now))
                continue
            version = int(step.do.resource_version[1:])
            if version < cluster.forgotten:
                raise Gone("410")  # noqa: TRY301 - as the driver reports it
            copy.handle_opened(now)
            for _, kind, value in [h for h in cluster.history if h[0] > version]:
                for _ in range(rng.choice([1, 1, 2])):
                    see(copy.handle_event_untrusted(event(kind, value)))
                if rng.random() < 0.1 and not quiet:
                    raise Unreachable("cut")  # noqa: TRY301
            copy.handle_ended(now + 300)
            now += 300
        except (Gone, Unreachable) as exc:
            see(copy.handle_failed(exc, now))
    metadata = {name: value["metadata"] for name, value in cluster.objects.items()}
    assert shown == {name: (m["uid"], m["resourceVersion"]) for name, m in metadata.items()}
