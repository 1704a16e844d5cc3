"""The ClusterRole that ships is what the controller of the cluster uses, and a quiet cluster is asked for nothing."""

from __future__ import annotations

import contextlib
import resource
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from api_server import ApiServer
from cluster_world import SITES, World, in_cluster, installed, namespaces
from test_kube_attached import CONNECTORS, MADE, pod

from vanrouter.kube.access import Access
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Call, delete, merge_patch
from vanrouter.kube.client import KubeClient, WatchStream
from vanrouter.kube.cluster_manifests import CLUSTER_RULES
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.entrances import every_front_rule
from vanrouter.kube.kinds import CONFIG_MAPS, POD_DISRUPTION_BUDGETS, SECRETS, SERVICE_ACCOUNTS, SERVICES
from vanrouter.kube.manifests import CONTROLLER_CUSTOM_RULES, ROUTER_RULES
from vanrouter.kube.rights import Right, rights_in

GRANTS, TOKENS = CUSTOM_KINDS["AccessGrant"], CUSTOM_KINDS["AccessToken"]


@pytest.fixture(scope="module")
def account(api_server: ApiServer) -> Iterator[Access]:
    with installed(api_server) as access:
        yield access


@pytest.fixture
def asked(account: Access, monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str, str]]:
    """What the account asked for: group, resource, verb. The server refuses what it may not."""
    found: Counter[tuple[str, str, str]] = Counter()

    def note(call: Call, access: Access) -> None:
        if access is account and call.kind.plural:
            subresource = f"/{call.subresource}" if call.subresource else ""
            found[call.kind.group, call.kind.plural + subresource, call.verb] += 1

    original, blocking, watch = KubeClient.call, BlockingClient.call, KubeClient.watch

    async def call(self: KubeClient, call: Call, **how: Any) -> Any:
        note(call, self.access)
        return await original(self, call, **how)

    def call_blocking(self: BlockingClient, call: Call, **how: Any) -> Any:
        note(call, self.access)
        return blocking(self, call, **how)

    @contextlib.asynccontextmanager
    async def watched(self: KubeClient, call: Call, *, idle: float) -> AsyncIterator[WatchStream]:
        note(call, self.access)
        async with watch(self, call, idle=idle) as stream:
            yield stream

    monkeypatch.setattr(KubeClient, "call", call)
    monkeypatch.setattr(BlockingClient, "call", call_blocking)
    monkeypatch.setattr(KubeClient, "watch", watched)
    return found


async def everything(world: World, north: str, shop: str) -> None:
    """Whatever makes the controller ask for something."""
    here = world.namespace(north)
    async with world.controller() as controller:
        await world.site(north, settings={"routers": "2"})
        await here.until(POD_DISRUPTION_BUDGETS, "van-router", bool)
        await here.until(SECRETS, "van-router-keys", bool)
        await here.until(SERVICE_ACCOUNTS, "van-router", bool)
        nobodys = {"metadata": {"ownerReferences": None}}
        await world.client.call(merge_patch(SERVICE_ACCOUNTS, north, "van-router", nobodys))
        await here.until(SERVICE_ACCOUNTS, "van-router", lambda v: v and v["metadata"].get("ownerReferences"))
        async with world.router(north, controller.port) as router:
            router.say()
            await world.put(north, "Listener", "far", {"routingKey": "far", "host": "far", "port": 90})
            await here.until(SERVICES, "far", bool)
            assert "result" in await here.ask("token.issue", {"name": "guest"})
            assert "result" in await here.ask("token.delete", {"name": "guest"})
            await pod(world, shop, "db-0", "10.1.0.1")
            await world.put(shop, "AttachedConnector", "db", {"siteNamespace": north, "selector": "app=db", "port": 5432})
            await world.put(north, "AttachedConnectorBinding", "db", {"connectorNamespace": shop, "routingKey": "db"})
            await here.until(CONFIG_MAPS, MADE, bool)
            await world.client.call(delete(CONNECTORS, shop, "db"))
            await here.until(CONFIG_MAPS, MADE, lambda v: v is None)
            await world.put(north, "AccessGrant", "guests", {"redemptionsAllowed": 3})
            granted = await here.until(GRANTS, "guests", lambda v: v and (v.get("status") or {}).get("url"))
            edited = {"url": granted["status"]["url"], "code": "edited", "ca": granted["status"]["ca"]}
            await world.put(north, "AccessToken", "edited", edited)
            await here.until(TOKENS, "edited", lambda v: v and "do not belong together" in (v.get("status") or {}).get("message", ""))
            await world.client.call(delete(GRANTS, north, "guests"))
            await world.site(north, settings={"routers": "1"})
            await here.until(POD_DISRUPTION_BUDGETS, "van-router", lambda v: v is None)
            await world.client.call(delete(CUSTOM_KINDS["Listener"], north, "far"))
            await here.until(SERVICES, "far", lambda v: v is None)
            await here.until(SITES, "north", lambda v: v and v.get("status"))


async def test_every_right_of_the_cluster_role_is_used_or_given_to_routers(
    api_server: ApiServer, account: Access, asked: Counter[tuple[str, str, str]]
) -> None:
    with namespaces(api_server.access(), 2) as (north, shop):
        async with in_cluster(api_server.access(), account) as world:
            await everything(world, north, shop)
    used = {Right(*what) for what in asked}
    used |= {right._replace(verb="create") for right in used if right.verb == "patch"}  # to apply what is not there takes both
    used.add(Right("", "secrets", "update"))  # a token's use is recorded so: tests/kube/test_kube_tokens.py
    given, chosen = set(rights_in(ROUTER_RULES)), set(rights_in(every_front_rule()))  # to routers; by the link access of a Site
    same = {right for right in rights_in(CONTROLLER_CUSTOM_RULES) if right.verb == "patch"}  # of each kind as of those tried here
    spare = {right for right in rights_in(CLUSTER_RULES) if right not in given | chosen | same} - used
    assert not spare, "a right that nobody uses"
    assert {Right("vanrouter.io", f"{kind}/status", "patch") for kind in ("accessgrants", "accesstokens", "sites")} <= used & same


async def test_a_quiet_cluster_is_asked_for_nothing_however_many_sites_it_has(
    api_server: ApiServer, account: Access, asked: Counter[tuple[str, str, str]], record_property: Any
) -> None:
    count = 6
    with namespaces(api_server.access(), count) as names:
        async with in_cluster(api_server.access(), account) as world, world.controller() as controller:
            for name in names[:1]:
                await world.site(name)
                await world.namespace(name).until(SECRETS, "van-router-keys", bool, seconds=60.0)
            few, before = controller.watches.count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for name in names[1:]:
                await world.site(name)
            async with contextlib.AsyncExitStack() as routers:
                for name in names:
                    await world.namespace(name).until(SECRETS, "van-router-keys", bool, seconds=60.0)
                    router = await routers.enter_async_context(world.router(name, controller.port))
                    router.say()
                    await world.namespace(name).until(SITES, "north", lambda v: v and v.get("status"))
                await trio.sleep(2.0)
                assert controller.watches.count == few, "one watch of each kind"
                asked.clear()
                await trio.sleep(2.0)
                assert not asked
            each = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (count - 1)
            record_property("figure", f"one site more in a controller of the cluster: {each:.0f} KiB")
            assert each < 2048
