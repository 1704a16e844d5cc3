"""
How much of what it reads a controller keeps in memory: of one site, and of all together. Driven by ``Channel``; reads no socket.

    a line of up to 16 KiB                ▶ costs its connection nothing
    a longer one                          ▶ is read in its turn: 2 of a site, 8 of all at a time. Whoever waits is not read meanwhile; after
                                            10 s, or when a line lasts 30 s, the connection is closed, and dialled again by the router
    questions that are not answered yet   ▶ 4 MiB of a site, 16 MiB of all: beyond that the answer is 'later'

Lines have 4 MiB at most (``conversation``), so that is 32 MiB of lines and 16 MiB of questions, however many routers there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import trio

from vanrouter.errors import LinkError

__all__ = ["SHORT", "Full", "Held", "Room", "room_of_all", "room_of_site"]

SHORT: Final = 16_384  # a record of TLS: so much is read at once
LINES: Final = 8
SITE_LINES: Final = 2
QUESTIONS: Final = 16 << 20
SITE_QUESTIONS: Final = 4 << 20
WAIT: Final = 10.0  # below the silence after which the other end is asked for a sign of life
LINE_SECONDS: Final = 30.0
SAID_FOR: Final = 60.0


class Full(LinkError):
    """There is no room for this connection now."""


class Room:
    """What several connections share. ``lines``: long ones at a time; ``questions``: bytes of those that are open."""

    def __init__(self, *, lines: int, questions: int) -> None:
        self.lines = trio.Semaphore(lines)
        self.questions = questions
        self._said_at = -math.inf

    def says_so(self, now: float) -> bool:
        """Whether it is time to say that there is none: once in a minute, however many are turned away."""
        if now < self._said_at + SAID_FOR:
            return False
        self._said_at = now
        return True


def room_of_all() -> Room:
    return Room(lines=LINES, questions=QUESTIONS)


def room_of_site() -> Room:
    return Room(lines=SITE_LINES, questions=SITE_QUESTIONS)


class Held:
    """What one connection takes of ``rooms``, its site's first; without any there is no limit. ``close`` it."""

    def __init__(self, rooms: Sequence[Room] = ()) -> None:
        self._rooms = rooms
        self._lines: list[Room] = []
        self._owed: dict[int, int] = {}  # questions and their bytes
        self.deadline = math.inf  # of the line that is being read

    async def line(self, length: int) -> None:
        """So much of a line that is not over is in memory. Returns when more of it may be read. Raises Full."""
        if length <= SHORT or self._lines or not self._rooms:
            return
        with trio.move_on_after(WAIT) as scope:
            for room in self._rooms:
                await room.lines.acquire()
                self._lines.append(room)
        if scope.cancelled_caught:
            raise Full("the controller reads long messages of other routers at the moment; this one comes again")
        self.deadline = trio.current_time() + LINE_SECONDS

    def line_over(self) -> None:
        while self._lines:
            self._lines.pop().lines.release()
        self.deadline = math.inf

    def asked(self, number: int, size: int) -> bool:
        """Whether there is room for this question until ``answered``."""
        if any(room.questions < size for room in self._rooms):
            return False
        self._owed[number] = size
        for room in self._rooms:
            room.questions -= size
        return True

    def answered(self, number: int) -> None:
        size = self._owed.pop(number, 0)
        for room in self._rooms:
            room.questions += size

    def close(self) -> None:
        self.line_over()
        for number in [*self._owed]:
            self.answered(number)
