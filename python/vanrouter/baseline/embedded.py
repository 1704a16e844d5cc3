"""A stream whose end is in this process: an ``Owner`` that keeps what comes until the program reads it."""

from __future__ import annotations

from types import TracebackType

import trio

from vanrouter.baseline.far import Far
from vanrouter.baseline.records import StreamRecord
from vanrouter.errors import StreamReset
from vanrouter.model import StreamClass
from vanrouter.plane import PlaneStream

__all__ = ["EmbeddedStream"]


class EmbeddedStream(PlaneStream):
    """``blames``: the class of a reset from our end: client when we opened it, target when we serve it."""

    def __init__(self, *, routing_key: str, source: str, record: StreamRecord, blames: StreamClass, counts: bool = True) -> None:
        self.routing_key = routing_key
        self.source = source
        self.far: Far | None = None
        self.record = record
        self._blames = blames
        self._counts = counts
        self._received = bytearray()
        self._far_finished = False
        self._sent_end = False
        self._is_closed = False
        self._reset: StreamReset | None = None
        self._readable = trio.Event()
        self._writable = trio.Event()
        self._sending = False
        self._receiving = False
        self.is_over = False

    # ---- Owner -----------------------------------------------------------------------------------------------------------------

    def data(self, data: memoryview) -> None:
        if self._is_closed:  # nobody will read this: like a TCP socket that was closed
            self.reset("closed by the program")
        else:
            self._received += data

    def flush(self) -> None:
        self._readable.set()

    def finished(self) -> None:
        self._far_finished = True
        self._readable.set()
        self._end_if_done()

    def was_reset(self, stream_class: StreamClass, reason: str) -> None:
        if not self.is_over:
            self._over(StreamReset(reason or "reset by the other end", stream_class=stream_class.word), stream_class)

    def writable(self) -> None:
        self._writable.set()
        self._end_if_done()

    # ---- PlaneStream -------------------------------------------------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._is_closed or self._sent_end:
            raise trio.ClosedResourceError("this direction was ended")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            with memoryview(data) as view:
                await self._send(view)
        finally:
            self._sending = False

    async def _send(self, view: memoryview) -> None:
        at = 0
        while True:
            self._check()
            assert self.far is not None
            if at == len(view):
                return
            room = self.far.room()
            if room <= 0:
                self._writable = trio.Event()
                await self._writable.wait()
                continue
            piece = bytes(view[at : at + room])
            self.far.send(piece)
            at += len(piece)
            self._count(len(piece), from_client=self._blames is StreamClass.CLIENT)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        while True:
            self._check()
            assert self.far is not None
            if self.far.room() > 0:
                return
            self._writable = trio.Event()
            await self._writable.wait()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._sent_end:
            return
        self._check()
        assert self.far is not None
        self._sent_end = True
        self.far.send_eof()
        self._end_if_done()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None:
            if not isinstance(max_bytes, int):
                raise TypeError(f"max_bytes must be an integer, not {type(max_bytes).__name__}")
            if max_bytes < 1:
                raise ValueError("max_bytes must be >= 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._receiving = True
        try:
            return await self._receive(max_bytes)
        finally:
            self._receiving = False

    async def _receive(self, max_bytes: int | None) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self._is_closed or self._reset is not None:
                self._check()
            if self._received:
                size = len(self._received) if max_bytes is None else max_bytes
                data = bytes(self._received[:size])
                del self._received[:size]
                assert self.far is not None
                self._count(len(data), from_client=self._blames is not StreamClass.CLIENT)
                self.far.consumed(len(data))
                self._end_if_done()
                return data
            if self._far_finished:
                return b""
            self._readable = trio.Event()
            await self._readable.wait()

    def is_readable(self) -> bool:
        return bool(self._received) or self._far_finished or self._is_closed or self._reset is not None

    async def aclose(self) -> None:
        if not self._is_closed:
            if not self._sent_end:
                self.reset("closed before its end was sent")
            self._is_closed = True
            self._readable.set()
            self._writable.set()
            if self._received and self.far is not None:
                self.far.consumed(len(self._received))
                self._received.clear()
                self._end_if_done()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            self.reset("cancelled")
            raise

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc_type is not None:
            self.reset(f"left by {exc_type.__name__}")
        await self.aclose()

    def reset(self, reason: str = "") -> None:
        if not self.is_over:
            if self.far is not None:
                self.far.reset(self._blames, reason)
            self._over(StreamReset(reason or "reset from this end", stream_class=self._blames.word), self._blames)

    # ---- The end -----------------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._reset is not None:
            raise trio.BrokenResourceError(str(self._reset)) from self._reset

    def _end_if_done(self) -> None:
        if self._sent_end and self._far_finished and not self.is_over and self.far is not None and self.far.is_gone:
            self.is_over = True
            if self._counts:
                self.record.end(None)

    def _over(self, error: StreamReset, stream_class: StreamClass) -> None:
        self.is_over = True
        self._reset = error
        self._received.clear()
        self._readable.set()
        self._writable.set()
        if self._counts:
            self.record.end(stream_class, str(error))

    def _count(self, size: int, *, from_client: bool) -> None:
        if not self._counts:
            return
        if from_client:
            self.record.bytes_in += size
        else:
            self.record.bytes_out += size
