"""
What would be lost if these sites and links were down? Answered from a router's own database with the code that decides in earnest.

Refuses to touch the engine that it asks: it builds a `Topology` and `Paths` of its own from the same reports, brings them up to date once
with everything, once without what is down, and counts which targets of the engine's routes still have a path. The answer is for this
router; other routers may see it differently, and a network that falls apart is said to.

    reports ──▶ Topology ──▶ Paths ──▶ before ┐
       └─ without what is down ──▶ update ──▶ after ┴──▶ keys that lose all or some targets, sites cut off, paths that change
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Final

import msgspec

from vanrouter.errors import ConfigError
from vanrouter.messages import KeyInfo
from vanrouter.routing.engine import Engine
from vanrouter.routing.paths import Paths
from vanrouter.routing.topology import DRAIN_PENALTY, Topology
from vanrouter.routing.view import NetworkView, site_of

__all__ = ["Down", "EdgeLoss", "KeyLoss", "Outcome", "PathMove", "parse_down", "simulate"]

MAX_DOWN: Final = 64


class Down(msgspec.Struct, frozen=True):
    """What is supposed to be down: whole sites, and all links between two routers."""

    sites: frozenset[str] = frozenset()
    links: frozenset[tuple[str, str]] = frozenset()  # the lower router id first


class KeyLoss(msgspec.Struct, frozen=True, kw_only=True):
    """Targets are counted as they are advertised. ``after`` 0: the key loses all."""

    key: str
    before: int
    after: int
    lost_sites: list[str]  # ids
    left_sites: list[str]
    listens_here: bool = False


class EdgeLoss(msgspec.Struct, frozen=True, kw_only=True):
    """An edge that is cut off. Its interior tells others of an edge's keys as its own: which of these go with it is not known here."""

    edge: str  # site ids
    at: str
    keys: list[str]  # what that interior has; empty: nothing that could be the edge's


class PathMove(msgspec.Struct, frozen=True, kw_only=True):
    router: str
    cost: int
    next_hops: list[str]
    new_cost: int | None  # None: it is cut off
    new_next_hops: list[str]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    keys: list[KeyLoss]
    maybe: list[EdgeLoss]
    cut_off: list[str]  # site ids that cannot be reached any more and are not down themselves
    moves: list[PathMove]  # routers that stay reachable over another path, or at another cost
    parts: int  # into so many parts the sites that are left fall, as seen from the whole network; 1: it stays in one piece
    streams: int  # open now over links of this router that are down then, or lead to a site that is
    self_down: bool


def parse_down(words: Iterable[str], view: NetworkView, own_links: Mapping[str, Iterable[str]]) -> Down:
    """
    ``SITE`` (name, id or the start of one), ``SITE/SITE`` (all links between two sites), or the name of a link of this site. ``own_links``:
    name of a link of this site -> routers at its other end. Raises ConfigError.
    """
    words = list(words)
    if not words:
        raise ConfigError("nothing is said to be down", hint="van simulate --down SITE, --down SITE/SITE, or --down LINK")
    if len(words) > MAX_DOWN:
        raise ConfigError(f"{len(words)} things are said to be down; at most {MAX_DOWN} at once")
    sites: set[str] = set()
    links: set[tuple[str, str]] = set()
    routers = [*view.interiors(), *(leaf for router in view.interiors() for leaf, _ in view.leaves(router))]
    known = dict.fromkeys(site_of(router) for router in routers)
    own = view.engine.own
    for word in words:
        kind, colon, rest = word.partition(":")
        if colon and kind not in ("site", "link"):
            raise ConfigError(f"{word!r} begins with neither site: nor link:")
        name = rest if colon else word
        found = _sites_named(name, known, view) if kind != "link" or not colon else []
        is_link = name in own_links and not (colon and kind == "site")
        if found and is_link:
            raise ConfigError(f"{name!r} is a site and a link of this site", hint=f"say which: site:{name} or link:{name}")
        if "/" in name:
            links |= _links_between(name, known, view)
        elif len(found) > 1:
            raise ConfigError(f"{name!r} is the name of {len(found)} sites", hint="say its id: " + ", ".join(site[:12] for site in found))
        elif found:
            sites.add(found[0])
        elif is_link:
            links |= {_pair(own, router) for router in own_links[name]}
        else:
            names = ", ".join(sorted(view.name(site) for site in known)[:20])
            raise ConfigError(f"there is neither a site nor a link {name!r} here", hint=f"sites: {names}; links: van network status")
    return Down(frozenset(sites), frozenset(links))


