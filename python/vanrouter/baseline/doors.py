"""
The ports of a router: listeners for clients, accesses for links and visitors.

A listener's port is ours from the moment its entry comes, and it listens from the first match until ``listener_linger``
seconds after the last. A port that is in use is tried again every second.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from vanrouter.baseline.access import AccessServer
from vanrouter.baseline.bind import Port
from vanrouter.errors import ConfigError
from vanrouter.plane import Access, AccessState, BindStatus, Credential, Listener, ListenerState

if TYPE_CHECKING:
    from vanrouter.baseline.plane import BaselinePlane

__all__ = ["Doors"]

TICK: Final = 0.1
RETRY_BIND_EVERY: Final = 1.0


class _ListenerDoor:
    def __init__(self, entry: Listener, port: Port) -> None:
        self.entry = entry
        self.port = port
        self.linger_until = 0.0  # after the last match


class Doors:
    def __init__(self, plane: BaselinePlane) -> None:
        self._plane = plane
        self._listeners: dict[str, _ListenerDoor] = {}
        self._accesses: dict[str, AccessServer] = {}
        self._adopted: dict[tuple[str, int], socket.socket] = {}
        self._retry_at = 0.0
        self._are_shared = False
        self._is_closed = False

    # ---- Entries ---------------------------------------------------------------------------------------------------------------

    def put_listener(self, entry: Listener) -> None:
        door = self._listeners.get(entry.name)
        if door is not None and (door.entry.host, door.entry.port) == (entry.host, entry.port):
            door.entry = entry
            return
        if door is not None:
            door.port.close()
        door = self._listeners[entry.name] = _ListenerDoor(entry, self._port(entry.host, entry.port))
        if door.port.status is BindStatus.LISTENING:  # adopted: as if just matched
            door.linger_until = trio.current_time() + self._plane.config.listener_linger
            self._accept_clients(door)
        self._report_listener(door)

    def drop_listener(self, entry: Listener) -> None:
        door = self._listeners.pop(entry.name, None)
        if door is not None:
            door.port.close()
            self._plane.mailbox.put(ListenerState(name=entry.name, status=BindStatus.FAILED, port=door.port.port, gone=True))

    def put_access(self, entry: Access) -> None:
        server = self._accesses.get(entry.name)
        if server is not None and (server.entry.host, server.entry.port) == (entry.host, entry.port):
            server.entry = entry
        else:
            if server is not None:
                server.port.close()
            server = self._accesses[entry.name] = AccessServer(self._plane, entry, self._port(entry.host, entry.port))
        self._open_access(server)

    def drop_access(self, entry: Access) -> None:
        server = self._accesses.pop(entry.name, None)
        if server is not None:
            server.port.close()
            self._plane.mailbox.put(AccessState(name=entry.name, status=BindStatus.FAILED, port=server.port.port, gone=True))

    def credential_changed(self, credential: Credential) -> None:
        for server in self._accesses.values():
            if server.entry.credential == credential.name:
                self._open_access(server)

    # ---- Sockets that are handed over -----------------------------------------------------------------------------------------

    def adopt(self, host: str, port: int, fd: int) -> None:
        self._adopted[(host, port)] = socket.socket(fileno=fd)

    def drop_unclaimed(self) -> None:
        """Nothing wanted these: their clients would wait for ever."""
        for sock in self._adopted.values():
            sock.close()
        self._adopted.clear()

    def share(self) -> None:
        """A successor may have our sockets: from now on none is un-listened."""
        self._are_shared = True
        for port in self._ports():
            port.is_shared = True

    def sockets(self) -> list[tuple[str, int, int]]:
        return [(port.host, port.port, port.sock.fileno()) for port in self._ports() if port.sock is not None]

    # ---- Matches ---------------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Matches may have changed."""
        if self._is_closed:
            return
        now = trio.current_time()
        for door in self._listeners.values():
            if self._plane.is_matched(door.entry):
                door.linger_until = now + self._plane.config.listener_linger
                if door.port.status is BindStatus.BOUND:
                    door.port.listen()
                    self._accept_clients(door)
                    self._report_listener(door)

    async def run(self) -> None:
        """Listening that has to end, and ports that may have become free."""
        for server in self._accesses.values():
            self._plane.spawn(server.port.accept, server.serve)
        for door in self._listeners.values():
            self._accept_clients(door)
        while True:
            await trio.sleep(TICK)
            now = trio.current_time()
            for door in self._listeners.values():
                if self._plane.is_matched(door.entry):
                    door.linger_until = now + self._plane.config.listener_linger
                elif door.port.status is BindStatus.LISTENING and now >= door.linger_until and not self._are_shared:
                    door.port.unlisten()
                    self._report_listener(door)
            if now >= self._retry_at:
                self._retry_at = now + RETRY_BIND_EVERY
                self._retry()

    def _retry(self) -> None:
        if self._is_closed:
            return
        for door in list(self._listeners.values()):
            if door.port.sock is None:
                before = door.port.status
                door.port.bind()
                if door.port.status is not before:
                    self._report_listener(door)
                    self.refresh()
        for server in self._accesses.values():
            if server.port.status is not BindStatus.LISTENING:
                before = server.port.status
                self._open_access(server, report=False)
                if server.port.status is not before:
                    self._report_access(server)

    def close_listeners(self) -> None:
        """No new clients. A successor that has the sockets goes on."""
        self._is_closed = True
        for door in self._listeners.values():
            door.port.close()

    def close(self) -> None:
        for port in self._ports():
            port.close()
        self.drop_unclaimed()

    # ---- Small things -------------------------------------------------------------------------------------------------------------

    def _ports(self) -> list[Port]:
        return [*(door.port for door in self._listeners.values()), *(server.port for server in self._accesses.values())]

    def _port(self, host: str, number: int) -> Port:
        port = Port(host, number)
        adopted = self._adopted.pop((host, number), None)
        if adopted is not None:
            port.adopt(adopted)
        else:
            port.bind()
        return port

    def _accept_clients(self, door: _ListenerDoor) -> None:
        if door.port.status is BindStatus.LISTENING and self._plane.is_running:
            serve: Callable[[socket.socket, str], None] = lambda sock, _: self._plane.serve_client(door.entry, sock)  # noqa: E731
            self._plane.spawn(door.port.accept, serve)

    def _open_access(self, server: AccessServer, *, report: bool = True) -> None:
        try:
            server.use(self._plane.credential(server.entry.credential))
        except ConfigError as error:
            server.port.status, server.port.error = BindStatus.FAILED, str(error)
        else:
            if server.port.sock is None:
                server.port.bind()
            if server.port.sock is not None:
                server.port.error = ""
                if server.port.status is BindStatus.FAILED:
                    server.port.status = BindStatus.BOUND
                server.port.listen()
                if self._plane.is_running:
                    self._plane.spawn(server.port.accept, server.serve)
        if report:
            self._report_access(server)

    def _report_listener(self, door: _ListenerDoor) -> None:
        port = door.port
        self._plane.mailbox.put(ListenerState(name=door.entry.name, status=port.status, port=port.port, error=port.error))

    def _report_access(self, server: AccessServer) -> None:
        port = server.port
        self._plane.mailbox.put(AccessState(name=server.entry.name, status=port.status, port=port.port, error=port.error))
