"""Ports for what can only use one: a listener that leads to a routing key, and a server's port that serves one."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import trio

from vanrouter.addresses import LocalConnector, LocalListener
from vanrouter.embed.homes import Home
from vanrouter.embed.looking import LOOK_EVERY, until
from vanrouter.errors import ConfigError, UsageError
from vanrouter.model import RoutingKey
from vanrouter.sites.site import RunningSite

__all__ = ["exposed", "local_port"]

TRIES: Final = 5  # of a free port that somebody else takes meanwhile
BIND_WAIT: Final = 5.0
WAITING: Final = ("Pending", "BoundNotMatched")  # reasons of a listener's condition that pass by themselves
READY_WAIT: Final = 10.0
Find = Callable[[], Awaitable[RoutingKey]]


@contextlib.asynccontextmanager
async def local_port(site: RunningSite, home: Home, find: Find, key: str, host: str, port: int) -> AsyncIterator[int]:
    async def begin() -> LocalListener:
        found = await find()
        for left in reversed(range(TRIES if port == 0 else 1)):
            listener = LocalListener(name=_name(site, key), routing_key=found, host=host, port=port or _free_port(host))
            site.services.lend(listener)
            try:
                error = await _bound(site, listener.name)
            except BaseException:
                site.services.take_back(listener.name)
                raise
            if not error:
                return listener
            site.services.take_back(listener.name)
            if not left:
                raise ConfigError(f"no port for {key}: {listener.host}:{listener.port}: {error}", hint="name another port, or none")
        raise AssertionError

    def end(listener: LocalListener) -> None:
        site.services.take_back(listener.name)

    listener = await home.run(begin, late=lambda listener: home.call(end, listener))
    try:
        yield listener.port
    finally:
        with contextlib.suppress(UsageError):
            home.call(end, listener)


@contextlib.asynccontextmanager
async def exposed(site: RunningSite, home: Home, key: str, host: str, port: int) -> AsyncIterator[None]:
    name = f"exposed-{key}-{host}-{port}"
    _check_address(host, port)

    async def begin() -> None:
        try:
            site.services.embed(LocalConnector(name=name, routing_key=key, host=host, port=port))
            with trio.move_on_after(READY_WAIT):
                await until(lambda: not site.services.exchange.waiting_for(key))
        except BaseException:
            end()
            raise

    def end() -> None:
        site.services.unembed(name)

    await home.run(begin, late=lambda _: home.call(end))
    try:
        yield
    finally:
        with contextlib.suppress(UsageError):
            home.call(end)


def _name(site: RunningSite, key: str) -> str:
    taken = {status.name for status in site.services.table.listener_statuses()}
    number = next(n for n in range(1, len(taken) + 2) if f"local-{key}-{n}" not in taken)
    return f"local-{key}-{number}"


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise ConfigError(f"no port at {host}: {error}", hint="give an IP address of this host") from error


async def _bound(site: RunningSite, name: str) -> str:
    """Why it does not listen; empty: it does."""
    with trio.move_on_after(BIND_WAIT):
        while True:
            status = next(status for status in site.services.table.listener_statuses() if status.name == name)
            listening = next((c for c in status.conditions if c.type == "Listening"), None)
            if listening is not None and listening.status == "True":
                return ""
            if listening is not None and listening.reason not in WAITING:
                return listening.message
            await trio.sleep(LOOK_EVERY)
    return f"it did not listen within {BIND_WAIT:g} s"


def _check_address(host: str, port: int) -> None:
    try:
        socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"{host}:{port} cannot be a server: {error}", hint="give an IP address and a port") from error
    if not 1 <= port <= 65535:
        raise ConfigError(f"{host}:{port} cannot be a server: {errno.errorcode[errno.EINVAL]}", hint="give a port from 1 to 65535")
