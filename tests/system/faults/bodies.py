"""
What a stream of the load programs carries: id, seed, a body that follows from the seed, a rolling checksum. Refuses to know of sockets.

    header: magic 4, id 8, seed 8, body 8, answer 8, flags 4  ─  body  ─  crc32 of all before it, 4

Both directions have the same form; the answer's seed is the request's plus one. Every piece of a body is a piece of one pool of random
bytes, at a place that depends on seed and position: nothing is computed per byte, and what is lost, doubled, swapped or changed is noticed
where it is.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

PIECE: Final = 1 << 14
EAGER: Final = 1  # the server answers at its own speed and not at that of the request
FIRST: Final = 2  # the server ends its answer at once, however much of the request is still to come

_MAGIC: Final = b"vanL"
_HEADER: Final = struct.Struct(">4sQQQQI")
_TRAILER: Final = struct.Struct(">I")
_PLACES: Final = 1 << 20
_POOL: Final = memoryview(random.Random(4).randbytes(_PLACES + PIECE))


class Damaged(Exception):
    """What came is not what was sent. Never the answer to an end that came too early."""


class Header(NamedTuple):
    id: int
    seed: int
    body: int
    answer: int = 0
    flags: int = 0

    def reply(self) -> Header:
        return Header(self.id, (self.seed + 1) % (1 << 64), self.answer)

    @property
    def total(self) -> int:
        """Bytes on the wire."""
        return _HEADER.size + self.body + _TRAILER.size


def _piece(seed: int, number: int) -> memoryview:
    place = ((seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03) % (1 << 64)) >> 44
    return _POOL[place : place + PIECE]


class Sending:
    """The bytes of one direction, a piece at a time."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._sum = 0
        self._parts = self._make()

    def _make(self) -> Iterator[bytes | memoryview]:
        yield _HEADER.pack(_MAGIC, *self._header)
        number, left = 0, self._header.body
        while left > 0:
            part = _piece(self._header.seed, number)[:left]
            yield part
            number, left = number + 1, left - len(part)

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Header and body, without the trailer: that is said only when all is well."""
        for part in self._parts:
            self._sum = zlib.crc32(part, self._sum)
            yield part

    def trailer(self) -> bytes:
        return _TRAILER.pack(self._sum)


class Receiving:
    """Checks what comes, byte for byte. ``whole``: all of it came, and its checksum is right."""

    def __init__(self) -> None:
        self.header: Header | None = None
        self.got = 0  # bytes, header and trailer included
        self.whole = False
        self._start = bytearray()  # of the header, then of the trailer
        self._sum = 0

    def feed(self, data: bytes) -> None:
        view = memoryview(data)
        self.got += len(data)
        if self.header is None:
            view = self._head(view)
        if self.header is not None and view:
            view = self._body(view)
            self._tail(view)

    def _head(self, view: memoryview) -> memoryview:
        missing = _HEADER.size - len(self._start)
        self._start += view[:missing]
        if len(self._start) == _HEADER.size:
            magic, *fields = _HEADER.unpack(self._start)
            if magic != _MAGIC:
                raise Damaged(f"begins with {bytes(magic)!r}")
            self.header = Header(*fields)
            self._sum = zlib.crc32(self._start)
            self._start.clear()
        return view[missing:]

    def _body(self, view: memoryview) -> memoryview:
        assert self.header is not None
        position = self.got - len(view) - _HEADER.size  # in the body
        while view and position < self.header.body:
            number, within = divmod(position, PIECE)
            expected = _piece(self.header.seed, number)[within : within + min(len(view), self.header.body - position)]
            part = view[: len(expected)]
            if part != expected:
                raise Damaged(f"differs between byte {position} and {position + len(part)} of {self.header.body}")
            self._sum = zlib.crc32(part, self._sum)
            position += len(part)
            view = view[len(part) :]
        return view

    def _tail(self, view: memoryview) -> None:
        self._start += view[: _TRAILER.size + 1 - len(self._start)]
        if len(self._start) > _TRAILER.size or (self.whole and view):
            raise Damaged("goes on after its end")
        if len(self._start) == _TRAILER.size:
            if _TRAILER.unpack(self._start)[0] != self._sum:
                raise Damaged("has another checksum")
            self.whole = True
