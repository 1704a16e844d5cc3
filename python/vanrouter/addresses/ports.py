"""
Who is in whose way: listeners, targets and reserved ports of this site, by port.

Refuses to decide what follows from it. Automatic listeners are in nobody's way here: they give way, and `sync` decides that.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator

import msgspec

from vanrouter.addresses.model import LocalConnector, LocalListener, Reserved, leads_to, overlap

__all__ = ["Ports"]


class _Port(msgspec.Struct):
    """What of ours is on one port, in the order in which it came."""

    listeners: dict[str, LocalListener] = {}
    connectors: dict[str, LocalConnector] = {}
    granted: set[str] = set()  # the listeners that have it; they keep it against whoever comes or is found to overlap later


class Ports:
    """The index. Every question costs as much as there is on that port."""

    def __init__(self, *, automatic: Container[str], bound: Callable[[str], bool]) -> None:
        self._automatic, self._bound = automatic, bound
        self._ports: dict[int, _Port] = {}
        self._reserved: list[Reserved] = []

    def put_listener(self, listener: LocalListener) -> None:
        known = self._ports.setdefault(listener.port, _Port())
        known.listeners[listener.name] = listener
        known.granted.discard(listener.name)
        self._grant(known)

    def drop_listener(self, listener: LocalListener) -> None:
        known = self._ports[listener.port]
        del known.listeners[listener.name]
        known.granted.discard(listener.name)
        self._grant(known)
        self._tidy(listener.port)

    def put_connector(self, connector: LocalConnector) -> None:
        if not connector.embedded:
            self._ports.setdefault(connector.port, _Port()).connectors[connector.name] = connector

    def drop_connector(self, connector: LocalConnector) -> None:
        if not connector.embedded:
            del self._ports[connector.port].connectors[connector.name]
            self._tidy(connector.port)

    def reserve(self, reserved: Iterable[Reserved]) -> set[int]:
        """Replace what is reserved. Returns the ports that may be touched by that."""
        before, self._reserved = self._reserved, list(reserved)
        touched = {r.port for r in (*before, *self._reserved)}
        for port in touched & self._ports.keys():
            self._grant(self._ports[port])
        return touched

    def keys_on(self, port: int) -> Iterator[str]:
        """The routing keys of everything on this port."""
        known = self._ports.get(port)
        if known is not None:
            yield from (key for listener in known.listeners.values() for key in listener.routing_keys)
            yield from (connector.routing_key for connector in known.connectors.values())

    def keys_of_listeners_on(self, port: int) -> Iterator[str]:
        """The routing keys of the listeners on this port."""
        known = self._ports.get(port)
        if known is not None:
            yield from (key for listener in known.listeners.values() for key in listener.routing_keys)

    def taken(self, host: str, port: int) -> str:
        """What of ours has this host:port, or could not do with a listener there; empty: nothing."""
        known = self._ports.get(port, _Port())
        for name, listener in known.listeners.items():
            if name not in self._automatic and overlap(host, listener.host):
                return f"the listener {name}"
        for name, connector in known.connectors.items():
            if leads_to(connector.host, host):
                return f"the target of the connector {name}"
        return self._reserved_for(host, port)

    def listener_clash(self, listener: LocalListener) -> str:
        """What has the host:port of this listener; empty: it has. Of two listeners, the one that had it first keeps it."""
        known = self._ports.get(listener.port, _Port())
        if listener.name in known.granted or listener.name in self._automatic:
            return ""
        return self._blocker(known, listener)

    def connector_clash(self, connector: LocalConnector) -> str:
        """What of this router a stream to this target would come back to; empty: nothing. A listener that is not bound is no danger."""
        if connector.embedded:
            return ""
        for name, other in self._ports.get(connector.port, _Port()).listeners.items():
            if name not in self._automatic and leads_to(connector.host, other.host) and self._bound(name):
                return f"our own listener {name}"
        return next((r.what for r in self._reserved if r.port == connector.port and leads_to(connector.host, r.host)), "")

    def _grant(self, known: _Port) -> None:
        """Who has a port keeps it, unless it is reserved now; then whoever came first and is in nobody's way."""
        known.granted = {name for name in known.granted if not self._reserved_for(known.listeners[name].host, known.listeners[name].port)}
        for name, listener in known.listeners.items():
            if name not in known.granted and name not in self._automatic and not self._blocker(known, listener):
                known.granted.add(name)

    def _blocker(self, known: _Port, listener: LocalListener) -> str:
        for name in sorted(known.granted):
            if overlap(listener.host, known.listeners[name].host):
                return f"the listener {name}"
        return self._reserved_for(listener.host, listener.port)

    def _reserved_for(self, host: str, port: int) -> str:
        return next((r.what for r in self._reserved if r.port == port and overlap(host, r.host)), "")

    def _tidy(self, port: int) -> None:
        known = self._ports[port]
        if not known.listeners and not known.connectors:
            del self._ports[port]
