"""What is kept, for how long, and what must go when there is no room."""

from __future__ import annotations

import math

from engines import router, site
from hypothesis import given, settings
from hypothesis import strategies as st

from vanrouter.routing.database import MAX_AGE, Database, Limits, Record
from vanrouter.routing.wire import FIRST, LAST, WITHDRAWN, Head, origin_key


def head(name: str, number: int = 0, sequence: int = 1, boot: int = 1) -> Head:
    return Head(router(name, boot), number, sequence)


def put(database: Database, name: str, number: int = 0, sequence: int = 1, *, boot: int = 1, born: float = 0.0, size: int = 10) -> None:
    database.put(head(name, number, sequence, boot), Record(bytes(size), sequence, born))


def test_newer_is_a_matter_of_the_sequence_within_one_fragment_of_one_start() -> None:
    database = Database(Limits())
    put(database, "a", sequence=5)
    assert not database.is_newer(head("a", sequence=5))
    assert not database.is_newer(head("a", sequence=4))
    assert database.is_newer(head("a", sequence=6))
    assert database.is_newer(head("a", number=1, sequence=1))
    assert database.is_newer(head("a", sequence=1, boot=2))


def test_a_record_ends_at_its_age_and_not_before() -> None:
    database = Database(Limits())
    put(database, "a", born=100.0)
    assert database.deadline == 100.0 + MAX_AGE
    assert database.expire(100.0 + MAX_AGE - 0.001) == []
    assert [origin.router for origin in database.expire(100.0 + MAX_AGE)] == [router("a")]
    assert database.origins == {}
    assert database.deadline == math.inf


def test_a_refreshed_record_lives_on() -> None:
    database = Database(Limits())
    put(database, "a", born=0.0)
    put(database, "a", sequence=2, born=300.0)
    assert database.expire(MAX_AGE) == []
    assert database.deadline == 300.0 + MAX_AGE


def test_a_withdrawal_is_newest_of_all_until_it_ages() -> None:
    database = Database(Limits())
    put(database, "a")
    database.withdraw(router("a"), Record(b"w", 0, 10.0))
    assert database.record(router("a"), 0) is None
    assert not database.is_newer(head("a", sequence=1_000))
    assert not database.is_newer(Head(router("a")))
    assert (router("a"), WITHDRAWN) in database.sequences()
    database.expire(10.0 + MAX_AGE)
    assert database.is_newer(head("a", sequence=1_000))
    assert database.range(FIRST, 10) == ([], None)


def test_an_origin_without_a_path_makes_room_and_one_with_a_path_does_not() -> None:
    database = Database(Limits(interiors=2))
    put(database, "a")
    put(database, "b")
    assert database.room(head("c"), 10, lambda r: r == router("a")) == ("", router("b"))
    why, evict = database.room(head("c"), 10, lambda _: True)
    assert "more than 2 interior routers" in why
    assert evict == ""


def test_of_the_starts_of_one_site_the_lowest_without_a_path_goes_and_it_may_be_the_newcomer() -> None:
    database = Database(Limits(routers_per_site=2))
    put(database, "a", boot=5)
    put(database, "a", boot=7)
    assert database.room(head("a", boot=9), 10, lambda _: False) == ("", router("a", 5))
    assert database.room(head("a", boot=9), 10, lambda r: r == router("a", 5)) == ("", router("a", 7))
    assert database.room(head("a", boot=3), 10, lambda _: False)[0]


def test_bytes_and_fragments_of_a_site_are_counted_over_all_its_starts() -> None:
    database = Database(Limits(fragments_per_site=2, bytes_per_site=100))
    put(database, "a", boot=1, size=40)
    put(database, "a", boot=2, size=40)
    assert "fragments" in database.room(head("a", number=1), 1, lambda _: True)[0]
    assert "bytes" in database.room(head("a", sequence=2), 61, lambda _: True)[0]
    assert database.room(head("a", sequence=2), 60, lambda _: True) == ("", "")
    assert database.room(head("b"), 1_000, lambda _: True)[0] == "its site advertises more than 100 bytes"


operations = st.lists(
    st.tuples(
        st.sampled_from(["put", "remove", "withdraw", "expire"]),
        st.sampled_from("abcd"),
        st.integers(0, 3),
        st.integers(1, 9),
        st.integers(1, 50),
    ),
    max_size=60,
)


@given(operations)
@settings(max_examples=150, deadline=None)
def test_whatever_happens_the_counts_and_the_summaries_are_those_of_what_is_there(
    steps: list[tuple[str, str, int, int, int]],
) -> None:
    database, now = Database(Limits()), 0.0
    for what, name, number, sequence, size in steps:
        now += 100.0
        if what == "put" and database.is_newer(head(name, number, sequence)):
            put(database, name, number, sequence, born=now, size=size)
        elif what == "remove":
            database.remove(router(name))
        elif what == "withdraw":
            database.withdraw(router(name), Record(b"w", 0, now))
        elif what == "expire":
            database.expire(now)
    wires = [record.wire for origin in database.origins.values() for record in origin.fragments.values()]
    assert database.size() == (len(database.origins), sum(map(len, wires)))
    said: dict[tuple[bytes, int], int] = {}
    at: bytes | None = FIRST
    while at is not None:
        items, following = database.range(at, 2)
        assert all(at <= key <= (following or LAST) for key, _, _ in items)
        said.update({(key, number): sequence for key, number, sequence in items})
        at = following
    assert said == {(origin_key(r), number): sequence for (r, number), sequence in database.sequences().items()}
    assert all(origin.site == site(name) for name in "abcd" for r, origin in database.origins.items() if r == router(name))
