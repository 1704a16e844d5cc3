"""
What a new stream may be given to: the connectors, routes and paths in force, the links that live, and what each has to do already.

It gathers what ``choice`` decides upon, and keeps what the next choice wants to know. ``Search`` is one stream's way through them.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from typing import Final

import msgspec
import trio

from vanrouter.baseline.choice import DOUBTFUL, SOUND, Candidate, Turns, choose, choose_key
from vanrouter.baseline.sockets import AppSocket
from vanrouter.baseline.table import Table
from vanrouter.baseline.trunk import Trunk
from vanrouter.model import RouterId, StreamClass
from vanrouter.plane import AnyEntry, Connector, ConnectorState, KeyWeight, Listener, Route, Strategy

__all__ = ["Here", "Search", "Targets", "There", "keys_of"]

# A target whose connect failed comes last for so long, doubled by each further failure in a row: a single failure does not keep a sound
# target out of use for good where others take every stream.
FIRST_DOUBT: Final = 1.0
LONGEST_DOUBT: Final = 30.0


class Here(msgspec.Struct, frozen=True):
    """A target of this router."""

    routing_key: str
    connector: Connector

    @property
    def name(self) -> str:
        return self.connector.name


class There(msgspec.Struct, frozen=True):
    """Another router that has targets, and the link toward it."""

    routing_key: str
    router: str
    trunk: Trunk

    @property
    def name(self) -> str:
        return self.router


def keys_of(listener: Listener) -> list[KeyWeight]:
    return listener.keys or [KeyWeight(listener.routing_key)]


class Targets:
    def __init__(self, table: Table, trunks: Mapping[str, Trunk], *, report: Callable[[ConnectorState], None], rng: random.Random) -> None:
        self._table = table
        self._trunks = trunks
        self._report = report
        self.rng = rng
        self._outstanding: dict[tuple[str, str], int] = {}  # streams by routing key and target
        self._failures: dict[str, int] = {}  # connects in a row, by connector
        self._doubted: dict[str, float] = {}  # until when, by connector
        self._turns = Turns()

    # ---- What there is -----------------------------------------------------------------------------------------------------------

    def is_matched(self, keys: Iterable[KeyWeight]) -> bool:
        return any(self._is_served(key.routing_key) for key in keys)

    def _is_served(self, routing_key: str) -> bool:
        if self._table.connectors(routing_key):
            return True
        route = self._table.route(routing_key)
        return route is not None and any(self._hops(target.router) for target in route.targets)

    def _hops(self, router: str) -> list[Trunk]:
        """The links toward a router. An edge carries nothing for others."""
        path = self._table.path(router)
        trunks = [self._trunks.get(name) for name in path.next_hops] if path else []
        return [trunk for trunk in trunks if trunk is not None and (not trunk.is_edge or trunk.text == router)]

    def next_hop(self, router: str, tried: Container[tuple[str, str]] = ()) -> Trunk | None:
        """The link for one more stream toward a router; but none that is ``tried``: (router, next hop)."""
        trunks = {trunk.text: trunk for trunk in self._hops(router) if trunk.takes_streams and (router, trunk.text) not in tried}
        best = choose(
            Candidate(name=name, outstanding=trunk.stream_count, doubt=trunk.doubt, last_chosen=trunk.last_chosen)
            for name, trunk in trunks.items()
        )
        return trunks[best.name] if best else None

    def candidates(self, routing_key: str, tried: Container[tuple[str, str]], *, now: float) -> dict[Candidate, Here | There]:
        """The targets of a key that may be asked. ``tried``: (routing key, target) and (router, next hop), which may not."""
        found: dict[Candidate, Here | There] = {}
        for connector in self._table.connectors(routing_key):
            if (routing_key, connector.name) not in tried:
                doubt = DOUBTFUL if now < self._doubted.get(connector.name, now) else SOUND
                here = Here(routing_key, connector)
                found[self._candidate(here, cost=0, doubt=doubt)] = here
        route = self._table.route(routing_key)
        for target in route.targets if route else ():
            path = self._table.path(target.router)
            trunk = self.next_hop(target.router, tried)
            if path is not None and trunk is not None and (routing_key, target.router) not in tried:
                there = There(routing_key, target.router, trunk)
                found[self._candidate(there, cost=path.cost + target.cost, doubt=trunk.doubt)] = there
        return found

    def _candidate(self, target: Here | There, *, cost: int, doubt: int) -> Candidate:
        return Candidate(
            name=target.name,
            is_here=isinstance(target, Here),
            cost=cost,
            outstanding=self._outstanding.get((target.routing_key, target.name), 0),
            doubt=doubt,
            last_chosen=self._turns.last(target.routing_key, target.name),
        )

    # ---- Choosing ----------------------------------------------------------------------------------------------------------------

    def choose_connector(self, routing_key: str, tried: Container[tuple[str, str]], *, now: float) -> Connector | None:
        """The best target here that was not tried yet, for a stream of another router."""
        candidates = self.candidates(routing_key, tried, now=now)
        found = {candidate: target for candidate, target in candidates.items() if isinstance(target, Here)}
        best = choose(found)
        return found[best].connector if best else None

    def edge_with(self, routing_key: str, *, never: str) -> RouterId | None:
        """
        The best edge of ours that has a target: for a stream that was sent to us, and that no target here takes.

        Only one that ``next_hop`` leads to; the least against its link, then the least of cost and streams on the link.
        """
        route, found = self._table.route(routing_key), []
        for target in route.targets if route else ():
            path = self._table.path(target.router)
            trunk = self.next_hop(target.router, {(target.router, never)})
            if path is not None and trunk is not None and trunk.is_edge and trunk.text == target.router:
                cost, load = path.cost + target.cost, trunk.stream_count
                found.append(Candidate(name=trunk.text, cost=cost, outstanding=load, doubt=trunk.doubt, last_chosen=trunk.last_chosen))
        best = choose(found)
        return RouterId.parse(best.name) if best else None

    def began(self, routing_key: str, name: str) -> Callable[[], None]:
        """One more stream for this target; call the result when it is over."""
        self._turns.took(routing_key, name)
        target = (routing_key, name)
        self._outstanding[target] = self._outstanding.get(target, 0) + 1

        def done() -> None:
            left = self._outstanding[target] - 1
            if left:
                self._outstanding[target] = left
            else:
                del self._outstanding[target]

        return done

    def began_over(self, trunk: Trunk) -> None:
        """One more stream was sent that way."""
        trunk.last_chosen = self._turns.next()

    # ---- What becomes of it ------------------------------------------------------------------------------------------------------

    async def connect(self, connector: Connector, how: Callable[[Connector], Awaitable[AppSocket]]) -> AppSocket:
        """Raises OSError. Keeps the connector's passive health."""
        try:
            sock = await how(connector)
        except OSError as error:
            self.note_health(connector, str(error.strerror or error), now=trio.current_time())
            raise
        self.note_health(connector, "", now=trio.current_time())
        return sock

    def note_health(self, connector: Connector, error: str, *, now: float) -> None:
        """A connect ended so; empty: well."""
        before = self._failures.get(connector.name, 0)
        failures = before + 1 if error else 0
        if self._table.get("connector", connector.name) == connector and failures != before:
            self._failures[connector.name] = failures
            if failures:
                self._doubted[connector.name] = now + min(LONGEST_DOUBT, FIRST_DOUBT * 2.0 ** min(failures - 1, 8))
            else:
                self._doubted.pop(connector.name, None)
            self._report(ConnectorState(name=connector.name, error=error, failures=failures))

    def changed(self, entries: Iterable[AnyEntry]) -> None:
        """These entries came, went or were replaced: forget what is not there any more."""
        for entry in entries:
            if isinstance(entry, Connector):
                self._failures.pop(entry.name, None)
                self._doubted.pop(entry.name, None)
                self._keep(entry.routing_key)
            elif isinstance(entry, Route):
                self._keep(entry.name)

    def _keep(self, routing_key: str) -> None:
        route = self._table.route(routing_key)
        names = {connector.name for connector in self._table.connectors(routing_key)}
        self._turns.keep(routing_key, names | {target.router for target in (route.targets if route else ())})


