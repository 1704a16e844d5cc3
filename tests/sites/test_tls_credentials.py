"""
TLS of listeners and connectors, as their resources want it.

    client ══TLS══▶ north: listener ──── link ──── south: connector ══TLS══▶ server
"""

from __future__ import annotations

import contextlib
import functools
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
import yaml
from gitops_world import SITE, Space, space
from site_world import World, condition, free_port, resource
from user_ca import DAY, UserCa, secret

from vanrouter.kube.records import resource_object
from vanrouter.stores import SiteHome

__all__ = ["space"]

QUICK = {"interval": "2s", "timeout": "400ms"}


@contextlib.asynccontextmanager
async def echoing(port: int, context: ssl.SSLContext) -> AsyncIterator[None]:
    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in stream:
                await stream.send_all(b"echo " + data)

    async with trio.open_nursery() as nursery:
        await nursery.start(
            functools.partial(trio.serve_ssl_over_tcp, serve, port, ssl_context=context, host="127.0.0.1", https_compatible=True)
        )
        yield
        nursery.cancel_scope.cancel()


_CLIENTS: list[trio.SSLStream[trio.SocketStream]] = []


@pytest.fixture(autouse=True)
def clients_are_closed() -> Iterator[None]:
    yield
    for stream in _CLIENTS:
        if (fd := stream.transport_stream.socket.detach()) >= 0:
            os.close(fd)
    _CLIENTS.clear()


