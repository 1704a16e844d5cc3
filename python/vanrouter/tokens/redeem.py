"""
Redeeming a token and renewing a certificate: dials the issuer's endpoints and asks. Needs no data plane.

Several endpoints are tried at once, each a quarter of a second after the one before; the first that proves to be the issuer is asked, and
when it cannot answer now, the others are. Nothing is sent before TLS 1.3 showed a certificate that chains to the token's CA and is for the
issuer's site. Redirects, replies above 64 KiB and unexpected fields are refused.

What fails raises ``TokenError`` and says which: every endpoint with its reason, the issuer's refusal with how to find out more, a wrong CA,
or a clock with both times.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import h11
import trio
from cryptography import x509

from vanrouter.errors import TokenError
from vanrouter.model import SiteId
from vanrouter.pki.authority import van_name
from vanrouter.pki.keys import IdentityKey, PrivateKey
from vanrouter.pki.pem import DECODE_ERRORS, certificates_to_pem
from vanrouter.tokens.pending import LinkCredential, Pending, accept_reply_untrusted, prepare_renewal
from vanrouter.tokens.token import Endpoint, format_time
from vanrouter.tokens.wire import ALPN_JOIN, MAX_REPLY

__all__ = ["redeem", "renew"]

STAGGER_SECONDS: Final = 0.25
CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 10.0
MAX_ANSWER_HEADER: Final = 16 * 1024

Clock = Callable[[], float]


async def redeem(pending: Pending, *, clock: Clock = time.time) -> LinkCredential:
    """Ask the issuer. The same ``pending`` may be asked again after any failure whose error is ``retryable``. Raises TokenError."""
    token = pending.token
    issuer = _Issuer(
        name=token.issuer_name, site=token.issuer, endpoints=token.endpoints, trust_pem=token.ca, verify_host=token.verify_host
    )
    if clock() < token.issued - 300:
        raise TokenError(
            f"this machine's clock says {format_time(clock())}, but token {token.name} was made at {format_time(token.issued)} "
            f"by the clock of {token.issuer_name}",
            reason="clock",
            hint="set the clock that is wrong (timedatectl status) and try again",
        )
    status, body = await _ask(issuer, "/redeem", pending.request.reveal(), clock, None)
    if status != 200:
        raise _refused_redemption(pending, status, clock())
    return accept_reply_untrusted(
        body,
        key=pending.key,
        site=pending.site,
        issuer=token.issuer,
        endpoints=token.endpoints,
        cost=token.cost,
        token_id=token.id,
        now=clock(),
    )


async def renew(current: LinkCredential, *, identity: IdentityKey, clock: Clock = time.time) -> LinkCredential:
    """Ask the issuer for a new certificate (for a new key), authenticated by the current one, expired or not. Raises TokenError."""
    key = PrivateKey.generate()
    issuer = _Issuer(
        name=current.issuer_name,
        site=current.issuer,
        endpoints=current.endpoints,
        trust_pem=certificates_to_pem(current.trust).decode(),
        verify_host=current.verify_host,
    )
    status, body = await _ask(issuer, "/renew", prepare_renewal(current.issuer, identity=identity, key=key), clock, current)
    if status != 200:
        end = current.leaf.not_valid_after_utc.timestamp()
        raise TokenError(
            f"{current.issuer_name} refuses to renew our certificate, which ends at {format_time(end)}",
            reason="refused",
            hint="was this site revoked there, or its CA replaced? If it should stay linked: make a token there, redeem it here",
        )
    return accept_reply_untrusted(
        body,
        key=key,
        site=identity.site_id,
        issuer=current.issuer,
        endpoints=current.endpoints,
        cost=current.cost,
        token_id=current.token_id,
        now=clock(),
    )


def _refused_redemption(pending: Pending, status: int, now: float) -> TokenError:
    token = pending.token
    if status == 400:
        return TokenError(
            f"{token.issuer_name} does not understand our request",
            reason="reply",
            hint="compare the versions of both sites (van version)",
        )
    ago = f"; by this machine's clock it expired at {format_time(token.expires)}" if now >= token.expires else ""
    return TokenError(
        f"{token.issuer_name} refuses token {token.name}: it is bad, used up or expired{ago}",
        reason="refused",
        hint=f"the issuer tells nobody which; 'van token status' at {token.issuer_name} does. "
        "A new token is made there with: van token create FILE",
    )


# ---- Asking ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Issuer:
    """Whom we ask, and how it is recognised."""

    name: str
    site: SiteId
    endpoints: Sequence[Endpoint]
    trust_pem: str
    verify_host: bool


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why one endpoint did not do."""

    endpoint: Endpoint
    reason: str  # unreachable, later, wrong_ca, clock, reply
    text: str


