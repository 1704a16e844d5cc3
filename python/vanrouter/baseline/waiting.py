"""Who waits for open credit of a lane: a line for each origin, served in turn, so that nobody's flood of OPENs keeps others waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from vanrouter.baseline.stream import Stream

__all__ = ["Waiting"]


class Waiting:
    def __init__(self) -> None:
        self._lines: dict[str, deque[Stream]] = {}  # none is empty; the first is next

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __iter__(self) -> Iterator[Stream]:
        return (stream for line in self._lines.values() for stream in line)

    def append(self, stream: Stream) -> None:
        self._lines.setdefault(stream.origin, deque()).append(stream)

    def popleft(self) -> Stream:
        """The first of the origin whose turn it is."""
        origin = next(iter(self._lines))
        line = self._lines.pop(origin)
        stream = line.popleft()
        if line:
            self._lines[origin] = line
        return stream

    def discard(self, stream: Stream) -> None:
        line = self._lines.get(stream.origin)
        if line is not None and stream in line:
            line.remove(stream)
            if not line:
                del self._lines[stream.origin]