def _sites_named(name: str, known: Iterable[str], view: NetworkView) -> list[str]:
    by_name = [site for site in known if view.name(site) == name]
    return by_name or [site for site in known if len(name) >= 6 and site.startswith(name)]


def _links_between(name: str, known: Iterable[str], view: NetworkView) -> set[tuple[str, str]]:
    ends = []
    for part in name.split("/", 1):
        found = _sites_named(part, known, view)
        if len(found) != 1:
            raise ConfigError(f"{name!r}: {'no site has' if not found else 'several sites have'} the name {part!r}")
        ends.append(found[0])
    pairs = {(a, b) for a, b, _, _ in view.links()} | {_pair(r, leaf) for r in view.interiors() for leaf, _ in view.leaves(r)}
    links = {pair for pair in pairs if {site_of(pair[0]), site_of(pair[1])} == set(ends)}
    if not links:
        raise ConfigError(f"there is no link between {view.name(ends[0])} and {view.name(ends[1])}", hint="van network status shows all")
    return links


def simulate(engine: Engine, down: Down, *, streams_by_link: Mapping[str, int] | None = None) -> Outcome:
    """``streams_by_link``: streams open now, by the router at the other end of a link of ours."""
    now_down = _Without(engine, down)
    topology, paths = now_down.topology, now_down.paths
    before = {router: path for router in paths.routers() if (path := paths.path(router)) is not None}
    for peer in engine.attached():
        if peer.adjacency.cost is not None:
            before[peer.router] = (peer.adjacency.cost + DRAIN_PENALTY * engine.remote.draining(peer.router), (peer.router,))
    now_down.apply()
    paths.update(topology.take())
    after = {router: now_down.path(router) for router in before}
    self_down = site_of(engine.own) in down.sites
    moves = []
    for router, (cost, hops) in before.items():
        new = after[router]
        if new != (cost, hops) and new is not None:
            moves.append(PathMove(router=router, cost=cost, next_hops=list(hops), new_cost=new[0], new_next_hops=list(new[1])))
    still = {site_of(router) for router, path in after.items() if path is not None} | {site_of(engine.own)}
    cut_off = sorted({site_of(router) for router in before} - still - down.sites)
    streams = sum(n for router, n in (streams_by_link or {}).items() if now_down.is_down(engine.own, router))
    return Outcome(
        keys=_keys(engine, before, now_down),
        maybe=_maybe(engine, now_down),
        cut_off=cut_off,
        moves=sorted(moves, key=lambda move: move.router),
        parts=_parts(topology.edges, [r for r in [*before, engine.own] if site_of(r) not in down.sites and not now_down.is_leaf(r)]),
        streams=streams,
        self_down=self_down,
    )


