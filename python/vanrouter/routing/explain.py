"""
Why the next stream of a routing key would go where it would: every target with its price, and what is to be said against it.

Refuses to choose for the plane: it applies the rule of `plane.Listener` to what the control plane knows. What it cannot know is how many
streams of this router each remote target has by itself: it takes those on the link toward it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from vanrouter.plane import LinkState, RouteTarget, Strategy
from vanrouter.routing.adjacency import LAST_RESORT
from vanrouter.routing.engine import Engine

# What there is to be said against a link, as the data plane adds it up.
_DRAINING = 1
_DOUBTFUL = 2

__all__ = ["Choice", "LocalTarget", "explain"]


class LocalTarget(msgspec.Struct, frozen=True, kw_only=True):
    """A connector of this site for the key."""

    name: str
    where: str  # host:port
    streams: int = 0
    error: str = ""  # why it is not used; empty: nothing is wrong with it


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One target. ``reason``: why it was not chosen; of the chosen one, what is to be said against it all the same, or empty."""

    router: str
    connector: str = ""  # of a local one
    where: str = ""
    targets: int = 1
    cost: int = 0
    streams: int = 0  # a local target's own, or those on the link toward a remote one
    next_hops: list[str] = []
    chosen: bool = False
    usable: bool = True
    reason: str = ""


def explain(
    engine: Engine,
    key: str,
    *,
    local: Sequence[LocalTarget],
    links: Mapping[str, LinkState],
    streams_by_link: Mapping[str, int],
    strategy: Strategy = "balanced",
) -> list[Choice]:
    """The chosen one first, then those that would be next, then those that cannot be used: a site that cannot be reached once."""
    found: list[tuple[tuple[object, ...], Choice]] = []
    for target in local:
        choice = Choice(
            router=engine.own,
            connector=target.name,
            where=target.where,
            streams=target.streams,
            usable=not target.error,
            reason=target.error,
        )
        found.append((_rank(strategy, _DOUBTFUL * bool(target.error), True, 0, target.streams, target.name), choice))
    routes = engine.routes().get(key, [])
    routes = _one_row_each(engine, routes, local)
    found += [_remote(engine, key, route.router, route.cost, links, streams_by_link, strategy) for route in routes]
    told = {route.router.partition("/")[0] for route in routes}
    for router, info in engine.remote.key(key).items():
        if info.down and not info.targets:
            if engine.path(router) is None:
                if (site := router.partition("/")[0]) in told:
                    continue
                told.add(site)
            text = f"{'its target fails its' if info.down == 1 else f'all {info.down} targets fail their'} checks"
            found.append(((), Choice(router=router, targets=info.down, usable=False, reason=text)))
    found.sort(key=lambda item: (not item[1].usable, item[0]))
    if not found or not found[0][1].usable:
        return [choice for _, choice in found]
    first = found[0][1]
    out = [msgspec.structs.replace(first, chosen=True)]
    for _, choice in found[1:]:
        out.append(choice if choice.reason else msgspec.structs.replace(choice, reason=_why_not(first, choice, strategy)))
    return out


def _one_row_each(engine: Engine, routes: Sequence[RouteTarget], local: Sequence[LocalTarget]) -> list[RouteTarget]:
    """Earlier starts of a site stay in the database for a while: one row without a path for each site, none where another start has one."""
    told = {route.router.partition("/")[0] for route in routes if engine.path(route.router) is not None}
    if local:
        told.add(engine.own.partition("/")[0])
    out = []
    for route in routes:
        site = route.router.partition("/")[0]
        if engine.path(route.router) is not None or site not in told:
            out.append(route)
            told.add(site)
    return out


def _remote(
    engine: Engine,
    key: str,
    router: str,
    own_cost: int,
    links: Mapping[str, LinkState],
    streams_by_link: Mapping[str, int],
    strategy: Strategy,
) -> tuple[tuple[object, ...], Choice]:
    path = engine.path(router)
    info = engine.remote.info(router, key)
    targets = info.targets if info is not None else 0
    if path is None:
        choice = Choice(router=router, targets=targets, usable=False, reason="no path leads there now")
        return (), choice
    cost, hops = path[0] + own_cost, [hop for hop in path[1] if hop in links]
    streams = min((streams_by_link.get(hop, 0) for hop in hops), default=0)
    doubt = min((_DOUBTFUL * links[hop].suspect + _DRAINING * links[hop].draining for hop in hops), default=0)
    reason = ""
    if not hops:
        reason = "none of its next hops has a lane now"
    elif all(links[hop].suspect for hop in hops):
        reason = "every link toward it is suspect (nothing was heard on it lately)"
    elif engine.remote.draining(router):
        reason = "it is draining: its router is about to leave"
    elif all(links[hop].draining for hop in hops):
        reason = "every next hop toward it is draining"
    elif own_cost >= LAST_RESORT:
        reason = "its targets fail their checks: a last resort"
    elif cost >= LAST_RESORT:
        reason = "a link on the way is suspect or draining: a last resort"
    choice = Choice(router=router, targets=targets, cost=cost, streams=streams, next_hops=hops, usable=bool(hops), reason=reason)
    return _rank(strategy, doubt, False, cost, streams, router), choice


def _rank(strategy: Strategy, doubt: int, is_here: bool, cost: int, streams: int, name: str) -> tuple[object, ...]:
    if strategy == "closest":
        return (doubt, cost, streams, name)
    return (doubt, not (is_here and not streams), cost + streams, name)


def _why_not(first: Choice, other: Choice, strategy: Strategy) -> str:
    if strategy == "closest" and other.cost > first.cost:
        return f"cost {other.cost} is more than {first.cost}"
    if first.connector and not first.streams and strategy != "closest":
        return f"a target in this site is idle; this one has cost {other.cost} and {_streams(other.streams)}"
    mine, theirs = first.cost + first.streams, other.cost + other.streams
    if theirs == mine:
        return f"as good as the chosen one (cost {other.cost}, {_streams(other.streams)}): they take turns"
    return f"cost {other.cost} and {_streams(other.streams)} are more than {first.cost} and {first.streams}"


def _streams(count: int) -> str:
    return "1 open stream" if count == 1 else f"{count} open streams"
