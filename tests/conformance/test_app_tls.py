"""TLS with applications: a listener that speaks it with its clients, a connector that speaks it with its target."""

from __future__ import annotations

import ssl
import time

import pytest
import trio
from applications import body, connect, echo, is_reset, read_to_end, reset, served
from plane_harness import KINDS, Pair, Router, free_port
from site_credentials import Authority, Site, der
from tls_programs import Shown, TlsPeer, Truncated, client_context, entry, server_context, tls_client, tls_served

from vanrouter.plane import BindStatus, Connector, Listener, Ref, Tls

DAY = 86_400.0


@pytest.fixture(scope="module")
def ca() -> Authority:
    return Authority("the user's CA")


async def _answer_at_the_end(peer: TlsPeer) -> None:
    got = await peer.receive_all()
    await peer.send(got)
    await peer.end()
    await peer.stream.send_eof()


async def _plain_answer(stream: trio.SocketStream) -> None:
    got = await read_to_end(stream)
    await stream.send_all(got)
    await stream.send_eof()


async def _echo(peer: TlsPeer) -> None:
    while data := await peer.receive():
        await peer.send(data)
    await peer.end()
    await peer.stream.send_eof()


async def _say_hello(port: int) -> None:
    """Raises OSError for a reset, whenever it comes."""
    with trio.fail_after(5):
        try:
            stream = await connect(port)
            await stream.send_all(b"hello")
            assert await stream.receive_some()
        except trio.BrokenResourceError as error:
            raise ConnectionResetError("reset") from error


async def _is_turned_away(port: int, context: ssl.SSLContext) -> bool:
    try:
        client = await tls_client(await connect(port), context)
        await client.receive()
    except (ssl.SSLError, trio.BrokenResourceError):
        return True
    return False


async def _listen(router: Router, tls: Tls) -> int:
    router.put(tls, Listener(name="l", host="127.0.0.1", port=free_port(), routing_key="k", tls=tls.name))
    await router.until(lambda: "l" in router.listeners and router.listeners["l"].status is BindStatus.LISTENING)
    return router.listeners["l"].port


def _connect(router: Router, port: int, tls: Tls) -> None:
    router.put(tls, Connector(name="c", routing_key="k", host="127.0.0.1", port=port, tls=tls.name))


def _to_target(ca: Authority, **terms: object) -> Tls:
    return entry("to-target", trust=ca, **{"server_name": "localhost", **terms})


@pytest.mark.parametrize("size", [0, 1, 16_384, 3_000_000])
async def test_both_ends_speak_tls_and_halves_end_one_after_the_other(pair: Pair, ca: Authority, size: int) -> None:
    async with tls_served(_answer_at_the_end, server_context(Shown(ca))) as target:
        _connect(pair.egress, target.port, _to_target(ca))
        port = await _listen(pair.ingress, entry("shown", shown=Shown(ca)))
        with trio.fail_after(20):
            client = await tls_client(await connect(port), client_context(ca))
            await client.send(body(size))
            await client.end()
            assert await client.receive_all() == body(size)
        await pair.egress.until(lambda: target.endings == ["end"])
        await pair.nothing_is_left()
    assert pair.ingress.plane.counters().by_listener["l"] == [0, 1, size, size]


@pytest.mark.parametrize("ends", ["both", "the client", "the target"])
async def test_a_listener_and_a_connector_of_one_router_speak_tls(router: Router, ca: Authority, ends: str) -> None:
    """With more than what the kernel would move by itself."""
    async with tls_served(_answer_at_the_end, server_context(Shown(ca))) as secret, served(_plain_answer) as plain:
        if ends == "the client":
            router.add_connector(plain.port)
        else:
            _connect(router, secret.port, _to_target(ca))
        tls = entry("shown", shown=Shown(ca)) if ends != "the target" else None
        port = await _listen(router, tls) if tls else await router.add_listener()
        with trio.fail_after(20):
            stream = await connect(port)
            if tls:
                client = await tls_client(stream, client_context(ca))
                await client.send(body(3_000_000))
                await client.end()
                assert await client.receive_all() == body(3_000_000)
            else:
                await stream.send_all(body(3_000_000))
                await stream.send_eof()
                assert await read_to_end(stream) == body(3_000_000)
        await router.until(lambda: not router.plane.counters().streams_open)


