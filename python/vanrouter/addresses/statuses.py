"""
How the listeners, connectors and services of a site are: the conditions of each, kept up to date key by key, and the whole put together.

Reads what is known and changes nothing of it; what a condition says is in `words`.
"""

from __future__ import annotations

from vanrouter.addresses.known import Known, refusal
from vanrouter.addresses.model import AddressStatus, LocalListener, ServiceStatus
from vanrouter.addresses.offered import Offered
from vanrouter.addresses.words import Facts, describe_connector, describe_listener, describe_service
from vanrouter.conditions import Conditions

__all__ = ["Statuses"]


class Statuses:
    def __init__(self, known: Known) -> None:
        self._known = known
        self._conditions: dict[tuple[str, str], Conditions] = {}

    def describe(self, key: str, offered: Offered, *, now: float) -> None:
        """Everything that has to do with this routing key."""
        table = self._known
        places = table.key_or_empty(key)
        facts = self._facts(key)
        for name, listener in places.listeners.items():
            conditions = self._conditions.setdefault(("listener", name), Conditions())
            its = self._facts(*listener.routing_keys) if listener.keys else facts
            describe_listener(conditions, listener, its, table.ports.listener_clash(listener), table.binds.get(name), now=now)
        for c in places.connectors.values():
            conditions = self._conditions.setdefault(("connector", c.name), Conditions())
            reported = [(table.site(router), p) for router, problems in table.reported.items() for p in problems if p.key == key]
            here = ""
            if c.service is not None and table.service_sync:
                here = refusal(c.service) or table.sync.problem_of(table.own, key, c.service)
            describe_connector(
                conditions,
                c,
                facts,
                table.ports.connector_clash(c),
                table.verdicts.get(c.name),
                c.name in offered.here,
                here,
                reported,
                key in table.crowded,
                now=now,
            )
        for address in table.sync.addresses_of(key, (table.own, *table.remote.key(key))):
            self._describe_service(address, now)

    def forget(self, kind: str, name: str) -> None:
        """It is not there any more."""
        self._conditions.pop((kind, name), None)

    def listeners(self) -> list[AddressStatus]:
        return [self._listener_status(self._known.listeners[name]) for name in sorted(self._known.listeners)]

    def connectors(self) -> list[AddressStatus]:
        return [
            AddressStatus(
                name=c.name,
                routing_key=c.routing_key,
                host=c.host,
                port=c.port,
                matched=self._known.matched_connector(c.routing_key),
                automatic=False,
                conditions=self._conditions[("connector", c.name)].list(),
                service=c.service,
            )
            for _, c in sorted(self._known.connectors.items())
        ]

    def services(self) -> list[ServiceStatus]:
        """One per address of the network, as known here."""
        table = self._known
        by_address: dict[str, list[AddressStatus]] = {}
        for name, (address, _) in sorted(table.automatic.items()):
            by_address.setdefault(address, []).append(self._listener_status(table.listeners[name]))
        out = []
        for address in table.sync.addresses():
            offers, decisions = table.sync.offers(address), table.sync.decisions(address)
            conflicts = [f"{table.site(o.router)}: {o.problem}" for o in offers if o.service.protocol != table.sync.protocol(address)]
            out.append(
                ServiceStatus(
                    address=address,
                    conditions=self._conditions.setdefault(("service", address), Conditions()).list(),
                    protocol=table.sync.protocol(address),
                    ports=sorted({o.service.port for o in offers}),
                    offers=offers,
                    listeners=by_address.get(address, []),
                    skipped=[d.problem for d in decisions if d.problem is not None],
                    conflict="; ".join(conflicts),
                )
            )
        return out

    def _listener_status(self, listener: LocalListener) -> AddressStatus:
        return AddressStatus(
            name=listener.name,
            routing_key=listener.routing_key,
            host=listener.shown[0],
            port=listener.shown[1],
            pod_port=listener.port if listener.reached_at is not None else 0,
            matched=any(map(self._known.matched_listener, listener.routing_keys)),
            keys=listener.keys,
            strategy=listener.strategy,
            automatic=listener.name in self._known.automatic,
            conditions=self._conditions[("listener", listener.name)].list(),
        )

    def _facts(self, *keys: str) -> Facts:
        """What there is for any of these keys."""
        table = self._known
        known = [table.key_or_empty(key) for key in keys]
        remote = [item for key in keys for item in table.remote.key(key).items()]
        return Facts(
            targets_here=sum(table.difference.wants("connector", name) for k in known for name in k.connectors),
            targets_elsewhere=sorted({table.site(t.router) for key in keys for t in table.targets(key) if t.router in table.paths}),
            listeners_here=sum(table.listener_works(name) for k in known for name in k.listeners),
            listeners_elsewhere=sorted({table.site(router) for key in keys for router in table.listening_elsewhere(key)}),
            down_here=sum(name in table.verdicts and table.verdicts[name].is_out for k in known for name in k.connectors),
            down_elsewhere=sorted({table.site(router) for router, info in remote if info.down and router in table.paths}),
        )

    def _describe_service(self, address: str, now: float) -> None:
        table = self._known
        places = {(offer.router, offer.key): table.offer_info(offer.router, offer.key) for offer in table.sync.offers(address)}
        here = str(table.own).partition("/")[0]
        names = {router: "" if router.partition("/")[0] == here else table.site(router) for router, _ in places}
        infos = [(names[router], info) for (router, _), info in places.items() if info is not None]
        describe_service(self._conditions.setdefault(("service", address), Conditions()), address, infos, now=now)
