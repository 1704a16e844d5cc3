"""Which kinds of custom resources are followed: a machine, in virtual time, with what a server says."""

from __future__ import annotations

import random
from typing import Any

from vanrouter.kube.discovery import CONFIRM, LOOK, Discovery, kinds_in_untrusted, versions_in_untrusted
from vanrouter.kube.errors import Forbidden, Unreachable


def forbidden(message: str) -> Forbidden:
    return Forbidden(message, call="", hint="", verb="list", resource="x", namespace="", role="")


ALL = frozenset({"Site", "Listener"})


def machine() -> Discovery:
    return Discovery(ALL, random.Random(1))


def test_without_definitions_it_is_asked_once_in_half_a_minute() -> None:
    it = machine()
    assert (it.at, it.looked) == (0.0, False)
    it.handle_kinds(frozenset(), 100.0)
    assert it.looked
    assert it.kinds == frozenset()
    assert it.problems == []
    assert not it.confirmed, "a server that starts says the same of definitions that it has"
    assert 100.0 + 0.9 * CONFIRM <= it.at <= 100.0 + 1.1 * CONFIRM
    it.handle_kinds(frozenset(), 101.0)
    assert it.confirmed
    assert 101.0 + 0.9 * LOOK <= it.at <= 101.0 + 1.1 * LOOK


def test_what_a_server_has_at_the_first_look_needs_no_second_one() -> None:
    it = machine()
    it.handle_kinds(frozenset({"Listener"}), 0.0)
    assert it.confirmed
    assert it.at >= 0.9 * LOOK


def test_what_appears_is_taken_up_at_once_and_what_we_do_not_want_never() -> None:
    it = machine()
    it.handle_kinds(frozenset({"Listener", "AccessToken"}), 0.0)
    assert it.kinds == {"Listener"}
    it.handle_kinds(frozenset({"Listener", "Site"}), 30.0)
    assert it.kinds == ALL


def test_what_is_no_longer_served_is_given_up_at_the_second_look_in_a_row() -> None:
    it = machine()
    it.handle_kinds(ALL, 0.0)
    it.handle_kinds(frozenset({"Site"}), 30.0)
    assert it.kinds == ALL, "a server that has just started has not read its definitions yet"
    it.handle_kinds(ALL, 60.0)
    it.handle_kinds(frozenset({"Site"}), 90.0)
    assert it.kinds == ALL
    it.handle_kinds(frozenset({"Site"}), 120.0)
    assert it.kinds == {"Site"}


def test_a_server_that_cannot_be_asked_changes_nothing_and_is_asked_again_soon() -> None:
    it = machine()
    it.handle_failed(Unreachable("away"), 0.0)
    assert not it.looked
    assert it.at < 6.0
    it.handle_kinds(ALL, 6.0)
    it.handle_failed(Unreachable("away"), 36.0)
    it.handle_failed(Unreachable("away"), 42.0)
    assert it.kinds == ALL


def test_a_server_that_hides_what_it_has_holds_nothing_back() -> None:
    it = machine()
    it.handle_failed(forbidden("no"), 0.0)
    assert not it.looked
    assert it.at < 6.0, "a cluster that is new has not its own roles yet"
    it.handle_failed(forbidden("no"), 6.0)
    assert it.looked
    assert it.at > 30.0


def test_another_version_and_a_right_that_is_missing_are_named() -> None:
    it = machine()
    it.handle_kinds(frozenset(), 0.0, versions=("v1", "v1beta1"))
    (problem,) = it.problems
    assert "v1, v1beta1, and not v1alpha1" in problem.message
    assert "van manifest crds" in problem.hint
    it.handle_kinds(ALL, 30.0)
    it.handle_denied("Listener", forbidden("you may not list listeners"), 30.0)
    assert it.at < 36.0, "a Role that was just made is not known to every server at once"
    it.handle_kinds(ALL, 36.0)
    it.handle_denied("Listener", forbidden("you may not list listeners"), 36.0)
    assert it.at > 60.0
    (problem,) = it.problems
    assert "listeners.vanrouter.io do not count: you may not list" in problem.message
    it.handle_granted("Listener")
    assert it.problems == []


def test_answers_of_any_form_are_no_crash() -> None:
    lists: list[Any] = [{}, {"resources": None}, {"resources": [3, {}, {"name": ["x"]}]}]
    assert [kinds_in_untrusted(answer) for answer in lists] == [frozenset()] * 3
    groups: list[Any] = [{}, {"versions": {"a": 1}}, {"versions": [None, {"version": 3}]}]
    assert [versions_in_untrusted(answer) for answer in groups] == [()] * 3
