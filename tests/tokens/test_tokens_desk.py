"""The desk over real TLS on loopback: what it reads, what it refuses, when it gives up (K-8, K-10), and the health answer."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from join_listener import context_of, listen
from token_parts import NORTH, NOW, SOUTH, MemoryLedger, ask_for, make_issuer

from vanrouter.pki import CertificateAuthority, Secret
from vanrouter.plane import Visitor
from vanrouter.tokens import Endpoint, Issuer
from vanrouter.tokens import desk as desk_module
from vanrouter.tokens.desk import serve_health, serve_join

AUTHORITY = CertificateAuthority.create("north", NORTH.site_id, now=NOW)


class Desk:
    def __init__(self, issuer: Issuer | None, endpoint: Endpoint) -> None:
        self.issuer = issuer
        self.endpoint = endpoint
        self.ready = True

    async def connect(self, alpn: str = "van-join/1") -> trio.SSLStream[trio.SocketStream]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols([alpn])
        tcp = await trio.open_tcp_stream(self.endpoint.host, self.endpoint.port)
        return trio.SSLStream(tcp, context, server_hostname="x.van", https_compatible=True)

    async def raw(self, *parts: bytes, alpn: str = "van-join/1", pause: float = 0.0) -> bytes:
        """Everything that comes back for these bytes."""
        stream = await self.connect(alpn)
        await stream.do_handshake()
        answer = b""

        async def send() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                for part in parts:
                    await stream.send_all(part)
                    await trio.sleep(pause)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            with contextlib.suppress(trio.BrokenResourceError):
                while data := await stream.receive_some(65_536):
                    answer += data
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(stream)
        return answer

    async def post(self, body: bytes, target: str = "/redeem", headers: str = "") -> bytes:
        head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        return await self.raw(head.encode() + body)


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1]) if answer else 0


@contextlib.asynccontextmanager
async def running(issuer: Issuer | None) -> AsyncIterator[Desk]:
    async def handle(visitor: Visitor) -> None:
        if visitor.alpn == "van-join/1":
            await serve_join(visitor, issuer, clock=lambda: NOW)
        else:
            await serve_health(visitor, lambda: desk.ready)

    async with trio.open_nursery() as nursery:
        endpoint = await nursery.start(listen, context_of(NORTH, AUTHORITY, NOW), handle)
        desk = Desk(issuer, endpoint)
        yield desk
        nursery.cancel_scope.cancel()


@pytest.fixture
def issuer() -> Issuer:
    return make_issuer(MemoryLedger(), authority=AUTHORITY)


@pytest.fixture
def brief_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "LINGER_SECONDS", 0.2)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same deadlines, shorter."""
    for name in ("HEADER_SECONDS", "BODY_SECONDS", "LINGER_SECONDS"):
        monkeypatch.setattr(desk_module, name, 0.2)


async def test_a_redemption_over_tls(issuer: Issuer) -> None:
    _, token = issuer.grant("g", now=NOW)
    async with running(issuer) as desk:
        answer = await desk.post(ask_for(token).request.reveal())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in head.lower()
    assert body.startswith(b'{"version":1')
    assert issuer.grants(NOW)[0].used == 1


async def test_every_refusal_is_the_same_bytes(issuer: Issuer) -> None:
    """K-10, header lines included: wrong, used, expired, unknown."""
    _, good = issuer.grant("good", now=NOW)
    _, used = issuer.grant("used", now=NOW)
    _, short = issuer.grant("short", now=NOW - 100, lifetime=50)
    gone, unknown = issuer.grant("gone", now=NOW)
    issuer.delete_grant(gone.id)
    wrong = dataclasses.replace(good, secret=Secret(b"x" * 32))
    async with running(issuer) as desk:
        await desk.post(ask_for(used).request.reveal())
        answers = [await desk.post(ask_for(token).request.reveal()) for token in (wrong, used, short, unknown)]
    assert set(answers) == {answers[0]}
    assert status(answers[0]) == 403


