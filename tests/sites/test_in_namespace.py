"""
A router that follows a namespace of a real API server: what it waits for, what it takes over, and what it keeps when the server is away.

    Namespace (what the controller writes) ──▶ API server ──▶ feeder ──▶ site directory ──▶ router
"""

from __future__ import annotations

import functools
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from namespace_world import Namespace
from pod_world import Routers, asked, element
from site_world import backend, condition, free_port, http_get

from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import create
from vanrouter.kube.kinds import NAMESPACES
from vanrouter.resources.service_keys import service_key

__all__ = ["backend"]


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


async def test_each_port_of_a_service_leads_to_its_own_server(
    space: Namespace, routers: Routers, backend: int, nursery: trio.Nursery
) -> None:
    """With one routing key for both, half of the connections to each port would meet the server of the other one."""

    async def other(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nother")

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, other, listeners)
    servers, answers = {80: backend, 443: listeners[0].socket.getsockname()[1]}, {80: b'{"message":"Hello"}', 443: b"other"}
    space.ports |= {f"hello:{port}": free_port() for port in servers}
    space.establish()
    space.put_ports()
    space.put("Site", "north")
    keys: dict[tuple[str, int], str] = {}
    for port, server in servers.items():
        keys["hello", port] = key = service_key("hello", port, keys)
        expose = {"port": port, "address": "hello"}
        space.put("Connector", f"hello-{port}", routingKey=key, host="127.0.0.1", port=server, expose=expose)
    home = await routers.start(space)
    await routers.until(home, "both listen", lambda s: sum(e["automatic"] and e["matched"] for e in s["listeners"]) == 2)
    for port in [80, 443] * 4:
        assert await trio.to_thread.run_sync(http_get, space.ports[f"hello:{port}"]) == answers[port]


async def test_a_first_start_waits_alive_but_not_ready_until_the_controller_was_there(space: Namespace, routers: Routers) -> None:
    space.put("Site", "north")
    async with trio.open_nursery() as nursery:
        started = trio.Event()

        async def start() -> None:
            await routers.start(space)
            started.set()

        nursery.start_soon(start)
        with trio.fail_after(10):
            while not routers.port or await asked(routers.port, "/livez") != 200:  # noqa: ASYNC110
                await trio.sleep(0.1)
        assert await asked(routers.port) == 503
        assert not started.is_set()
        space.establish()
        with trio.fail_after(10):
            await started.wait()
            while await asked(routers.port) != 200:  # noqa: ASYNC110
                await trio.sleep(0.1)
    assert await asked(routers.port, "/livez") == 200


async def test_a_resource_that_becomes_wrong_keeps_its_last_good_form_and_says_where_it_is_wrong(
    space: Namespace, routers: Routers, backend: int
) -> None:
    port = space.ports["hello:8080"] = free_port()
    space.establish()
    space.put_ports()
    space.put("Site", "north")
    space.put("Connector", "hello", routingKey="hello", host="127.0.0.1", port=backend)
    space.put("Listener", "hello", routingKey="hello", host="hello", port=8080)
    home = await routers.start(space)
    await routers.until(home, "it listens", lambda s: condition(element(s, "listeners", "hello"), "Listening")["status"] == "True")
    space.put_text("Listener", "hello", "kind: [")
    status = await routers.until(home, "the problem is named", lambda s: s["problems"])
    assert status["problems"][0]["path"] == "ConfigMap/van.listener.hello: resource.yaml"
    assert "last good form stays in force" in status["problems"][0]["message"]
    assert await trio.to_thread.run_sync(http_get, port) == b'{"message":"Hello"}'


async def test_a_secret_in_a_configmap_is_refused(space: Namespace, routers: Routers) -> None:
    space.establish()
    space.put("Site", "north")
    space.put_text(
        "secret", "mine", "apiVersion: v1\nkind: Secret\nmetadata: {name: mine}\ndata: {tls.crt: eA==, tls.key: eA==, ca.crt: eA==}"
    )
    home = await routers.start(space)
    status = await routers.until(home, "the problem is named", lambda s: s["problems"])
    assert "does not belong into a ConfigMap" in status["problems"][0]["message"]
    assert not list((home.directory / "resources").glob("*mine*"))


