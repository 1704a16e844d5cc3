"""
The copy of a cluster's objects against a real API server that is cut off, forgets, hangs, and dies.

    watcher ──── relay ──── kube-apiserver ──── etcd
"""

from __future__ import annotations

import random
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from api_relay import ApiRelay, api_relay

from vanrouter.kube import listwatch
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import apply, delete
from vanrouter.kube.client import KubeClient
from vanrouter.kube.errors import Forbidden
from vanrouter.kube.kinds import CONFIG_MAPS, SECRETS
from vanrouter.kube.listwatch import Change, Removed
from vanrouter.kube.watching import Watcher

LABEL = "van-test=watched"


class Objects:
    """Somebody else who writes, by a way of his own."""

    def __init__(self, access: Any, namespace: str) -> None:
        self.client, self.namespace = BlockingClient(access), namespace

    def put(self, name: str, text: str = "") -> None:
        value = {"metadata": {"name": name, "labels": {"van-test": "watched"}}, "data": {"text": text}}
        self.client.call(apply(CONFIG_MAPS, self.namespace, value))

    def remove(self, name: str) -> None:
        self.client.call(delete(CONFIG_MAPS, self.namespace, name))


class Seen:
    def __init__(self) -> None:
        self.changes: list[Change] = []
        self._more = trio.Event()

    def __call__(self, changes: Sequence[Change]) -> None:
        self.changes += changes
        self._more.set()
        self._more = trio.Event()

    async def until(self, fact: Callable[[], bool], seconds: float = 20.0) -> None:
        with trio.fail_after(seconds):
            while not fact():
                with trio.move_on_after(0.2):
                    await self._more.wait()

    @property
    def removed(self) -> set[str]:
        return {c.key[1] for c in self.changes if isinstance(c, Removed)}


@pytest.fixture
def objects(api_server: Any, namespace: str) -> Any:
    made = Objects(api_server.access(), namespace)
    with made.client:
        for name in ("a", "b", "c"):
            made.put(name)
        yield made


@asynccontextmanager
async def watched(api_server: Any, namespace: str, *, idle: float | None = None) -> AsyncIterator[tuple[Watcher, Seen, ApiRelay]]:
    seen = Seen()
    async with (
        api_relay(api_server.port) as relay,
        KubeClient(api_server.access(port=relay.port), deadline=5.0) as client,
        trio.open_nursery() as nursery,
    ):
        watcher = Watcher(client, CONFIG_MAPS, namespace, heard=seen, rng=random.Random(3), labels=LABEL, idle=idle)
        nursery.start_soon(watcher.run)
        with trio.fail_after(20):
            await watcher.wait_synced()
            while not watcher.current:  # noqa: ASYNC110 - milliseconds after the list
                await trio.sleep(0.01)
        yield watcher, seen, relay
        nursery.cancel_scope.cancel()


def names(watcher: Watcher) -> set[str]:
    return {name for _, name in watcher.objects}


@pytest.fixture
def cluster(api_server: Any) -> Any:
    """These tests stop the server: their own one, never the one of VAN_TEST_KUBECONFIG."""
    return api_server.access()


async def test_a_copy_is_made_page_by_page_and_kept(api_server: Any, objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listwatch, "PAGE", 2)
    async with watched(api_server, objects.namespace) as (watcher, seen, _):
        assert names(watcher) == {"a", "b", "c"}
        objects.put("d")
        objects.put("a", "changed")
        objects.remove("b")
        await seen.until(lambda: names(watcher) == {"a", "c", "d"} and watcher.objects[objects.namespace, "a"]["data"]["text"] == "changed")
        assert seen.removed == {"b"}
        assert watcher.watches == 1


