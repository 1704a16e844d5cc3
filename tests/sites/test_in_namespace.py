"""
A router that follows a namespace of a real API server: what it waits for, what it takes over, and what it keeps when the server is away.

    Namespace (what the controller writes) ──▶ API server ──▶ feeder ──▶ site directory ──▶ router
"""

from __future__ import annotations

import functools
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from namespace_world import Namespace
from site_world import FAST, World, backend, condition, free_port, http_get

from vanrouter.admin import client
from vanrouter.settings import Timing
from vanrouter.sites.run_in_pod import run_in_pod
from vanrouter.stores import SiteHome

__all__ = ["backend"]


class Routers:
    """Routers in this process, each on a directory of its own."""

    def __init__(self, root: Path, nursery: trio.Nursery, plane: str) -> None:
        self.root, self.nursery, self.plane = root, nursery, plane
        self.port = 0

    def home(self, name: str) -> SiteHome:
        return SiteHome(self.root / name)

    async def start(self, space: Namespace, name: str = "van-router-1", *, timing: Timing = FAST, access: Any = None) -> SiteHome:
        """Returns when it runs."""
        self.port = free_port()
        run = functools.partial(
            run_in_pod, self.root / name, access or space.access, pod=name, link_port=self.port, plane=self.plane, timing=timing
        )
        self.scope = await self.nursery.start(_cancellable, run)
        return self.home(name)

    async def status(self, home: SiteHome) -> Any:
        return await trio.to_thread.run_sync(lambda: client.call(home.directory, "status", {}))

    async def until(self, home: SiteHome, what: str, check: Callable[[Any], Any], seconds: float = 15.0) -> Any:
        status: Any = None
        with trio.move_on_after(seconds):
            while True:
                status = await self.status(home)
                if check(status):
                    return status
                await trio.sleep(0.05)
        pytest.fail(f"not within {seconds} s: {what}\n{status}")


async def _cancellable(run: Callable[..., Any], *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    with trio.CancelScope() as scope:

        class Started:
            def started(self, _site: Any) -> None:
                task_status.started(scope)

        await run(task_status=Started())


def probe(port: int, path: str = "/readyz") -> int:
    """What the kubelet does. 0: nobody listens."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        with opener.open(f"https://127.0.0.1:{port}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code
    except OSError:
        return 0


async def asked(port: int, path: str = "/readyz") -> int:
    return await trio.to_thread.run_sync(probe, port, path)


@pytest.fixture
async def space(cluster: Any, namespace: str) -> AsyncIterator[Namespace]:
    made = Namespace(cluster, namespace)
    yield made
    made.close()


@pytest.fixture
def routers(tmp_path: Path, nursery: trio.Nursery, plane: str) -> Routers:
    return Routers(tmp_path, nursery, plane)


def element(status: Any, kind: str, name: str) -> Any:
    return next((e for e in status[kind] if e["name"] == name), None)


async def test_what_the_namespace_says_is_served_and_what_it_no_longer_says_is_not(
    space: Namespace, routers: Routers, backend: int
) -> None:
    port = space.ports["hello:8080"] = free_port()
    space.establish()
    space.put_ports()
    space.put("Site", "north")
    space.put("Connector", "hello", routingKey="hello", host="127.0.0.1", port=backend)
    space.put("Listener", "hello", routingKey="hello", host="hello", port=8080)
    home = await routers.start(space)
    status = await routers.until(home, "it listens", lambda s: condition(element(s, "listeners", "hello"), "Listening")["status"] == "True")
    assert status["site"]["name"] == "north"
    assert status["site"]["id"] == str(space.identity.site_id)
    found = element(status, "listeners", "hello")
    assert (found["host"], found["port"], found["podPort"]) == ("hello", 8080, port)
    assert await trio.to_thread.run_sync(http_get, port) == b'{"message":"Hello"}'
    assert status["site"]["ports"] == [{"host": "hello", "port": 8080, "podPort": port, "automatic": False}]
    space.delete("Listener", "hello")
    await routers.until(home, "it is gone", lambda s: element(s, "listeners", "hello") is None)


async def test_a_first_start_waits_alive_but_not_ready_until_the_controller_was_there(space: Namespace, routers: Routers) -> None:
    space.put("Site", "north")
    async with trio.open_nursery() as nursery:
        started = trio.Event()

        async def start() -> None:
            await routers.start(space)
            started.set()

        nursery.start_soon(start)
        with trio.fail_after(10):
            while not routers.port or await asked(routers.port, "/livez") != 200:
                await trio.sleep(0.1)
        assert await asked(routers.port) == 503
        assert not started.is_set()
        space.establish()
        with trio.fail_after(10):
            await started.wait()
            while await asked(routers.port) != 200:
                await trio.sleep(0.1)
    assert await asked(routers.port, "/livez") == 200
