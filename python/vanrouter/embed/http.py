"""
httpx over the network: a transport whose connections are streams. The host of a URL is the routing key, or the address of a service.

    async with httpx.AsyncClient(transport=Transport(van)) as client:
        answer = await client.get("http://hello/")          # hello:9090 where a service has several ports

Needs httpx: ``pip install vanrouter[http]``.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Self

import anyio
import anyio.abc
import anyio.streams.tls
import httpcore
import httpx

from vanrouter.embed.stream import Stream, StreamBusy
from vanrouter.embed.van import NAME_WAIT, Van
from vanrouter.errors import ConfigError, StreamError

__all__ = ["Transport"]

_DEFAULT_PORTS: Final = (80, 443)


class Transport(httpx.AsyncBaseTransport):
    """Give it to ``httpx.AsyncClient(transport=...)``. Connections are kept and shared as by httpx's own transport.

    A name that nobody serves, and streams that are refused, are ``httpx.ConnectError``, with the NoSuchKey or StreamRefused as its
    ``__cause__``; a reset in the middle of an answer is ``httpx.ReadError``.
    """

    def __init__(
        self,
        van: Van,
        *,
        verify: ssl.SSLContext | None = None,
        wait: float = NAME_WAIT,
        max_connections: int | None = 100,
        max_keepalive_connections: int | None = 20,
        keepalive_expiry: float | None = 5.0,
        http1: bool = True,
        http2: bool = False,
    ) -> None:
        """``verify``: for ``https`` URLs, which is TLS to the server itself, beyond that of the links; default: httpx's own context.
        ``wait``: how long a name that nobody serves yet has to appear.
        """
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=verify or httpx.create_ssl_context(),
            max_connections=max_connections,
            max_keepalive_connections=max_keepalive_connections,
            keepalive_expiry=keepalive_expiry,
            http1=http1,
            http2=http2,
            network_backend=_Backend(van, wait),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        url = request.url
        asked = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_httpx(request):
            answer = await self._pool.handle_async_request(asked)
        return httpx.Response(
            status_code=answer.status, headers=answer.headers, stream=_Body(answer, request), extensions=dict(answer.extensions)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None = None, error: BaseException | None = None, trace: TracebackType | None = None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response, request: httpx.Request) -> None:
        self._answer, self._request = answer, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx(self._request):
            async for part in self._answer.aiter_stream():
                yield part

    async def aclose(self) -> None:
        with _as_httpx(self._request):
            await self._answer.aclose()


@contextlib.contextmanager
def _as_httpx(request: httpx.Request) -> Iterator[None]:
    """Both libraries have the same errors, by the same names."""
    try:
        yield
    except Exception as error:
        for kind in type(error).__mro__:
            found = getattr(httpx, kind.__name__, None)
            if kind.__module__.partition(".")[0] == "httpcore" and isinstance(found, type) and issubclass(found, httpx.TransportError):
                text, *ours = error.args or ("",)
                raise found(str(text), request=request) from (ours[0] if ours else error)
        raise


class _Connection(httpcore.AsyncNetworkStream):
    """An anyio stream as httpcore has it: the van's, or TLS on it."""

    def __init__(self, stream: anyio.abc.ByteStream, van_stream: Stream) -> None:
        self._stream, self._van_stream = stream, van_stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        with _as_httpcore(httpcore.ReadTimeout, httpcore.ReadError), anyio.fail_after(timeout):
            try:
                return await self._stream.receive(max_bytes)
            except anyio.EndOfStream:
                return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        with _as_httpcore(httpcore.WriteTimeout, httpcore.WriteError), anyio.fail_after(timeout):
            await self._stream.send(buffer)

    async def aclose(self) -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, StreamBusy):
            await self._van_stream.send_eof()  # an idle connection ends cleanly
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        with _as_httpcore(httpcore.ConnectTimeout, httpcore.ConnectError), anyio.fail_after(timeout):
            tls = await anyio.streams.tls.TLSStream.wrap(
                self._stream, ssl_context=ssl_context, hostname=server_hostname, standard_compatible=False, server_side=False
            )
        return _Connection(tls, self._van_stream)

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._stream.extra(anyio.streams.tls.TLSAttribute.ssl_object, None)  # noqa: S610 - anyio's
        if info == "is_readable":  # of an idle connection: the server has closed it
            return self._van_stream.is_readable()
        return None


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self, van: Van, wait: float) -> None:
        self._van, self._wait = van, wait

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        with _as_httpcore(httpcore.ConnectTimeout, httpcore.ConnectError), anyio.fail_after(timeout):
            stream = await self._van.connect(host if port in _DEFAULT_PORTS else f"{host}:{port}", wait=self._wait)
        return _Connection(stream, stream)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


@contextlib.contextmanager
def _as_httpcore(timeout: type[Exception], failure: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise timeout(str(error)) from error
    except (StreamError, ConfigError, anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError) as error:
        raise failure(str(error), error) from error  # as an argument too: the pool raises it on without its cause