async def test_a_watch_that_is_cut_goes_on_where_it_was(api_server: Any, objects: Objects) -> None:
    async with watched(api_server, objects.namespace) as (watcher, seen, relay):
        for round_ in range(3):
            relay.cut()
            objects.put(f"new{round_}")
            await seen.until(lambda n=round_: f"new{n}" in names(watcher))
        objects.remove("a")
        await seen.until(lambda: "a" not in names(watcher))
        assert watcher.lists == 1, "no new list: nothing was lost"
        assert seen.removed == {"a"}


async def test_a_cluster_that_is_away_is_shown_as_trouble_and_never_as_deletions(api_server: Any, objects: Objects) -> None:
    async with watched(api_server, objects.namespace) as (watcher, seen, relay):
        relay.refuses = True
        relay.cut()
        await seen.until(lambda: watcher.problem is not None)
        assert not watcher.current
        objects.remove("c")
        await trio.sleep(1.5)
        assert names(watcher) == {"a", "b", "c"}
        relay.refuses = False
        await seen.until(lambda: watcher.current and names(watcher) == {"a", "b"}, 10.0)
        assert relay.connections < 30


async def test_a_half_open_watch_is_found_by_its_silence(api_server: Any, objects: Objects) -> None:
    async with watched(api_server, objects.namespace, idle=2.0) as (watcher, seen, relay):
        relay.silence_what_is_open()
        objects.put("unheard")
        await seen.until(lambda: "unheard" in names(watcher), 10.0)
        assert watcher.lists == 1
        assert seen.removed == set()


async def test_history_that_was_compacted_away_is_listed_again_without_showing_deletions(api_server: Any, objects: Objects) -> None:
    """A real 410: what happened while we were cut off is in no one's memory, neither etcd's nor the (restarted) server's."""
    async with watched(api_server, objects.namespace) as (watcher, seen, relay):
        relay.refuses = True
        relay.cut()
        objects.remove("b")
        for number in range(20):
            objects.put("a", str(number))
        objects.put("d")
        api_server.kill()
        api_server.forget()
        await trio.to_thread.run_sync(api_server.start_api)
        objects.put("e")
        assert names(watcher) == {"a", "b", "c"}
        relay.refuses = False
        await seen.until(lambda: watcher.current and names(watcher) == {"a", "c", "d", "e"}, 15.0)
        assert watcher.lists == 2, "one list at the start, one for the 410"
        assert seen.removed == {"b"}
        assert watcher.objects[objects.namespace, "a"]["data"]["text"] == "19"


@pytest.mark.parametrize("how", ["hangs", "dies"])
async def test_a_server_that_hangs_or_dies_costs_nothing_but_time(api_server: Any, objects: Objects, how: str) -> None:
    async with watched(api_server, objects.namespace) as (watcher, seen, _):
        before = len(seen.changes)
        if how == "hangs":
            api_server.signal(signal.SIGSTOP)
            try:
                await trio.sleep(3.0)
            finally:
                api_server.signal(signal.SIGCONT)
        else:
            api_server.kill()
            await trio.sleep(1.0)
            await trio.to_thread.run_sync(api_server.start_api)
        assert seen.changes[before:] == []
        objects.put("after")
        await seen.until(lambda: "after" in names(watcher), 10.0)
        assert seen.removed == set()
        assert names(watcher) == {"a", "b", "c", "after"}


async def test_a_missing_right_is_named_and_the_copy_comes_when_it_is_given(api_server: Any, namespace: str) -> None:
    seen = Seen()
    async with KubeClient(api_server.access("nobody", ()), deadline=5.0) as client, trio.open_nursery() as nursery:
        watcher = Watcher(client, SECRETS, namespace, heard=seen, rng=random.Random(3))
        nursery.start_soon(watcher.run)
        await seen.until(lambda: watcher.problem is not None)
        problem = watcher.problem
        assert isinstance(problem, Forbidden)
        assert (problem.verb, problem.resource, problem.namespace) == ("list", "secrets", namespace)
        assert f"you may not list secrets in namespace {namespace}" in str(problem)
        assert "kind: Role" in problem.hint
        nursery.cancel_scope.cancel()
