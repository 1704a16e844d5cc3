"""
Names to IP literals, watched: whoever needs a name says so, and is told when its answer changes.

A name that cannot be resolved is a sentence, not an exception; a literal is its own answer. Lookups have a deadline, one per name at a
time, and happen again after half a minute, sooner after a failure or when somebody asks. Nobody waits: ``get`` gives the last answer.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import trio

from vanrouter.resources.shapes import is_ip

__all__ = ["Answer", "Names", "look_up"]

log = logging.getLogger("vanrouter.sites")

AFTER_FAILURE: Final = 2.0  # seconds
NOT_SOONER: Final = 1.0  # after the last lookup, however often somebody asks


class Answer(msgspec.Struct, frozen=True):
    """Addresses in the order of the system's preference, or why there are none."""

    addresses: list[str]
    error: str = ""


class _Name(msgspec.Struct):
    due: float
    answer: Answer | None = None
    asked_at: float = -math.inf
    running: bool = False


class Names:
    """``changed`` is called when an answer differs from the one before, from the task that runs ``run``."""

    def __init__(self, *, timeout: float, again: float, changed: Callable[[], None]) -> None:
        self._timeout, self._again, self._changed = timeout, again, changed
        self._wanted: dict[str, frozenset[str]] = {}
        self._names: dict[str, _Name] = {}
        self._wake = trio.Event()

    def want(self, owner: str, hosts: Iterable[str]) -> None:
        """The names that ``owner`` needs now; replaces what it needed before."""
        self._wanted[owner] = frozenset(host for host in hosts if not is_ip(host))
        needed = frozenset().union(*self._wanted.values())
        for host in [h for h in self._names if h not in needed]:
            del self._names[host]
        for host in needed - self._names.keys():
            self._names[host] = _Name(due=-math.inf)
            self._wake.set()

    def get(self, host: str) -> Answer | None:
        """None: not looked up yet."""
        if is_ip(host):
            return Answer([host])
        name = self._names.get(host)
        return name.answer if name is not None else None

    def ask_again(self, host: str) -> None:
        """What was answered did not work: look sooner."""
        name = self._names.get(host)
        if name is not None and not name.running:
            name.due = min(name.due, name.asked_at + NOT_SOONER)
            self._wake.set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                now = trio.current_time()
                for host, name in self._names.items():
                    if not name.running and name.due <= now:
                        name.running, name.asked_at = True, now
                        nursery.start_soon(self._ask, host, name)
                next_due = min((n.due for n in self._names.values() if not n.running), default=math.inf)
                with trio.move_on_at(next_due):
                    await self._wake.wait()

    async def _ask(self, host: str, name: _Name) -> None:
        answer = await look_up(host, self._timeout)
        now = trio.current_time()
        name.running = False
        if self._names.get(host) is not name:
            return
        if answer.error and name.answer is not None and name.answer.addresses:
            # What worked before is better than nothing while the name servers are away.
            log.info("name not resolved", extra={"host": host, "error": answer.error})
            name.due = now + AFTER_FAILURE
        else:
            before, name.answer = name.answer, answer
            name.due = now + (AFTER_FAILURE if answer.error else self._again)
            if answer != before:
                self._changed()
        self._wake.set()


async def look_up(host: str, within: float) -> Answer:
    try:
        with trio.fail_after(within):
            found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except trio.TooSlowError:
        return Answer([], f"{host}: the name servers did not answer within {within:g} s")
    except (OSError, UnicodeError) as exc:
        return Answer([], f"{host}: {getattr(exc, 'strerror', None) or exc}")
    addresses = [str(address[4][0]).partition("%")[0] for address in found]
    return Answer(list(dict.fromkeys(addresses)), "" if addresses else f"{host}: has no address")
