"""A controller that serves the whole cluster, with the rights that its manifest gives and no others."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import trio
from api_server import ApiServer
from controllers import Namespace
from custom_resources import remove_definitions, served, until
from fake_router import FakeRouter, router_leaf

from vanrouter.cli.cluster import manifest_of_controller
from vanrouter.controller.cluster import ClusterController
from vanrouter.kube.access import Access, Token
from vanrouter.kube.announcement import ANNOUNCEMENT
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Kind, Object, apply, create, delete
from vanrouter.kube.client import KubeClient
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.kinds import CLUSTER_ROLES, NAMESPACES

TOKENS = Kind("", "v1", "serviceaccounts/van-controller/token", "TokenRequest")
SITES = CUSTOM_KINDS["Site"]


@contextlib.contextmanager
def installed(server: ApiServer) -> Iterator[Access]:
    """As ``install``; afterwards the server knows no definitions and no controller of the cluster, as other tests have it."""
    yield install(server)
    with BlockingClient(server.access()) as client:
        remove_definitions(client)
        client.call(delete(CLUSTER_ROLES, "", ANNOUNCEMENT))


def install(server: ApiServer) -> Access:
    """As an administrator does. Returns how the controller's service account reaches the server: no pod runs here, the test is the pod."""
    with BlockingClient(server.access()) as client:
        for value in manifest_of_controller(None, {}):
            group, _, version = value["apiVersion"].rpartition("/")
            metadata = value["metadata"]
            kind = Kind(group, version, f"{value['kind'].lower()}s", value["kind"])
            client.call(apply(kind, metadata.get("namespace", ""), value))
        for kind in CUSTOM_KINDS.values():
            until(lambda kind=kind: served(client, kind))
        token = client.call(create(TOKENS, "vanrouter", {"apiVersion": "authentication.k8s.io/v1", "spec": {"expirationSeconds": 3600}}))[
            "status"
        ]["token"]
    return dataclasses.replace(server.access(), certificate=None, credentials=Token(token))


@contextlib.contextmanager
def namespaces(access: Access, count: int) -> Iterator[list[str]]:
    names = [f"van-many-{secrets.token_hex(4)}" for _ in range(count)]
    with BlockingClient(access) as client:
        for name in names:
            client.call(create(NAMESPACES, "", {"metadata": {"name": name}}))
        yield names
        for name in names:
            client.call(delete(NAMESPACES, "", name))


class World:
    def __init__(self, access: Access, client: KubeClient, account: Access) -> None:
        self.access, self.client, self.account = access, client, account

    def namespace(self, name: str) -> Namespace:
        return Namespace(self.access, self.client, name)

    async def put(self, namespace: str, kind: str, name: str, spec: Object) -> Object:
        return await self.client.call(apply(CUSTOM_KINDS[kind], namespace, {"metadata": {"name": name}, "spec": spec}))

    async def site(self, namespace: str, name: str = "north", **spec: Any) -> Object:
        return await self.put(namespace, "Site", name, {"linkAccess": "local", **spec})

    @contextlib.asynccontextmanager
    async def controller(
        self, *, name: str = "vanrouter/c-0", clock: Callable[[], float] = time.time, access: Access | None = None
    ) -> AsyncIterator[ClusterController]:
        with BlockingClient(access or self.account) as blocking:
            async with KubeClient(access or self.account) as client, trio.open_nursery() as nursery:
                controller = ClusterController(
                    client, blocking, image="registry.example/vanrouter:1", address="van-controller.vanrouter.svc:55672", port=0,
                    name=name, rng=random.Random(1), clock=clock,
                )  # fmt: skip
                await nursery.start(controller.run)
                yield controller
                nursery.cancel_scope.cancel()

    @contextlib.asynccontextmanager
    async def router(self, namespace: str, port: int, *, pod: str = "van-router-0") -> AsyncIterator[FakeRouter]:
        """With the keys of that namespace, and connected."""
        router = FakeRouter(await router_leaf(self.client, namespace), port, pod=pod)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(router.run)
            with trio.fail_after(15):
                while not router.link.is_connected:  # noqa: ASYNC110 - of another end
                    await trio.sleep(0.02)
            yield router
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def in_cluster(access: Access, account: Access) -> AsyncIterator[World]:
    async with KubeClient(access) as client:
        yield World(access, client, account)


def ready(value: Object | None) -> Any:
    return value and (value.get("status") or {}).get("status") == "Ready"


def said(value: Object | None) -> str:
    """What its status says."""
    return str(((value or {}).get("status") or {}).get("message", ""))