async def test_either_end_may_speak_tls_alone(pair: Pair, ca: Authority) -> None:
    async with served(echo) as plain, tls_served(_echo, server_context(Shown(ca))) as secret:
        pair.egress.add_connector(plain.port)
        port = await _listen(pair.ingress, entry("shown", shown=Shown(ca)))
        with trio.fail_after(10):
            client = await tls_client(await connect(port), client_context(ca))
            await client.send(body(100_000))
            await client.end()
            assert await client.receive_all() == body(100_000)
        _connect(pair.egress, secret.port, _to_target(ca))
        pair.ingress.put(Listener(name="plain", host="127.0.0.1", port=free_port(), routing_key="k"))
        await pair.ingress.until(lambda: "plain" in pair.ingress.listeners)
        with trio.fail_after(10):
            stream = await connect(pair.ingress.listeners["plain"].port)
            await stream.send_all(body(100_000))
            await stream.send_eof()
            got = bytearray()
            async for data in stream:
                got += data
        assert got == body(100_000)


async def test_a_server_that_speaks_first_is_heard(pair: Pair, ca: Authority) -> None:
    async def greet(peer: TlsPeer) -> None:
        await peer.send(b"220 ready")
        await _echo(peer)

    async with tls_served(greet, server_context(Shown(ca))) as target:
        _connect(pair.egress, target.port, _to_target(ca))
        port = await _listen(pair.ingress, entry("shown", shown=Shown(ca)))
        with trio.fail_after(10):
            client = await tls_client(await connect(port), client_context(ca))
            assert await client.receive() == b"220 ready"
            await client.send(b"QUIT")
            assert await client.receive() == b"QUIT"


async def test_slow_readers_get_every_byte_and_the_end(pair: Pair, ca: Authority) -> None:
    async def slowly(peer: TlsPeer) -> None:
        got = 0
        while data := await peer.receive(5_000):
            got += len(data)
            if got % 7 == 0:
                await trio.sleep(0.002)
        await peer.send(body(2_000_000, seed=1) + str(got).encode())
        await peer.end()
        await peer.stream.send_eof()

    async with tls_served(slowly, server_context(Shown(ca))) as target:
        _connect(pair.egress, target.port, _to_target(ca))
        port = await _listen(pair.ingress, entry("shown", shown=Shown(ca)))
        with trio.fail_after(30):
            client = await tls_client(await connect(port), client_context(ca))
            await client.send(body(4_000_000))
            await client.end()
            await trio.sleep(0.3)  # what was sent fills every buffer on the way
            assert await client.receive_all() == body(2_000_000, seed=1) + b"4000000"
        await pair.nothing_is_left()


async def test_a_client_that_leaves_without_close_notify_is_no_clean_end(pair: Pair, ca: Authority) -> None:
    async with tls_served(_answer_at_the_end, server_context(Shown(ca))) as target:
        _connect(pair.egress, target.port, _to_target(ca))
        port = await _listen(pair.ingress, entry("shown", shown=Shown(ca)))
        client = await tls_client(await connect(port), client_context(ca))
        await client.send(body(50_000))
        await client.stream.aclose()
        await pair.ingress.until(lambda: pair.ingress.ends)
        assert pair.ingress.ends[0].stream_class == "client"
        assert "close_notify" in pair.ingress.ends[0].reason
        await pair.egress.until(lambda: target.endings)
        assert target.endings == ["reset"]


async def test_a_target_that_leaves_without_close_notify_is_no_clean_end(pair: Pair, ca: Authority) -> None:
    async def half_an_answer(peer: TlsPeer) -> None:
        await peer.send(b"half an ans")

    async with tls_served(half_an_answer, server_context(Shown(ca))) as target:
        _connect(pair.egress, target.port, _to_target(ca))
        port = await _listen(pair.ingress, entry("shown", shown=Shown(ca)))
        client = await tls_client(await connect(port), client_context(ca))
        with trio.fail_after(5), pytest.raises((Truncated, trio.BrokenResourceError)):
            await client.receive_all()
        await pair.ingress.until(lambda: pair.ingress.ends)
        assert pair.ingress.ends[0].stream_class == "target"


async def test_a_client_that_aborts_is_a_reset(pair: Pair, ca: Authority) -> None:
    async with tls_served(_answer_at_the_end, server_context(Shown(ca))) as target:
        _connect(pair.egress, target.port, _to_target(ca))
        port = await _listen(pair.ingress, entry("shown", shown=Shown(ca)))
        client = await tls_client(await connect(port), client_context(ca))
        await client.send(b"x")
        await pair.egress.until(lambda: target.accepted)
        reset(client.stream)
        await pair.egress.until(lambda: target.endings)
        assert target.endings == ["reset"]


# ---- Who is refused --------------------------------------------------------------------------------------------------------------


