"""Routers in pods of a namespace of a real API server, in this process; the fixtures ``space`` and ``routers`` are of all tests here."""

from __future__ import annotations

import functools
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from namespace_world import Namespace
from site_world import FAST, free_port

from vanrouter.admin import client
from vanrouter.settings import Timing
from vanrouter.sites.run_in_pod import run_in_pod
from vanrouter.stores import SiteHome

__all__ = ["Routers", "asked", "element", "probe", "routers", "space"]


class Routers:
    """Routers in this process, each on a directory of its own."""

    def __init__(self, root: Path, nursery: trio.Nursery, plane: str) -> None:
        self.root, self.nursery, self.plane = root, nursery, plane
        self.port = 0

    def home(self, name: str) -> SiteHome:
        return SiteHome(self.root / name)

    async def start(
        self,
        space: Namespace,
        name: str = "van-router-1",
        *,
        timing: Timing = FAST,
        controller: tuple[str, int] = ("127.0.0.1", 9),
        any_host: str = "",
        link_port: int = 0,
        wall: Callable[[], float] = time.time,
    ) -> SiteHome:
        """Returns when it runs."""
        self.port = link_port or free_port()
        run = functools.partial(
            run_in_pod,
            self.root / name,
            space.access,
            pod=name,
            controller=controller,
            link_port=self.port,
            any_host=any_host,
            plane=self.plane,
            timing=timing,
            wall=wall,
        )
        self.scope, self.running = await self.nursery.start(_cancellable, run)
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


async def _cancellable(run: Callable[..., Any], *, task_status: trio.TaskStatus[tuple[trio.CancelScope, Any]]) -> None:
    with trio.CancelScope() as scope:

        class Started:
            def started(self, site: Any) -> None:
                task_status.started((scope, site))

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
    with Namespace(cluster, namespace) as made:
        yield made


@pytest.fixture
def routers(tmp_path: Path, nursery: trio.Nursery, plane: str) -> Routers:
    return Routers(tmp_path, nursery, plane)


def element(status: Any, kind: str, name: str) -> Any:
    return next((e for e in status[kind] if e["name"] == name), None)
