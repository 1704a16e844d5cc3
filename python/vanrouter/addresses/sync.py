"""
Service sync: which services of the network get an automatic listener here.

The key of a service is its address and port. The same address with other ports adds ports; with another protocol, or another routing key on
the same port, it is a conflict: the first one stays, the other is named to whoever offers it. A port of the service address has one owner:
our own listeners, targets and link accesses first, then whichever service came first.

    hello:9090 tcp  (south)   ─▶ listener 127.0.0.1:9090            first of its address and of its port
    hello:9091 tcp  (east)    ─▶ listener 127.0.0.1:9091            the same address, another port
    hello:9090 http (west)    ─▶ ProtocolConflict, told to west     hello is tcp here
    other:9090 tcp  (east)    ─▶ PortTaken, told to east            9090 belongs to hello here

Refuses to know the data plane and the wire. It hands back the (address, port) pairs whose decision changed; work follows the addresses
touched, never all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from vanrouter.addresses.model import Offer, Place
from vanrouter.messages import Problem, ServicePort

__all__ = ["Decision", "ServiceSync", "Taken"]

Taken = Callable[[int], str]
"""What of our own has this port of the service address, as words; empty: nothing."""

Slot = tuple[str, int]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one (address, port). No problem: it gets a listener for ``key``."""

    address: str
    port: int
    key: str
    at: int = 0  # the port where it listens here: on a host the same one
    problem: Problem | None = None
    next: str = ""


class _Service:
    """All offers of one address. Dicts keep the order of arrival, and that decides who was first."""

    def __init__(self) -> None:
        self.offers: dict[tuple[str, str, int], ServicePort] = {}  # (router, key, port)
        self.protocol = ""
        self.keys: dict[int, str] = {}  # port -> the routing key that came first
        self.problems: dict[tuple[str, str, int], Problem] = {}
        self.ports: dict[int, Decision] = {}


