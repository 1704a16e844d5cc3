"""A controller in a real namespace, run by the test, and what the test does there as a person."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import trio
from fake_router import FakeRouter, router_leaf

from vanrouter.controller.run import Controller
from vanrouter.kube.access import Access
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Kind, Object, apply, get
from vanrouter.kube.client import KubeClient
from vanrouter.kube.errors import NotFound
from vanrouter.kube.kinds import CONFIG_MAPS, SECRETS
from vanrouter.kube.names import RESOURCE, resource_map
from vanrouter.resources import read_resources


class Namespace:
    def __init__(self, access: Access, client: KubeClient, name: str) -> None:
        self.access, self.client, self.name = access, client, name

    async def put(self, text: str) -> None:
        """A resource, as the CLI writes it."""
        (resource,) = read_resources(text, source="test")
        metadata = {"name": resource_map(resource.kind, resource.name), "labels": {"vanrouter.io/type": RESOURCE}}
        await self.client.call(apply(CONFIG_MAPS, self.name, {"metadata": metadata, "data": {"resource.yaml": text}}))

    async def site(self, name: str = "north", spec: str = "{linkAccess: local}") -> None:
        await self.put(f"apiVersion: vanrouter.io/v1alpha1\nkind: Site\nmetadata: {{name: {name}}}\nspec: {spec}\n")

    async def get(self, kind: Kind, name: str) -> Object | None:
        try:
            return await self.client.call(get(kind, self.name, name))
        except NotFound:
            return None

    async def until(self, kind: Kind, name: str, is_so: Callable[[Object | None], Any], seconds: float = 15.0) -> Any:
        """The object, once it is so."""
        value = None
        with trio.move_on_after(seconds):
            while True:
                value = await self.get(kind, name)
                if is_so(value):
                    return value
                await trio.sleep(0.05)
        raise AssertionError(f"{kind.kind}/{name} did not become what was waited for: {json.dumps(value, indent=1)[:3000]}")

    async def ask(self, method: str, params: dict[str, Any], *, name: str = "van-request.1") -> Any:
        """As the CLI asks."""
        metadata = {"name": name, "labels": {"vanrouter.io/type": "request"}}
        request = json.dumps({"method": method, "params": params})
        await self.client.call(apply(SECRETS, self.name, {"metadata": metadata, "stringData": {"request.json": request}}))
        value = await self.until(SECRETS, name, lambda o: o and "answer.json" in o["data"])
        from vanrouter.kube.calls import delete
        from vanrouter.kube.state import files_in

        await self.client.call(delete(SECRETS, self.name, name))
        return json.loads(files_in(value)["answer.json"])

    @contextlib.asynccontextmanager
    async def controller(
        self, *, name: str = "c-0", access: Access | None = None, clock: Callable[[], float] = time.time
    ) -> AsyncIterator[Controller]:
        """``access``: its own way to the API server."""
        with BlockingClient(access or self.access) as blocking:
            async with KubeClient(access or self.access) as client, trio.open_nursery() as nursery:
                controller = Controller(client, blocking, self.name, port=0, name=name, clock=clock)
                await nursery.start(controller.run)
                yield controller
                nursery.cancel_scope.cancel()

    @contextlib.asynccontextmanager
    async def router(self, controller: Controller, *, pod: str = "van-router-0") -> AsyncIterator[FakeRouter]:
        router = FakeRouter(await router_leaf(self.client, self.name), controller.port, pod=pod)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(router.run)
            yield router
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def in_namespace(access: Access, name: str) -> AsyncIterator[Namespace]:
    async with KubeClient(access) as client:
        yield Namespace(access, client, name)
