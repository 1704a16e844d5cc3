"""
The status document: how everything is, why, since when, and what to do. ``docs/architecture.md`` is its contract.

Reads the parts of a running site and changes nothing. ``since`` becomes a date here: decisions are made in monotonic seconds.
"""

from __future__ import annotations

import datetime as dt
import functools
import math
from collections.abc import Callable, Container, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

import vanrouter
from vanrouter.addresses import AddressStatus, ServiceStatus
from vanrouter.addresses.offered import LAST_RESORT
from vanrouter.conditions import Condition
from vanrouter.messages import ServicePort
from vanrouter.model import WIRE_VERSION
from vanrouter.resources import to_dict
from vanrouter.routing.view import routers_with_edges
from vanrouter.sites.wanted import Fault, multi_key_name
from vanrouter.stores.resources import Problem

if TYPE_CHECKING:
    from vanrouter.sites.site import RunningSite

__all__ = ["Reporter"]

Doc = dict[str, Any]


class _Lists:
    """What the address table says, each list asked for once: of a thousand services it costs."""

    def __init__(self, site: RunningSite) -> None:
        self._table = site.services.table

    @functools.cached_property
    def services(self) -> list[ServiceStatus]:
        return self._table.services()

    @functools.cached_property
    def listeners(self) -> list[AddressStatus]:
        return self._table.listener_statuses()

    @functools.cached_property
    def connectors(self) -> list[AddressStatus]:
        return self._table.connector_statuses()