async def test_who_speaks_no_tls_is_refused_and_no_target_hears_of_it(pair: Pair, ca: Authority) -> None:
    async with served(echo) as target:
        pair.egress.add_connector(target.port)
        port = await _listen(pair.ingress, entry("shown", shown=Shown(ca)))
        stream = await connect(port)
        await stream.send_all(b"GET / HTTP/1.1\r\n\r\n" * 20)
        await pair.ingress.until(lambda: pair.ingress.ends)
        assert (pair.ingress.ends[0].stream_class, pair.ingress.ends[0].reason) == ("client", "TLS: it does not speak TLS")
        assert pair.ingress.plane.counters().handshakes_failed == 1
        assert target.accepted == 0


BAD_TARGETS = {
    "another CA": "TLS: its certificate does not come from the CA in ca.crt",
    "another name": "TLS: its certificate is for another name",
    "expired": "TLS: its certificate has expired",
    "not yet": "TLS: its certificate is not valid yet; are both clocks right?",
}


@pytest.mark.parametrize("what", BAD_TARGETS)
async def test_a_target_with_a_bad_certificate_gets_nothing_and_the_connector_says_why(pair: Pair, ca: Authority, what: str) -> None:
    now = time.time()
    shown = {
        "another CA": lambda: Shown(Authority("somebody")),
        "another name": lambda: Shown(ca, "other.example"),
        "expired": lambda: Shown(ca, begins=now - 9 * DAY, ends=now - DAY),
        "not yet": lambda: Shown(ca, begins=now + DAY, ends=now + 9 * DAY),
    }[what]()
    async with tls_served(_echo, server_context(shown)) as target:
        _connect(pair.egress, target.port, _to_target(ca))
        port = await pair.ingress.add_listener()
        stream = await connect(port)
        await stream.send_all(b"a secret")
        assert await is_reset(stream)
        await pair.egress.until(lambda: pair.egress.connectors["c"].error)
        assert BAD_TARGETS[what] in pair.egress.connectors["c"].error
        await pair.ingress.until(lambda: pair.ingress.ends)
        assert BAD_TARGETS[what].removeprefix("TLS: ") in pair.ingress.ends[0].reason
        assert pair.ingress.ends[0].stream_class == "refused"
        await pair.egress.until(lambda: target.endings)
        assert set(target.endings) == {"reset"}
        await pair.nothing_is_left()


async def test_the_name_counts_only_where_it_is_wanted_and_a_certificate_in_the_trust_is_enough(pair: Pair, ca: Authority) -> None:
    pinned = Shown(Authority("nobody knows"), "other.example")
    terms = Tls(name="to-target", trust=[der(pinned.leaf)], verify_host=False, server_name="localhost")
    async with tls_served(_echo, server_context(pinned)) as target:
        _connect(pair.egress, target.port, terms)
        port = await pair.ingress.add_listener()
        stream = await connect(port)
        await stream.send_all(b"hello")
        with trio.fail_after(5):
            assert await stream.receive_some() == b"hello"


async def test_a_target_that_does_not_speak_tls_is_refused_and_never_gets_a_byte_in_clear(pair: Pair, ca: Authority) -> None:
    heard = bytearray()

    async def hear(stream: trio.SocketStream) -> None:
        async for data in stream:
            heard.extend(data)
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with served(hear) as target:
        _connect(pair.egress, target.port, _to_target(ca))
        stream = await connect(await pair.ingress.add_listener())
        await stream.send_all(b"a secret")
        assert await is_reset(stream)
        assert "TLS: it does not speak TLS" in pair.egress.connectors["c"].error
    assert b"a secret" not in heard


async def test_clients_show_certificates_where_they_are_wanted(pair: Pair, ca: Authority) -> None:
    async with tls_served(_echo, server_context(Shown(ca), wants=ca)) as target:
        _connect(pair.egress, target.port, _to_target(ca, shown=Shown(ca, "router"), client_cert=True))
        port = await _listen(pair.ingress, entry("shown", shown=Shown(ca), trust=ca, client_cert=True))
        with trio.fail_after(10):
            client = await tls_client(await connect(port), client_context(ca, shown=Shown(ca, "alice")))
            await client.send(b"hello")
            assert await client.receive() == b"hello"
            assert await _is_turned_away(port, client_context(ca))
            assert await _is_turned_away(port, client_context(ca, shown=Shown(Authority("other"), "eve")))
        await pair.ingress.until(lambda: len(pair.ingress.ends) == 2)
        reasons = {end.reason for end in pair.ingress.ends}
        assert reasons == {
            "TLS: it shows no certificate, and one is required",
            "TLS: its certificate does not come from the CA in ca.crt",
        }
        assert target.accepted == 1