async def _ask(issuer: _Issuer, path: str, body: bytes, clock: Clock, client: LinkCredential | None) -> tuple[int, bytes]:
    """The first endpoint's answer that is final: 200, 400 or 403. Raises TokenError when there is none."""
    context = _context(issuer, client)
    left = list(issuer.endpoints)
    failures: list[_Failure] = []
    while left:
        connected = await _first_connected(issuer, left, context, clock, failures)
        left = [endpoint for endpoint in left if endpoint not in {failure.endpoint for failure in failures}]
        if connected is None:
            break
        endpoint, stream = connected
        left.remove(endpoint)
        try:
            with trio.fail_after(ANSWER_SECONDS):
                status, answer = await _post(stream, endpoint, path, body)
            if status in {200, 400, 403}:
                return status, answer
            failures.append(_unexpected(endpoint, status))
        except trio.TooSlowError:
            failures.append(_Failure(endpoint, "later", f"no answer within {ANSWER_SECONDS:g} s"))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as err:
            failures.append(_Failure(endpoint, "later", f"the connection broke before the answer came: {_cause(err)}"))
        except (h11.RemoteProtocolError, _BadAnswerError) as err:
            failures.append(_Failure(endpoint, "reply", f"the answer is not one of an issuer: {err}"))
        finally:
            await trio.aclose_forcefully(stream)
    raise _no_answer(issuer, failures)


async def _first_connected(
    issuer: _Issuer, endpoints: Sequence[Endpoint], context: ssl.SSLContext, clock: Clock, failures: list[_Failure]
) -> tuple[Endpoint, trio.SSLStream[trio.SocketStream]] | None:
    """Try all, staggered; keep the first whose certificate is the issuer's, and add why the others that were finished did not do."""
    winner: list[tuple[Endpoint, trio.SSLStream[trio.SocketStream]]] = []

    async def attempt(endpoint: Endpoint, failed: trio.Event) -> None:
        result = await _connect(issuer, endpoint, context, clock)
        if isinstance(result, _Failure):
            failures.append(result)
            failed.set()
        elif winner:
            await trio.aclose_forcefully(result)
        else:
            winner.append((endpoint, result))
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for endpoint in endpoints:
            failed = trio.Event()
            nursery.start_soon(attempt, endpoint, failed)
            with trio.move_on_after(STAGGER_SECONDS):
                await failed.wait()
    return winner[0] if winner else None


async def _connect(
    issuer: _Issuer, endpoint: Endpoint, context: ssl.SSLContext, clock: Clock
) -> trio.SSLStream[trio.SocketStream] | _Failure:
    """TCP, TLS, and the proof that this is the issuer."""
    stream: trio.SSLStream[trio.SocketStream] | None = None
    keep = False
    try:
        with trio.fail_after(CONNECT_SECONDS):
            tcp = await trio.open_tcp_stream(endpoint.host, endpoint.port)
            name = van_name(issuer.site) if endpoint.is_literal else endpoint.host
            stream = trio.SSLStream(tcp, context, server_hostname=name, https_compatible=True)
            await stream.do_handshake()
        problem = _identity_problem(issuer, endpoint, stream)
        if problem is not None:
            return problem
        keep = True
        return stream  # noqa: TRY300 - the handlers below are for everything above
    except trio.TooSlowError:
        return _Failure(endpoint, "unreachable", f"no answer within {CONNECT_SECONDS:g} s; is the port open in the firewalls between?")
    except OSError as err:
        return _Failure(endpoint, "unreachable", _os_text(err))
    except trio.BrokenResourceError as err:
        cause = err.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return await _certificate_failure(issuer, endpoint, cause, clock)
        return _Failure(endpoint, "unreachable", f"what answers there is not a vanrouter that issues: {_cause(err)}")
    finally:
        if stream is not None and not keep:
            await trio.aclose_forcefully(stream)