class Reporter:
    def __init__(self, site: RunningSite) -> None:
        self._site = site
        self._of_document: _Lists | None = None

    def document(self) -> Doc:
        self._of_document = _Lists(self._site)
        try:
            return {
                "site": self.site(),
                "links": self.links(),
                "listeners": self.listeners(),
                "multiKeyListeners": self.multi_key_listeners(),
                "connectors": self.connectors(),
                "services": self.services(),
                "grants": self.grants(),
                "problems": [problem_doc(p) for p in self._site.problems() + self._site.services.problems(self._site_name)],
            }
        finally:
            self._of_document = None

    @property
    def _lists(self) -> _Lists:
        return self._of_document or _Lists(self._site)

    # ---- The site ------------------------------------------------------------------------------------------------------------------------

    def site(self) -> Doc:
        site = self._site
        context = site.context
        conditions = site.conditions.list()
        ready = next((c for c in conditions if c.type == "Ready"), None)
        return {
            "name": context.site_name,
            "id": context.keys.site_id,
            "router": str(context.own),
            "version": vanrouter.__version__,
            "wire": WIRE_VERSION,
            "dataPlane": context.plane.name,
            "ready": ready is not None and ready.status == "True",
            "conditions": self._conditions(conditions),
            "endpoints": [{"host": e.host, "port": e.port} for e in site.accesses.endpoints()],
            "linkedSites": len(site.links.linked_sites()),
            "exposedServices": len({c.service.address for c in self._lists.connectors if c.service is not None}),
            "serviceAddress": site.wanted.site_spec.service_address,
            "serviceSync": site.wanted.site_spec.service_sync,
            "refusedSites": sorted(site.refused_sites),
            "generation": context.forwarding.in_force,
            "leaving": site.leaving,
            **self._streams(),
            **self._pod(),
            "edge": context.edge,
        }

    def _streams(self) -> Doc:
        """What the data plane has counted. Not in a pod: its controller is told each change of this document, and writes it down."""
        if self._site.context.in_pod is not None:
            return {}
        counters = self._site.context.plane.counters()
        of = {"open": counters.streams_open, "total": counters.streams_total, "refused": counters.streams_refused}
        return {"streams": {**of, "reset": counters.streams_reset, "moved": counters.streams_moved, "transit": counters.transit_open}}

    def _pod(self) -> Doc:
        """In a pod: which it is, and for which (host, port) it has, or wants, a port of its own."""
        site, in_pod = self._site, self._site.context.in_pod
        if in_pod is None:
            return {}
        wanted = {(w.host, w.port): False for w in site.wanted.listeners.values()}
        if site.wanted.site_spec.service_sync:
            wanted |= {(s.address, port): True for s in self._lists.services for port in s.ports if (s.address, port) not in wanted}
        ports = [
            {"host": host, "port": port, "podPort": in_pod.port(host, port), "automatic": automatic}
            for (host, port), automatic in sorted(wanted.items())
        ]
        return {"pod": in_pod.name, "namespace": in_pod.namespace, "ports": ports, "controller": in_pod.is_controlled()}

    def _site_name(self, router_or_site: str) -> str:
        site_id = router_or_site.partition("/")[0]
        if site_id == self._site.context.keys.site_id:
            return self._site.context.site_name
        return self._site.services.table.site_name(site_id) or site_id[:12]

    # ---- Links ---------------------------------------------------------------------------------------------------------------------------

    def links(self) -> list[Doc]:
        return [self._outgoing(name) for name in sorted(self._site.links.dialled)] + self._faulty("Link") + self._incoming()

    def _outgoing(self, name: str) -> Doc:
        links = self._site.links
        link = links.dialled[name]
        status, conditions = links.status(name)
        if error := self._site.joining.renewal_error(link.wanted.credential):
            conditions = [c if c.type != "Configured" else _instead(c, "RenewalFails", f"link {name}: {error}") for c in conditions]
        routers = status.routers if status is not None else []
        in_force = self._site.services.link_cost(routers[0], link.wanted.cost) if routers else link.wanted.cost
        return {
            "name": name,
            "spec": self._spec("Link", name),
            "conditions": self._with_ready(conditions) + self._double(name, routers, in_force),
            "direction": "outgoing",
            "remoteSiteName": status.site_name if status is not None and status.site_name else self._issuer_name(name),
            "remoteSiteId": routers[0].partition("/")[0] if routers else link.expected_site,
            "cost": link.wanted.cost,
            "costInForce": in_force,
            "lanes": status.lanes if status is not None else 0,
            "lanesWanted": status.lanes_wanted if status is not None else 0,
            "endpoint": status.endpoint.partition(" ")[0] if status is not None else "",  # without the name for SNI
            "endpoints": [
                {"endpoint": e.endpoint.partition(" ")[0], "reason": e.reason, "message": e.message, "next": e.next}
                for e in (status.endpoints if status is not None else [])
            ],
            "learned": [{"host": host, "port": port} for host, port in links.learned(name)],
            "routers": routers,
            "active": status is not None and status.active,
            "standby": link.stands_by,
        }

    def _issuer_name(self, name: str) -> str:
        issued = self._site.links.dialled[name].issued
        return issued.issuer_name if issued is not None else ""

    def _double(self, name: str, routers: list[str], in_force: int) -> list[Doc]:
        """What is to be said of a link that leads where another one leads too."""
        links = self._site.links
        states = [links.states[router] for router in routers if router in links.states]
        incoming = next((n for n, router in self._incoming_names() if router in routers), "")
        costs = {n: link.wanted.cost for n, link in links.dialled.items()}
        condition = links.doubles.condition(name, states, costs, in_force, incoming=incoming)
        return self._conditions([condition]) if condition is not None else []

    def _incoming_names(self) -> list[tuple[str, str]]:
        """(name, router) of every link that another site dials."""
        found: list[tuple[str, str]] = []
        used: set[str] = set(self._site.links.dialled)
        for router, state in sorted(self._site.links.states.items()):
            if state.accepted:
                site = state.site_name
                name = next(n for n in (site, f"{site}-{router[:6]}", f"{site}-{router[-6:]}") if n not in used)
                used.add(name)
                found.append((name, router))
        return found

    def _incoming(self) -> list[Doc]:
        found: list[Doc] = []
        for name, router in self._incoming_names():
            state = self._site.links.states[router]
            in_force = self._site.services.link_cost(router, state.cost)
            found.append(
                {
                    "name": name,
                    "spec": {},
                    "conditions": self._with_ready(self._site.links.operational(router)),
                    "direction": "incoming",
                    "remoteSiteName": state.site_name,
                    "remoteSiteId": router.partition("/")[0],
                    "remoteLinkName": state.peer_link,
                    "cost": self._site.services.peer_cost(router, in_force),
                    "costInForce": in_force,
                    "lanes": state.lanes,
                    "lanesWanted": state.lanes_wanted,
                    "endpoint": state.address,
                    "routers": [router],
                    "active": True,
                }
            )
        return found

    # ---- Listeners and connectors --------------------------------------------------------------------------------------------------------

    def listeners(self) -> list[Doc]:
        found = [s for s in self._lists.listeners if not s.keys]
        return [self._address("Listener", s) | {"strategy": s.strategy} for s in found] + self._without_port() + self._faulty("Listener")

    def _without_port(self) -> list[Doc]:
        """In a pod: those of service sync that wait for a port, as others that do."""
        found: list[Doc] = []
        for service in self._lists.services:
            for problem in service.skipped:
                if problem.reason == "Pending":
                    name = f"{problem.address}:{problem.port}"
                    fault = Fault("Pending", problem.message, "the controller gives it: look at its pod")
                    condition = _fault_condition(fault, self._site.fault_since("Listener", name))
                    where = {"routingKey": problem.key, "host": problem.address, "port": problem.port}
                    conditions = self._with_ready([condition])
                    found.append({"name": name, "spec": where, "conditions": conditions, **where, "matched": False, "automatic": True})
        return found

    def multi_key_listeners(self) -> list[Doc]:
        names = {multi_key_name(name): name for kind, name in self._site.wanted.specs if kind == "MultiKeyListener"}
        found: list[Doc] = []
        for status in self._lists.listeners:
            if status.keys and status.name in names:
                doc = self._address("MultiKeyListener", msgspec.structs.replace(status, name=names[status.name]))
                keys = [{"routingKey": k.routing_key, "weight": k.weight, "matched": self._matched(k.routing_key)} for k in status.keys]
                found.append(doc | {"strategy": status.strategy, "routingKeys": keys})
        return found + self._faulty("MultiKeyListener")

    def _matched(self, key: str) -> bool:
        return self._site.services.table.matched_listener(key)

    def connectors(self) -> list[Doc]:
        of = {name: w.of for name, w in self._site.wanted.connectors.items() if w.of}
        found: list[Doc] = []
        chosen: dict[str, list[AddressStatus]] = {}
        for status in self._lists.connectors:
            if status.name in of:
                chosen.setdefault(of[status.name], []).append(status)
            else:
                found.append(self._address("Connector", status))
        found += [self._chosen(name, its) for name, its in chosen.items()]
        return sorted(found, key=lambda doc: str(doc["name"])) + self._faulty("Connector")

    def _chosen(self, name: str, targets: list[AddressStatus]) -> Doc:
        """One with a selector: as well as the best of its targets, and each of them by the name of its pod."""

        def ready(status: AddressStatus) -> bool:
            return any(c.type == "Ready" and c.status == "True" for c in status.conditions)

        best = next((t for t in targets if ready(t)), targets[0])
        doc = self._address("Connector", msgspec.structs.replace(best, name=name))
        doc["targets"] = [
            {
                "pod": t.name.partition("@")[2],
                "host": t.host,
                "port": t.port,
                "problem": next((c.message for c in t.conditions if c.type in ("Configured", "Healthy") and c.status == "False"), ""),
            }
            for t in targets
        ]
        return doc

    def _address(self, kind: str, status: AddressStatus) -> Doc:
        conditions = list(status.conditions)
        if not any(c.type == "Configured" for c in conditions):
            since = conditions[0].since if conditions else self._site.context.now()
            conditions.insert(0, Condition(type="Configured", status="True", reason="Ok", message="", since=since))
        if (tls := self._site.app_tls.condition(kind, status.name)) is not None:
            conditions.append(tls)
        spec = self._spec(kind, status.name) or {"routingKey": status.routing_key, "host": status.host, "port": status.port}
        return {
            "name": status.name,
            "spec": spec,
            "conditions": self._conditions(conditions),
            "routingKey": status.routing_key,
            "matched": status.matched,
            "host": status.host,
            "port": status.port,
            "automatic": status.automatic,
            **({"podPort": status.pod_port} if status.pod_port else {}),
        }

    def _faulty(self, kind: str) -> list[Doc]:
        """Resources that are not in force at all, and why."""
        found: list[Doc] = []
        for (k, name), fault in sorted({**self._site.wanted.faults, **self._site.services.faults}.items()):
            if k != kind:
                continue
            spec = self._spec(kind, name)
            condition = _fault_condition(fault, self._site.fault_since(k, name))
            element: Doc = {"name": name, "spec": spec, "conditions": self._with_ready([condition])}
            if kind == "Link":
                element |= {"direction": "outgoing", "remoteSiteName": "", "remoteSiteId": ""}
                element |= {"cost": spec.get("cost", 1), "costInForce": spec.get("cost", 1)}
                element |= {"lanes": 0, "endpoint": "", "active": False}
            else:
                element |= {"routingKey": spec.get("routingKey", ""), "matched": False, "automatic": False}
                element |= {"host": spec.get("host", ""), "port": spec.get("port", 0)}
            found.append(element)
        return found

    def _spec(self, kind: str, name: str) -> Doc:
        resource = self._site.wanted.specs.get((kind, name))
        return to_dict(resource).get("spec", {}) if resource is not None else {}

    # ---- Services ------------------------------------------------------------------------------------------------------------------------

    def services(self) -> list[Doc]:
        local_targets: dict[ServicePort | None, list[AddressStatus]] = {}
        for status in self._lists.connectors:
            local_targets.setdefault(status.service, []).append(status)
        with_edges = routers_with_edges(self._site.services.engine)
        return [self._service(s, local_targets, with_edges) for s in self._lists.services]

    def _service(
        self, service: ServiceStatus, local_targets: Mapping[ServicePort | None, list[AddressStatus]], with_edges: Container[str]
    ) -> Doc:
        own = str(self._site.context.own)
        targets: list[Doc] = []
        for offer in service.offers:
            if self._site.services.is_only_ours(offer.router, offer.key):
                continue
            target: Doc = {"site": self._site_name(offer.router), "siteId": offer.router.partition("/")[0], "connector": offer.key}
            target |= {"routingKey": offer.key, "port": offer.service.port, "problem": offer.problem, "orEdge": offer.router in with_edges}
            info = self._site.services.table.offer_info(offer.router, offer.key)
            target["healthy"] = info is not None and info.targets > 0 and info.cost < LAST_RESORT
            local = [c for c in local_targets.get(offer.service, ()) if c.routing_key == offer.key] if offer.router == own else []
            if not local:
                targets.append({**target, "down": info.down if info is not None else 0})
            for c in local:
                its = {"connector": c.name, "host": c.host, "targetPort": c.port}
                health = next((x for x in c.conditions if x.type == "Healthy"), None)
                bad = health is not None and health.status == "False"
                targets.append({**target, **its, "healthy": not bad, "down": int(bad)})
        problems = [{"site": self._site.context.site_name, "siteId": self._site.context.keys.site_id, "port": p.port, "message": p.message}
                    for p in service.skipped]  # fmt: skip
        remote_listeners, remote_problems = self._elsewhere(service)
        doc: Doc = {
            "name": service.address,
            "address": service.address,
            "ports": service.ports,
            "protocol": service.protocol,
            "conditions": self._conditions(service.conditions),
            "targets": targets,
            "listeners": [self._listener_here(s) for s in service.listeners if _listens(s)] + remote_listeners,
            "problems": problems + remote_problems,
        }
        if service.conflict:
            doc["conflict"] = service.conflict
        return doc

    def _listener_here(self, status: AddressStatus) -> Doc:
        context = self._site.context
        where = {"listener": status.name, "host": status.host, "port": status.port, "matched": status.matched}
        return {"site": context.site_name, "siteId": context.keys.site_id, **where}

    def _elsewhere(self, service: ServiceStatus) -> tuple[list[Doc], list[Doc]]:
        """Which sites have a listener for what we offer: linked ones that applied it and report no problem with it, others that say so.

        Problems are told to neighbours only: what a site further away cannot do is in its own status.
        """
        site = self._site
        own = str(site.context.own)
        ours = [o for o in service.offers if o.router == own]
        listeners: list[Doc] = []
        problems: list[Doc] = []
        waiting = {offer.key: set(site.services.exchange.waiting_for(offer.key)) for offer in ours}
        for view in site.services.exchange.peers() if ours else ():
            who = {"site": self._site_name(view.router), "siteId": view.router.partition("/")[0]}
            synced = view.info is not None and view.info.service_sync
            reported = {p.port: p for p in view.problems if p.address == service.address}
            for offer in ours:
                port = offer.service.port
                if port in reported:
                    problems.append({**who, "port": port, "message": reported[port].message})
                elif synced and view.router not in waiting[offer.key]:
                    listeners.append({**who, "listener": "", "host": "", "port": port})
                elif view.info is not None and not synced:
                    problems.append({**who, "port": port, "message": "its service sync is off"})
        near = {site.context.keys.site_id, *(view.router.partition("/")[0] for view in site.services.exchange.peers())}
        for offer in ours:
            for router in site.services.table.listening_elsewhere(offer.key):
                site_id = router.partition("/")[0]
                if site_id not in near:
                    who = {"site": self._site_name(router), "siteId": site_id}
                    listeners.append({**who, "listener": "", "host": "", "port": offer.service.port})
        return listeners, problems

    # ---- The rest ------------------------------------------------------------------------------------------------------------------------

    def grants(self) -> list[Doc]:
        def date(seconds: float) -> str:
            return rfc3339(seconds)

        return [
            {
                "name": g.name,
                "id": g.id,
                "spec": {"redemptionsAllowed": g.uses, "cost": g.cost},
                "state": g.state,
                "uses": g.uses,
                "used": g.used,
                "created": date(g.created),
                "expires": date(g.expires),
                "redeemedBy": [{"siteId": site, "site": name, "at": date(at)} for site, name, at in g.redeemed_by],
                "conditions": [],
            }
            for g in sorted(self._site.joining.grants(), key=lambda g: (g.created, g.id))
        ]

    # ---- Conditions ----------------------------------------------------------------------------------------------------------------------

    def _with_ready(self, conditions: list[Condition]) -> list[Doc]:
        if not any(c.type == "Ready" for c in conditions):
            bad = next((c for c in conditions if c.status != "True"), None)
            if bad is not None:
                ready = Condition(type="Ready", status=bad.status, reason=bad.reason, message=bad.message, since=bad.since, next=bad.next)
            else:
                since = max((c.since for c in conditions), default=self._site.context.now())
                ready = Condition(type="Ready", status="True", reason="Ok", message="", since=since)
            conditions = [*conditions, ready]
        return self._conditions(conditions)

    def _conditions(self, conditions: Iterable[Condition]) -> list[Doc]:
        date = self._dates()
        return [
            {"type": c.type, "status": c.status, "reason": c.reason, "message": c.message, "since": date(c.since), "next": c.next}
            for c in conditions
        ]

    def _dates(self) -> Callable[[float], str]:
        behind = self._site.context.wall() - self._site.context.now()
        return lambda since: rfc3339(since + behind)


def _listens(status: AddressStatus) -> bool:
    return any(c.type == "Listening" and c.status == "True" for c in status.conditions)


def _instead(condition: Condition, reason: str, message: str) -> Condition:
    return Condition(
        type=condition.type,
        status="True",
        reason=reason,
        message=message,
        since=condition.since,
        next="check that the other site can be reached; before that date it goes on trying; after it: redeem a new token",
    )


def _fault_condition(fault: Fault, since: float) -> Condition:
    return Condition(type="Configured", status="False", reason=fault.reason, message=fault.message, since=since, next=fault.next)


def problem_doc(problem: Problem) -> Doc:
    return {"path": problem.path, "message": problem.message, "hint": problem.hint}


def rfc3339(seconds: float) -> str:
    return _date(math.floor(seconds))


@functools.lru_cache(4096)
def _date(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