async def test_a_target_that_wants_a_certificate_and_gets_none_says_so(pair: Pair, ca: Authority) -> None:
    async with tls_served(_echo, server_context(Shown(ca), wants=ca)) as target:
        _connect(pair.egress, target.port, _to_target(ca))
        stream = await connect(await pair.ingress.add_listener())
        await stream.send_all(b"hello")
        assert await is_reset(stream)
        await pair.egress.until(lambda: pair.egress.ends)
        assert "it wants a certificate of ours, and got none" in pair.egress.ends[0].reason
        assert pair.egress.ends[0].stream_class == "target"
        assert target.accepted


async def test_clients_that_never_finish_their_handshake_are_let_go_and_hold_nobody_up(nursery: trio.Nursery, ca: Authority) -> None:
    """Both planes at once: it takes the 10 s that a handshake may."""
    async with served(echo) as target, trio.open_nursery() as both:

        async def check(kind: str) -> None:
            router = Router(kind, Site("alone"))
            await router.start(nursery)
            router.add_connector(target.port)
            port = await _listen(router, entry("shown", shown=Shown(ca)))
            silent = [await connect(port) for _ in range(20)]
            for stream in silent[:10]:
                await stream.send_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")  # how a ClientHello begins
            with trio.fail_after(5):
                client = await tls_client(await connect(port), client_context(ca))
                await client.send(b"hello")
                assert await client.receive() == b"hello"
            await router.until(lambda: len(router.ends) == 20, within=15)
            assert {(end.stream_class, end.reason) for end in router.ends} == {("client", "TLS: no handshake within 10 s")}
            assert router.plane.counters().handshakes_failed == 20

        for kind in KINDS:
            both.start_soon(check, kind)
    assert target.accepted == 2


# ---- Certificates come and go ------------------------------------------------------------------------------------------------------


async def test_a_rotated_certificate_is_for_new_connections_and_the_others_go_on(pair: Pair, ca: Authority) -> None:
    old, new = Shown(ca), Shown(ca)
    async with tls_served(_echo, server_context(Shown(ca))) as target:
        _connect(pair.egress, target.port, _to_target(ca))
        port = await _listen(pair.ingress, entry("shown", shown=old))
        with trio.fail_after(10):
            first = await tls_client(await connect(port), client_context(ca))
            await first.send(b"one")
            assert await first.receive() == b"one"
            pair.ingress.put(entry("shown", shown=new))
            pair.egress.put(_to_target(Authority("another")))
            second = await tls_client(await connect(port), client_context(ca))
            assert second.ssl.getpeercert(binary_form=True) == der(new.leaf)
            with pytest.raises((Truncated, trio.BrokenResourceError)):  # the target is not trusted any more
                await second.receive()
            await first.send(b"two")
            assert await first.receive() == b"two"
            pair.egress.put(_to_target(ca))
            third = await tls_client(await connect(port), client_context(ca))
            await third.send(b"three")
            assert await third.receive() == b"three"


async def test_without_a_credential_nobody_is_served_least_of_all_in_clear(pair: Pair, ca: Authority) -> None:
    async with served(echo) as target:
        pair.egress.add_connector(target.port)
        port = await _listen(pair.ingress, entry("shown", shown=Shown(ca)))
        pair.ingress.drop(Ref("tls", "shown"))
        with pytest.raises(OSError, match=r"reset|failed"):
            await _say_hello(port)
        await pair.ingress.until(lambda: pair.ingress.ends)
        assert pair.ingress.ends[0].reason == "TLS: there is no credential shown now"
        assert pair.ingress.ends[0].stream_class == "refused"
        pair.egress.put(Connector(name="c", routing_key="k", host="127.0.0.1", port=target.port, tls="nowhere"))
        pair.ingress.put(entry("shown", shown=Shown(ca)))
        client = await tls_client(await connect(port), client_context(ca))
        with trio.fail_after(10), pytest.raises((Truncated, trio.BrokenResourceError)):
            await client.receive()
        assert target.accepted == 0


async def test_protocols_are_agreed_on_at_both_ends(pair: Pair, ca: Authority) -> None:
    context = server_context(Shown(ca))
    context.set_alpn_protocols(["h2", "http/1.1"])
    agreed = []

    async def note(peer: TlsPeer) -> None:
        agreed.append(peer.ssl.selected_alpn_protocol())
        await _echo(peer)

    async with tls_served(note, context) as target:
        _connect(pair.egress, target.port, _to_target(ca, alpn=["h2"]))
        port = await _listen(pair.ingress, entry("shown", shown=Shown(ca), alpn=["h2", "http/1.1"]))
        offered = client_context(ca)
        offered.set_alpn_protocols(["http/1.1", "h2"])
        with trio.fail_after(10):
            client = await tls_client(await connect(port), offered)
            await client.send(b"hello")
            assert await client.receive() == b"hello"
        assert (client.ssl.selected_alpn_protocol(), agreed) == ("h2", ["h2"])
