"""What an API server may do, and a second controller: nothing is deleted, made twice or fought over."""

from __future__ import annotations

import signal
from typing import Any

import trio
from controllers import in_namespace
from fake_router import automatic, service

from vanrouter.kube.calls import delete
from vanrouter.kube.kinds import CONFIG_MAPS, SERVICES
from vanrouter.kube.names import SERVICE, selector

NAMES = [f"svc-{number}" for number in range(20)]


def offered(names: list[str]) -> dict[str, Any]:
    return {"listeners": [automatic(name, 80) for name in names], "services": [service(name, 80) for name in names]}


async def services(here: Any) -> dict[str, str]:
    return {o["metadata"]["name"]: o["metadata"]["uid"] for o in await here.client.pages(SERVICES, here.name, labels=selector(SERVICE))}


async def test_an_api_server_that_is_away_loses_no_service_and_status_catches_up(api_server: Any) -> None:
    from vanrouter.kube.blocking import BlockingClient
    from vanrouter.kube.calls import create
    from vanrouter.kube.kinds import NAMESPACES

    with BlockingClient(api_server.access()) as client:
        client.call(create(NAMESPACES, "", {"metadata": {"name": "outage"}}))
    async with in_namespace(api_server.access(), "outage") as here:
        await here.site()
        async with here.controller() as controller, here.router(controller) as router:
            router.say(**offered(NAMES))
            await here.until(SERVICES, NAMES[-1], bool)
            await here.until(CONFIG_MAPS, "van-services", lambda v: v and len(v["data"]) == len(NAMES))
            before = await services(here)
            assert len(before) == len(NAMES)
            for number in (signal.SIGSTOP, signal.SIGKILL):
                if number == signal.SIGSTOP:
                    api_server.signal(signal.SIGSTOP)
                else:
                    api_server.kill()
                await trio.sleep(6.0)
                router.say(**offered([*NAMES, f"late-{int(number)}"]))  # the network goes on meanwhile
                await trio.sleep(9.0)
                if number == signal.SIGSTOP:
                    api_server.signal(signal.SIGCONT)
                else:
                    await trio.to_thread.run_sync(api_server.start_api)
                await here.until(SERVICES, f"late-{int(number)}", bool, seconds=10.0)
                assert before.items() <= (await services(here)).items(), "none was deleted or made again"


async def test_the_history_that_a_server_forgets_costs_nothing(api_server: Any) -> None:
    from vanrouter.kube.blocking import BlockingClient
    from vanrouter.kube.calls import create
    from vanrouter.kube.kinds import NAMESPACES

    with BlockingClient(api_server.access()) as client:
        client.call(create(NAMESPACES, "", {"metadata": {"name": "forgets"}}))
    async with in_namespace(api_server.access(), "forgets") as here:
        await here.site()
        async with here.controller() as controller, here.router(controller) as router:
            router.say(**offered(NAMES))
            await here.until(SERVICES, NAMES[-1], bool)
            before = await services(here)
            api_server.kill()
            await trio.to_thread.run_sync(api_server.start_api)
            await trio.to_thread.run_sync(api_server.forget)
            router.say(**offered([*NAMES, "late"]))
            await here.until(SERVICES, "late", bool)
            assert before.items() <= (await services(here)).items()


async def test_two_controllers_agree_on_ports_and_do_not_fight(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        async with here.controller(name="c-0") as first, here.controller(name="c-1") as second, here.router(first) as router:
            assert first.keys.site_id == second.keys.site_id
            router.say(**offered(NAMES))
            await here.until(SERVICES, NAMES[-1], bool)
            await here.until(CONFIG_MAPS, "van-services", lambda v: v and len(v["data"]) == len(NAMES))
            await trio.sleep(2.0)
            before, written = await services(here), first.copies.writes + second.copies.writes
            await trio.sleep(4.0)
            assert await services(here) == before
            assert first.copies.writes + second.copies.writes == written, "both are content"
            router_map = await here.get(CONFIG_MAPS, "van-router")
            assert router_map
            import json

            ports = json.loads(router_map["data"]["router.json"])["ports"]
            assert len(set(ports.values())) == len(NAMES)
            for name in NAMES:
                made = await here.get(SERVICES, name)
                assert made
                assert made["spec"]["ports"][0]["targetPort"] == ports[f"{name}:80"]


async def test_a_service_of_ours_that_somebody_deletes_is_made_again(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site()
        async with here.controller() as controller, here.router(controller) as router:
            router.say(**offered(["a"]))
            made = await here.until(SERVICES, "a", bool)
            await here.client.call(delete(SERVICES, namespace, "a"))
            await here.until(SERVICES, "a", lambda v: v and v["metadata"]["uid"] != made["metadata"]["uid"])
