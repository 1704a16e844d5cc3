"""
What both drivers share: requests as httpx2 sends them, and failures of the connection as ``vanrouter.kube.errors``.
"""

from __future__ import annotations

import errno
import ssl
from typing import Final

import httpx2

from vanrouter.kube.access import Access, ClientCertificate
from vanrouter.kube.calls import Call
from vanrouter.kube.errors import KubeConfigError, KubeError, ServerFailed, ServerUntrusted, Unreachable

__all__ = ["CALL_SECONDS", "MAX_ANSWER", "Options", "connection_error", "timed_out", "too_long"]

CALL_SECONDS: Final = 10.0
MAX_ANSWER: Final = 64 << 20
"""Of one answer. A page of 500 Secrets of 100 KiB fits; more is no answer to a question of ours."""

CONNECT_SECONDS: Final = 5.0
LIMITS: Final = httpx2.Limits(max_connections=64, max_keepalive_connections=8, keepalive_expiry=60.0)


class Options:
    """How a request is built for one ``Access``. ``current`` changes when a connection must be made anew, with other credentials."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._certificate: ClientCertificate | None = None
        self._tls: ssl.SSLContext | None = None
        self._headers: dict[str, str] = {}

    def refresh(self) -> bool:
        """Look at the credentials (blocking: a file, a program). Whether connections must be made anew."""
        shown = self.access.credentials.show()
        self._headers = dict(shown.headers)
        if self._tls is not None and shown.certificate == self._certificate:
            return False
        self._tls, self._certificate = self.access.tls(shown), shown.certificate
        return True

    @property
    def tls(self) -> ssl.SSLContext:
        assert self._tls is not None, "refresh first"
        return self._tls

    @property
    def proxy(self) -> str | None:
        return self.access.proxy or None

    def request(self, call: Call, timeout: float) -> httpx2.Request:
        """``timeout`` is for each step of it; the whole deadline is the driver's."""
        # Connecting gives up before the driver does: the library closes a connection that it gave up, and leaves one that is cancelled.
        times = httpx2.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout * 0.9))
        extensions: dict[str, object] = {"timeout": times.as_dict()}
        if self.access.tls_server_name:
            extensions["sni_hostname"] = self.access.tls_server_name
        headers = {"Accept": "application/json", "User-Agent": "vanrouter", **self._headers, **call.headers}
        url = httpx2.URL(self.access.server + call.path, params=call.query)
        return httpx2.Request(call.method, url, headers=headers, content=call.body or None, extensions=extensions)


def connection_error(access: Access, call: Call, exc: Exception, seconds: float) -> KubeError | KubeConfigError:
    """What a failure below HTTP means for the person."""
    cause = _cause(exc)
    if isinstance(cause, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(exc):
        return ServerUntrusted(
            f"{call}: {access.server} shows a certificate that is not to be trusted: {getattr(cause, 'verify_message', '') or exc}",
            call=str(call),
            hint=f"the cluster was made anew, or something sits in between; get a new kubeconfig ({access.source})",
        )
    if isinstance(exc, httpx2.TimeoutException):
        return timed_out(access, call, seconds)
    if isinstance(exc, httpx2.ProxyError):
        return Unreachable(f"{call}: the proxy {access.proxy} does not let us to {access.server}: {exc}", call=str(call))
    if isinstance(exc, httpx2.DecodingError | httpx2.RemoteProtocolError) and not isinstance(cause, OSError):
        hint = "the connection was cut, or this is no API server: check the address in the kubeconfig"
        return Unreachable(f"{call}: {access.server} sends no HTTP answer: {exc}", call=str(call), hint=hint)
    reason = (cause.strerror if isinstance(cause, OSError) and cause.strerror else "") or str(exc) or type(exc).__name__
    refused = isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED
    return Unreachable(
        f"{call}: the cluster at {access.server} cannot be reached: {reason}",
        call=str(call),
        hint=f"{'nothing listens there: is the cluster running?' if refused else 'is the address right, and is there a way to it?'} "
        f"({access.source})",
    )


def _cause(exc: BaseException) -> ssl.SSLError | OSError | None:
    """The system's word for it, in whatever the library wrapped it. Of several addresses that were tried, the first one's."""
    seen: BaseException | None = exc
    found: ssl.SSLError | OSError | None = None
    while seen is not None:
        if isinstance(seen, BaseExceptionGroup):
            seen = seen.exceptions[0]
            continue
        if isinstance(seen, OSError):
            found = seen
            if seen.errno or isinstance(seen, ssl.SSLError):
                return seen
        seen = seen.__cause__ or seen.__context__
    return found


def timed_out(access: Access, call: Call, seconds: float) -> Unreachable:
    return Unreachable(
        f"{call}: the cluster at {access.server} did not answer within {seconds:g} s",
        call=str(call),
        hint=f"is it running, and does a firewall drop the packets? ({access.source})",
    )


def too_long(call: Call) -> ServerFailed:
    return ServerFailed(f"{call}: the answer has more than {MAX_ANSWER} bytes", call=str(call), hint="ask for fewer objects")