IDS = [
    "too big",
    "declares too much",
    "chunked too big",
    "tiny chunks",
    "fewer tiny chunks",
    "chunk extension",
    "chunked small",
    "negative",
    "two lengths",
]
IDS += ["long header", "GET", "path", "dots", "HEAD", "empty object", "expects 100", "garbage", "http/2"]
BIG = b"x" * (8 * 1024 + 1)
CHUNKED = b"POST /redeem HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b"POST /redeem HTTP/1.1\r\nHost: x\r\nContent-Length: 8193\r\n\r\n" + BIG, 413),
        (b"POST /redeem HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (CHUNKED + chunk(BIG) + chunk(b""), 413),
        (CHUNKED + b"".join(chunk(b"x") for _ in range(9000)), 413),
        (CHUNKED + b"".join(chunk(b"x") for _ in range(300)) + chunk(b""), 413),
        (CHUNKED + b"1;" + b"e" * 40_000 + b"\r\nx\r\n", 413),
        (CHUNKED + chunk(b"{}") + chunk(b""), 400),
        (b"POST /redeem HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /redeem HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
        (b"POST /redeem HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 9000 + b"\r\n\r\n", 431),
        (b"GET /redeem HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 404),
        (b"POST /redeem/../renew HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 404),
        (b"HEAD /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"POST /redeem HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 400),
        (b"POST /redeem HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n{}", 100),
        (b"\x16\x03\x01garbage\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404),
    ],
    ids=IDS,
)
@pytest.mark.usefixtures("brief_linger")
async def test_requests_that_are_too_much_or_nonsense_get_a_status_and_a_close(issuer: Issuer, request_bytes: bytes, expected: int) -> None:
    async with running(issuer) as desk:
        with trio.fail_after(5):
            assert status(await desk.raw(request_bytes)) == expected


@pytest.mark.parametrize(
    "parts",
    [
        (b"",),
        (b"POST /red",),
        (b"POST /redeem HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", b"{"),
    ],
    ids=["silence", "slow header", "slow body"],
)
@pytest.mark.usefixtures("quick")
async def test_slow_requests_end_with_408_and_not_later(issuer: Issuer, parts: tuple[bytes, ...]) -> None:
    async with running(issuer) as desk:
        with trio.fail_after(3):
            assert status(await desk.raw(*parts)) == 408


@pytest.mark.usefixtures("quick")
async def test_a_body_that_drips_does_not_move_the_deadline(issuer: Issuer) -> None:
    async with running(issuer) as desk:
        with trio.fail_after(3):
            head = b"POST /redeem HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
            assert status(await desk.raw(head, *[b"x"] * 15, pause=0.05)) == 408


async def test_how_a_request_is_cut_does_not_matter(issuer: Issuer) -> None:
    _, token = issuer.grant("g", now=NOW)
    body = ask_for(token).request.reveal()
    whole = f"POST /redeem HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    async with running(issuer) as desk:
        assert status(await desk.raw(*(whole[i : i + 7] for i in range(0, len(whole), 7)))) == 200


async def test_a_visitor_that_leaves_is_no_error(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    async with running(issuer) as desk:
        for parts in ((), (b"POST /redeem HT",), (b"POST /redeem HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",)):
            stream = await desk.connect()
            await stream.do_handshake()
            for part in parts:
                await stream.send_all(part)
            await trio.aclose_forcefully(stream)
        await trio.sleep(0.05)
        assert status(await desk.post(b"{}")) == 400
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_a_site_that_issues_nothing_says_later(issuer: Issuer) -> None:
    _, token = issuer.grant("g", now=NOW)
    async with running(None) as desk:
        assert status(await desk.post(ask_for(token).request.reveal())) == 503


async def test_a_bug_of_ours_is_500_logged_with_its_trace_and_nothing_else_stops(caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(MemoryLedger):
        def load(self, grant_id: str) -> Any:
            raise ZeroDivisionError

    issuer = make_issuer(Buggy(), authority=AUTHORITY)
    _, token = issuer.grant("g", now=NOW)
    async with running(issuer) as desk:
        for _ in range(2):
            assert status(await desk.post(ask_for(token).request.reveal())) == 500
    assert "ZeroDivisionError" in caplog.text


async def test_a_renewal_needs_the_certificate_of_the_connection(issuer: Issuer) -> None:
    from vanrouter.pki import PrivateKey
    from vanrouter.tokens.pending import prepare_renewal

    body = prepare_renewal(NORTH.site_id, identity=SOUTH, key=PrivateKey.generate())
    async with running(issuer) as desk:
        assert status(await desk.post(body, target="/renew")) == 403


@pytest.mark.parametrize(
    ("target", "ready", "expected"),
    [
        ("GET /healthz", True, (200, b"ok\n")),
        ("GET /healthz", False, (503, b"not ready\n")),
        *((target, True, (404, None)) for target in ("GET /", "GET /healthz?x", "POST /healthz", "POST /redeem", "HEAD /healthz")),
    ],
)
async def test_health_says_ok_or_not_ready_and_nothing_else(
    issuer: Issuer, target: str, ready: bool, expected: tuple[int, bytes | None]
) -> None:
    async with running(issuer) as desk:
        desk.ready = ready
        answer = await desk.raw(f"{target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode(), alpn="http/1.1")
    assert status(answer) == expected[0]
    if expected[1] is not None:
        assert answer.endswith(b"\r\n\r\n" + expected[1])


async def test_the_desk_works_on_any_stream(issuer: Issuer, autojump_clock: Callable[[], None]) -> None:
    """A plane's visitor is any trio stream; in virtual time the real deadlines are exact."""
    ours, theirs = trio.testing.memory_stream_pair()
    visitor = Visitor(access="a", alpn="van-join/1", stream=theirs, certificates=[], address="127.0.0.1:1")
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_join, visitor, issuer)
        await ours.send_all(b"POST /redeem HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        await trio.lowlevel.checkpoint()
        answer = await ours.receive_some(4096)
        assert trio.current_time() - begin == pytest.approx(5.0)
        assert status(bytes(answer)) == 408
        await ours.aclose()
