"""A router as its controller sees it: the real connection with the real keys, and a status document that the test writes."""

from __future__ import annotations

import base64
import random
from typing import Any

import trio
from join_listener import listen, server_context

from vanrouter.kube.calls import get
from vanrouter.kube.channel import Channel, Leaf
from vanrouter.kube.client import KubeClient
from vanrouter.kube.controller_link import ControllerLink
from vanrouter.kube.kinds import SECRETS
from vanrouter.kube.names import IDENTITY_SECRET, KEYS_SECRET
from vanrouter.kube.state import files_in
from vanrouter.kube.status_parts import difference
from vanrouter.pki import IdentityKey
from vanrouter.plane import Visitor
from vanrouter.tokens import Answer
from vanrouter.tokens.desk import pass_join

Doc = dict[str, Any]


async def router_leaf(client: KubeClient, namespace: str) -> Leaf:
    """What a router of this namespace shows: from the two Secrets that it may read."""
    keys = files_in(await client.call(get(SECRETS, namespace, KEYS_SECRET)))
    identity = files_in(await client.call(get(SECRETS, namespace, IDENTITY_SECRET)))
    site = IdentityKey.load(identity["identity.key"]).site_id
    return Leaf(site, keys["own__client.crt"], keys["own__client.key"], keys["ca.crt"])


class FakeRouter:
    """``run`` it; ``say`` replaces the document."""

    def __init__(self, leaf: Leaf, port: int, *, pod: str = "van-router-0") -> None:
        self.site, self.pod = leaf.site, pod
        self.asked: list[tuple[str, Doc]] = []
        self.link = ControllerLink(
            lambda: [("127.0.0.1", port)], leaf=lambda: leaf, greet=lambda: {"pod": pod, "router": f"{leaf.site}/1", "version": "9"},
            handler=self._handle, rng=random.Random(1), connected=self._connected,
        )  # fmt: skip
        self._document = self.document()
        self._told: Doc | None = None
        self._changed = trio.Event()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.link.run)
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                if self.link.is_connected:
                    document, told = self._document, self._told
                    if told is None:
                        await self.link.tell("status", {"document": document})
                    elif told != document:
                        await self.link.tell("status", difference(told, document))
                    self._told = document

    def say(self, **parts: Any) -> None:
        self._document = self.document(**parts)
        self._changed.set()

    def document(self, *, ready: bool = True, **parts: Any) -> Doc:
        site = {
            "name": "north",
            "id": self.site,
            "router": f"{self.site}/1",
            "version": "9",
            "ready": ready,
            "conditions": [],
            "linkedSites": 0,
        }
        lists: Doc = {name: [] for name in ("links", "listeners", "multiKeyListeners", "connectors", "services", "grants", "problems")}
        return {"site": site, **lists, **parts}

    def _connected(self) -> None:
        self._told = None
        self._changed.set()

    async def _handle(self, _channel: Channel, method: str, params: Doc) -> Any:
        self.asked.append((method, params))
        return {"sites": ["here"]}


def automatic(address: str, port: int) -> Doc:
    """A listener that service sync made."""
    return {"name": f"{address}:{port}", "spec": {}, "conditions": [], "automatic": True, "host": address, "port": port, "matched": True}


def service(address: str, port: int) -> Doc:
    return {"name": address, "address": address, "protocol": "tcp", "ports": [port], "targets": [], "conditions": []}


async def serve_visitors(
    router: FakeRouter, client: KubeClient, namespace: str, *, port: int = 0, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    """The link port of a router, as far as tokens go: shows the site's server leaf, passes requests to the controller."""
    keys = files_in(await client.call(get(SECRETS, namespace, KEYS_SECRET)))
    context = server_context(keys["own__server.crt"], keys["own__server.key"], keys["ca.crt"], ["van-join/1"])

    async def passed(visitor: Visitor, method: str, path: str, body: bytes) -> Answer:
        request: Doc = {"method": method, "path": path, "body": base64.b64encode(body).decode()}
        request["certificates"] = [base64.b64encode(certificate).decode() for certificate in visitor.certificates]
        reply = await router.link.ask("join", {"visitor": visitor.address, "request": request}, seconds=9.0)
        return Answer(reply["status"], base64.b64decode(reply["body"]))

    async def handler(visitor: Visitor) -> None:
        await pass_join(visitor, passed)

    async with trio.open_nursery() as nursery:
        endpoint = await nursery.start(listen, context, handler, port)
        task_status.started(endpoint.port)
