"""The examples, with the real libraries: what a person types works, between two sites."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import httpx
import postgres as server
import pytest

import vanrouter
from vanrouter.embed import asgi
from vanrouter.embed.http import Transport
from vanrouter.errors import NoSuchKey

EXAMPLES = Path(__file__).parents[2] / "examples"
Run = Callable[[Callable[[], Awaitable[None]]], None]


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_web_application_is_served_and_asked_by_its_name(directory: Path, plane: Any, run: Run) -> None:
    web = example("http_service")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:

            async def serve(*, task_status: Any) -> None:
                await web.serve(directory, plane=plane, task_status=task_status)

            await tasks.start(serve)
            assert await web.ask(directory, plane=plane) == "POST /echo: hello"
            tasks.cancel_scope.cancel()

    run(main)


def test_httpx_reuses_connections_streams_bodies_and_says_what_failed(directory: Path, run: Run) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"  # hypercorn takes it that there is no lifespan here
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(20):
            await send({"type": "http.response.body", "body": bytes([number]) * 50_000, "more_body": True})
            if scope["path"] == "/broken" and number == 3:
                raise RuntimeError("the application fails in the middle")
        await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        async with vanrouter.open(directory) as van, anyio.create_task_group() as tasks:

            async def serve(*, task_status: Any) -> None:
                await asgi.serve(van, "web", app, task_status=task_status)

            await tasks.start(serve)
            async with httpx.AsyncClient(transport=Transport(van, wait=0.1)) as client:
                for _ in range(3):
                    body = (await client.get("http://web/")).content
                    assert body == b"".join(bytes([n]) * 50_000 for n in range(20))
                assert van.status()["connectors"][0]["routingKey"] == "web"
                with pytest.raises(httpx.ConnectError) as nobody:
                    await client.get("http://nobody/")
                assert isinstance(nobody.value.__cause__, NoSuchKey)
                with pytest.raises(httpx.TransportError):
                    await client.get("http://web/broken")
            tasks.cancel_scope.cancel()

    run(main)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if server.POSTGRES is None:
        pytest.skip("there is no PostgreSQL: apt-get install postgresql")
    with server.postgres(tmp_path_factory.mktemp("postgres")) as port:
        yield port


def test_asyncpg_asks_a_database_of_another_site(directory: Path, plane: Any, database: int) -> None:
    async def main() -> None:
        async with vanrouter.open(directory, plane=plane) as hub, hub.expose("db", database):
            said = await example("postgres").version(directory, "db", user="van", database="postgres", plane=plane)
            assert said.startswith("PostgreSQL ")

    asyncio.run(main())


def test_grpc_calls_go_between_sites(directory: Path, plane: Any) -> None:
    greeter = example("grpc_greeter")

    async def main() -> None:
        started = asyncio.Event()
        serving = asyncio.create_task(greeter.serve(directory, started, plane=plane))
        await asyncio.wait_for(started.wait(), 20)
        assert await greeter.ask(directory, "north", plane=plane) == ("Hello, north!", [0, 1, 2])
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    asyncio.run(main())


def test_the_hello_example_works_in_both_loops(directory: Path, run: Run) -> None:
    hello = example("embed_hello")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:

            async def serve(*, task_status: Any) -> None:
                await hello.serve(directory, task_status=task_status)

            await tasks.start(serve)
            assert await hello.ask(directory, "north") == "Hello, north!"
            tasks.cancel_scope.cancel()

    run(main)


def test_the_program_in_the_readme_works_as_typed(directory: Path, tmp_path: Path) -> None:
    from vanrouter.admin import client

    text = (EXAMPLES.parent / "README.md").read_text().partition("## From Python")[2]
    (tmp_path / "ping.py").write_text(text.partition("```python\n")[2].partition("```")[0])

    async def main() -> bytes:
        async with vanrouter.open(directory):
            issued = await asyncio.to_thread(client.call, directory, "token.issue", {"uses": 1})
            (tmp_path / "token.yaml").write_text(issued["yaml"])
            done = await anyio.run_process([sys.executable, "ping.py", "token.yaml"], cwd=tmp_path)
            assert done.stderr == b""
            return done.stdout

    assert asyncio.run(main()) == b"HELLO\n"
