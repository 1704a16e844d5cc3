"""
The desk: serves the visitors of a link access, ``van-join/1`` (redemption and renewal) and ``http/1.1`` (health).

One request per connection, read within fixed bounds: 8 KiB of header, 8 KiB of body, 5 s for each. It decides nothing about tokens: that is
the ``Issuer``, which runs in a thread because its ledger waits for the disk. It never raises for what a visitor does, and closes the
stream in every case.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import h11
import trio

from vanrouter.plane import Visitor
from vanrouter.tokens.issuer import Answer, Issuer
from vanrouter.tokens.wire import BUSY, MALFORMED, MAX_REQUEST

__all__ = ["pass_join", "serve_health", "serve_join"]

log = logging.getLogger("vanrouter.tokens")

MAX_HEADER: Final = 8 * 1024
MAX_RAW: Final = 32 * 1024
"""All bytes of a request: header, body, and what chunked coding wraps around it."""

MAX_CHUNKING: Final = 1024
"""What chunked coding may add to a body: enough for honest chunks, too little for thousands of one byte, each of which costs work."""

HEADER_SECONDS: Final = 5.0
BODY_SECONDS: Final = 5.0
SEND_SECONDS: Final = 5.0
LINGER_SECONDS: Final = 1.0

_NOT_FOUND: Final = (404, b'{"error":"not found"}')
_NOT_ALLOWED: Final = (405, b'{"error":"method not allowed"}')
_TIMEOUT: Final = (408, b'{"error":"timeout"}')
_JOIN_PATHS: Final = frozenset({"/redeem", "/renew"})
_OUR_FAULT: Final = (500, b'{"error":"internal"}')
_HEADER_TOO_LARGE: Final = (431, b'{"error":"too large"}')
_TOO_LARGE: Final = (413, b'{"error":"too large"}')


class _Stop(Exception):
    """The request is answered with this, without reading further."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.answer = Answer(status, body)


async def serve_join(
    visitor: Visitor,
    issuer: Issuer | None,
    *,
    clock: Callable[[], float] = time.time,
    limiter: trio.CapacityLimiter | None = None,
) -> None:
    """Answer one ``van-join/1`` visitor. No ``issuer``: the site issues nothing now (503)."""

    async def answer(request: _Request) -> Answer:
        if request.method != "POST":
            return Answer(*_NOT_ALLOWED)
        if issuer is None:
            return Answer(*BUSY)
        call = (
            functools.partial(issuer.redeem_untrusted, request.body, source=visitor.address, now=clock())
            if request.target == "/redeem"
            else functools.partial(
                issuer.renew_untrusted, request.body, certificates=visitor.certificates, source=visitor.address, now=clock()
            )
        )
        try:
            # Abandoned when the visitor is given up: what the thread still records, the same key can ask for again.
            return await trio.to_thread.run_sync(call, limiter=limiter, abandon_on_cancel=True)
        except Exception:
            log.exception("a request failed for a reason of ours", extra={"source": visitor.address})
            return Answer(*_OUR_FAULT)

    await _serve(visitor, answer, paths=_JOIN_PATHS, content_type=b"application/json")


async def pass_join(visitor: Visitor, ask: Callable[[Visitor, str, str, bytes], Awaitable[Answer]]) -> None:
    """Answer one ``van-join/1`` visitor with what ``ask`` says (the visitor, method, path, body): the issuer is elsewhere."""

    async def answer(request: _Request) -> Answer:
        if request.method != "POST":
            return Answer(*_NOT_ALLOWED)
        return await ask(visitor, request.method, request.target, request.body)

    await _serve(visitor, answer, paths=_JOIN_PATHS, content_type=b"application/json")


async def serve_health(visitor: Visitor, ready: Callable[[], bool]) -> None:
    """Answer one ``http/1.1`` visitor: ``GET /healthz`` or ``/readyz`` is 200 ``ok`` or 503 ``not ready``, ``/livez`` is 200, else 404."""

    async def answer(request: _Request) -> Answer:
        if request.method != "GET":
            return Answer(404, b"not found\n")
        return Answer(200, b"ok\n") if request.target == "/livez" or ready() else Answer(503, b"not ready\n")

    await _serve(visitor, answer, paths=frozenset({"/healthz", "/readyz", "/livez"}), content_type=b"text/plain")