class Search:
    """
    One stream's search: the best target that has not ``failed``, until there is none.

    Only ``refused`` is the target's own word; with another class it may have been a router on the way, and another next hop is tried.
    With several keys it stays with one while that has a target left, and goes on with another one afterwards.
    """

    def __init__(self, targets: Targets, keys: Sequence[KeyWeight], strategy: Strategy) -> None:
        self._targets = targets
        self.keys = keys
        self._strategy = strategy
        self._tried: set[tuple[str, str]] = set()
        self._key: str | None = None

    def next(self, *, now: float) -> Here | There | None:
        found = self._targets.candidates(self._key, self._tried, now=now) if self._key is not None else {}
        if not found:
            by_key = {key.routing_key: self._targets.candidates(key.routing_key, self._tried, now=now) for key in self.keys}
            served = {key for key, its in by_key.items() if its}
            self._key = choose_key(self.keys, served, self._strategy, self._targets.rng)
            found = by_key[self._key] if self._key is not None else {}
        best = choose(found, self._strategy)
        if best is None:
            return None
        return found[best]

    def failed(self, target: Here | There, stream_class: StreamClass) -> None:
        if isinstance(target, There) and stream_class is not StreamClass.REFUSED:
            self._tried.add((target.router, target.trunk.text))
        else:
            self._tried.add((target.routing_key, target.name))

    def start_again(self) -> None:
        self._tried.clear()
        self._key = None
