"""
A controller whose API server throttles, fails, cuts, falls silent, restarts or forgets (C-1, C-2, C-3, C-5 of the reliability plan).

    controller ──── gate ──── kube-apiserver ──── etcd

Of all of them: nothing is deleted that nobody took away, requests are bounded, and what happened meanwhile is there soon after.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from api_gate import ApiGate, Seen, api_gate, refusal
from api_relay import api_relay
from controllers import Namespace, in_namespace
from fake_router import FakeRouter, automatic, service

from vanrouter.controller.run import Controller
from vanrouter.kube import listwatch
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import create, delete, merge_patch
from vanrouter.kube.kinds import CONFIG_MAPS, NAMESPACES, SERVICES
from vanrouter.kube.names import SERVICE, selector

NAMES = [f"svc-{number}" for number in range(20)]


@pytest.fixture
def place(api_server: Any) -> Iterator[str]:
    """A namespace of the test's own server: these tests stop it."""
    name = f"van-test-{secrets.token_hex(4)}"
    with BlockingClient(api_server.access()) as client:
        client.call(create(NAMESPACES, "", {"metadata": {"name": name}}))
    return name


def offered(names: list[str]) -> dict[str, Any]:
    return {"listeners": [automatic(name, 80) for name in names], "services": [service(name, 80) for name in names]}


async def services(here: Namespace) -> dict[str, str]:
    return {o["metadata"]["name"]: o["metadata"]["uid"] for o in await here.client.pages(SERVICES, here.name, labels=selector(SERVICE))}


async def there(here: Namespace, count: int) -> dict[str, str]:
    """So many Services of ours, as soon as there are."""
    with trio.fail_after(10):
        while len(found := await services(here)) < count:  # noqa: ASYNC110 - the server's, not ours
            await trio.sleep(0.02)
    return found


async def until(is_so: Callable[[], bool], seconds: float) -> None:
    with trio.fail_after(seconds):
        while not is_so():  # noqa: ASYNC110
            await trio.sleep(0.05)


async def shown(here: Namespace, name: str, seconds: float = 10.0) -> None:
    """The status of the site has caught up with a service."""
    await here.until(CONFIG_MAPS, "van-status.site.north", lambda v: v and f'"{name}:80"' in v["data"]["site.json"], seconds)


@asynccontextmanager
async def running(api_server: Any, place: str) -> AsyncIterator[tuple[Namespace, ApiGate, Controller, FakeRouter]]:
    """A controller behind a gate, whose router offers ``NAMES``, with all that belongs to it written."""
    async with in_namespace(api_server.access(), place) as here, api_gate(api_server) as gate:
        await here.site()
        async with here.controller(access=api_server.access(port=gate.port)) as controller, here.router(controller) as router:
            router.say(**offered(NAMES))
            await shown(here, NAMES[-1])
            await there(here, len(NAMES))
            await trio.sleep(0.7)
            yield here, gate, controller, router


async def test_a_server_that_throttles_or_fails_is_asked_seldom_and_costs_nothing(api_server: Any, place: str) -> None:
    """C-1."""
    async with running(api_server, place) as (here, gate, _, router):
        before = await services(here)
        told = {"429": refusal(429, "Retry-After: 1"), "429-at-once": refusal(429, "Retry-After: 0"), "500": refusal(500)}
        names = [*NAMES]
        for name, gate.answer in told.items():
            asked = len(gate.seen)
            gate.cut_watches()
            names.append(f"late-{name}")
            router.say(**offered(names))
            began = trio.current_time()
            await trio.sleep(2.5)
            await until(lambda asked=asked: gate.count(asked).total() > 3, seconds=10.0)  # type: ignore[misc]
            took, counted = trio.current_time() - began, gate.count(asked)
            assert counted.total() < 24 * took, f"{name}: {counted} in {took:.1f} s"
            gate.answer = None
            await here.until(SERVICES, f"late-{name}", bool, seconds=10.0)
            await shown(here, f"late-{name}")
            assert before.items() <= (await services(here)).items()
        assert gate.count()["DELETE"] == 0


