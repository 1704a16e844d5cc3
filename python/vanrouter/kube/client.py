"""
The API server for trio: one call, all pages of a list, one watch. Each call has a deadline and ends within it.

Waits and asks again by itself in two cases only, both within the deadline: the server asked to wait (429: it did nothing), and credentials
that can be renewed were refused (401, once). Everything else is the caller's to decide.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter, deque
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx2
import trio

from vanrouter.kube.access import Access
from vanrouter.kube.calls import Call, Kind, Object, answer_untrusted, error_untrusted, list_page
from vanrouter.kube.closing import close_when_cancelled
from vanrouter.kube.errors import CredentialsRefused, KubeConfigError, ServerFailed, Throttled
from vanrouter.kube.session import CALL_SECONDS, LIMITS, MAX_ANSWER, Options, connection_error, timed_out, too_long

__all__ = ["KubeClient", "WatchStream"]

MAX_EVENT: Final = 8 << 20
"""Of one event of a watch: etcd keeps no object above 1.5 MiB, escaping it may take some more."""


class KubeClient:
    """Use it as ``async with KubeClient(access) as client``."""

    def __init__(self, access: Access, *, deadline: float = CALL_SECONDS) -> None:
        self.access, self.deadline = access, deadline
        self._options = Options(access)
        self._http: httpx2.AsyncClient | None = None
        self._using: Counter[httpx2.AsyncClient] = Counter()  # answers that are not over
        self._refreshing = trio.Lock()

    async def __aenter__(self) -> KubeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        clients = {*self._using, self._http} - {None}
        self._http = None
        with trio.CancelScope(shield=True):
            for http in clients:
                if http is not None:
                    await http.aclose()

    async def call(self, call: Call, *, deadline: float | None = None) -> Object:
        """The answer. Raises KubeError; also when there are no credentials to show just now, as when their file cannot be read."""
        seconds, before = self.deadline if deadline is None else deadline, self._http
        with trio.move_on_after(seconds) as scope:
            renewed = False
            while True:
                try:
                    return await self._once(call, seconds)
                except Throttled as exc:
                    if trio.current_time() + exc.retry_after >= scope.deadline:
                        raise
                    await trio.sleep(exc.retry_after)
                except CredentialsRefused:
                    if renewed or not self.access.credentials.refused():
                        raise
                    renewed = True
        self._distrust(before)
        raise timed_out(self.access, call, seconds)

    async def pages(self, kind: Kind, namespace: str, *, labels: str = "", fields: str = "", metadata_only: bool = False) -> list[Object]:
        """All objects, page by page: one list as of one moment. Each page has the deadline."""
        found: list[Object] = []
        token = ""
        while True:
            call = list_page(kind, namespace, labels=labels, fields=fields, continue_token=token, metadata_only=metadata_only)
            page = await self.call(call)
            found += page.get("items") or []
            token = page.get("metadata", {}).get("continue") or ""
            if not token:
                return found

    async def _once(self, call: Call, seconds: float) -> Object:
        async with self._answer(call, seconds, opening=seconds) as (response, chunks):
            body = bytearray()
            async for chunk in chunks:
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise too_long(call)
            return answer_untrusted(call, response.status_code, response.headers, bytes(body))

    @contextlib.asynccontextmanager
    async def watch(self, call: Call, *, idle: float) -> AsyncIterator[WatchStream]:
        """The events of a watch. Opening it has the call's deadline; after it ``idle`` seconds without a byte are ``Unreachable``."""
        async with self._answer(call, idle, opening=min(self.deadline, idle)) as (response, chunks):
            if response.status_code != 200:
                body = bytearray()
                with trio.move_on_after(self.deadline):
                    async for chunk in chunks:
                        body += chunk[:MAX_EVENT]
                answer_untrusted(call, response.status_code, response.headers, bytes(body))
            yield WatchStream(call, chunks)

    @contextlib.asynccontextmanager
    async def _answer(self, call: Call, silence: float, *, opening: float) -> AsyncIterator[tuple[httpx2.Response, AsyncIterator[bytes]]]:
        try:
            async with self._exchange(call, silence, opening=opening) as found:
                yield found
        except KubeConfigError as exc:  # a token file or a plugin that fails now may work later: nobody ends for that
            raise ServerFailed(str(exc), call=str(call), hint=exc.hint) from exc

    @contextlib.asynccontextmanager
    async def _exchange(self, call: Call, silence: float, *, opening: float) -> AsyncIterator[tuple[httpx2.Response, AsyncIterator[bytes]]]:
        http = await self._ready()
        self._using[http] += 1
        try:
            with trio.move_on_after(opening) as scope:
                response = await http.send(self._options.request(call, silence), stream=True)
            if scope.cancelled_caught:
                self._distrust(http)
                raise timed_out(self.access, call, opening)
            chunks = response.aiter_bytes()
            try:
                yield response, chunks
            finally:
                await _unwind(chunks)
                with trio.CancelScope(shield=True):
                    await response.aclose()
        except (httpx2.TransportError, httpx2.DecodingError, OSError) as exc:
            if isinstance(exc, httpx2.TimeoutException):
                self._distrust(http)
            raise connection_error(self.access, call, exc, silence) from exc
        finally:
            await self._done_with(http)

    def _distrust(self, http: httpx2.AsyncClient | None) -> None:
        """A connection fell silent: those that lie idle beside it may be as dead. The next call makes a new one; what is in use goes on."""
        if http is self._http:
            self._http = None
            if http is not None and http not in self._using:
                self._using[http] = 0

    async def _done_with(self, http: httpx2.AsyncClient) -> None:
        self._using[http] -= 1
        for old in [client for client, count in self._using.items() if not count]:
            del self._using[old]
            if old is not self._http:
                with trio.CancelScope(shield=True):
                    await old.aclose()

    async def _ready(self) -> httpx2.AsyncClient:
        async with self._refreshing:  # a plugin is run once, however many calls wait for it
            anew = await trio.to_thread.run_sync(self._options.refresh)
            if anew or self._http is None:
                old, self._http = (
                    self._http,
                    httpx2.AsyncClient(
                        verify=self._options.tls, proxy=self._options.proxy, limits=LIMITS, trust_env=False, follow_redirects=False
                    ),
                )
                close_when_cancelled(self._http)
                if old is not None:
                    await old.aclose()
            return self._http


