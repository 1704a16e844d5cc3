"""Asking an issuer over TLS on loopback: what is accepted, what is refused (K-12), and what a person is told when it fails."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
import trio
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from join_listener import context_of, listen, server_context
from token_parts import NORTH, SOUTH, MemoryLedger, ask_for, make_issuer

from vanrouter.errors import TokenError
from vanrouter.pki import CertificateAuthority, IdentityKey, PrivateKey, certificates_to_pem
from vanrouter.plane import Visitor
from vanrouter.tokens import AccessToken, Endpoint, Issuer, Pending, prepare, refuse_if_redeemed
from vanrouter.tokens import redeem as redeem_module
from vanrouter.tokens.desk import serve_join
from vanrouter.tokens.pending import accept_reply_untrusted
from vanrouter.tokens.redeem import redeem, renew

NOW = float(int(time.time()))
DAY = 86_400.0
AUTHORITY = CertificateAuthority.create("north", NORTH.site_id, now=NOW)
OTHER = IdentityKey.generate()


def later(seconds: float) -> Callable[[], float]:
    return lambda: time.time() + seconds


@contextlib.asynccontextmanager
async def issuing(
    issuer: Issuer,
    context: ssl.SSLContext | None = None,
    answer: Callable[[Visitor], Awaitable[None]] | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Endpoint]:
    async def handle(visitor: Visitor) -> None:
        await (answer(visitor) if answer else serve_join(visitor, issuer, clock=clock))

    async with trio.open_nursery() as nursery:
        endpoint = await nursery.start(listen, context or context_of(NORTH, AUTHORITY, NOW), handle)
        issuer.endpoints = [endpoint]
        yield endpoint
        nursery.cancel_scope.cancel()


@pytest.fixture
def issuer() -> Issuer:
    return make_issuer(MemoryLedger(), authority=AUTHORITY)


def token_for(issuer: Issuer, *endpoints: Endpoint, **more: Any) -> AccessToken:
    return issuer.grant("to-north", now=time.time(), endpoints=endpoints or None, **more)[1]


def closed_port() -> Endpoint:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Endpoint("127.0.0.1", probe.getsockname()[1])


async def failing(pending: Pending, **more: Any) -> TokenError:
    with pytest.raises(TokenError) as caught, trio.fail_after(30):
        await redeem(pending, **more)
    assert caught.value.hint, "every error says what to do"
    return caught.value


# ---- What works -----------------------------------------------------------------------------------------------------------------------


async def test_a_token_is_exchanged_for_all_that_a_link_needs(issuer: Issuer) -> None:
    async with issuing(issuer) as endpoint:
        token = token_for(issuer, cost=4)
        link = await redeem(ask_for(token, identity=SOUTH))
    assert (link.issuer, link.issuer_name, link.endpoints, link.cost, link.token_id) == (NORTH.site_id, "north", (endpoint,), 4, token.id)
    assert AUTHORITY.issued(link.leaf)
    link.credential("to-north", SOUTH)


async def test_a_lost_reply_is_not_a_lost_token(issuer: Issuer) -> None:
    """The reply is cut off; after a restart the pending redemption, read back from the disk, gets the certificate that was issued."""
    lose = True

    async def losing(visitor: Visitor) -> None:
        if lose:
            sent: list[bytes] = []

            async def send_all(data: bytes) -> None:
                sent.append(data)
                raise trio.BrokenResourceError

            visitor.stream.send_all = send_all  # type: ignore[method-assign]
        await serve_join(visitor, issuer)

    async with issuing(issuer, answer=losing):
        token = token_for(issuer)
        kept = ask_for(token, identity=SOUTH).dump()
        error = await failing(Pending.load(kept.reveal()))
        assert (error.reason, error.retryable) == ("later", True)
        assert issuer.grants(NOW)[0].used == 1
        lose = False
        first = await redeem(Pending.load(kept.reveal()))
        assert (await redeem(Pending.load(kept.reveal()))).leaf == first.leaf
        error = await failing(ask_for(token))
    assert error.reason == "refused"


async def test_the_first_endpoint_that_answers_wins_and_dead_ones_cost_a_quarter_second(issuer: Issuer) -> None:
    silent = trio.socket.socket()
    await silent.bind(("127.0.0.1", 0))
    silent.listen(1)  # accepts in the kernel and never says a word
    with silent:
        mute = Endpoint("127.0.0.1", silent.getsockname()[1])
        async with issuing(issuer) as endpoint:
            token = token_for(issuer, closed_port(), mute, endpoint)
            begin = time.monotonic()
            link = await redeem(ask_for(token))
    assert time.monotonic() - begin < 1.5
    assert set(link.endpoints) == {*token.endpoints}, "those in the token stay known"
    assert link.endpoints[0] == endpoint, "behind those that the issuer names"


async def test_when_one_issuer_cannot_answer_now_another_endpoint_is_asked(issuer: Issuer) -> None:
    async def busy(visitor: Visitor) -> None:
        await serve_join(visitor, None)

    async with issuing(issuer, answer=busy) as first, issuing(issuer) as second:
        link = await redeem(ask_for(token_for(issuer, first, second)))
    assert AUTHORITY.issued(link.leaf)


async def test_a_name_is_resolved_and_sent_as_sni_and_the_site_is_still_recognised_by_its_id(issuer: Issuer) -> None:
    seen: list[str | None] = []
    context = context_of(NORTH, AUTHORITY, NOW)
    context.sni_callback = lambda _socket, name, _context: seen.append(name)
    async with issuing(issuer, context) as endpoint:
        await redeem(ask_for(token_for(issuer, Endpoint("localhost", endpoint.port), uses=2)))
        issuer.endpoints = [endpoint]
        await redeem(ask_for(token_for(issuer, endpoint)))
    assert seen == ["localhost", f"{NORTH.site_id}.van"]


async def test_with_a_ca_of_the_users_own_the_host_is_checked_instead(issuer: Issuer) -> None:
    corporate = CertificateAuthority.create("corp", OTHER.site_id, now=NOW)
    issuer.trust, issuer.verify_host = [corporate.certificate], True
    async with issuing(issuer, context_of(OTHER, corporate, NOW, hosts=("127.0.0.1", "*.corp.example"))) as endpoint:
        link = await redeem(ask_for(token_for(issuer)))
        assert link.verify_host
        assert link.credential("x", SOUTH).verify_host
        error = await failing(ask_for(token_for(issuer, Endpoint("localhost", endpoint.port))))
    assert error.reason == "wrong_ca"
    assert "not for localhost" in str(error)


async def test_a_certificate_renews_itself_also_when_it_has_expired(issuer: Issuer) -> None:
    """Short lives, and a clock that is an argument: renewal in time, after the end, and 90 days after the end."""
    issuer.leaf_lifetime = 3600.0
    shift = 0.0
    async with issuing(issuer, clock=lambda: time.time() + shift):
        first = await redeem(ask_for(token_for(issuer), identity=SOUTH))
        shift = 3000.0
        second = await renew(first, identity=SOUTH, clock=later(shift))
        assert second.leaf.not_valid_after_utc.timestamp() == pytest.approx(time.time() + 3000 + 3600, abs=5)
        assert (second.key == first.key, second.token_id, second.cost) == (False, first.token_id, first.cost)
        shift = 10_000.0
        third = await renew(second, identity=SOUTH, clock=later(shift))
        with pytest.raises(TokenError, match="refuses to renew") as caught:
            await renew(third, identity=OTHER, clock=later(shift))
        assert caught.value.reason == "refused"
        shift += 3600 + 90 * DAY + 10
        with pytest.raises(TokenError, match="refuses to renew our certificate"):
            await renew(third, identity=SOUTH, clock=later(0))


# ---- Before asking --------------------------------------------------------------------------------------------------------------------


def test_a_token_that_this_site_redeemed_is_refused_as_used(issuer: Issuer) -> None:
    token = issuer.grant("g", now=NOW)[1]
    refuse_if_redeemed(token, set())
    with pytest.raises(TokenError, match="redeemed by this site already") as caught:
        refuse_if_redeemed(token, {token.id})
    assert caught.value.reason == "used"


def test_a_site_does_not_redeem_its_own_token(issuer: Issuer) -> None:
    with pytest.raises(TokenError, match="this very site") as caught:
        prepare(issuer.grant("g", now=NOW)[1], site_name="north", identity=NORTH)
    assert caught.value.reason == "own"


@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff", b'{"version":1}', b"[" * 9999])
def test_a_damaged_pending_redemption_is_a_token_error(raw: bytes) -> None:
    with pytest.raises(TokenError, match="does not decode"):
        Pending.load(raw)


# ---- What fails, and what is said -----------------------------------------------------------------------------------------------------


async def test_a_refusal_tells_the_person_how_to_find_out_which(issuer: Issuer) -> None:
    async with issuing(issuer):
        token = token_for(issuer)
        await redeem(ask_for(token))
        error = await failing(ask_for(token))
    assert (error.reason, error.retryable) == ("refused", False)
    assert "north refuses token to-north: it is bad, used up or expired" in str(error)
    assert "van token status" in error.hint
    assert "van token create" in error.hint


async def test_an_expired_token_is_still_asked_for_and_the_refusal_says_when_it_expired(issuer: Issuer) -> None:
    async with issuing(issuer, clock=later(1000)):
        error = await failing(ask_for(token_for(issuer)), clock=later(1000))
    assert "it expired at 20" in str(error)


async def test_endpoints_that_cannot_be_reached_are_named_each_with_its_reason(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redeem_module, "CONNECT_SECONDS", 0.5)
    refused, silent = closed_port(), trio.socket.socket()
    await silent.bind(("127.0.0.1", 0))
    silent.listen(1)
    with silent:
        mute = Endpoint("127.0.0.1", silent.getsockname()[1])
        error = await failing(ask_for(token_for(issuer, refused, mute, Endpoint("does-not-exist.invalid", 1))))
    assert error.reason == "unreachable"
    assert f"{refused}: Connection refused" in str(error)
    assert f"{mute}: no answer within 0.5 s" in str(error)
    assert "does-not-exist.invalid:1: " in str(error)
    assert "van status" in error.hint


@pytest.mark.parametrize("server", ["plain http", "garbage", "closes", "tls 1.2", "no alpn", "other alpn"])
async def test_what_is_no_issuer_is_told_apart_and_sent_nothing(issuer: Issuer, server: str) -> None:
    got = bytearray()

    async def plain(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            got.extend(await stream.receive_some(4096))
            if server != "closes":
                await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n" if server == "plain http" else bytes(100))
        await stream.aclose()

    async def swallow(visitor: Visitor) -> None:
        got.extend(await visitor.stream.receive_some(4096))

    secret = b""
    if server in {"plain http", "garbage", "closes"}:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, plain, 0)
            endpoint = Endpoint("127.0.0.1", listeners[0].socket.getsockname()[1])
            token = token_for(issuer, endpoint)
            error = await failing(ask_for(token))
            nursery.cancel_scope.cancel()
    else:
        context = context_of(NORTH, AUTHORITY, NOW, alpn=("http/1.1",) if server == "other alpn" else ("van-join/1",))
        if server == "tls 1.2":
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        if server == "no alpn":
            key = PrivateKey.generate()
            leaf = AUTHORITY.issue_server(key.public_der, NORTH.site_id, [], now=NOW)
            context = server_context(certificates_to_pem([leaf]), key.pem().reveal(), AUTHORITY.certificate_pem(), [])
        async with issuing(issuer, context, swallow):
            token = token_for(issuer)
            error = await failing(ask_for(token))
    secret = token.secret.reveal()
    assert error.reason == "unreachable"
    assert secret not in got
    assert token.id.encode() not in got


def server_leaf(authority: CertificateAuthority, site: IdentityKey, kind: str) -> ssl.SSLContext:
    key = PrivateKey.generate()
    issue = authority.issue_client if kind == "client" else authority.issue_server
    hosts = {} if kind == "client" else {"hosts": ["127.0.0.1"]}
    leaf = issue(key.public_der, site.site_id, now=NOW, **hosts)  # type: ignore[operator]
    return server_context(certificates_to_pem([leaf]), key.pem().reveal(), authority.certificate_pem(), ["van-join/1"])


@pytest.mark.parametrize(
    ("context", "says"),
    [
        (server_leaf(CertificateAuthority.create("north", NORTH.site_id, now=NOW), NORTH, "server"), "not from the CA in the token"),
        (server_leaf(AUTHORITY, OTHER, "server"), f"not for {NORTH.site_id}.van: this is another router"),
        (server_leaf(AUTHORITY, NORTH, "client"), "not from the CA in the token .unsuitable certificate purpose"),
    ],
    ids=["another CA of the same name", "another site under the CA", "a client leaf as server"],
)
async def test_who_is_not_the_issuer_gets_no_request(issuer: Issuer, context: ssl.SSLContext, says: str) -> None:
    got = bytearray()

    async def swallow(visitor: Visitor) -> None:
        got.extend(await visitor.stream.receive_some(4096))

    async with issuing(issuer, context, swallow):
        error = await failing(ask_for(token_for(issuer)))
    assert error.reason == "wrong_ca"
    assert says.replace(" .", " (") in str(error)
    assert bytes(got) == b""


@pytest.mark.parametrize(("offset", "says"), [(400 * DAY, "valid from"), (-30 * DAY, "valid from")])
async def test_clocks_that_differ_are_named_with_both_times(issuer: Issuer, offset: float, says: str) -> None:
    """The issuer's leaf is outside its dates for us: its clock, or ours, is wrong."""
    context = context_of(NORTH, AUTHORITY.renewed(now=NOW - 800 * DAY), NOW - offset)
    async with issuing(issuer, context):
        error = await failing(ask_for(token_for(issuer)))
    assert error.reason == "clock"
    assert says in str(error)
    assert f"this machine's clock says {time.strftime('%Y-%m-%dT%H', time.gmtime())}" in str(error)
    assert "timedatectl" in error.hint


