"""
Where the router of a van runs, seen from the program: in the program's own trio loop, or in a thread beside its asyncio loop.

    trio program      program's tasks ── direct calls ── router's tasks                            one loop
    asyncio program   program's tasks ── calls, answers ── router's tasks (trio, its own thread)   bytes: program ── socket ── core

Both homes have the same few calls, so that everything above them is written once. A call that is cancelled is ended in the other thread
too before the cancellation goes on, and what it gave in spite of that is not lost (``late``).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, TypeVar, TypeVarTuple

import outcome
import trio

from vanrouter.embed.far import AsyncioWaits, FarStream
from vanrouter.embed.looking import only_one
from vanrouter.errors import UsageError
from vanrouter.plane import PlaneStream
from vanrouter.sites.site import RunningSite

__all__ = ["Beside", "Here", "Home", "Late"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Late = Callable[[T], object]

_CLOSED: Final = "this van is closed: its block has ended"
EXIT_WAIT: Final = 2.0  # an interpreter that ends waits so long for routers that nobody closed


class Home(Protocol):
    """The calls that everything above needs."""

    def check(self) -> None:
        """Raises UsageError when this is another process, thread or loop."""

    def check_open(self) -> None:
        """The same, and when the block has ended: streams go on for a while then, the van does not."""

    def close(self) -> None:
        """The block has ended."""

    async def run(self, work: Callable[[*Ts], Awaitable[T]], *args: *Ts, late: Late[T] | None = None) -> T:
        """Run it where the router is. ``late`` gets what it gave although it was cancelled."""
        ...

    def call(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call it where the router is, and wait for it without letting the loop go on: for short questions."""
        ...

    def adopt(self, stream: PlaneStream) -> PlaneStream:
        """This stream, callable from the program's tasks."""
        ...


class _Owned:
    """Who may call: the process, the thread and the loop that opened it, until it is closed."""

    def __init__(self) -> None:
        self._process, self._thread, self._closed = os.getpid(), threading.get_ident(), False

    def check(self) -> None:
        if threading.get_ident() != self._thread:
            raise UsageError("this van is of another thread", hint="use it in the loop that opened it, or open one here")
        if os.getpid() != self._process:
            todo = "open one in the child, after the fork (multiprocessing: spawn)"
            raise UsageError(f"this van was opened by process {self._process}, and does not work in a fork of it", hint=todo)
        self._check_loop()

    def check_open(self) -> None:
        self.check()
        if self._closed:
            raise UsageError(_CLOSED, hint="use it inside of async with vanrouter.open(...)")

    def close(self) -> None:
        self._closed = True

    def _check_loop(self) -> None:
        """Raises UsageError when another loop runs in this thread."""


