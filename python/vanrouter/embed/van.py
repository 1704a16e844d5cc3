"""A member of the network, as a program has it: connect, serve, ports for what needs one, and how everything is."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, Protocol, overload

import anyio
import trio

from vanrouter.embed.changes import Change, Changes
from vanrouter.embed.homes import Home
from vanrouter.embed.local_ports import exposed, local_port
from vanrouter.embed.looking import LOOK_EVERY
from vanrouter.embed.serving import Handler, Serving, handle
from vanrouter.embed.stream import Stream
from vanrouter.embed.views import Listener, Service, listeners_of, services_of
from vanrouter.errors import ConfigError, NoSuchKey, StreamDenied, StreamRefused, UsageError
from vanrouter.model import RoutingKey, parse_routing_key
from vanrouter.plane import PlaneStream
from vanrouter.sites.site import RunningSite
from vanrouter.sites.status import Reporter

__all__ = ["NAME_WAIT", "TaskStatus", "Van"]

NAME_WAIT: Final = 3.0  # a name that nobody serves yet has so long to appear, as a connection to a listener has


class TaskStatus(Protocol):
    """Of trio and of anyio."""

    def started(self) -> None: ...


class Van:
    """A member of the network, in this process. Use it from tasks of the loop that opened it, in its block; elsewhere it raises UsageError.

    ``connect``, ``serve`` and everything else that is not said to wait returns at once. Under asyncio questions (``services``, ``status``)
    are answered by the router's thread: about a tenth of a millisecond, in which the loop stands.
    """

    def __init__(self, site: RunningSite, home: Home) -> None:
        self._site, self._home = site, home
        self._serving: list[Serving] = []
        self._changes: list[Changes] = []

    @property
    def name(self) -> str:
        """The site's name."""
        return self._site.context.site_name

    @property
    def router(self) -> str:
        """The router id as text: it is in ``stream.source`` at the other end of what is opened here."""
        return str(self._site.context.own)

    async def connect(self, key: str, *, wait: float = NAME_WAIT) -> Stream:
        """Open a stream to a routing key, or to a service by its address (``hello``, or ``hello:9090`` where it has several ports).

        A name that nobody serves yet has ``wait`` seconds to appear. Cancelled, nothing stays open.

        Raises NoSuchKey when nobody serves it, StreamRefused when those who do refuse, StreamDenied when a policy forbids it,
        ConfigError for what cannot be a key.
        """
        self._home.check_open()
        _check_key(key)
        stream = await self._home.run(self._connect, key, wait, late=self._give_up)
        return Stream(self._home.adopt(stream), self._home)

    @overload
    def serve(self, key: str) -> Serving: ...
    @overload
    def serve(self, key: str, handler: Handler, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> Coroutine[Any, Any, None]: ...
    def serve(
        self, key: str, handler: Handler | None = None, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED
    ) -> Serving | Coroutine[Any, Any, None]:
        """Serve a routing key from this process, in one of two ways.

        ``async for stream in van.serve(key)`` gives the streams as they come; ``async with van.serve(key) as streams`` also waits until
        the linked sites have it, and ends with its block. ``await van.serve(key, handler)`` runs the handler in a task per stream until
        it is cancelled, or until the block ends: then it returns when its last handler has. A handler that raises resets its stream and is
        logged, the others go on. With ``start`` of trio's nursery or anyio's task group it starts when the linked sites have it.

        Raises ConfigError for what cannot be a key, and for one that is served here already.
        """
        self._home.check_open()
        _check_key(key)
        if handler is not None:
            return self._handle_all(key, handler, task_status)
        serving = Serving(self._site, self._home, key)
        self._serving.append(serving)
        return serving

    def local_port(
        self, key: str, *, host: str = "127.0.0.1", port: int = 0, wait: float = NAME_WAIT
    ) -> contextlib.AbstractAsyncContextManager[int]:
        """A port of this host for what can only connect to one: ``async with van.local_port("db") as port:``.

        ``host`` is a loopback address unless you say otherwise; ``port`` 0: a free one. Whoever may connect to it reaches the service as
        this site does. Bytes move through the core only, not through Python. Connections that are open when the block ends go on.

        Raises NoSuchKey when nobody serves it within ``wait`` seconds, ConfigError when the port cannot be had.
        """
        self._home.check_open()
        _check_key(key)
        return local_port(self._site, self._home, lambda: self._find(key, wait), key, host, port)

    def expose(self, key: str, port: int, *, host: str = "127.0.0.1") -> contextlib.AbstractAsyncContextManager[None]:
        """Serve a routing key by a server that listens on a port, of this process or not, for the length of the block.

        ``async with van.expose("greeter", port):`` returns when the linked sites have it. The server is not checked; connects that it
        refuses are tried elsewhere. ``host`` is an IP address.
        """
        self._home.check_open()
        _check_key(key)
        return exposed(self._site, self._home, key, host, port)

    # ---- How it is -----------------------------------------------------------------------------------------------------------------------

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """The ports of this host where programs reach routing keys: those of resources, of service sync and of `local_port`."""
        self._home.check_open()
        return self._home.call(listeners_of, self._site)

    def services(self) -> tuple[Service, ...]:
        """Everything that can be connected to by name, as this site knows it now."""
        self._home.check_open()
        return self._home.call(services_of, self._site)

    def status(self) -> dict[str, Any]:
        """The whole status document, as ``van status -o json`` gives it (docs/architecture.md)."""
        self._home.check_open()
        return self._home.call(Reporter(self._site).document)

    async def events(self) -> AsyncIterator[Change]:
        """What changes, as it does, after everything that is there: ``async for event in van.events()``. It ends with the van.

        It is latest state: who reads slowly misses what came and went, and never how it is now.
        """
        self._home.check_open()
        changes = self._home.call(Changes, self._site)
        self._changes.append(changes)
        late: list[Change] = []
        try:
            while found := [*late, *await self._home.run(changes.next, late=late.extend)]:
                late.clear()
                for change in found:
                    yield change
        finally:
            self._changes.remove(changes)
            with contextlib.suppress(UsageError):
                self._home.call(changes.close)

    # ---- Where the router is -------------------------------------------------------------------------------------------------------------

    async def _connect(self, key: str, wait: float) -> PlaneStream:
        found = await self._find(key, wait)
        try:
            return await self._site.context.plane.connect(found)
        except StreamDenied:
            raise
        except StreamRefused as refused:
            if not self._site.services.table.matched_listener(found):
                raise NoSuchKey(str(refused), hint=f"see who serves it: van service status {key}") from refused
            raise

    async def _find(self, key: str, wait: float) -> RoutingKey:
        """The routing key that is meant. What is not known yet has a moment to appear."""
        table = self._site.services.table
        with trio.move_on_after(wait):
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

    # ---- The rest ------------------------------------------------------------------------------------------------------------------------

    async def _handle_all(self, key: str, handler: Handler, task_status: TaskStatus) -> None:
        async with self.serve(key) as streams, anyio.create_task_group() as tasks:
            task_status.started()
            async for stream in streams:
                tasks.start_soon(handle, handler, stream)

    def _give_up(self, stream: PlaneStream) -> None:
        self._home.adopt(stream).reset("the program gave up")

    def _close(self) -> None:
        for serving in self._serving:
            serving.close()
        for changes in self._changes:
            with contextlib.suppress(UsageError):
                self._home.call(changes.end)
        self._home.close()


def _check_key(key: str) -> None:
    """Raises ConfigError; what is no text at all is the program's mistake."""
    if not isinstance(key, str):
        raise TypeError(f"a routing key is a str, not {type(key).__name__}")
    parse_routing_key(key)
