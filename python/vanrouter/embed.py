"""
The network inside a program: dial and serve routing keys without a port, a sidecar or another process.

    async with vanrouter.open("token.yaml") as van:
        async with await van.connect("hello") as stream:      # a trio stream, half-closeable
            await stream.send_all(b"GET ...")

`open` runs a router in this process, as a task of the program's own trio loop. Given a token it is a site of its own, which lives as long
as the block (or in a directory that is kept, with ``directory=``); given a site directory it is that site, or, where a router runs on it
already, a site of its own that is linked to it. It owns no signal, needs not be on the main thread, logs through ``logging`` only, and
there may be any number of them in one process.

What a stream promises (`vanrouter.plane.PlaneStream`): ``receive_some`` gives ``b""`` only after the other end's FIN; every other end
raises ``trio.BrokenResourceError`` with the class of the reset in its cause. Leaving a stream by an exception, by cancellation, or without
``send_eof`` resets it: the other end never takes it for a clean end.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, overload

import trio

from vanrouter.admin import client
from vanrouter.errors import ConfigError, DeadlineExceeded, NoSuchKey, NotReady, StreamRefused
from vanrouter.model import RoutingKey, parse_name, parse_routing_key
from vanrouter.plane import Incoming, PlaneStream
from vanrouter.resources import Metadata, Site
from vanrouter.resources.kinds import SiteSpec
from vanrouter.settings import Timing
from vanrouter.sites.run import PlaneName, run_site
from vanrouter.sites.site import RunningSite
from vanrouter.stores import SiteHome
from vanrouter.tokens import AccessToken, parse_token

__all__ = ["Handler", "Serving", "Stream", "Van", "open"]

log = logging.getLogger("vanrouter.embed")

Stream = PlaneStream
Handler = Callable[[Stream], Awaitable[object]]

LOOK_EVERY: Final = 0.02  # waiting for the network to change: a cheap look so often
READY_WAIT: Final = 10.0
NAME_WAIT: Final = 3.0  # a name that nobody serves yet has so long to appear, as a connection to a listener has


@contextlib.asynccontextmanager
async def open(
    where: str | Path,
    *,
    name: str = "",
    directory: str | Path | None = None,
    plane: PlaneName | None = None,
    timeout: float = 30.0,  # noqa: ASYNC109 - until joined and ready, not of the block
    drain: float = 5.0,
    timing: Timing | None = None,
) -> AsyncIterator[Van]:
    """Be a member of the network for the length of the block.

    Args:
      where: a token (its file, or its text), or the directory of a site.
      name: of the site, when a token makes one; default: ``embedded-`` and some random letters.
      directory: with a token: keep the site there. The token is redeemed the first time, and is not needed in date afterwards.
      plane: ``core`` or ``baseline``; default: the core where it is built in.
      timeout: how long joining may take.
      drain: on the way out live streams have so long to end, then they are reset. After an exception they are reset at once.

    Raises ConfigError, TokenError, StoreError, DeadlineExceeded before the block begins. What the block raises comes out as it is.
    """
    place = await _find_place(where, name=name, directory=directory)
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                run = functools.partial(run_site, place.directory, plane=plane, take_over=False, timing=timing)
                site: RunningSite = await nursery.start(run)
                with _deadline(timeout, lambda: f"the site did not become ready and linked within {timeout:g} s: {_state(site)}"):
                    await _join(site, place.token)
                van = Van(site)
                try:
                    yield van
                finally:
                    van._close()
                site.stop(grace=0.0, drain=drain)
            except Exception as error:  # raised again below, outside of the nursery, as it is
                failure = error
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _only(group) from None
    finally:
        place.remove()
    if failure is not None:
        raise failure


class Van:
    """A member of the network, in this process. Use it from tasks of the trio loop that opened it."""

    def __init__(self, site: RunningSite) -> None:
        self._site = site
        self._serving: list[Serving] = []

    @property
    def name(self) -> str:
        """The site's name."""
        return self._site.context.site_name

    @property
    def router(self) -> str:
        """The router id as text: it is in ``stream.source`` at the other end of what is opened here."""
        return str(self._site.context.own)

    async def connect(self, key: str) -> Stream:
        """Open a stream to a routing key, or to a service by its address (``hello``, or ``hello:9090`` where it has several ports).

        Raises NoSuchKey when nobody serves it, StreamRefused when those who do refuse, ConfigError for what cannot be a key.
        """
        parse_routing_key(key)
        found = await self._find(key)
        try:
            return await self._site.context.plane.connect(found)
        except StreamRefused as refused:
            if not self._site.services.table.matched_listener(found):
                raise NoSuchKey(str(refused), hint=f"see who serves it: van service status {key}") from refused
            raise

    @overload
    def serve(self, key: str) -> Serving: ...
    @overload
    def serve(
        self, key: str, handler: Handler, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> Coroutine[Any, Any, None]: ...
    def serve(
        self, key: str, handler: Handler | None = None, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> Serving | Coroutine[Any, Any, None]:
        """Serve a routing key from this process, in one of two ways.

        ``async for stream in van.serve(key)`` gives the streams as they come; ``async with van.serve(key) as streams`` also waits until
        the linked sites have it, and ends with its block. ``await van.serve(key, handler)`` runs the handler in a task per stream until
        it is cancelled; a handler that raises resets its stream and is logged, the others go on. With ``nursery.start`` it starts when
        the linked sites have it.
        """
        parse_routing_key(key)
        if handler is not None:
            return self._run_handler(key, handler, task_status)
        serving = Serving(self._site, key)
        self._serving.append(serving)
        return serving

    async def _run_handler(self, key: str, handler: Handler, task_status: trio.TaskStatus[None]) -> None:
        async with self.serve(key) as streams, trio.open_nursery() as nursery:
            task_status.started()
            async for stream in streams:
                nursery.start_soon(_handle, handler, stream)

    async def _find(self, key: str) -> RoutingKey:
        """The routing key that is meant. What is not known yet has a moment to appear."""
        table = self._site.services.table
        with trio.move_on_after(NAME_WAIT):
            while True:
                if table.matched_listener(key):
                    return RoutingKey(key)
                ports = {
                    offer.service.port: offer.key
                    for service in table.services()
                    for offer in service.offers
                    if key in (service.address, f"{service.address}:{offer.service.port}") and table.matched_listener(offer.key)
                }
                if len(set(ports.values())) == 1:
                    return RoutingKey(next(iter(ports.values())))
                if ports:
                    raise ConfigError(
                        f"service {key} has several ports: {', '.join(map(str, sorted(ports)))}", hint=f"name one: {key}:{min(ports)}"
                    )
                await trio.sleep(LOOK_EVERY)
        raise NoSuchKey(f"nobody whom this site can reach serves {key!r}", hint="see what there is: van service status")

    def _close(self) -> None:
        for serving in self._serving:
            serving.close()


class Serving:
    """The streams of one routing key, as they come. It is served from the moment that this is made until `close`, or until the van ends."""

    def __init__(self, site: RunningSite, key: str) -> None:
        self.key = key
        self._site = site
        self._streams: trio.MemoryReceiveChannel[Incoming] = site.serve(key)
        self._closed = False

    async def ready(self) -> None:
        """Wait until the linked sites that are up can reach it; one that does not answer is waited for 10 s."""
        with trio.move_on_after(READY_WAIT) as scope:
            await _until(lambda: self._closed or not self._site.services.exchange.waiting_for(self.key))
        if scope.cancelled_caught:
            late = self._site.services.exchange.waiting_for(self.key)
            log.warning("some sites do not know yet what is served here", extra={"key": self.key, "routers": late})

    def close(self) -> None:
        """Others see that it is not served here any more. Streams that were taken go on; those that were not are reset."""
        if not self._closed:
            self._closed = True
            self._site.unserve(self.key)
            with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
                while True:
                    self._streams.receive_nowait().stream.reset("not served any more")

    def __aiter__(self) -> Serving:
        return self

    async def __anext__(self) -> Stream:
        try:
            incoming = await self._streams.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise StopAsyncIteration from None
        return incoming.stream

    async def __aenter__(self) -> Serving:
        try:
            await self.ready()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


async def _handle(handler: Handler, stream: Stream) -> None:
    try:
        async with stream:
            await handler(stream)
    except trio.BrokenResourceError as broken:
        log.info("stream ended early", extra={"key": stream.routing_key, "source": stream.source, "reason": str(broken)})
    except Exception:
        log.exception("handler failed, its stream was reset", extra={"key": stream.routing_key, "source": stream.source})


# ---- Joining -----------------------------------------------------------------------------------------------------------------------------


class _Place:
    """The directory to run in, and the token to join with, if any."""

    def __init__(self, directory: Path, token: AccessToken | None = None, *, temporary: bool = False) -> None:
        self.directory, self.token, self._temporary = directory, token, temporary

    def remove(self) -> None:
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)


async def _find_place(where: str | Path, *, name: str, directory: str | Path | None) -> _Place:
    """Raises ConfigError, TokenError, StoreError."""
    if isinstance(where, str) and "\n" in where:
        return _place_for_token(where, "the token", name, directory)
    path = Path(await trio.Path(where).expanduser())
    if not await trio.Path(path).is_dir():
        try:
            text = await trio.Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            todo = "give the file of a token (van token create FILE), or the directory of a site"
            raise ConfigError(f"{path} cannot be read: {error}", hint=todo) from error
        return _place_for_token(text, str(path), name, directory)
    try:
        ask = {"uses": 1, "expiry_seconds": 60}
        issued = await trio.to_thread.run_sync(lambda: client.call(path, "token.issue", ask))
    except NotReady:
        if directory is not None or name:
            raise ConfigError(f"{path} is a site: it has a name and a directory", hint="leave out name and directory") from None
        return _Place(path)
    return _place_for_token(issued["yaml"], f"the token of {path}", name, directory)


def _place_for_token(text: str, what: str, name: str, directory: str | Path | None) -> _Place:
    token = parse_token(text, what)
    site_name = parse_name(name or f"embedded-{secrets.token_hex(4)}", "site name")
    place = _Place(Path(directory or tempfile.mkdtemp(prefix="van-")), token, temporary=directory is None)
    home = SiteHome(place.directory)
    if not home.exists or not home.resources.of_kind("Site"):
        home.create()
        home.resources.put(Site(metadata=Metadata(name=site_name), spec=SiteSpec(link_access="none", service_sync=False)))
    return place


async def _join(site: RunningSite, token: AccessToken | None) -> None:
    """Until the site is ready, and with a token until it is linked and knows what the other end serves."""
    await _until(site.is_ready)
    if token is not None:
        if token.id not in site.joining.redeemed:
            await site.joining.redeem(token)
        await _until(site.services.has_joined)


async def _until(check: Callable[[], object]) -> None:
    """What deciding code knows is looked at, not waited for: it has no tasks that could tell."""
    while not check():  # noqa: ASYNC110
        await trio.sleep(LOOK_EVERY)


@contextlib.contextmanager
def _deadline(seconds: float, message: Callable[[], str]) -> Iterator[None]:
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise DeadlineExceeded(message(), hint="check that the issuing site runs and that its link access can be reached from here")


def _state(site: RunningSite) -> str:
    """The first thing that is not well."""
    ready = site.conditions.get("Ready")
    if ready is None or ready.status != "True":
        return ready.message if ready is not None else "it is starting"
    return "no link is active"


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception in it, if it is one: callers catch what happened, not how tasks are nested."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