async def test_a_clock_that_is_before_the_token_was_made_is_noticed_before_asking(issuer: Issuer) -> None:
    async with issuing(issuer):
        error = await failing(ask_for(token_for(issuer)), clock=later(-3600))
    assert error.reason == "clock"
    assert str(error).count("Z") == 1 or str(error).count("T") >= 2
    assert issuer.grants(NOW)[0].used == 0


async def test_a_new_certificate_that_is_over_by_our_clock_is_not_taken_but_not_lost_either(issuer: Issuer) -> None:
    issuer.leaf_lifetime = 60.0
    async with issuing(issuer):
        pending = ask_for(token_for(issuer))
        error = await failing(pending, clock=later(500))
        assert (error.reason, error.retryable) == ("clock", True)
        await redeem(pending)


@pytest.mark.parametrize(
    ("code", "reason"), [(503, "later"), (429, "later"), (301, "reply"), (307, "reply"), (500, "reply"), (404, "reply")]
)
async def test_other_statuses_are_explained_and_redirects_never_followed(issuer: Issuer, code: int, reason: str) -> None:
    asked = 0

    async def other(visitor: Visitor) -> None:
        nonlocal asked
        asked += 1
        await visitor.stream.receive_some(65_536)
        await visitor.stream.send_all(f"HTTP/1.1 {code} x\r\nLocation: https://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".encode())

    async with issuing(issuer, answer=other):
        error = await failing(ask_for(token_for(issuer)))
    assert (error.reason, error.retryable, asked) == (reason, True, 1)
    assert str(code) in str(error)


