"""Sites in this process, on loopback, over each data plane that is built."""

from __future__ import annotations

import functools
import http.server
import threading
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from free_ports import free_port as free_port

from vanrouter.admin import client
from vanrouter.resources import read_document
from vanrouter.settings import Timing
from vanrouter.sites import run_site
from vanrouter.sites.site import RunningSite
from vanrouter.stores import SiteHome

FAST = Timing(poll_resources=0.2, drain=5.0, renew_retry=0.3, handover=5.0)


def planes() -> list[Any]:
    try:
        import vanrouter.native  # noqa: F401

        core = pytest.param("core", id="core")
    except ImportError:
        core = pytest.param("core", id="core", marks=pytest.mark.skip(reason="the core is not built here"))
    return [pytest.param("baseline", id="baseline"), core]


def resource(kind: str, name: str, **spec: Any) -> Any:
    return read_document({"apiVersion": "vanrouter.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})


class _Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b'{"message":"Hello"}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def backend() -> Iterator[int]:
    """The port of a local server that says hello."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hello)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def http_get(port: int, host: str = "127.0.0.1", *, timeout: float = 5.0) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{host}:{port}/", timeout=timeout) as reply:
        body: bytes = reply.read()
        return body


class World:
    """Site directories, and those of them that run in this test's nursery."""

    def __init__(self, root: Path, nursery: trio.Nursery, plane: str) -> None:
        self.root, self.nursery, self.plane = root, nursery, plane
        self.running: dict[str, RunningSite] = {}

    def home(self, name: str, *, site_name: str = "", **spec: Any) -> SiteHome:
        home = SiteHome(self.root / name)
        home.create()
        home.resources.put(resource("Site", site_name or name, **spec))
        return home

    async def start(self, home: SiteHome, **options: Any) -> RunningSite:
        options = {"plane": self.plane, "timing": FAST, **options}
        site: RunningSite = await self.nursery.start(functools.partial(run_site, home.directory, **options))
        self.running[home.directory.name] = site
        return site

    async def call(self, home: SiteHome, method: str, **params: Any) -> Any:
        return await trio.to_thread.run_sync(lambda: client.call(home.directory, method, params))

    async def status(self, home: SiteHome) -> Any:
        return await self.call(home, "status")

    async def until(self, what: str, check: Callable[[], Awaitable[Any]], *, seconds: float = 10.0) -> Any:
        found: Any = None
        with trio.move_on_after(seconds):
            while not (found := await check()):  # noqa: ASYNC110
                await trio.sleep(0.03)
        assert found, f"not within {seconds} s: {what}"
        return found

    async def link(self, issuer: SiteHome, redeemer: SiteHome, **params: Any) -> str:
        """A token from one to the other; returns when both ends say that it is active."""
        token = await self.call(issuer, "token.issue")
        name: str = (await self.call(redeemer, "token.redeem", token=token["yaml"], **params))["link"]
        await self.until_linked(issuer, redeemer)
        return name

    async def until_linked(self, *homes: SiteHome) -> None:
        for home in homes:

            async def active(home: SiteHome = home) -> bool:
                links = (await self.status(home))["links"]
                return any(link["active"] for link in links)

            await self.until(f"a link of {home.directory.name} is active", active)

    async def expose(self, home: SiteHome, address: str, target: int, port: int, *, at: tuple[SiteHome, ...] = ()) -> None:
        """Returns when the sites ``at`` have it, as ``home`` says."""
        home.resources.put(
            resource("Connector", address, routingKey=address, host="127.0.0.1", port=target, expose={"port": port, "address": address})
        )
        await self.call(home, "reconcile")
        names = {site.directory.name for site in at}

        async def there() -> bool:
            services = {s["address"]: s for s in (await self.status(home))["services"]}
            return address in services and names <= {x["site"] for x in services[address]["listeners"]}

        await self.until(f"{address} is at {names}", there)

    async def get(self, port: int, host: str = "127.0.0.1") -> bytes:
        return await trio.to_thread.run_sync(lambda: http_get(port, host))


@pytest.fixture(params=planes())
def plane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def world(tmp_path: Path, nursery: trio.Nursery, plane: str) -> World:
    return World(tmp_path, nursery, plane)


def condition(element: Any, kind: str) -> Any:
    return next(c for c in element["conditions"] if c["type"] == kind)