class _Without:
    """The engine's graph, which `apply` takes apart."""

    def __init__(self, engine: Engine, down: Down) -> None:
        self._engine, self.down = engine, down
        self.topology = Topology(engine.own, own_word_suffices=engine.edge)
        for router in engine.database.origins:
            if engine.remote.draining(router):
                self.topology.set_draining(router, True)
            self.topology.report(router, engine.topology.reported_by(router))
        self.topology.report(engine.own, engine.topology.reported_by(engine.own))
        self.topology.set_draining(engine.own, engine.draining)
        self.paths = Paths(engine.own, self.topology.edges)
        self.paths.update(self.topology.take())
        self._leaves = {peer.router: peer.adjacency.cost for peer in engine.attached()}

    def is_leaf(self, router: str) -> bool:
        return router in self._leaves

    def is_down(self, a: str, b: str) -> bool:
        """The link between two routers."""
        return site_of(a) in self.down.sites or site_of(b) in self.down.sites or _pair(a, b) in self.down.links

    def apply(self) -> None:
        for router in [*self._engine.database.origins, self._engine.own]:
            left = {peer: cost for peer, cost in self.topology.reported_by(router).items() if not self.is_down(router, peer)}
            self.topology.report(router, left)

    def path(self, router: str) -> tuple[int, tuple[str, ...]] | None:
        if router in self._leaves:
            cost = self._leaves[router]
            if cost is None or self.is_down(self._engine.own, router):
                return None
            return cost + DRAIN_PENALTY * self._engine.remote.draining(router), (router,)
        return self.paths.path(router)


def _keys(engine: Engine, before: Container[str], without: _Without) -> list[KeyLoss]:
    """Keys that have fewer targets then; those that lose all come first."""
    local, own = engine.own_keys(merged=False), site_of(engine.own)
    self_down = own in without.down.sites
    out = []
    for key in dict.fromkeys([*local, *engine.routes()]):
        info = local.get(key)
        counts = {target.router: _count(engine, target.router, info, key) for target in engine.routes().get(key, [])}
        had = {router: n for router, n in counts.items() if n > 0 and router in before}
        has = {router: n for router, n in had.items() if not self_down and without.path(router) is not None}
        if info is not None and info.targets:
            had[engine.own] = info.targets
            if not self_down:
                has[engine.own] = info.targets
        if len(has) < len(had):
            left = {site_of(router) for router in has}
            loss = KeyLoss(
                key=key,
                before=sum(had.values()),
                after=sum(has.values()),
                lost_sites=sorted({site_of(router) for router in had} - left),
                left_sites=sorted(left),
                listens_here=info is not None and info.listeners > 0,
            )
            out.append(loss)
    return sorted(out, key=lambda loss: (loss.after > 0, loss.key))


def _maybe(engine: Engine, without: _Without) -> list[EdgeLoss]:
    """Edges without an uplink then, but those whose interior is lost too: its keys are counted already."""
    uplinks: dict[str, list[tuple[str, str]]] = {}
    for interior, leaf, _ in NetworkView(engine, "").uplinks():
        uplinks.setdefault(site_of(leaf), []).append((interior, leaf))
    uplinks.pop(site_of(engine.own), None)
    local = engine.own_keys(merged=False)
    keys: dict[tuple[str, str], set[str]] = {}
    for edge, ways in uplinks.items():
        for interior, leaf in ways if all(without.is_down(*way) for way in ways) else ():
            if interior == engine.own:  # known exactly, and counted
                if not any(info.targets for key in engine.routes() if (info := engine.remote.info(leaf, key)) is not None):
                    keys.setdefault((edge, site_of(interior)), set())
            elif without.path(interior) is not None:
                found = {key for key in engine.routes() if _count(engine, interior, local.get(key), key) > 0}
                keys.setdefault((edge, site_of(interior)), set()).update(found)
    return [EdgeLoss(edge=edge, at=at, keys=sorted(found)) for (edge, at), found in sorted(keys.items())]


def _count(engine: Engine, router: str, own: KeyInfo | None, key: str) -> int:
    """How many targets of a key are behind a router, without ours."""
    info = engine.remote.info(router, key)
    ours = own.targets if own is not None and engine.counts_ours(router) else 0
    return info.targets - ours if info is not None else 0


def _parts(edges: Mapping[str, Mapping[str, int]], routers: Iterable[str]) -> int:
    """Connected pieces among these routers."""
    left, parts = set(routers), 0
    while left:
        parts += 1
        todo = [left.pop()]
        while todo:
            for peer in edges.get(todo.pop(), ()):
                if peer in left:
                    left.discard(peer)
                    todo.append(peer)
    return parts


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)
