"""The link port as strangers see it: silence, garbage, floods, probes, the wrong protocol, and visitors."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time

import pytest
import trio
from applications import echo, echo_through, served
from plane_harness import Pair, Router
from scripted_peer import GOAWAY, client_context, dialled_in
from site_credentials import Authority, Site

from vanrouter.plane import Link


async def _access(kind: str, nursery: trio.Nursery, **config: object) -> tuple[Router, Authority, int]:
    router, authority = Router(kind, Site("host"), **config), Authority()
    await router.start(nursery, [router.site.credential(authority)])
    return router, authority, await router.add_access()


async def _ends(stream: trio.SocketStream, within: float) -> bool:
    with trio.move_on_after(within):
        with contextlib.suppress(trio.BrokenResourceError):
            async for _ in stream:
                pass
        return True
    return False


def _flood(port: int, count: int, say: bytes, source: str) -> list[socket.socket]:
    sockets = []
    for _ in range(count):
        sock = socket.socket()
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
        with contextlib.suppress(OSError):
            sock.sendall(say)
        sockets.append(sock)
    return sockets


async def test_a_link_gets_through_500_silent_and_500_garbage_connections_in_a_second(kinds: str, nursery: trio.Nursery) -> None:
    pair = Pair(kinds)
    await pair.start(nursery, lanes=0)
    sockets = []
    for number in range(10):
        source = f"127.0.0.{10 + number}"
        sockets += await trio.to_thread.run_sync(_flood, pair.access_port, 50, b"", source)
        sockets += await trio.to_thread.run_sync(_flood, pair.access_port, 50, b"\x00garbage\r\n\r\n", source)
    try:
        began = time.monotonic()
        await pair.link()
        assert time.monotonic() - began < 1
        async with served(echo) as target:
            await echo_through(await pair.expose(target.port), 1000)
        assert pair.egress.plane.counters().handshakes_failed > 0
    finally:
        for sock in sockets:
            sock.close()


async def test_a_link_gets_through_a_flood_from_its_own_address(kinds: str, nursery: trio.Nursery) -> None:
    pair = Pair(kinds)
    await pair.start(nursery, lanes=0)
    sockets = await trio.to_thread.run_sync(_flood, pair.access_port, 200, b"", "127.0.0.1")
    try:
        began = time.monotonic()
        await pair.link()
        assert time.monotonic() - began < 1
    finally:
        for sock in sockets:
            sock.close()


async def test_one_source_may_not_have_more_than_its_share_of_silent_connections(kind: str, nursery: trio.Nursery) -> None:
    _, _, port = await _access(kind, nursery, per_source_limit=4)
    streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(10)]
    await trio.sleep(0.3)
    for number, stream in enumerate(streams):
        assert await _ends(stream, 0.05) is (number < 6), number  # the oldest go first
        await stream.aclose()


async def test_there_are_never_more_than_256_strangers(kind: str, nursery: trio.Nursery) -> None:
    _, _, port = await _access(kind, nursery)
    sockets = []
    for number in range(20):
        sockets += await trio.to_thread.run_sync(_flood, port, 15, b"", f"127.0.0.{10 + number}")
    try:
        await trio.sleep(0.5)
        closed = []
        for number, sock in enumerate(sockets):
            sock.setblocking(False)
            try:
                closed.append(number) if not sock.recv(1) else None
            except BlockingIOError:
                pass
            except ConnectionResetError:
                closed.append(number)
        assert len(closed) == 300 - 256
        assert closed[-1] < 60, "the oldest go first"
    finally:
        for sock in sockets:
            sock.close()


async def test_silence_is_closed_after_five_seconds(kind: str, nursery: trio.Nursery) -> None:
    _, _, port = await _access(kind, nursery)
    async with await trio.open_tcp_stream("127.0.0.1", port) as silent, await trio.open_tcp_stream("127.0.0.1", port) as half_a_hello:
        await half_a_hello.send_all(b"\x16\x03\x01\x02\x00")
        began = time.monotonic()
        assert await _ends(silent, 7)
        assert await _ends(half_a_hello, 2)
        assert 4 < time.monotonic() - began < 7


async def test_a_probe_is_counted_and_no_failure(kind: str, nursery: trio.Nursery) -> None:
    router, _, port = await _access(kind, nursery)
    for _ in range(3):
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
    await router.until(lambda: router.plane.counters().probes == 3)
    assert router.plane.counters().handshakes_failed == 0


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + bytes(100),
        b"\x16\x03\x01\x00\x05hello",
        b"SSH-2.0-x\r\n",
        b"\xff" * 5000,
    ],
)
async def test_what_is_not_tls_is_closed_at_once(kind: str, nursery: trio.Nursery, said: bytes) -> None:
    router, _, port = await _access(kind, nursery)
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(said)
        if said.startswith(b"\x16\x03\x01\xff\xff"):
            await stream.send_eof()
        assert await _ends(stream, 3)
    await router.until(lambda: router.plane.counters().handshakes_failed == 1)


async def test_a_client_hello_byte_by_byte_works(kinds: str, nursery: trio.Nursery) -> None:
    from relay import relayed

    pair = Pair(kinds)
    await pair.start(nursery, lanes=0)
    async with relayed(pair.access_port) as relay:
        relay.piece = 1
        await pair.link(relay.port)


# ---- ALPN and TLS ----------------------------------------------------------------------------------------------------------------


async def _says_no_hello(port: int, context: ssl.SSLContext) -> bool:
    """True: the handshake fails, or the connection is closed without HELLO (a GOAWAY that says why is fine)."""
    stream = trio.SSLStream(await trio.open_tcp_stream("127.0.0.1", port), context, https_compatible=True)
    said = bytearray()
    try:
        with trio.fail_after(3):
            await stream.do_handshake()
            async for data in stream:
                said += data
    except (trio.BrokenResourceError, ssl.SSLError):
        pass
    finally:
        await trio.aclose_forcefully(stream)
    return not said or said[7] == GOAWAY


async def test_a_link_without_a_certificate_is_closed_before_hello(kind: str, nursery: trio.Nursery) -> None:
    router, _, port = await _access(kind, nursery)
    assert await _says_no_hello(port, client_context(None, alpn=["van/1"]))
    assert not router.links


@pytest.mark.parametrize("alpn", [None, ["h2"], ["van/2"]])
async def test_no_or_another_protocol_is_refused(kind: str, nursery: trio.Nursery, alpn: list[str] | None) -> None:
    router, authority, port = await _access(kind, nursery)
    assert await _says_no_hello(port, client_context(router.site.credential(authority), alpn=alpn))


async def test_tls_1_2_is_refused(kind: str, nursery: trio.Nursery) -> None:
    _, _, port = await _access(kind, nursery)
    context = client_context(None, alpn=["http/1.1"])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert await _says_no_hello(port, context)


async def test_no_session_can_be_resumed(kind: str, nursery: trio.Nursery) -> None:
    _, authority, port = await _access(kind, nursery)
    mallory = Site("curious")
    async with dialled_in(port, mallory, mallory.credential(authority)) as peer:
        await peer.greet()
        await peer.is_alive()
        session = peer._stream.session  # type: ignore[attr-defined]
        assert session is None or not session.has_ticket


# ---- Visitors --------------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _visit(port: int, context: ssl.SSLContext):  # type: ignore[no-untyped-def]
    transport = await trio.open_tcp_stream("127.0.0.1", port)
    async with transport:
        stream = trio.SSLStream(transport, context, https_compatible=True)
        await stream.do_handshake()
        yield stream


@pytest.mark.parametrize("alpn", ["van-join/1", "http/1.1"])
async def test_a_visitor_comes_to_the_control_plane(kind: str, nursery: trio.Nursery, alpn: str) -> None:
    router, _, port = await _access(kind, nursery)
    async with _visit(port, client_context(None, alpn=[alpn])) as client:
        await client.send_all(b"GET /healthz HTTP/1.1\r\n\r\n")
        await router.until(lambda: router.visitors)
        (visitor,) = router.visitors
        assert (visitor.alpn, visitor.access, visitor.certificates) == (alpn, "access", [])
        assert visitor.address.startswith("127.0.0.1")
        with trio.fail_after(3):
            assert await visitor.stream.receive_some() == b"GET /healthz HTTP/1.1\r\n\r\n"
            await visitor.stream.send_all(b"HTTP/1.1 200 OK\r\n" + bytes(100_000))
            await visitor.stream.aclose()
            got = bytearray()
            with contextlib.suppress(trio.BrokenResourceError):
                async for data in client:
                    got += data
        assert len(got) == 17 + 100_000


async def test_a_visitor_shows_its_certificate_also_when_it_expired_lately(kind: str, nursery: trio.Nursery) -> None:
    router, authority, port = await _access(kind, nursery)
    day = 86_400
    for age, comes in ((-1, True), (30, True), (91, False)):
        credential = Site("member").credential(authority, begins=time.time() - 200 * day, ends=time.time() - age * day)
        router.visitors.clear()
        with contextlib.suppress(trio.BrokenResourceError, trio.TooSlowError):
            async with _visit(port, client_context(credential, alpn=["van-join/1"])) as client:
                await client.send_all(b"renew")
                if comes:
                    await router.until(lambda: router.visitors)
                    assert router.visitors[0].certificates[0] == credential.certificates[0]
                    await router.visitors[0].stream.aclose()
                else:
                    with trio.fail_after(1):
                        await client.receive_some()
        assert bool(router.visitors) is comes, age


async def test_at_most_64_visitors_at_once(kind: str, nursery: trio.Nursery) -> None:
    router, _, port = await _access(kind, nursery, handshakes_per_second=0)
    async with contextlib.AsyncExitStack() as stack:
        for number in range(64):
            await stack.enter_async_context(_visit(port, client_context(None, alpn=["http/1.1"])))
            await router.until(lambda n=number: len(router.visitors) == n + 1)
        with contextlib.suppress(trio.BrokenResourceError):
            async with _visit(port, client_context(None, alpn=["http/1.1"])) as extra:
                with trio.fail_after(2):
                    assert await extra.receive_some() == b""
        assert len(router.visitors) == 64
        for visitor in router.visitors:
            await visitor.stream.aclose()


async def test_a_flood_of_handshakes_from_one_source_is_slowed_and_others_get_in(kinds: str, nursery: trio.Nursery) -> None:
    pair = Pair(kinds)
    pair.egress = type(pair.egress)(kinds.split("-")[1], Site("south"), handshakes_per_second=5)
    await pair.start(nursery, lanes=0)
    context = client_context(None, alpn=["http/1.1"])
    failed = 0
    for _ in range(30):
        sock = socket.socket()
        sock.bind(("127.0.0.99", 0))
        sock.settimeout(2)
        try:
            sock.connect(("127.0.0.1", pair.access_port))
            tls = await trio.to_thread.run_sync(context.wrap_socket, sock)
            tls.close()
        except OSError:
            failed += 1
        finally:
            sock.close()
    assert failed >= 10, "a burst of 10 and 5 per second are let in, the rest is not"
    pair.ingress.put(Link(name="link", credential="main"))
    await pair.link()