async def test_a_listener_without_a_port_is_pending_and_its_router_says_which_it_wants(space: Namespace, routers: Routers) -> None:
    space.establish()
    space.put_ports()
    space.put("Site", "north")
    space.put("Listener", "hello", routingKey="hello", host="hello", port=8080)
    home = await routers.start(space)
    status = await routers.until(home, "it is there", lambda s: element(s, "listeners", "hello") is not None)
    found = condition(element(status, "listeners", "hello"), "Ready")
    assert (found["status"], found["reason"]) == ("False", "Pending")
    assert "hello:8080" in found["message"]
    assert status["site"]["ports"] == [{"host": "hello", "port": 8080, "podPort": 0, "automatic": False}]
    port = space.ports["hello:8080"] = free_port()
    space.put_ports()
    await routers.until(home, "it listens", lambda s: element(s, "listeners", "hello").get("podPort") == port)


async def test_targets_follow_the_pods_that_a_selector_means(space: Namespace, routers: Routers, backend: int) -> None:
    port = space.ports["web:80"] = free_port()
    space.establish()
    space.put_ports()
    space.put("Site", "north")
    space.put("Listener", "web", routingKey="web", host="web", port=80)
    space.put("Connector", "web", routingKey="web", selector="app=web", port=backend, expose={"port": 80})
    space.put_pod("other-1", "127.0.0.9", app="wap")
    home = await routers.start(space)

    def healthy(status: Any) -> Any:
        return condition(element(status, "connectors", "web"), "Healthy")

    status = await routers.until(home, "nothing matches", lambda s: "matches no pod" in healthy(s)["message"])
    assert "app=wap" in healthy(status)["message"]
    assert not element(status, "listeners", "web")["matched"]
    space.put_pod("web-1", "127.0.0.1", app="web")
    space.put_pod("web-2", "127.0.0.2", ready=False, app="web")
    status = await routers.until(home, "one is a target", lambda s: healthy(s)["reason"] == "Ok")
    assert [t["pod"] for t in element(status, "connectors", "web")["targets"]] == ["web-1"]
    assert await trio.to_thread.run_sync(http_get, port) == b'{"message":"Hello"}'
    space.set_ready("web-2", "127.0.0.2", ready=True)
    await routers.until(home, "both are", lambda s: len(element(s, "connectors", "web").get("targets", [])) == 2)
    space.set_ready("web-1", "127.0.0.1", ready=False)
    await routers.until(home, "one is", lambda s: [t["pod"] for t in element(s, "connectors", "web")["targets"]] == ["web-2"])
    space.delete_pod("web-2")
    status = await routers.until(home, "none is", lambda s: "none is ready: web-1" in healthy(s)["message"])
    assert "web" in {s["address"] for s in status["services"]}
    space.put("Connector", "web", routingKey="web", selector="app=web", port=backend, includeNotReadyPods=True)
    await routers.until(home, "it may be not ready", lambda s: len(element(s, "connectors", "web").get("targets", [])) == 1)


