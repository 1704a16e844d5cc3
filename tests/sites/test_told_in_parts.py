"""What a router tells its controller: the whole status once for each connection, then what changed of it."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from namespace_world import Namespace
from pod_world import Routers

from vanrouter.kube.channel import Channel, Leaf, serve_channels
from vanrouter.kube.status_parts import heard_untrusted, slices
from vanrouter.pki import PrivateKey, certificates_to_pem
from vanrouter.sites import controlled

Doc = dict[str, Any]


class Controller:
    """Takes down what it is told."""

    def __init__(self, space: Namespace, *, parts: bool, slices: bool = False) -> None:
        key = PrivateKey.generate()
        leaf = space.authority.issue_server(key.public_der, space.identity.site_id, [], now=time.time())
        shown = certificates_to_pem([leaf]), key.pem().reveal(), space.authority.certificate_pem()
        self.leaf, self.parts, self.told = Leaf(str(space.identity.site_id), *shown), parts, list[Doc]()
        self.slices = slices

    async def handle(self, _channel: Channel, method: str, params: Doc) -> Doc:
        if method == "status":
            self.told.append(params)
        return {"controller": "c", "version": "9"} | ({"parts": True} if self.parts else {}) | ({"slices": True} if self.slices else {})

    def heard(self) -> Doc | None:
        """The document of all that was told; a slice of which more comes is no end."""
        document: Doc | None = None
        for params in self.told:
            document = heard_untrusted(document, params)
        return document if self.told and "more" not in self.told[-1] else None

    @contextlib.asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[int]:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_channels, listeners, lambda: self.leaf, self.handle)
            yield listeners[0].socket.getsockname()[1]
            nursery.cancel_scope.cancel()

    async def until(self, is_so: Callable[[Doc], bool]) -> Doc:
        with trio.fail_after(10):
            while True:
                if found := next(filter(is_so, self.told), None):
                    return found
                await trio.sleep(0.02)


def tells_of(name: str) -> Callable[[Doc], bool]:
    def is_so(params: Doc) -> bool:
        lists = params.get("lists") or {"connectors": {"put": params["document"]["connectors"]}}
        return any(element["name"] == name for element in lists.get("connectors", {}).get("put", []))

    return is_so


@pytest.mark.parametrize("parts", [True, False], ids=["a controller that takes parts", "one of a version before"])
async def test_the_whole_is_told_once_for_each_connection_and_then_what_changed(
    space: Namespace, routers: Routers, backend: int, parts: bool
) -> None:
    space.establish()
    space.put("Site", "north")
    space.put("Connector", "hello", routingKey="hello", host="127.0.0.1", port=backend)
    controller = Controller(space, parts=parts)
    async with controller.serving() as port:
        await routers.start(space, controller=("127.0.0.1", port))
        await controller.until(tells_of("hello"))
        assert "document" in controller.told[0]
        space.put("Connector", "more", routingKey="more", host="127.0.0.1", port=backend)
        told = await controller.until(tells_of("more"))
        assert ("document" in told) is not parts
        assert not parts or not tells_of("hello")(told)
    successor = Controller(space, parts=parts)
    async with successor.serving(port):
        await successor.until(lambda _: True)
        assert {element["name"] for element in successor.told[0]["document"]["connectors"]} == {"hello", "more"}


async def test_a_status_that_is_long_is_told_in_slices_to_a_controller_that_takes_them(
    space: Namespace, routers: Routers, backend: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controlled, "slices", functools.partial(slices, size=2_000))
    space.establish()
    space.put("Site", "north")
    names = {f"hello-{number}" for number in range(12)}
    for name in sorted(names):
        space.put("Connector", name, routingKey=name, host="127.0.0.1", port=backend)
    controller = Controller(space, parts=True, slices=True)
    async with controller.serving() as port:
        await routers.start(space, controller=("127.0.0.1", port))
        with trio.fail_after(10):
            while {element["name"] for element in (controller.heard() or {}).get("connectors", [])} != names:  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert controller.told[0]["more"] is True
        assert max(len(json.dumps(params, separators=(",", ":"))) for params in controller.told) < 4_000
