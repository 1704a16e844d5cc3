"""
What a measurement speaks to at its far end: ``python -m vanrouter.bench.target SECONDS BYTES``, a process of the router there.

A TCP server on a free port of 127.0.0.1, which it prints. The first byte of a connection says what it is for; all of them are served by one
thread, which blocks on none:

    E    what comes goes back
    R    each byte is answered with 1 KiB
    S    what comes is counted; every 0.1 s the sum goes back, with the time: 8 bytes nanoseconds, 8 bytes bytes, big-endian
    G    bytes without end

It ends when its standard input does, after SECONDS, or when it moved BYTES, whichever is first: nobody can make it do more. Standard
library only: it has to begin soon.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Final

__all__ = ["ANSWER", "ECHO", "GENERATE", "PROGRESS", "REQUEST", "SINK"]

ECHO, REQUEST, SINK, GENERATE = b"E", b"R", b"S", b"G"
ANSWER: Final = 1_024
PROGRESS: Final = struct.Struct(">QQ")
_PIECE: Final = 1 << 18
_TURNS: Final = 8  # pieces of one connection before the others have theirs
_TELL_EVERY: Final = 0.1
_MOST: Final = 128  # connections: each may hold a piece that nobody reads


class _Connection:
    """``todo``: bytes that wait for room in the socket; while there are some, no more are read."""

    def __init__(self, stream: socket.socket) -> None:
        self.socket = stream
        self.kind = b""
        self.todo = b""
        self.received = 0
        self.told = 0.0
        self.ended = False

    def take(self, data: memoryview) -> None:
        if not self.kind:
            self.kind, data = bytes(data[:1]), data[1:]
        if self.kind == ECHO:
            self.todo += data
        elif self.kind == REQUEST:
            self.todo += bytes(ANSWER) * min(len(data), 64)
        elif self.kind == SINK:
            self.received += len(data)
            self.tell(time.monotonic())

    def tell(self, now: float) -> None:
        if now - self.told >= _TELL_EVERY and not self.todo:
            self.told = now
            self.todo = PROGRESS.pack(time.monotonic_ns(), self.received)

    @property
    def is_known(self) -> bool:
        return self.kind in (b"", ECHO, REQUEST, SINK, GENERATE)


class Target:
    def __init__(self, seconds: float, most: int) -> None:
        self._until, self._left = time.monotonic() + seconds, most
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_MOST)
        self._listener.setblocking(False)
        self._buffer = memoryview(bytearray(_PIECE))
        self._zeros = memoryview(bytes(_PIECE))
        self._open = 0
        self.port = int(self._listener.getsockname()[1])

    def run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        while self._left > 0 and (left := self._until - time.monotonic()) > 0:
            for key, events in self._selector.select(left):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.data is None:
                    if not os.read(sys.stdin.fileno(), 64):
                        return
                else:
                    self._serve(key.data, events)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            stream, _ = self._listener.accept()
            if self._open >= _MOST:
                stream.close()
                return
            stream.setblocking(False)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open += 1
            self._selector.register(stream, selectors.EVENT_READ, _Connection(stream))

    def _serve(self, connection: _Connection, events: int) -> None:
        with self._closing_on_error(connection):
            if events & selectors.EVENT_READ and not connection.todo:
                self._read(connection)
            self._write(connection)
        if connection.ended and not connection.todo:
            self._close(connection)
            return
        wants_room = bool(connection.todo) or connection.kind == GENERATE
        wanted = (selectors.EVENT_WRITE if wants_room else 0) | (0 if connection.todo or connection.ended else selectors.EVENT_READ)
        if connection.socket.fileno() >= 0:
            self._selector.modify(connection.socket, wanted, connection)

    def _read(self, connection: _Connection) -> None:
        for _ in range(_TURNS):
            size = connection.socket.recv_into(self._buffer)
            if not size:
                connection.ended = True
                return
            self._left -= size
            connection.take(self._buffer[:size])
            if not connection.is_known:
                raise ConnectionError
            if size < _PIECE or connection.todo:
                return

    def _write(self, connection: _Connection) -> None:
        if connection.todo:
            sent = connection.socket.send(connection.todo)
            self._left -= sent
            connection.todo = connection.todo[sent:]
        elif connection.kind == GENERATE and not connection.ended:
            for _ in range(_TURNS):
                sent = connection.socket.send(self._zeros)
                self._left -= sent
                if sent < _PIECE:
                    return

    @contextlib.contextmanager
    def _closing_on_error(self, connection: _Connection) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            pass
        except OSError:
            connection.ended, connection.todo = True, b""

    def _close(self, connection: _Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._open -= 1


def main() -> None:
    target = Target(float(sys.argv[1]), int(sys.argv[2]))
    print(target.port, flush=True)
    target.run()


if __name__ == "__main__":
    main()