class ServiceSync:
    """Decide. Feed offers and facts in; take the changed decisions out with `take`."""

    def __init__(self, own: str, *, enabled: bool, include_own: bool, taken: Taken, place: Place) -> None:
        """``place``: the port on which a service's port is listened for here; 0: none yet. On a host it is the port itself."""
        self._own, self._enabled, self._include_own, self._taken, self._place = own, enabled, include_own, taken, place
        self._services: dict[str, _Service] = {}
        self._owners: dict[int, str] = {}  # port where one listens -> the address that has it
        self._waiting: dict[int, dict[str, None]] = {}  # port -> addresses that would like it
        self._offered: dict[tuple[str, str], list[ServicePort]] = {}  # (router, key)
        self._failures: dict[Slot, str] = {}  # binds that failed
        self._by_router: dict[str, dict[Slot, Problem]] = {}
        self._changed: dict[Slot, None] = {}
        self._changed_routers: dict[str, None] = {}
        self._changed_keys: dict[str, None] = {}

    # ---- inputs ------------------------------------------------------------------------------------------------------------------------

    def set_offers(self, router: str, key: str, services: list[ServicePort]) -> None:
        """Everything that this router offers under this key; replaces what it offered before."""
        before = self._offered.get((router, key), [])
        if services == before:
            return
        for service in before:
            if service not in services:
                # Two protocols on one port of one key have one place: it may be gone already.
                self._services[service.address].offers.pop((router, key, service.port), None)
        for service in services:
            self._services.setdefault(service.address, _Service()).offers[router, key, service.port] = service
        if services:
            self._offered[router, key] = services
        else:
            del self._offered[router, key]
        self._touch({s.address for s in before} | {s.address for s in services})

    def configure(self, *, enabled: bool, include_own: bool) -> None:
        if (enabled, include_own) != (self._enabled, self._include_own):
            self._enabled, self._include_own = enabled, include_own
            self._touch(set(self._services))

    def port_changed(self, port: int) -> None:
        """What of our own has this port may have changed."""
        self._touch(set(self._waiting.get(port, ())) | ({self._owners[port]} if port in self._owners else set()))

    def places_changed(self) -> None:
        """`place` may answer differently now."""
        self._touch(set(self._services))

    def bind_result(self, address: str, port: int, error: str) -> None:
        """The listener of this slot could not be bound, and why; empty: it could."""
        if self._failures.get((address, port), "") == error:
            return
        if error:
            self._failures[address, port] = error
        else:
            self._failures.pop((address, port), None)
        if address in self._services:
            self._tell(address, self._services[address])

    # ---- outputs -----------------------------------------------------------------------------------------------------------------------

    def take(self) -> list[tuple[Slot, Decision | None]]:
        """The slots whose decision changed since the last call; None: nobody offers it any more."""
        out = [(slot, self.decision(*slot)) for slot in self._changed]
        self._changed.clear()
        return out

    def take_keys(self) -> list[str]:
        """The routing keys for which `usable` may have changed since the last call."""
        out = list(self._changed_keys)
        self._changed_keys.clear()
        return out

    def take_routers(self) -> list[str]:
        """The routers whose problems changed since the last call."""
        out = list(self._changed_routers)
        self._changed_routers.clear()
        return out

    def decision(self, address: str, port: int) -> Decision | None:
        service = self._services.get(address)
        return service.ports.get(port) if service is not None else None

    def problems(self, router: str) -> list[Problem]:
        """What is wrong here with what this router offers."""
        return [problem for _, problem in sorted(self._by_router.get(router, {}).items())]

    def problem_of(self, router: str, key: str, service: ServicePort) -> str:
        """Why this offer is not used here; empty: it is (or sync is off)."""
        known = self._services.get(service.address)
        problem = known.problems.get((router, key, service.port)) if known is not None else None
        return problem.message if problem is not None else ""

    def usable(self, router: str, key: str) -> bool:
        """Whether streams may go to this router's targets: not where they would meet another protocol than the listener's."""
        services = self._offered.get((router, key), [])
        return not services or any(
            (problem := self._services[s.address].problems.get((router, key, s.port))) is None or problem.reason != "ProtocolConflict"
            for s in services
        )

    def addresses(self) -> list[str]:
        return sorted(self._services)

    def has(self, address: str) -> bool:
        return address in self._services

    def addresses_of(self, key: str, routers: Iterable[str]) -> set[str]:
        """What these routers offer this key as."""
        return {service.address for router in routers for service in self._offered.get((router, key), ())}

    def protocol(self, address: str) -> str:
        return self._services[address].protocol

    def offers(self, address: str) -> list[Offer]:
        return sorted(
            Offer(router=router, key=key, service=service, problem=self.problem_of(router, key, service))
            for (router, key, _), service in self._services[address].offers.items()
        )

    def decisions(self, address: str) -> list[Decision]:
        return [decision for _, decision in sorted(self._services[address].ports.items())]

    # ---- inside ------------------------------------------------------------------------------------------------------------------------

    def _touch(self, addresses: set[str]) -> None:
        todo = sorted(addresses)
        while todo:
            address = todo.pop(0)
            freed = self._decide(address)
            for port in freed:
                todo += [a for a in self._waiting.get(port, ()) if a not in todo]

    def _decide(self, address: str) -> list[int]:
        """Decide everything of one address anew. Returns the ports that it let go."""
        service = self._services.get(address)
        if service is None:
            return []
        used = self._agree(service)
        wanted: dict[int, str] = {}
        if self._enabled:
            foreign = {port for (router, _, port) in used if router != self._own}
            wanted = {port: key for port, key in service.keys.items() if self._include_own or port in foreign}
        freed: list[int] = []
        for port in service.ports.keys() | wanted.keys():
            old = service.ports.get(port)
            new = self._decide_port(address, port, wanted[port]) if port in wanted else None
            if new is None:
                service.ports.pop(port, None)
            else:
                service.ports[port] = new
            was, spot = old.at if old is not None else 0, new.at if new is not None else 0
            if (new is None or new.problem is not None or was != spot) and was and self._owners.get(was) == address:
                del self._owners[was]
                freed.append(was)
            self._stop_waiting(address, was)
            if new is not None and new.problem is not None and spot:
                self._waiting.setdefault(spot, {})[address] = None
            if new != old:
                self._changed[address, port] = None
                if new is None or new.problem is not None:
                    self._failures.pop((address, port), None)
        self._tell(address, service)
        if not service.offers:
            del self._services[address]
        return freed

    def _stop_waiting(self, address: str, port: int) -> None:
        if (waiting := self._waiting.get(port)) is not None:
            waiting.pop(address, None)
            if not waiting:
                del self._waiting[port]

    def _agree(self, service: _Service) -> set[tuple[str, str, int]]:
        """Who was first decides the protocol, and the key of each port. Returns the offers that fit."""
        protocols = dict.fromkeys(s.protocol for s in service.offers.values())
        if service.protocol not in protocols:
            service.protocol = next(iter(protocols), "")
        fitting = {slot: s for slot, s in service.offers.items() if s.protocol == service.protocol}
        keys: dict[int, dict[str, None]] = {}
        for _, key, port in fitting:
            keys.setdefault(port, {})[key] = None
        service.keys = {
            port: service.keys[port] if service.keys.get(port) in candidates else next(iter(candidates))
            for port, candidates in keys.items()
        }
        return {slot for slot in fitting if slot[1] == service.keys[slot[2]]}

    def _decide_port(self, address: str, port: int, key: str) -> Decision:
        spot = self._place(address, port)
        if not spot:
            message = f"{address}:{port} has no port in the router's pod yet"
            problem = Problem(reason="Pending", message=message[:512], key=key, address=address, port=port)
            return Decision(address=address, port=port, key=key, problem=problem, next="the controller gives it: look at its pod")
        own = self._taken(spot)
        owner = self._owners.get(spot, address)
        if own:
            reason, why = "PortTaken", own
        elif owner != address:
            reason, why = "PortTaken", f"the service {owner}, which came first"
        else:
            self._owners[spot] = address
            return Decision(address=address, port=port, key=key, at=spot)
        message = f"port {port} of the service address here belongs to {why}; {address}:{port} has no automatic listener here"
        problem = Problem(reason=reason, message=message[:512], key=key, address=address, port=port)
        todo = "offer one of them on another port, or give this site a service address of its own (van site update --service-address)"
        return Decision(address=address, port=port, key=key, at=spot, problem=problem, next=todo)

    def _tell(self, address: str, service: _Service) -> None:
        """Say to each router what is wrong with its offers of this address."""
        routers = {router for router, _, _ in service.problems}
        service.problems = {}
        for (router, key, port), offer in service.offers.items():
            problem = self._problem(address, service, key, offer)
            if problem is not None:
                service.problems[router, key, port] = problem
        now_by_router: dict[str, dict[Slot, Problem]] = {router: {} for router in routers}
        for (router, _, port), problem in service.problems.items():
            now_by_router.setdefault(router, {})[address, port] = problem
        for router, problems in now_by_router.items():
            known = self._by_router.setdefault(router, {})
            before = {slot: p for slot, p in known.items() if slot[0] == address}
            if before != problems:
                for slot in before:
                    del known[slot]
                known.update(problems)
                self._changed_routers[router] = None
                for problem in (*before.values(), *problems.values()):
                    self._changed_keys[problem.key] = None
            if not known:
                del self._by_router[router]

    def _problem(self, address: str, service: _Service, key: str, offer: ServicePort) -> Problem | None:
        if offer.protocol != service.protocol:
            reason = "ProtocolConflict"
            message = f"{address} is {service.protocol} here, and this offer is {offer.protocol}; the first one stays"
        elif key != service.keys.get(offer.port):
            reason = "KeyConflict"
            message = (
                f"{address}:{offer.port} has the routing key {service.keys[offer.port]} here, and this offer {key}; the first one stays"
            )
        elif (decision := service.ports.get(offer.port)) is not None and decision.problem is not None:
            return decision.problem
        elif decision is not None and (error := self._failures.get((address, offer.port))):
            reason, message = "PortNotBound", f"the listener of {address}:{offer.port} could not be bound here: {error}"
        else:
            return None
        return Problem(reason=reason, message=message[:512], key=key, address=address, port=offer.port)
