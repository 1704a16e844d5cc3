"""Clients of a listener with TLS that connect and say nothing, more of them than it bears."""

from __future__ import annotations

import socket

import pytest
import trio
from applications import connect, echo, served
from plane_harness import Router, free_port
from site_credentials import Authority, Site
from tls_programs import Shown, client_context, entry, tls_client

from vanrouter.plane import BindStatus, Listener

BEARS = 1_024


@pytest.fixture
async def alone(kind: str, nursery: trio.Nursery) -> Router:
    router = Router(kind, Site("alone"), workers=1)
    await router.start(nursery)
    return router


async def _connected(port: int, count: int) -> list[socket.socket]:
    made = []
    for n in range(count):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setblocking(False)
        made.append(sock)
        if n % 64 == 0:  # the kernel's queue is bounded too
            await trio.sleep(0.002)
    return made


def _is_cut(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


async def test_of_more_half_open_handshakes_than_a_listener_bears_the_oldest_go_and_a_client_gets_in(alone: Router) -> None:
    """Long before the 10 s that a handshake may take; and those at another listener stay."""
    ca = Authority("the user's CA")
    shown = entry("shown", shown=Shown(ca))
    ports = []
    async with served(echo) as target:
        alone.add_connector(target.port)
        for name in ("l", "other"):
            alone.put(shown, Listener(name=name, host="127.0.0.1", port=free_port(), routing_key="k", tls=shown.name))
            await alone.until(lambda name=name: name in alone.listeners and alone.listeners[name].status is BindStatus.LISTENING)
            ports.append(alone.listeners[name].port)
        elsewhere = await _connected(ports[1], 8)
        silent = await _connected(ports[0], BEARS + 50)
        try:
            with trio.fail_after(8):
                await alone.until(lambda: len(alone.ends) >= 50)
                client = await tls_client(await connect(ports[0]), client_context(ca))
                await client.send(b"hello")
                assert await client.receive() == b"hello"
            cut = [n for n, sock in enumerate(silent) if _is_cut(sock)]
            assert 50 <= len(cut) <= 51
            assert max(cut) < 200, "the oldest; those that are accepted together are about as old"
            assert not any(_is_cut(sock) for sock in elsewhere)
            ends = {(end.stream_class, end.reason) for end in alone.ends}
            assert ends == {("resource", "TLS: it gave way to new clients: too many have not finished their handshake")}
            assert 50 <= alone.plane.counters().handshakes_failed <= 51
        finally:
            for sock in [*silent, *elsewhere]:
                sock.close()