async def test_watches_that_are_cut_again_and_again_go_on_where_they_were(api_server: Any, place: str) -> None:
    """C-2."""
    async with running(api_server, place) as (here, gate, controller, router):
        before, asked = await services(here), len(gate.seen)
        for number in range(15):
            gate.cut_watches()
            router.say(**offered([*NAMES, f"late-{number % 3}"]))
            await trio.sleep(0.2)
        await here.until(SERVICES, "late-2", bool)
        assert before.items() <= (await services(here)).items()
        counted = gate.count(asked)
        assert counted["WATCH"] <= 3 * 15 + 6, counted
        assert counted["DELETE"] == 0
        await here.client.call(delete(SERVICES, place, NAMES[0]))
        await here.until(SERVICES, NAMES[0], lambda v: v and v["metadata"]["uid"] != before[NAMES[0]])
        await until(lambda: controller.copies.problems == [], seconds=6.0)


async def test_a_half_open_watch_is_found_and_what_it_missed_is_mended(
    api_server: Any, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C-2: an hour of an idle connection behind a load balancer, in three seconds."""
    monkeypatch.setattr(listwatch, "IDLE", 3.0)
    async with in_namespace(api_server.access(), place) as here, api_relay(api_server.port) as relay:
        await here.site()
        async with here.controller(access=api_server.access(port=relay.port)) as controller, here.router(controller) as router:
            router.say(**offered(NAMES))
            await here.until(SERVICES, NAMES[-1], bool)
            await shown(here, NAMES[-1])
            before = await services(here)
            relay.silence_what_is_open()
            await here.client.call(delete(SERVICES, place, NAMES[3]))
            await here.until(SERVICES, NAMES[3], lambda v: v and v["metadata"]["uid"] != before[NAMES[3]], seconds=10.0)
            after = await services(here)
            assert {n: u for n, u in before.items() if n != NAMES[3]}.items() <= after.items()
            assert controller.copies.writes < 60


async def test_a_server_that_is_killed_in_the_middle_of_many_writes_and_forgets_has_each_service_once(api_server: Any, place: str) -> None:
    """C-2, C-4: a real 410."""
    many = [f"many-{number}" for number in range(150)]
    async with running(api_server, place) as (here, gate, _, router):
        router.say(**offered([*NAMES, *many]))
        before = await there(here, len(NAMES) + 20)
        api_server.kill()
        gate.cut_watches()
        assert len(before) < len(NAMES) + len(many), "in the middle"
        await trio.to_thread.run_sync(api_server.start_api)
        await trio.to_thread.run_sync(api_server.forget)
        after = await there(here, len(NAMES) + len(many))
        assert before.items() <= after.items()
        await shown(here, many[-1])
        assert gate.count()["DELETE"] == 0


async def test_a_write_that_somebody_was_quicker_than_is_decided_anew_each_time(api_server: Any, place: str) -> None:
    """C-3: real conflicts, under the noses of both."""
    async with running(api_server, place) as (here, gate, _, router):
        met = 0

        async def quicker(seen: Seen) -> None:
            nonlocal met
            if seen.method == "PATCH" and "/configmaps/van-router?" in seen.path and met < 6:
                met += 1
                note = {"metadata": {"annotations": {"test/n": str(met)}}}
                await here.client.call(merge_patch(CONFIG_MAPS, place, "van-router", note))

        gate.before, asked = quicker, len(gate.seen)
        router.say(**offered([*NAMES, "late"]))
        await here.until(SERVICES, "late", bool)
        assert met == 6
        tries = [one for one in gate.seen[asked:] if one.method == "PATCH" and "/configmaps/van-router?" in one.path]
        assert len(tries) == 7, "each was decided on what it then was"
        ports = json.loads((await here.until(CONFIG_MAPS, "van-router", bool))["data"]["router.json"])["ports"]
        assert len(set(ports.values())) == len(NAMES) + 1


async def test_a_controller_that_dies_in_the_middle_of_its_writes_is_followed_by_another_that_makes_nothing_anew(
    cluster: Any, namespace: str
) -> None:
    """C-5: the first still writes when the second begins."""
    many = [f"many-{number}" for number in range(100)]
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        async with here.controller(name="c-1") as second:
            async with here.controller(name="c-0") as first, here.router(first) as router:
                router.say(**offered(many))
                before = await there(here, 10)
            assert len(before) < len(many)
            async with here.router(second, pod="van-router-1") as router:
                router.say(**offered(many))
                after = await there(here, len(many))
                assert before.items() <= after.items()
                ports = json.loads((await here.until(CONFIG_MAPS, "van-router", bool))["data"]["router.json"])["ports"]
                assert len(set(ports.values())) == len(many)
                for name in many:
                    made = await here.get(SERVICES, name)
                    assert made
                    assert made["spec"]["ports"][0]["targetPort"] == ports[f"{name}:80"]
