"""A target whose connect failed comes last for a while, and not for good."""

from __future__ import annotations

import random

import pytest

from vanrouter.baseline.table import Table
from vanrouter.baseline.targets import LONGEST_DOUBT, Search, Targets
from vanrouter.plane import Connector, ConnectorState, KeyWeight, Snapshot

BAD, GOOD = (Connector(name=name, routing_key="key", host="127.0.0.1", port=port) for name, port in (("a", 1), ("b", 2)))


@pytest.fixture
def reports() -> list[ConnectorState]:
    return []


@pytest.fixture
def targets(reports: list[ConnectorState]) -> Targets:
    table = Table()
    table.apply(Snapshot(generation=1, entries=[BAD, GOOD]))
    return Targets(table, {}, report=reports.append, rng=random.Random(1))


def chosen(targets: Targets, now: float) -> set[str]:
    """Whom so many streams one after the other get: the two take turns, unless one is in doubt."""
    names = set()
    for _ in range(4):
        found = Search(targets, [KeyWeight("key")], "balanced").next(now=now)
        assert found is not None
        targets.began("key", found.name)()
        names.add(found.name)
    return names


def test_one_failure_is_forgotten_after_a_second_though_no_stream_tried_again(targets: Targets) -> None:
    assert chosen(targets, 10.0) == {"a", "b"}
    targets.note_health(BAD, "refused", now=10.0)
    assert chosen(targets, 10.0) == chosen(targets, 10.99) == {"b"}
    assert chosen(targets, 11.0) == {"a", "b"}
    assert targets.choose_connector("key", {("key", "b")}, now=10.5) == BAD, "better than nothing"


def test_each_further_failure_in_a_row_doubles_the_doubt_up_to_its_bound(targets: Targets, reports: list[ConnectorState]) -> None:
    now = 0.0
    for failures, doubt in enumerate([1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_DOUBT, LONGEST_DOUBT], 1):
        targets.note_health(BAD, "refused", now=now)
        assert reports[-1].failures == failures
        assert chosen(targets, now + doubt - 0.01) == {"b"}
        now += doubt
        assert chosen(targets, now) == {"a", "b"}


def test_a_connect_that_succeeds_ends_the_doubt_and_so_does_another_address(targets: Targets) -> None:
    targets.note_health(BAD, "refused", now=0.0)
    targets.note_health(BAD, "refused", now=0.0)
    targets.note_health(BAD, "", now=0.1)
    assert chosen(targets, 0.1) == {"a", "b"}
    targets.note_health(BAD, "refused", now=0.2)
    assert chosen(targets, 1.1) == {"b"}
    assert chosen(targets, 1.2) == {"a", "b"}, "the row was broken"
    targets.note_health(BAD, "refused", now=2.0)
    targets.changed([BAD])
    assert chosen(targets, 2.0) == {"a", "b"}