def _identity_problem(issuer: _Issuer, endpoint: Endpoint, stream: trio.SSLStream[trio.SocketStream]) -> _Failure | None:
    """The chain is verified by now: is the leaf the issuer's, and does it speak our protocol?"""
    if stream.selected_alpn_protocol() != ALPN_JOIN:
        return _Failure(endpoint, "unreachable", f"what answers there does not speak {ALPN_JOIN}; is the port that of a link access?")
    der = stream.getpeercert(binary_form=True)
    wanted = endpoint.host if issuer.verify_host else van_name(issuer.site)
    if der is None or not _covers(der, wanted):
        return _Failure(endpoint, "wrong_ca", f"its certificate is from the right CA but not for {wanted}: this is another router")
    return None


def _covers(der: bytes, host: str) -> bool:
    """Whether a certificate's subject alternative names have this IP literal or DNS name (a wildcard stands for one label)."""
    try:
        names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *DECODE_ERRORS):
        return False
    if any(str(address) == host for address in names.get_values_for_type(x509.IPAddress)):
        return True
    host = host.lower().rstrip(".")
    candidates = {host, "*." + host.partition(".")[2]}
    return any(name.lower().rstrip(".") in candidates for name in names.get_values_for_type(x509.DNSName))


async def _certificate_failure(issuer: _Issuer, endpoint: Endpoint, error: ssl.SSLCertVerificationError, clock: Clock) -> _Failure:
    if error.verify_code in {_NOT_YET_VALID, _EXPIRED}:
        dates = await _dates_shown(issuer, endpoint)
        shown = f"is valid from {format_time(dates[0])} to {format_time(dates[1])}" if dates else "is outside its dates"
        return _Failure(endpoint, "clock", f"its certificate {shown}, and this machine's clock says {format_time(clock())}")
    text = f"its certificate is not from the CA in the token ({error.verify_message}): this is not {issuer.name}, or its CA was replaced"
    return _Failure(endpoint, "wrong_ca", text)


