"""
Joins an application's socket with the far end of its stream, byte by byte as it came.

    socket ──read as far as there is room──▶ far end
    socket ◀──write at once, store the rest── far end

A clean end on one side becomes a clean end on the other, after all bytes; anything else becomes a reset.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from vanrouter.baseline.far import Far
from vanrouter.baseline.records import StreamRecord
from vanrouter.baseline.sockets import AppSocket, Signal
from vanrouter.model import StreamClass

__all__ = ["SocketPump"]

logger = logging.getLogger("vanrouter.baseline")

READ_SIZE = 256 * 1024
MOST_PIECES = 512  # of one system call; the kernel takes 1,024


class SocketPump:
    """
    An ``Owner``. ``run`` reads until the socket ends; everything else happens when the far end calls.

    The socket may come later (``connected``); until then what arrives is stored, and it is early data: at most one frame.
    """

    def __init__(
        self, spawn: Callable[..., None], registry: set[SocketPump], record: StreamRecord, *, blames: StreamClass, counts: bool = True
    ) -> None:
        """
        Args:
          spawn: starts a task.
          registry: it is in there until it is over.
          blames: whose fault it is when the socket breaks.
          counts: this pump, not its twin in this router, counts bytes.
        """
        self._spawn = spawn
        self._registry = registry
        registry.add(self)
        self.record = record
        self._blames = blames
        self._counts = counts
        self.socket: AppSocket | None = None
        self.far: Far | None = None
        self._room = Signal()
        self._batch: list[memoryview] = []
        self._stored = bytearray()
        self._is_writing = False
        self._far_finished = False
        self._wrote_end = False
        self._read_end = False
        self.is_over = False
        self.abandoned: Callable[[], None] = lambda: None  # called when the stream is reset

    # ---- Owner: from the far end to the socket ---------------------------------------------------------------------------

    def data(self, data: memoryview) -> None:
        if self._stored or self._is_writing or self.socket is None:
            self._stored += data  # copied, so that a small piece does not hold its whole record
        else:
            self._batch.append(data)

    def flush(self) -> None:
        if self.is_over or self._is_writing or self.socket is None:
            return
        if self._stored:
            self._batch = [memoryview(bytes(self._stored))]
            self._stored.clear()
        if self._batch:
            pieces, self._batch = self._batch, []
            self._write(pieces)
        if self._stored:
            self._is_writing = True
            self._spawn(self._write_stored)

    def finished(self) -> None:
        self._far_finished = True
        self.flush()
        self._end_writing()

    def was_reset(self, stream_class: StreamClass, reason: str) -> None:
        self._abandon(stream_class, reason)

    def writable(self) -> None:
        self._room.set()
        self._end_if_done()

    def resume_end(self) -> None:
        """The socket came after the far end may have finished."""
        self._end_writing()

    def read_now(self) -> None:
        """Take what the application has said already."""
        assert self.socket is not None
        assert self.far is not None
        try:
            data = self.socket.read_now(min(self.far.room(), READ_SIZE))
        except OSError as error:
            self.broken(error)
            return
        if data:
            self._got(data)
        elif data is not None:
            self._ended()

    def _write(self, pieces: list[memoryview]) -> None:
        assert self.socket is not None
        total = sum(map(len, pieces))
        try:
            written = self.socket.write_now(pieces if len(pieces) <= MOST_PIECES else [memoryview(b"".join(pieces))])
        except OSError as error:
            self.broken(error)
            return
        if written < total:
            for piece in pieces:
                if written < len(piece):
                    self._stored += piece[written:]
                written = max(0, written - len(piece))
        self._passed_on(total - len(self._stored))

    async def _write_stored(self) -> None:
        assert self.socket is not None
        try:
            while self._stored and not self.is_over:
                await self.socket.wait_writable()
                if self.is_over:
                    return
                written = 0
                with memoryview(self._stored) as view:
                    written = self.socket.write_now([view[:READ_SIZE]])
                del self._stored[:written]
                self._passed_on(written)
        except OSError as error:
            self.broken(error)
        except trio.ClosedResourceError:
            return
        finally:
            self._is_writing = False
        self.flush()
        self._end_writing()

    def _passed_on(self, size: int) -> None:
        if size and self.far is not None:
            if self._counts:
                self._count(size, from_client=self._blames is not StreamClass.CLIENT)
            self.far.consumed(size)

    def _end_writing(self) -> None:
        if self._far_finished and not self._stored and not self._wrote_end and self.socket is not None and not self.is_over:
            try:
                self.socket.shutdown_write()
            except OSError as error:
                self.broken(error)
                return
            self._wrote_end = True
            self._end_if_done()

    # ---- From the socket to the far end ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read the socket to its end. Returns early when the stream is reset."""
        assert self.socket is not None
        try:
            while not self.is_over and not self._read_end:
                room = 0 if self.far is None else self.far.room()
                if room <= 0:
                    self.socket.watch(self.broken, self._room.set)
                    if self.far is not None and self.socket.is_at_its_end():
                        self._ended()
                        return
                    await self._room.wait()
                    continue
                data = await self.socket.read(min(room, READ_SIZE))
                if self.is_over:
                    return
                if not data:
                    self._ended()
                    return
                self._got(data)
        except OSError as error:
            self.broken(error)
        except trio.ClosedResourceError:
            pass  # reset meanwhile

    def _got(self, data: bytes) -> None:
        if self._counts:
            self._count(len(data), from_client=self._blames is StreamClass.CLIENT)
        assert self.far is not None
        self.far.send(data)

    def _ended(self) -> None:
        assert self.far is not None
        assert self.socket is not None
        self._read_end = True
        self.socket.watch(self.broken, self._room.set)
        self.far.send_eof()
        self._end_if_done()

    def broken(self, error: OSError) -> None:
        """The socket failed: the far end must see a reset, never a clean end."""
        if self.is_over:
            return
        who = self._blames.word
        reason = f"the {who}'s connection broke: {error.strerror}"
        if self.far is not None:
            self.far.reset(self._blames, reason)
        self._abandon(self._blames, reason)

    # ---- The end ----------------------------------------------------------------------------------------------------------

    def _end_if_done(self) -> None:
        if self._read_end and self._wrote_end and not self.is_over:
            assert self.socket is not None
            self.socket.close()
            if self.far is not None and self.far.is_gone:
                self._over()
                self._finish_record(None, "")

    def _abandon(self, stream_class: StreamClass, reason: str) -> None:
        if self.is_over:
            return
        self._over()
        self._batch, self._stored = [], bytearray()
        if self.socket is not None:
            self.socket.reset()
        self._room.set()
        self.abandoned()
        self._finish_record(stream_class, reason)

    def _over(self) -> None:
        self.is_over = True
        self._registry.discard(self)

    def refused(self, reason: str) -> None:
        """No socket was found for it."""
        self._over()
        self._finish_record(StreamClass.REFUSED, reason)

    def _finish_record(self, stream_class: StreamClass | None, reason: str) -> None:
        if self._counts:
            self.record.end(stream_class, reason)

    def _count(self, size: int, *, from_client: bool) -> None:
        if from_client:
            self.record.bytes_in += size
        else:
            self.record.bytes_out += size