class Here(_Owned):
    """The program's loop is trio's: the router's tasks are in it."""

    async def run(self, work: Callable[[*Ts], Awaitable[T]], *args: *Ts, late: Late[T] | None = None) -> T:  # noqa: ARG002 - nothing is late here
        return await work(*args)

    def call(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return work(*args)

    def adopt(self, stream: PlaneStream) -> PlaneStream:
        return stream


class Beside(_Owned):
    """The program's loop is asyncio's: the router has a thread and a trio loop of its own."""

    def __init__(self, place: Callable[[], AbstractAsyncContextManager[RunningSite]]) -> None:
        """``place``: what the thread enters first, and leaves last."""
        super().__init__()
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._begun: asyncio.Future[None] = self._loop.create_future()
        self._started: asyncio.Future[RunningSite] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._scope = trio.CancelScope()
        self._leave: trio.Event | None = None
        self._calls: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        # An interpreter that ends does not wait for a daemon, so that a van that was never closed cannot keep a program alive.
        self._router = threading.Thread(target=self._run_thread, name="vanrouter", daemon=True)

    # ---- The program's side --------------------------------------------------------------------------------------------------------------

    async def start(self) -> RunningSite:
        """Raises what opening raises."""
        _open_ones.add(self)
        self._router.start()
        if not await _finish(self._begun):
            try:
                return await asyncio.shield(self._started)
            except asyncio.CancelledError:
                pass
        self._soon(self._scope.cancel)
        await self._finish_thread()
        raise asyncio.CancelledError

    async def end(self, *, at_once: bool) -> None:
        """Leave the place in the thread, and wait until the thread has ended; cancelled, it leaves at once. Raises what that raised."""
        self._soon(self._scope.cancel if at_once else self._set_leave)
        try:
            await asyncio.shield(self._ended)
        except asyncio.CancelledError:
            self._soon(self._scope.cancel)
            raise
        finally:
            await self._finish_thread()

    async def _finish_thread(self) -> None:
        await _finish(self._ended)
        self._router.join()  # it has said its last word

    def _check_loop(self) -> None:
        if asyncio._get_running_loop() not in (self._loop, None):  # none: between the cells of a notebook
            raise UsageError("this van is of another loop", hint="use it in the loop that opened it, or open one here")

    async def run(self, work: Callable[[*Ts], Awaitable[T]], *args: *Ts, late: Late[T] | None = None) -> T:
        answer: asyncio.Future[outcome.Outcome[T]] = self._loop.create_future()
        scope = trio.CancelScope()
        if not self._soon(self._begin, work, args, scope, answer):
            raise self._over()
        try:
            return (await asyncio.shield(answer)).unwrap()
        except asyncio.CancelledError:
            self._soon(scope.cancel)
            await _finish(answer)
            given = answer.result()
            if late is not None and isinstance(given, outcome.Value):
                late(given.value)
            raise

    def call(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        assert self._token is not None
        try:
            return trio.from_thread.run_sync(work, *args, trio_token=self._token)
        except trio.RunFinishedError:
            raise self._over() from None

    def _over(self) -> UsageError:
        """Said by calls that find no router any more."""
        error = self._ended.exception() if self._ended.done() else None
        over = UsageError(_CLOSED if error is None else f"the router of this van has ended: {error}")
        over.__cause__ = error
        return over

    def adopt(self, stream: PlaneStream) -> PlaneStream:
        return stream if stream.wait_with(AsyncioWaits()) else FarStream(stream, self)

    def _soon(self, work: Callable[[*Ts], object], *args: *Ts) -> bool:
        """Call it in the router's loop. False: that has ended."""
        with contextlib.suppress(trio.RunFinishedError):
            if self._token is not None:
                self._token.run_sync_soon(work, *args)
                return True
        return False

    # ---- The router's side ---------------------------------------------------------------------------------------------------------------

    def _run_thread(self) -> None:
        result = outcome.capture(trio.run, self._main)
        _open_ones.discard(self)
        self._tell(self._end_with, result)

    async def _main(self) -> None:
        self._leave = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._tell(_give, self._begun, None)
        with only_one(), self._scope:
            async with trio.open_nursery() as calls:
                self._calls = calls
                try:
                    async with self._place() as site:
                        self._tell(_give, self._started, site)
                        await self._leave.wait()
                finally:  # also where the router failed: a call that comes now is answered, and waits for nothing
                    self._calls = None
                calls.cancel_scope.cancel()

    def _set_leave(self) -> None:
        if self._leave is not None:
            self._leave.set()

    def _begin(
        self,
        work: Callable[[*Ts], Awaitable[T]],
        args: tuple[*Ts],
        scope: trio.CancelScope,
        answer: asyncio.Future[outcome.Outcome[T]],
    ) -> None:
        if self._calls is None:
            self._tell(_give, answer, outcome.Error(UsageError(_CLOSED)))
        else:
            self._calls.start_soon(self._answer, work, args, scope, answer)

    async def _answer(
        self,
        work: Callable[[*Ts], Awaitable[T]],
        args: tuple[*Ts],
        scope: trio.CancelScope,
        answer: asyncio.Future[outcome.Outcome[T]],
    ) -> None:
        given: outcome.Outcome[T] = outcome.Error(UsageError(_CLOSED))
        try:
            with scope:
                try:
                    given = outcome.Value(await work(*args))
                except Exception as error:
                    given = outcome.Error(error)
        finally:
            self._tell(_give, answer, given)

    def _tell(self, work: Callable[[*Ts], object], *args: *Ts) -> None:
        with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits
            self._loop.call_soon_threadsafe(work, *args)

    def _end_with(self, result: outcome.Maybe[None]) -> None:
        error = result.error if isinstance(result, outcome.Error) else None
        _give(self._begun, None)
        if not self._started.done():
            self._started.set_exception(error or UsageError("opening was given up"))
            self._started.exception()
        elif error is not None:
            self._ended.set_exception(error)
            self._ended.exception()
        _give(self._ended, None)


def _give(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


async def _finish(future: asyncio.Future[T]) -> bool:
    """Wait for it whatever happens: it is about to be done, and its outcome is the caller's matter. True: cancelled meanwhile."""
    cancelled = False
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            cancelled = True
        except Exception:  # noqa: S110 - it is kept in the future
            pass
    return cancelled


_open_ones: weakref.WeakSet[Beside] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """The interpreter ends: peers are told, temporary sites are removed, for as long as it takes, at most ``EXIT_WAIT``."""
    left = [home for home in _open_ones if home._process == os.getpid()]
    for home in left:
        home._soon(home._scope.cancel)
    for home in left:
        home._router.join(EXIT_WAIT)