async def _unwind(chunks: AsyncIterator[bytes]) -> None:
    """End what is left of an answer. The library's generators are nested; only an exception in the innermost one ends all of them now."""
    with trio.CancelScope() as scope, contextlib.suppress(httpx2.HTTPError, httpx2.StreamError):
        scope.cancel()
        async for _ in chunks:
            pass


class WatchStream:
    """Events as they come: ``async for event in stream``. Ends when the server ends it; raises KubeError when it breaks."""

    def __init__(self, call: Call, chunks: AsyncIterator[bytes]) -> None:
        self._call, self._chunks = call, chunks
        self._lines: deque[bytes] = deque()
        self._rest = bytearray()

    def __aiter__(self) -> WatchStream:
        return self

    async def __anext__(self) -> dict[str, Any]:
        while not self._lines:
            try:
                chunk = await anext(self._chunks)
            except StopAsyncIteration:
                if self._rest.strip():
                    raise ServerFailed(f"{self._call}: the watch was cut in the middle of an event", call=str(self._call)) from None
                raise
            self._rest += chunk
            if b"\n" in chunk:
                *lines, rest = self._rest.split(b"\n")
                self._lines.extend(bytes(line) for line in lines if line.strip())
                self._rest = bytearray(rest)
            if len(self._rest) > MAX_EVENT:
                raise ServerFailed(f"{self._call}: an event has more than {MAX_EVENT} bytes", call=str(self._call))
        return self._event(self._lines.popleft())

    def _event(self, line: bytes) -> dict[str, Any]:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            raise ServerFailed(f"{self._call}: an event is no JSON object", call=str(self._call))
        if event.get("type") == "ERROR":
            value = event.get("object")
            status: Object = value if isinstance(value, dict) else {}
            raise error_untrusted(self._call, 200, {}, status)
        return event
