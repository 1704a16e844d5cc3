"""
The whole network as one router knows it: sites, their routers, links, edges, and what is offered where. Plain data for people and programs.

Refuses to ask anybody: everything comes from this router's own database, so it is there at once and never waits for a site that does not
answer. Such a site is shown as what is known of it: unreachable, with what it said last. An earlier start of a site (a killed router is
remembered for a while) is not shown where another start of it has a path. Nothing here changes an engine.

    state of a router    up, draining, unreachable (there is no path), own
    state of a link      up, suspect (a last resort: silent or draining at an end), one-sided (only one end reports it: it does not count)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from vanrouter.messages import KeyInfo, ServicePort
from vanrouter.routing.adjacency import LAST_RESORT
from vanrouter.routing.engine import Engine

__all__ = ["NetworkView", "SiteName", "network_view", "routers_with_edges"]

Doc = dict[str, Any]
SiteName = Callable[[str], str]
SHORT_ROUTER: Final = 5  # hexadecimal digits of a boot number: those that are random
SHORT: Final = 12  # characters of a site id that stand for a site without a known name


def site_of(router: str) -> str:
    return router.partition("/")[0]


class NetworkView:
    """Reads an engine. ``own_name``: of this site; ``names``: of sites that only their links have told so far."""

    def __init__(self, engine: Engine, own_name: str, own_version: str = "", names: dict[str, str] | None = None) -> None:
        self.engine = engine
        self._names = dict(names or {})
        self._versions: dict[str, str] = {}
        self._leaves: dict[str, list[tuple[str, int]]] = {}  # interior -> (edge router, cost)
        self._by_site: dict[str, set[str]] | None = None
        self._reached = {site_of(router) for router in [*engine.database.origins, engine.own] if self._is_reached(router)}  # sites
        for router in engine.remote.routers():
            for fragment in engine.remote.fragments(router):
                if fragment.number == 0 and fragment.name:
                    self._names[site_of(router)] = fragment.name
                    self._versions[site_of(router)] = fragment.version
                for leaf in fragment.edges:
                    self._leaves.setdefault(router, []).append((leaf.router, leaf.cost))
                    if leaf.name:
                        self._names.setdefault(site_of(leaf.router), leaf.name)
        own = site_of(engine.own)
        self._names[own], self._versions[own] = own_name, own_version
        for peer in engine.attached():
            self._leaves.setdefault(engine.own, []).append((peer.router, peer.adjacency.cost or LAST_RESORT))
            self._names.setdefault(site_of(peer.router), peer.name)

    def name(self, router_or_site: str) -> str:
        """What people call a site; the start of its id while nobody said."""
        site = site_of(router_or_site)
        return self._names.get(site) or site[:SHORT]

    def label(self, router: str) -> str:
        """The site, and which of its routers where it has several."""
        site = site_of(router)
        name = self.name(site)
        return f"{name} (router {router[-SHORT_ROUTER:]})" if len(self._routers_of(site)) > 1 else name

    def may_be_an_edges(self, router: str) -> bool:
        """Whether what this router offers may be at an edge behind it: others are told of an edge's keys as its interior's."""
        return router != self.engine.own and bool(self.leaves(router))

    def interiors(self) -> list[str]:
        """Routers in the database, ourselves included, without earlier starts."""
        found = [router for router, origin in self.engine.database.origins.items() if not origin.attached]
        return [router for router in found if not self._is_earlier_start(router)]

    def leaves(self, router: str) -> list[tuple[str, int]]:
        """(edge router, cost) under an interior."""
        return self._leaves.get(router, [])

    def router_state(self, router: str) -> str:
        engine = self.engine
        if router == engine.own:
            return "own"
        if engine.path(router) is None:
            return "unreachable"
        return "draining" if engine.remote.draining(router) else "up"

    def links(self) -> list[tuple[str, str, int | None, int | None]]:
        """(a, b, cost that a reports, cost that b reports), a < b; None: it reports none."""
        topology, out = self.engine.topology, []
        for a in [*self.interiors()]:
            for b, cost in topology.reported_by(a).items():
                back = topology.reported_by(b).get(a)
                if back is None and self._is_earlier_start(b):
                    continue
                if a < b or back is None:
                    out.append((a, b, cost, back) if a < b else (b, a, back, cost))
        return sorted(out, key=lambda link: link[:2])

    def uplinks(self) -> list[tuple[str, str, int]]:
        """(interior, edge router, cost). What an interior without a path lists is old where one with a path lists the same edge."""
        reached = {site_of(leaf) for interior, leaves in self._leaves.items() if self._is_reached(interior) for leaf, _ in leaves}
        return [
            (interior, leaf, cost)
            for interior, leaves in self._leaves.items()
            for leaf, cost in leaves
            if self._is_reached(interior) or site_of(leaf) not in reached
        ]

    def document(self) -> Doc:
        """``{sites, links, services, keys}``: the fields are in docs/architecture.md."""
        return {"sites": self._sites(), "links": self._links(), "services": self._services(), "keys": self._keys()}

    # ---- inside ------------------------------------------------------------------------------------------------------------------------

    def _routers_of(self, site: str) -> set[str]:
        """Without earlier starts."""
        if self._by_site is None:
            self._by_site = {}
            for router in [*self.interiors(), *(leaf for _, leaf, _ in self.uplinks()), self.engine.own]:
                self._by_site.setdefault(site_of(router), set()).add(router)
        return self._by_site.get(site, set())

    def _is_reached(self, router: str) -> bool:
        return router == self.engine.own or self.engine.path(router) is not None

    def _is_earlier_start(self, router: str) -> bool:
        """No path leads there, and one leads to another start of its site (or it is ours)."""
        return site_of(router) in self._reached and not self._is_reached(router)

    def _sites(self) -> list[Doc]:
        engine = self.engine
        sites: dict[str, Doc] = {}
        for router in sorted(self.interiors(), key=lambda r: r != engine.own):
            self._site(sites, router)["routers"].append(self._router(router))
        for interior, leaf, cost in self.uplinks():
            site = self._site(sites, leaf, role="edge")
            known = next((r for r in site["routers"] if r["id"] == leaf), None)
            if known is None:
                state = "up" if self._is_reached(interior) else "unreachable"
                known = {"id": leaf, "state": state, "cost": 0, "nextHops": [], "uplinks": []}
                site["routers"].append(known)
            known.setdefault("uplinks", []).append({"router": interior, "site": self.name(interior), "cost": cost})
        for site in sites.values():
            states = {router["state"] for router in site["routers"]}
            site["state"] = next((s for s in ("own", "up", "draining") if s in states), "unreachable")
        return sorted(sites.values(), key=lambda site: (not site["self"], site["name"], site["id"]))

    def _site(self, sites: dict[str, Doc], router: str, *, role: str = "interior") -> Doc:
        site_id = site_of(router)
        return sites.setdefault(
            site_id,
            {
                "id": site_id,
                "name": self.name(site_id),
                "version": self._versions.get(site_id, ""),
                "platform": "",
                "self": site_id == site_of(self.engine.own),
                "role": "edge" if self.engine.edge and router == self.engine.own else role,
                "state": "",
                "routers": [],
            },
        )

    def _router(self, router: str) -> Doc:
        path = self.engine.path(router)
        hops = [self.name(hop) for hop in path[1]] if path is not None else []
        return {"id": router, "state": self.router_state(router), "cost": path[0] if path is not None else 0, "nextHops": hops}

    def _links(self) -> list[Doc]:
        out = []
        for a, b, there, back in self.links():
            costs = [cost for cost in (there, back) if cost is not None]
            if self.engine.edge and self.engine.own in (a, b):  # our word suffices, and the other end lists us as its edge
                out.append(self._uplink(self.engine.own, b if a == self.engine.own else a, max(costs)))
                continue
            state = "one-sided" if None in (there, back) else "suspect" if max(costs) >= LAST_RESORT else "up"
            out.append(
                {
                    "fromSiteId": site_of(a),
                    "toSiteId": site_of(b),
                    "from": self.name(a),
                    "to": self.name(b),
                    "fromRouter": a,
                    "toRouter": b,
                    "cost": max(costs),
                    "fromCost": there,
                    "toCost": back,
                    "state": state,
                    "active": state != "one-sided",
                    "dialler": "",
                }
            )
        out += [self._uplink(leaf, interior, cost) for interior, leaf, cost in self.uplinks() if leaf != self.engine.own]
        return out

    def _uplink(self, leaf: str, interior: str, cost: int) -> Doc:
        state = "suspect" if cost >= LAST_RESORT else "up"
        return {
            "fromSiteId": site_of(leaf),
            "toSiteId": site_of(interior),
            "from": self.name(leaf),
            "to": self.name(interior),
            "fromRouter": leaf,
            "toRouter": interior,
            "cost": cost,
            "fromCost": cost,
            "toCost": cost,
            "state": state,
            "active": True,
            "dialler": "from",
            "edge": True,
        }

    def _offers(self) -> list[tuple[str, KeyInfo]]:
        """(router, what it says of a key), our own first. Edges of ours stand for themselves; our own uplink without what is ours."""
        engine = self.engine
        own = engine.own_keys(merged=False)
        out = [(engine.own, info) for info in own.values()]
        for key in [*engine.remote.keys()]:
            for router, info in engine.remote.key(key).items():
                if engine.counts_ours(router) and (ours := own.get(key)) is not None:
                    info = _without(info, ours)
                out.append((router, info))
        return [(router, info) for router, info in out if not self._is_earlier_start(router)]

    def _keys(self) -> list[Doc]:
        keys: dict[str, Doc] = {}
        for router, info in self._offers():
            doc = keys.setdefault(info.key, {"key": info.key, "targets": [], "listeners": []})
            where = {"site": self.name(router), "siteId": site_of(router), "router": router, "state": self.router_state(router)}
            if info.targets:
                doc["targets"].append({**where, "count": info.targets, "cost": info.cost, "orEdge": self.may_be_an_edges(router)})
            if info.listeners:
                doc["listeners"].append({**where, "count": info.listeners})
        return sorted(keys.values(), key=lambda doc: doc["key"])

    def _services(self) -> list[Doc]:
        services: dict[str, Doc] = {}
        for router, info in self._offers():
            for service in info.services if info.targets else ():
                doc = services.setdefault(
                    service.address,
                    {"name": service.address, "address": service.address, "ports": [], "protocol": service.protocol, "targets": []},
                )
                if service.port not in doc["ports"]:
                    doc["ports"] = sorted([*doc["ports"], service.port])
                doc["targets"].append(self._target(router, info, service))
        return sorted(services.values(), key=lambda doc: doc["address"])

    def _target(self, router: str, info: KeyInfo, service: ServicePort) -> Doc:
        return {
            "site": self.name(router),
            "siteId": site_of(router),
            "router": router,
            "routingKey": info.key,
            "port": service.port,
            "count": info.targets,
            "state": self.router_state(router),
            "orEdge": self.may_be_an_edges(router),
        }


def _without(info: KeyInfo, ours: KeyInfo) -> KeyInfo:
    targets, listeners = max(0, info.targets - ours.targets), max(0, info.listeners - ours.listeners)
    return msgspec.structs.replace(info, targets=targets, listeners=listeners)


def routers_with_edges(engine: Engine) -> set[str]:
    """Other interiors that have edges behind them, and tell of their keys as their own."""
    found = {router for router in engine.remote.routers() if any(fragment.edges for fragment in engine.remote.fragments(router))}
    return found - {engine.own}


def network_view(engine: Engine, own_name: str, own_version: str = "", names: dict[str, str] | None = None) -> Doc:
    return NetworkView(engine, own_name, own_version, names).document()