class _Gone(Exception):
    """The visitor left before it said what it wants."""


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    target: str
    body: bytes


async def _serve(visitor: Visitor, answer: Callable[[_Request], Awaitable[Answer]], *, paths: frozenset[str], content_type: bytes) -> None:
    stream = visitor.stream
    connection = _Connection(stream, content_type)
    try:
        try:
            result = await answer(await connection.receive(paths))
        except _Stop as stop:
            result = stop.answer
        with trio.move_on_after(SEND_SECONDS):
            await connection.send(result)
            await connection.linger()
            await stream.aclose()
    except (_Gone, trio.BrokenResourceError, trio.ClosedResourceError):
        log.debug("a visitor left early", extra={"source": visitor.address, "access": visitor.access})
    finally:
        await trio.aclose_forcefully(stream)


class _Connection:
    """One request and one answer over h11, within the bounds above."""

    def __init__(self, stream: trio.abc.Stream, content_type: bytes) -> None:
        self._stream = stream
        self._content_type = content_type
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER)
        self._raw = 0
        self._head_bytes = 0
        self._whole = False
        self._overflow = _HEADER_TOO_LARGE
        self._head = False  # HEAD: the answer has no body

    async def receive(self, paths: frozenset[str]) -> _Request:
        """Raises _Stop with the answer to a request that is not worth reading on, _Gone when there is nobody to answer."""
        with trio.move_on_after(HEADER_SECONDS) as waiting:
            head = await self._next_event()
        if waiting.cancelled_caught:
            raise _Stop(*_TIMEOUT)
        if not isinstance(head, h11.Request):
            raise _Gone
        self._head_bytes = self._parsed()
        if self._head_bytes > MAX_HEADER:
            raise _Stop(*_HEADER_TOO_LARGE)
        self._overflow = _TOO_LARGE
        method, target = head.method.decode("latin-1"), head.target.decode("latin-1")
        self._head = method == "HEAD"
        headers = dict(head.headers)
        declared = int(headers.get(b"content-length", b"0"))
        self._whole = not declared and b"transfer-encoding" not in headers
        if target not in paths:
            raise _Stop(*_NOT_FOUND)
        if declared > MAX_REQUEST:
            raise _Stop(*_TOO_LARGE)
        with trio.move_on_after(BODY_SECONDS) as waiting:
            body = await self._body()
        if waiting.cancelled_caught:
            raise _Stop(*_TIMEOUT)
        self._whole = True
        return _Request(method, target, body)

    async def send(self, answer: Answer) -> None:
        body = answer.body
        headers = [
            (b"content-type", self._content_type),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
        ]
        parts = [self._http.send(h11.Response(status_code=answer.status, headers=headers, reason=b""))]
        if not self._head:
            parts.append(self._http.send(h11.Data(data=body)))
        await self._stream.send_all(b"".join(part or b"" for part in parts))

    async def linger(self) -> None:
        """Take what the visitor is still sending for a moment: closing on unread bytes resets, and a reset can overtake the answer."""
        if self._whole:
            return
        with trio.move_on_after(LINGER_SECONDS):
            taken = 0
            while taken < 2 * MAX_RAW and (data := await self._stream.receive_some(4096)):
                taken += len(data)

    async def _body(self) -> bytes:
        body = bytearray()
        if self._http.they_are_waiting_for_100_continue:
            go_on = self._http.send(h11.InformationalResponse(status_code=100, headers=[]))
            await self._stream.send_all(go_on or b"")
        while not isinstance(event := await self._next_event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise _Gone
            body += event.data
            if len(body) > MAX_REQUEST or self._parsed() - self._head_bytes - len(body) > MAX_CHUNKING:
                raise _Stop(*_TOO_LARGE)
        return bytes(body)

    def _parsed(self) -> int:
        return self._raw - len(self._http.trailing_data[0])

    async def _next_event(self) -> object:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as err:
                too_large = err.error_status_hint == 431
                raise _Stop(*(self._overflow if too_large else MALFORMED)) from None
            if event is not h11.NEED_DATA:
                return event
            data = await self._stream.receive_some(4096)
            self._raw += len(data)
            if self._raw > MAX_RAW:
                raise _Stop(*_TOO_LARGE)
            self._http.receive_data(bytes(data))