def reply_of(issuer: Issuer, pending: Pending) -> dict[str, Any]:
    answer = issuer.redeem_untrusted(pending.request.reveal(), source="s", now=time.time())
    decoded = json.loads(answer.body)
    assert isinstance(decoded, dict)
    return decoded


def b64_der(certificate: bytes) -> str:
    return str(json.loads(msgspec.json.encode(certificate)))


IDS = [
    "unknown field",
    "version",
    "missing",
    "none",
    "many",
    "key",
    "ca as leaf",
    "no der",
    "no ca",
    "endpoint",
    "endpoints",
    "issuer",
    "name",
]
IDS += ["admission", "list"]


def leaf_for_another_key() -> str:
    leaf = AUTHORITY.issue_client(PrivateKey.generate().public_der, SOUTH.site_id, now=NOW)
    return b64_der(leaf.public_bytes(serialization.Encoding.DER))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r | {"hook": "rm -rf /"}, "unknown field"),
        (lambda r: r | {"version": 2}, "version 2"),
        (lambda r: {k: v for k, v in r.items() if k != "admission"}, "missing required field"),
        (lambda r: r | {"certificates": []}, "no certificate"),
        (lambda r: r | {"certificates": r["certificates"] * 9}, "too many"),
        (lambda r: r | {"certificates": [leaf_for_another_key()]}, "another key"),
        (lambda r: r | {"certificates": r["ca"]}, "another key"),
        (lambda r: r | {"certificates": ["AAAA"]}, "does not decode"),
        (lambda r: r | {"ca": []}, "no CA"),
        (lambda r: r | {"endpoints": ["http://x"]}, "endpoint"),
        (lambda r: r | {"endpoints": [f"h:{n}" for n in range(1, 30)]}, "too many"),
        (lambda r: r | {"issuer": OTHER.site_id}, "speaks for site"),
        (lambda r: r | {"issuer_name": "../../x"}, "issuer's name"),
        (lambda r: r | {"admission": b64_der(b"x" * 200)}, "admission"),
        (lambda r: [r], "is not a Reply"),
    ],
    ids=IDS,
)
async def test_a_malicious_issuers_reply_is_refused(issuer: Issuer, change: Callable[[dict[str, Any]], Any], says: str) -> None:
    """T7: the schema is closed and everything in it is checked against what we know."""
    pending: Pending | None = None

    async def lie(visitor: Visitor) -> None:
        assert pending is not None
        await visitor.stream.receive_some(65_536)
        body = json.dumps(change(reply_of(issuer, pending))).encode()
        await visitor.stream.send_all(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    async with issuing(issuer, answer=lie):
        pending = ask_for(token_for(issuer), identity=SOUTH)
        error = await failing(pending)
    assert error.reason == "reply"
    assert says in str(error)


@pytest.mark.parametrize("kind", ["declared", "chunked", "endless header", "closes", "no http"])
async def test_replies_without_end_or_sense_are_refused(issuer: Issuer, kind: str) -> None:
    async def flood(visitor: Visitor) -> None:
        await visitor.stream.receive_some(65_536)
        head = {
            "declared": b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n",
            "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"8000\r\n" + b"x" * 0x8000 + b"\r\n",
            "endless header": b"HTTP/1.1 200 OK\r\nX: ",
            "closes": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx",
            "no http": b"hello\r\n\r\n",
        }[kind]
        with contextlib.suppress(trio.BrokenResourceError):
            await visitor.stream.send_all(head)
            for _ in range(0 if kind in {"closes", "no http"} else 10):
                await visitor.stream.send_all(b"8000\r\n" + b"x" * 0x8000 + b"\r\n" if kind == "chunked" else b"x" * 0x8000)

    async with issuing(issuer, answer=flood):
        error = await failing(ask_for(token_for(issuer)))
    assert error.reason in {"reply", "later"}


def test_no_header_of_an_environment_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here looks at proxies; the sentence is kept true by not importing anything that does."""
    import vanrouter.tokens.redeem as module

    assert {"urllib", "http", "requests", "httpx"} & set(vars(module)) == set()


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning", "ignore:Attribute's length:UserWarning")
@pytest.mark.parametrize("flip", [1, 2, 4, 0x20])
def test_no_changed_byte_of_a_reply_raises_anything_but_token_error(flip: int) -> None:
    assert accept_reply_untrusted(GOOD_REPLY, **KNOWN).issuer == NORTH.site_id
    for at in range(len(GOOD_REPLY)):
        with contextlib.suppress(TokenError):
            accept_reply_untrusted(GOOD_REPLY[:at] + bytes([GOOD_REPLY[at] ^ flip]) + GOOD_REPLY[at + 1 :], **KNOWN)


@given(st.binary(max_size=300))
def test_no_bytes_for_a_reply_raise_anything_but_token_error(noise: bytes) -> None:
    with pytest.raises(TokenError):
        accept_reply_untrusted(noise, **KNOWN)


def _good_reply() -> tuple[bytes, dict[str, Any]]:
    issuer = make_issuer(MemoryLedger(), authority=AUTHORITY)
    pending = ask_for(token_for(issuer), identity=SOUTH)
    answer = issuer.redeem_untrusted(pending.request.reveal(), source="s", now=NOW)
    known = {"key": pending.key, "site": SOUTH.site_id, "issuer": NORTH.site_id, "endpoints": (), "cost": 1, "token_id": "x", "now": NOW}
    return answer.body, known


GOOD_REPLY, KNOWN = _good_reply()
