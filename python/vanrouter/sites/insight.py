"""
What a running site can tell about the whole network: who is there, what would be lost without some of it, where a stream would go.

Answers from this site's own database, counters and links; only a trace asks others, and it ends `PATIENCE` seconds after the last answer.
The deciding is in `vanrouter.routing`: `view`, `simulate`, `explain` and `trace`. Fields of the answers: docs/architecture.md.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Any, Final

import trio

import vanrouter
from vanrouter.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from vanrouter.plane import Message, Strategy
from vanrouter.routing.trace import KEPT, Run, Tracer
from vanrouter.routing.view import NetworkView, site_of

if TYPE_CHECKING:
    from vanrouter.routing.explain import Choice
    from vanrouter.routing.simulate import Outcome
    from vanrouter.sites.site import RunningSite

__all__ = ["Insight", "choice_doc", "hops_doc", "outcome_doc"]

log = logging.getLogger("vanrouter.sites")

Doc = dict[str, Any]
PATIENCE: Final = 1.0  # seconds without an answer after which a trace is over


class Insight:
    def __init__(self, site: RunningSite) -> None:
        self._site = site
        self._tracer = Tracer(site.services.engine, site.context.site_name, site.links.states)
        self._answered = trio.Event()

    # ---- the network ---------------------------------------------------------------------------------------------------------------------

    def view(self) -> NetworkView:
        names = {site_of(router): state.site_name for router, state in self._site.links.states.items()}
        return NetworkView(self._site.services.engine, self._site.context.site_name, vanrouter.__version__, names)

    def network(self) -> Doc:
        """All sites, links and services, as this site knows them now."""
        document = self.view().document()
        sites = {site["id"]: site for site in document["sites"]}
        sites[self._site.context.keys.site_id]["platform"] = "linux"
        for peer in self._site.services.exchange.peers():
            if peer.info is not None and (known := sites.get(site_of(peer.router))) is not None:
                known["version"], known["platform"] = peer.info.version, peer.info.platform
        own = str(self._site.context.own)
        for link in document["links"]:
            other = link["toRouter"] if link["fromRouter"] == own else link["fromRouter"] if link["toRouter"] == own else ""
            if (state := self._site.links.states.get(other)) is None:
                continue
            link["name"] = state.dialled[0] if state.dialled else state.peer_link
            link["rttMs"] = round(state.rtt * 1000, 3)
            link["dialler"] = "both" if state.dialled and state.accepted else "from"
            if bool(state.dialled) != (link["fromRouter"] == own):  # the one that dialled comes first
                for field in ("SiteId", "", "Router", "Cost"):
                    here, there = (f"from{field}", f"to{field}") if field else ("from", "to")
                    link[here], link[there] = link[there], link[here]
        return document

    # ---- what if -------------------------------------------------------------------------------------------------------------------------

    def simulate(self, down: list[str]) -> Doc:
        from vanrouter.routing.simulate import parse_down, simulate  # seldom asked

        view = self.view()
        states = self._site.links.states
        own_links: dict[str, list[str]] = {}
        for router, state in states.items():
            for name in {*state.dialled, state.peer_link} - {""}:
                own_links.setdefault(name, []).append(router)
        for name in self._site.links.dialled:
            own_links.setdefault(name, [])
        what = parse_down(down, view, own_links)
        by_link = self._streams_by_link()
        outcome = simulate(self._site.services.engine, what, streams_by_link=by_link)
        document = outcome_doc(outcome, view)
        document["down"] = {
            "sites": [{"site": view.name(site), "siteId": site} for site in sorted(what.sites)],
            "links": [{"from": view.name(a), "to": view.name(b), "fromRouter": a, "toRouter": b} for a, b in sorted(what.links)],
        }
        document["streamsOpen"] = sum(by_link.values())
        return document

    def _streams_by_link(self) -> dict[str, int]:
        return {router: numbers[0] for router, numbers in self._site.context.plane.counters().by_link.items()}

    # ---- traces --------------------------------------------------------------------------------------------------------------------------

    def handle_message(self, message: Message) -> bool:
        """Whether it was a trace's. A peer that breaks the rules loses its link."""
        try:
            taken = self._tracer.handle_message_untrusted(message.router, message.data, now=self._site.context.now())
        except RemoteProtocolError as exc:
            self._site.services.cut(message.router, str(exc))
            return True
        if taken:
            self._send()
            self._answered.set()
            self._answered = trio.Event()
        return taken

    def _send(self) -> None:
        for router, data in self._tracer.take():
            try:
                self._site.context.plane.send_message(router, data)  # what is not taken is lost: the asker sees where the answers end
            except LocalProtocolError:
                log.exception("control message not sent", extra={"router": router})

    async def trace(self, key: str, to: str = "") -> Doc:
        """Where the next stream of a key would go, and the way there. ``to``: trace to this site's target instead."""
        view, engine = self.view(), self._site.services.engine
        choices, strategy = self._choices(key)
        if not choices:
            known = sorted({*engine.routes(), *engine.own_keys(merged=False)})
            raise ConfigError(
                f"nobody in the network offers {key!r}",
                hint=f"keys that are offered: {', '.join(known[:20]) or 'none'}; see van service status",
            )
        chosen = next((choice for choice in choices if choice.chosen), None)
        if to:
            chosen = next((c for c in choices if to in (view.name(c.router), site_of(c.router))), None)
            if chosen is None:
                raise ConfigError(f"site {to!r} has no target of {key!r}", hint="without --to: the one that would be chosen")
        document: Doc = {
            "key": key,
            "strategy": strategy,
            "site": self._site.context.site_name,
            "choices": [choice_doc(choice, view) for choice in choices],
            "target": view.label(chosen.router) if chosen is not None else "",
            "hops": [],
            "complete": chosen is not None,
            "note": "",
        }
        if chosen is None:
            document["note"] = "no target can be used now"
        elif chosen.router != engine.own:
            await self._run(document, chosen, key, view)
        return document

    def _choices(self, key: str) -> tuple[list[Choice], Strategy]:
        from vanrouter.routing.explain import LocalTarget, explain  # seldom asked

        site = self._site
        counters = site.context.plane.counters()
        local = [
            LocalTarget(
                name=status.name,
                where=f"{status.host}:{status.port}" if status.port else "in this process",
                streams=(counters.by_connector.get(status.name) or [0])[0],
                error=site.services.table.connector_error(status.name),
            )
            for status in site.services.table.connector_statuses()
            if status.routing_key == key
        ]
        strategies = [s.strategy for s in site.services.table.listener_statuses() if s.routing_key == key]
        strategy: Strategy = strategies[0] if strategies else "balanced"
        choices = explain(
            site.services.engine,
            key,
            local=local,
            links=site.links.states,
            streams_by_link=self._streams_by_link(),
            strategy=strategy,
        )
        return choices, strategy

    async def _run(self, document: Doc, chosen: Choice, key: str, view: NetworkView) -> None:
        run = self._tracer.start(chosen.router, key, id=secrets.token_bytes(16), now=self._site.context.now())
        if run is None:
            document |= {"complete": False, "note": chosen.reason or f"there is no path to site {view.name(chosen.router)} now"}
            return
        self._send()
        with trio.move_on_after(KEPT - 0.5):
            while not run.done:
                answers, waiting = len(run.hops), self._answered
                with trio.move_on_after(PATIENCE) as patience:
                    while len(run.hops) == answers:
                        await waiting.wait()
                        waiting = self._answered
                if patience.cancelled_caught:
                    break
        document["hops"] = hops_doc(run, view)
        document["complete"], document["note"] = _verdict(run, key, view)