async def test_streams_of_a_pod_that_is_no_longer_ready_finish(space: Namespace, routers: Routers) -> None:
    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    listeners = await routers.nursery.start(functools.partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
    target = listeners[0].socket.getsockname()[1]
    port = space.ports["echo:7"] = free_port()
    space.establish()
    space.put_ports()
    space.put("Site", "north")
    space.put("Listener", "echo", routingKey="echo", host="echo", port=7)
    space.put("Connector", "echo", routingKey="echo", selector="app=echo", port=target)
    space.put_pod("echo-1", "127.0.0.1", app="echo")
    home = await routers.start(space)
    await routers.until(home, "it listens", lambda s: element(s, "listeners", "echo")["matched"])
    client = await trio.open_tcp_stream("127.0.0.1", port)
    await client.send_all(b"before")
    assert await client.receive_some() == b"before"
    space.set_ready("echo-1", "127.0.0.1", ready=False)
    await routers.until(home, "no new stream goes there", lambda s: not element(s, "listeners", "echo")["matched"])
    await trio.sleep(1.0)
    await client.send_all(b"after")
    with trio.fail_after(5):
        assert await client.receive_some() == b"after"
    await client.aclose()


async def test_the_directory_is_enough_while_the_api_server_is_away(api_server: Any, routers: Routers, backend: int) -> None:
    """The server dies; the router goes on, and another start of it needs no server; what changed meanwhile is heard when it is back."""
    name = f"north-{secrets.token_hex(4)}"
    with BlockingClient(api_server.access()) as admin:
        admin.call(create(NAMESPACES, "", {"metadata": {"name": name}}))
    with Namespace(api_server.access(), name) as space:
        await _outage(space, api_server, routers, backend)


async def _outage(space: Namespace, api_server: Any, routers: Routers, backend: int) -> None:
    port = space.ports["hello:8080"] = free_port()
    space.establish()
    space.put_ports()
    space.put("Site", "north")
    space.put("Connector", "hello", routingKey="hello", selector="app=hello", port=backend)
    space.put("Listener", "hello", routingKey="hello", host="hello", port=8080)
    space.put_pod("hello-1", "127.0.0.1", app="hello")
    home = await routers.start(space)
    await routers.until(home, "it is matched", lambda s: element(s, "listeners", "hello")["matched"])
    api_server.kill()
    try:
        await trio.sleep(3.0)
        status = await routers.until(home, "it says so", lambda s: any(p["path"] == "API server" for p in s["problems"]))
        assert element(status, "listeners", "hello")["matched"]
        assert await trio.to_thread.run_sync(http_get, port) == b'{"message":"Hello"}'
        routers.scope.cancel()
        await trio.sleep(0.5)
        with trio.fail_after(5):
            home = await routers.start(space)
        await routers.until(home, "it is matched again", lambda s: element(s, "listeners", "hello")["matched"])
        assert await trio.to_thread.run_sync(http_get, port) == b'{"message":"Hello"}'
    finally:
        await trio.to_thread.run_sync(api_server.start_api)
    space.delete("Listener", "hello")
    await routers.until(home, "it is gone", lambda s: element(s, "listeners", "hello") is None, seconds=30)


async def test_as_a_process_it_ends_by_a_signal_while_it_waits_and_when_it_runs(space: Namespace, routers: Routers) -> None:
    """`vanrouter run --kubernetes`, with a kubeconfig in the environment. Ctrl-C twice: the grace of a pod is half a minute."""
    await trio.Path(routers.root).mkdir(exist_ok=True)
    port, vanrouter = free_port(), str(Path(sys.executable).parent / "vanrouter")
    command = [vanrouter, "run", "--kubernetes", str(routers.root / "site"), "--plane", routers.plane, "--port", str(port)]
    command += ["--kubeconfig", str(space.access.path), "-n", space.name, "--pod", "van-router-1"]

    async def run(ready: int, *signals: signal.Signals) -> None:
        process = await trio.lowlevel.open_process(command)
        try:
            with trio.fail_after(20):
                while await asked(port) != ready:  # noqa: ASYNC110
                    await trio.sleep(0.1)
                for number in signals:
                    process.send_signal(number)
                    await trio.sleep(0.2)
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    await run(503, signal.SIGTERM)
    space.establish()
    space.put("Site", "north")
    await run(200, signal.SIGINT, signal.SIGINT)
    await run(200, signal.SIGINT, signal.SIGINT)  # at once, on what the one before left


async def test_a_router_that_outlives_its_site_starts_anew_as_the_site_that_is_there_now(
    space: Namespace, routers: Routers, nursery: trio.Nursery
) -> None:
    """With the keys of the one before it would be ready for ever, and known to nobody."""
    space.establish()
    space.put("Site", "north")
    ended = trio.Event()

    async def run() -> None:
        async with trio.open_nursery() as inner:
            before, routers.nursery = routers.nursery, inner
            await routers.start(space)
            routers.nursery = before
        ended.set()

    nursery.start_soon(run)
    home = routers.home("van-router-1")
    with trio.fail_after(10):
        while True:
            if home.pid_file.exists():
                break
            await trio.sleep(0.02)
    with Namespace(space.access, space.name) as other:
        other.put_identity()  # alone, this is somebody's mistake, and nothing ends
        with trio.move_on_after(1.0):
            await ended.wait()
        assert not ended.is_set()
        other.put_keys()
        with trio.fail_after(10):
            await ended.wait()
        assert home.state.read("identity.key") is None
        home = await routers.start(other)
        await routers.until(home, "it is the other site", lambda s: s["site"]["id"] == str(other.identity.site_id))


async def test_a_leaf_of_its_own_that_nobody_renews_is_said_with_its_date_until_somebody_does(
    space: Namespace, routers: Routers, caplog: pytest.LogCaptureFixture
) -> None:
    space.establish()
    space.put("Site", "north")

    def later() -> float:
        return time.time() + 80 * 86_400

    home = await routers.start(space, wall=later)
    status = await routers.until(home, "it is said", lambda s: any(p["path"] == "Secret/van-router-keys" for p in s["problems"]))
    (said,) = (p for p in status["problems"] if p["path"] == "Secret/van-router-keys")
    until = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 90 * 86_400))
    assert f"is valid until {until}" in said["message"]
    assert "kubectl logs deployment/van-controller" in said["hint"]
    assert "certificate not renewed" in caplog.messages
    space.clock = later
    space.put_keys()
    await routers.until(home, "it is over", lambda s: not s["problems"])