async def client(port: int, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    tcp = await trio.open_tcp_stream("127.0.0.1", port)
    stream = trio.SSLStream(tcp, context, server_hostname="localhost", https_compatible=True)
    _CLIENTS.append(stream)
    await stream.do_handshake()
    return stream


async def says(stream: trio.SSLStream[trio.SocketStream], data: bytes) -> bytes:
    with trio.fail_after(5):
        await stream.send_all(data)
        return bytes(await stream.receive_some())


async def element(world: World, home: SiteHome, kind: str, name: str) -> Any:
    return next((x for x in (await world.status(home))[kind] if x["name"] == name), None)


async def until_says(world: World, home: SiteHome, kind: str, name: str, type: str, reason: str) -> Any:
    async def said() -> Any:
        found = await element(world, home, kind, name)
        wanted = [c for c in (found or {"conditions": []})["conditions"] if c["type"] == type and c["reason"] == reason]
        return wanted and wanted[0]

    try:
        return await world.until(f"{kind}/{name}: {type} {reason}", said)
    except AssertionError:
        raise AssertionError(await element(world, home, kind, name)) from None


async def test_a_certificate_for_clients_a_ca_for_the_server_and_a_renewal_that_no_stream_notices(world: World) -> None:
    ca = UserCa()
    north, south = world.home("north", linkAccess=f"127.0.0.1:{free_port()}"), world.home("south")
    await world.start(north)
    await world.start(south)
    await world.link(north, south)
    server, port, old, new = free_port(), free_port(), ca.leaf(), ca.leaf()
    south.resources.put(secret("servers", {"ca.crt": ca.pem}))
    south.resources.put(
        resource("Connector", "db", routingKey="db", host="localhost", port=server, tlsCredentials="servers", healthCheck=QUICK)
    )
    north.resources.put(secret("web", old))
    north.resources.put(resource("Listener", "db", routingKey="db", host="127.0.0.1", port=port, tlsCredentials="web"))
    async with echoing(server, ca.server(ca.leaf())):
        await world.call(south, "reconcile")
        await world.call(north, "reconcile")
        await until_says(world, north, "listeners", "db", "Listening", "Listening")
        await until_says(world, south, "connectors", "db", "Healthy", "Ok")
        tls = await until_says(world, north, "listeners", "db", "Tls", "Ok")
        assert tls["message"] == "TLS with the credential web"
        first = await client(port, ca.client())
        assert await says(first, b"one") == b"echo one"
        north.resources.put(secret("web", new))
        await world.call(north, "reconcile")
        second = await client(port, ca.client())
        assert second.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(new["tls.crt"].decode())
        assert await says(second, b"two") == b"echo two"
        assert await says(first, b"three") == b"echo three"
        # What cannot be used does not take the place of what can.
        north.resources.put(secret("web", {"tls.crt": old["tls.crt"], "tls.key": new["tls.key"]}))
        await world.call(north, "reconcile")
        (told,) = [p for p in (await world.status(north))["problems"] if p["path"] == "Listener/db: spec.tlsCredentials"]
        assert "tls.key does not belong to the first certificate" in told["message"]
        assert "the one before stays in force" in told["message"]
        assert await says(await client(port, ca.client()), b"four") == b"echo four"


async def test_a_server_that_another_ca_vouches_for_is_out_and_says_why_before_any_client_comes(world: World) -> None:
    ca = UserCa()
    home = world.home("north")
    await world.start(home)
    server = free_port()
    spec = {"routingKey": "db", "host": "localhost", "port": server, "healthCheck": QUICK}
    home.resources.put(secret("servers", {"ca.crt": UserCa("another").pem}))
    home.resources.put(resource("Connector", "db", tlsCredentials="servers", **spec))
    async with echoing(server, ca.server(ca.leaf())):
        await world.call(home, "reconcile")
        said = await until_says(world, home, "connectors", "db", "Healthy", "TargetDown")
        assert "TLS: its certificate does not come from the CA in ca.crt" in said["message"]
        home.resources.put(secret("servers", {"ca.crt": ca.pem}))
        await world.call(home, "reconcile")
        await until_says(world, home, "connectors", "db", "Healthy", "Ok")
        home.resources.put(resource("Connector", "db", tlsCredentials="servers", **spec, settings={"tls-server-name": "db.example"}))
        await world.call(home, "reconcile")
        said = await until_says(world, home, "connectors", "db", "Healthy", "TargetDown")
        assert "TLS: its certificate is for another name" in said["message"]
        home.resources.put(resource("Connector", "db", tlsCredentials="servers", verifyHostname=False, **spec))
        await world.call(home, "reconcile")
        await until_says(world, home, "connectors", "db", "Healthy", "Ok")


async def test_each_broken_credential_is_named_with_what_to_do_and_nothing_listens_in_clear(world: World) -> None:
    ca = UserCa()
    one, other = ca.leaf(), ca.leaf()
    given = {
        "mixed": {"tls.crt": one["tls.crt"], "tls.key": other["tls.key"]},
        "halves": {"ca.crt": ca.pem},
        "damaged": {"tls.crt": one["tls.crt"].replace(b"MII", b"MXX"), "tls.key": one["tls.key"]},
        "expired": ca.leaf(begins=-9 * DAY, ends=-DAY),
        "soon": ca.leaf(begins=-89 * DAY, ends=DAY),
        "early": ca.leaf(begins=DAY, ends=9 * DAY),
    }
    home = world.home("north")
    ports = {name: free_port() for name in ("absent", *given)}
    for name, files in given.items():
        home.resources.put(secret(name, files))
    for name, port in ports.items():
        home.resources.put(resource("Listener", name, routingKey="k", host="127.0.0.1", port=port, tlsCredentials=name))
    connector = {"routingKey": "k", "host": "127.0.0.1", "port": free_port(), "healthCheck": {"type": "none"}}
    home.resources.put(resource("Connector", "shows-nothing", **connector, tlsCredentials="halves", useClientCert=True))
    home.resources.put(resource("Connector", "trusts-nobody", **connector, tlsCredentials="soon"))
    home.resources.put(resource("Connector", "plain", **connector))
    await world.start(home)
    await until_says(world, home, "listeners", "soon", "Listening", "Listening")
    status = await world.status(home)
    told = {x["name"]: x for x in [*status["listeners"], *status["connectors"]]}

    def configured(name: str) -> tuple[str, str, str]:
        said = condition(told[name], "Configured")
        return said["reason"], said["message"], said["next"]

    assert configured("absent") == (
        "NoCredential",
        "Secret absent: there is none that this site sees",
        "put a Secret absent with tls.crt and tls.key into resources/, or name another one in spec.tlsCredentials",
    )
    assert configured("mixed")[0] == "InvalidCredential"
    assert configured("mixed")[1] == "Secret mixed: tls.key does not belong to the first certificate in tls.crt (CN=localhost)"
    assert configured("halves")[1:] == ("Secret halves: it has no tls.crt", "add tls.crt; it has ca.crt")
    assert "Secret damaged: tls.crt is damaged" in configured("damaged")[1]
    assert configured("shows-nothing")[1] == "Secret halves: it has no tls.crt"
    assert configured("trusts-nobody")[1] == "Secret soon: it has no ca.crt"
    for name in ("absent", "mixed", "halves", "damaged"):
        with pytest.raises(OSError, match="failed"):
            await trio.open_tcp_stream("127.0.0.1", ports[name])
    assert (condition(told["expired"], "Tls")["status"], condition(told["expired"], "Tls")["reason"]) == ("False", "Expired")
    assert condition(told["soon"], "Tls")["reason"] == "ExpiresSoon"
    assert condition(told["early"], "Tls")["reason"] == "NotYetValid"
    problems = {p["path"]: p for p in status["problems"]}
    assert "the certificate in tls.crt expires on" in problems["Listener/soon: spec.tlsCredentials"]["message"]
    assert problems["Listener/expired: spec.tlsCredentials"]["hint"].startswith("replace the content of Secret expired")


async def test_in_a_namespace_the_secret_comes_by_its_label_and_its_renewal_reaches_the_pod(world: World, space: Space) -> None:
    ca = UserCa()
    server, one, two = free_port(), ca.leaf(), ca.leaf()
    listener = resource("Listener", "db", routingKey="db", host="db", port=5432, tlsCredentials="web")
    connector = resource("Connector", "db", routingKey="db", host="localhost", port=server, tlsCredentials="servers")
    for value in (listener, connector, secret("servers", {"ca.crt": ca.pem})):
        await space.apply({"kind": "Secret" if value.kind == "Secret" else "ConfigMap", **resource_object(value)})
    await space.apply(yaml.safe_load(SITE))
    async with echoing(server, ca.server(ca.leaf())):
        controller = await world.nursery.start(space.run_controller)
        await world.nursery.start(space.run_router, controller)
        waiting = await until_says(world, space.home, "listeners", "db", "Configured", "NoCredential")
        assert "kubectl label secret web vanrouter.io/type=resource" in waiting["next"]
        await space.apply({"kind": "Secret", **resource_object(secret("web", one))})
        await until_says(world, space.home, "listeners", "db", "Listening", "Listening")
        port = (await element(world, space.home, "listeners", "db"))["podPort"]
        first = await client(port, ca.client())
        assert await says(first, b"one") == b"echo one"
        await space.apply({"kind": "Secret", **resource_object(secret("web", two))})

        async def renewed() -> bool:
            stream = await client(port, ca.client())
            return stream.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(two["tls.crt"].decode())

        await world.until("new connections see the renewed certificate", renewed)
        assert await says(first, b"two") == b"echo two"