_ENDS: Final = {
    "no-path": "site {site} has no path to it now",
    "back": "site {site} would send it back where it came from: the two have heard different news; ask again",
    "hop-limit": "at site {site} the hop limit is used up: there is a loop while the network converges; ask again",
    "edge": "site {site} is an edge and carries nothing on",
    "loop": "site {site} saw it twice: there is a loop while the network converges; ask again",
}


def _verdict(run: Run, key: str, view: NetworkView) -> tuple[bool, str]:
    path = run.path
    if not run.done:
        last = f"site {path[-1].hop.site or view.name(path[-1].hop.router)}" if path else "this site"
        following = path[-1].hop.next if path else run.next_hop
        return False, f"no answer beyond {last} within {PATIENCE:g} s: it went on to site {view.name(following)}"
    hop = path[-1].hop
    if hop.end == "arrived":
        return hop.targets > 0, "" if hop.targets else f"site {hop.site} has no target of {key!r} any more"
    return False, _ENDS.get(hop.end, "it ended at site {site}: " + hop.end).format(site=hop.site or view.name(hop.router))


def hops_doc(run: Run, view: NetworkView) -> list[Doc]:
    out: list[Doc] = []
    before = 0.0
    for seen in run.path:
        hop = seen.hop
        out.append(
            {
                "index": hop.index,
                "site": hop.site,
                "label": view.label(hop.router) if view.name(hop.router) == hop.site else hop.site,
                "siteId": site_of(hop.router),
                "router": hop.router,
                "cost": hop.cost,
                "linkMs": round(hop.rtt_us / 1000, 3),
                "roundTripMs": round(seen.at * 1000, 3),
                "hopMs": round(max(0.0, seen.at - before) * 1000, 3),
                "suspect": hop.suspect,
                "end": hop.end,
                "targets": hop.targets,
            }
        )
        before = seen.at
    return out