async def _dates_shown(issuer: _Issuer, endpoint: Endpoint) -> tuple[float, float] | None:
    """For the message only: connect without verifying, send nothing, read the dates, close."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ALPN_JOIN])
    with contextlib.suppress(OSError, trio.BrokenResourceError, *DECODE_ERRORS), trio.move_on_after(CONNECT_SECONDS):
        stream = trio.SSLStream(
            await trio.open_tcp_stream(endpoint.host, endpoint.port), context, server_hostname=van_name(issuer.site), https_compatible=True
        )
        try:
            await stream.do_handshake()
            leaf = x509.load_der_x509_certificate(stream.getpeercert(binary_form=True))
            return leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        finally:
            await trio.aclose_forcefully(stream)
    return None


class _BadAnswerError(Exception):
    """The endpoint answered something that no issuer says."""


async def _post(stream: trio.SSLStream[trio.SocketStream], endpoint: Endpoint, path: str, body: bytes) -> tuple[int, bytes]:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_ANSWER_HEADER)
    headers = [("host", str(endpoint)), ("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
    request = http.send(h11.Request(method="POST", target=path, headers=headers)) or b""
    await stream.send_all(request + (http.send(h11.Data(data=body)) or b"") + (http.send(h11.EndOfMessage()) or b""))
    status, answer, raw = 0, bytearray(), 0
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            data = await stream.receive_some(16_384)
            raw += len(data)
            if not data:
                raise trio.BrokenResourceError  # whatever came before it: half an answer is none
            if raw > MAX_REPLY + MAX_ANSWER_HEADER:
                raise _BadAnswerError(f"it is longer than {MAX_REPLY} bytes")
            http.receive_data(bytes(data))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            answer += event.data
            if len(answer) > MAX_REPLY:
                raise _BadAnswerError(f"it is longer than {MAX_REPLY} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return status, bytes(answer)
        elif not isinstance(event, h11.InformationalResponse):
            raise _BadAnswerError("it is not HTTP")


def _unexpected(endpoint: Endpoint, status: int) -> _Failure:
    if status == 503:
        return _Failure(endpoint, "later", "the issuer cannot issue now (503); its log says why")
    if status == 429:
        return _Failure(endpoint, "later", "too many failed attempts from this address (429); wait a minute")
    if 300 <= status < 400:
        return _Failure(endpoint, "reply", f"it redirects ({status}), which an issuer never does: is there a proxy in between?")
    return _Failure(endpoint, "reply", f"it answers with status {status}, which an issuer does not do here")


_HINTS: Final = {
    "clock": "set the clock that is wrong (timedatectl status) and try again",
    "wrong_ca": "make a new token at the issuer (van token create FILE); if the old one is fresh, somebody else answers at that address",
    "later": "try again in a minute with the same token file: a use that was taken is not lost",
    "reply": "compare the versions of both sites (van version), and look for a proxy at that address",
    "unreachable": "check that the issuer runs, that its address is right (van status there) and that no firewall closes the port",
}


def _no_answer(issuer: _Issuer, failures: Sequence[_Failure]) -> TokenError:
    """One error for all endpoints. The most telling reason names it: a proved issuer's word before a guess about strangers."""
    reason = next(
        (r for r in ("later", "clock", "wrong_ca", "reply", "unreachable") if any(f.reason == r for f in failures)), "unreachable"
    )
    told = "; ".join(f"{failure.endpoint}: {failure.text}" for failure in failures) or "it has no endpoints"
    return TokenError(f"{issuer.name} could not be asked: {told}", reason=reason, hint=_HINTS[reason])


# ---- TLS -------------------------------------------------------------------------------------------------------------------------------

_NOT_YET_VALID: Final = 9  # X509_V_ERR_CERT_NOT_YET_VALID
_EXPIRED: Final = 10  # X509_V_ERR_CERT_HAS_EXPIRED


def _context(issuer: _Issuer, client: LinkCredential | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the site id, or the endpoint's host, is checked after the handshake; SNI says something else
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # what the token gives is the anchor, also an intermediate
    context.set_alpn_protocols([ALPN_JOIN])
    try:
        context.load_verify_locations(cadata=issuer.trust_pem)
        if client is not None:
            pem = client.key.pem().reveal() + certificates_to_pem(client.certificates)
            with _as_file(pem) as path:
                context.load_cert_chain(path)
    except ssl.SSLError as err:
        raise TokenError(f"the certificates for {issuer.name} cannot be used: {err.reason}", reason="malformed") from None
    return context


@contextlib.contextmanager
def _as_file(pem: bytes) -> Iterator[str]:
    """The ssl module takes keys from files only. Where the system has it, one that exists in memory alone."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("vanrouter", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, pem)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:  # 0600
            file.write(pem)
            file.flush()
            yield file.name


def _cause(err: BaseException) -> str:
    cause = err.__cause__
    if isinstance(cause, ssl.SSLError):
        return str(cause.reason or cause).lower().replace("_", " ")
    return _os_text(cause) if isinstance(cause, OSError) else str(cause or "it was closed")


def _os_text(err: OSError) -> str:
    """trio says "all attempts to connect failed" and keeps the reasons in a group, one per address of a name."""
    if isinstance(err.__cause__, BaseExceptionGroup):
        return ", ".join(sorted({_os_text(inner) for inner in err.__cause__.exceptions if isinstance(inner, OSError)}))
    return os.strerror(err.errno) if err.errno and err.errno > 0 else str(err.strerror or err)  # negative: from the resolver
