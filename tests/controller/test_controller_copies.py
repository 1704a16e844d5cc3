"""What the controller wrote is in its copy at once, and never hides what came after."""

from __future__ import annotations

import random
from typing import Any

from vanrouter.controller.copies import OVERLAY, _Copy
from vanrouter.kube.access import Access
from vanrouter.kube.client import KubeClient
from vanrouter.kube.kinds import SECRETS
from vanrouter.kube.listwatch import Changed, Removed
from vanrouter.kube.watching import Watcher

KEY = ("north", "a")


def a_copy() -> _Copy:
    client = KubeClient(Access(server="https://nowhere.test", source="test"))
    rng = random.Random(1)
    return _Copy("north", lambda heard: Watcher(client, SECRETS, "north", heard=heard, rng=rng), lambda: None)


def an_object(version: str, uid: str = "u") -> dict[str, Any]:
    return {"metadata": {"name": "a", "namespace": "north", "uid": uid, "resourceVersion": version}}


def test_a_write_counts_until_the_watch_brings_it_or_for_five_seconds() -> None:
    copy = a_copy()
    copy.note("a", an_object("5"), now=0.0)
    assert copy.objects(4.9) == {"a": an_object("5")}
    assert copy.deadline == OVERLAY
    assert copy.objects(5.0) == {}


def test_a_write_whose_object_came_and_went_before_the_answer_leaves_nothing() -> None:
    copy = a_copy()
    copy._heard([Changed(KEY, an_object("5"))])
    copy._heard([Removed(KEY)])
    copy.note("a", an_object("5"), now=0.0)
    assert copy.objects(0.0) == {}


def test_an_older_event_does_not_take_a_write_away() -> None:
    copy = a_copy()
    copy.note("a", an_object("5"), now=0.0)
    copy._heard([Changed(KEY, an_object("4"))])
    assert copy.objects(1.0) == {"a": an_object("5")}


def test_what_we_deleted_is_gone_at_once_and_hides_no_new_one() -> None:
    copy = a_copy()
    copy.watcher._machine.objects[KEY] = an_object("5")
    copy.note("a", None, now=0.0, uid="u")
    assert copy.objects(0.0) == {}
    copy = a_copy()
    copy.watcher._machine.objects[KEY] = an_object("9", uid="another")
    copy.note("a", None, now=0.0, uid="u")
    assert copy.objects(0.0) == {"a": an_object("9", uid="another")}