def choice_doc(choice: Choice, view: NetworkView) -> Doc:
    return {
        "site": view.name(choice.router),
        "label": view.label(choice.router),
        "orEdge": view.may_be_an_edges(choice.router),
        "siteId": site_of(choice.router),
        "router": choice.router,
        "connector": choice.connector,
        "where": choice.where,
        "targets": choice.targets,
        "cost": choice.cost,
        "streams": choice.streams,
        "nextHops": [view.label(hop) for hop in choice.next_hops],
        "chosen": choice.chosen,
        "usable": choice.usable,
        "reason": choice.reason,
    }


def outcome_doc(outcome: Outcome, view: NetworkView) -> Doc:
    def named(sites: list[str]) -> list[Doc]:
        return [{"site": view.name(site), "siteId": site} for site in sites]

    def offering(sites: list[str]) -> list[Doc]:
        return [{**doc, "orEdge": doc["siteId"] in with_edges} for doc in named(sites)]

    with_edges = {site_of(router) for router in view.interiors() if view.may_be_an_edges(router)}

    return {
        "keys": [
            {
                "key": loss.key,
                "before": loss.before,
                "after": loss.after,
                "lostAt": offering(loss.lost_sites),
                "leftAt": offering(loss.left_sites),
                "listensHere": loss.listens_here,
            }
            for loss in outcome.keys
        ],
        "maybeLost": [
            {"site": view.name(loss.edge), "siteId": loss.edge, "at": view.name(loss.at), "atId": loss.at, "keys": loss.keys}
            for loss in outcome.maybe
        ],
        "cutOff": named(outcome.cut_off),
        "paths": [
            {
                "site": view.name(move.router),
                "label": view.label(move.router),
                "siteId": site_of(move.router),
                "router": move.router,
                "cost": move.cost,
                "nextHops": [view.label(hop) for hop in move.next_hops],
                "newCost": move.new_cost,
                "newNextHops": [view.label(hop) for hop in move.new_next_hops],
            }
            for move in outcome.moves
        ],
        "parts": outcome.parts,
        "streams": outcome.streams,
        "selfDown": outcome.self_down,
    }
