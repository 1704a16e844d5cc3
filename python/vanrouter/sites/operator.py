"""
What an operator can ask a running site: the methods of the admin protocol (``docs/architecture.md``).

Checks parameters and delegates. ``handover`` gives a successor the listening sockets; only its ``stop`` with ``handover`` makes this router
leave, so that a successor that dies in between takes nothing with it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import vanrouter
from vanrouter.admin.server import Reply
from vanrouter.errors import ConfigError, NotReady
from vanrouter.model import parse_routing_key
from vanrouter.sites.site import RunningSite
from vanrouter.sites.status import Reporter, problem_doc
from vanrouter.tokens import parse_token

__all__ = ["Operator"]

Params = dict[str, Any]
T = TypeVar("T")

DEFAULT_EXPIRY: Final = 900.0


class Operator:
    """``released`` is called when a successor takes over: the lock and the admin socket are its from then on."""

    def __init__(self, site: RunningSite, *, released: Callable[[], None]) -> None:
        self._site = site
        self._released = released
        self._reporter = Reporter(site)
        self._handed_over = False
        self._methods: dict[str, Callable[[Params], Awaitable[Any]]] = {
            "ping": self._ping,
            "status": self._status,
            "reconcile": self._reconcile,
            "network": self._network,
            "simulate": self._simulate,
            "trace": self._trace,
            "bench.open": self._bench_open,
            "bench.sample": self._bench_sample,
            "bench.close": self._bench_close,
            "token.issue": self._issue,
            "token.redeem": self._redeem,
            "link.delete": self._delete_link,
            "link.generate": self._generate_link,
            "grant.delete": self._delete_grant,
            "handover": self._handover,
            "stop": self._stop,
        }

    async def handle(self, method: str, params: Params) -> Any:
        found = self._methods.get(method)
        if found is None:
            raise ConfigError(f"there is no method {method!r}", hint=f"this site knows: {', '.join(self._methods)}")
        return await found(params)

    async def _ping(self, _params: Params) -> Params:
        context = self._site.context
        return {"pid": os.getpid(), "version": vanrouter.__version__, "router": str(context.own), "site": context.site_name}

    async def _status(self, _params: Params) -> Params:
        await self._site.joining.refresh_grants()
        return self._reporter.document()

    async def _network(self, _params: Params) -> Params:
        return self._site.insight.network()

    async def _simulate(self, params: Params) -> Params:
        down = _get(params, "down", list, [])
        if not all(isinstance(word, str) for word in down):
            raise ConfigError("parameter down is not a list of texts")
        return self._site.insight.simulate(down)

    async def _trace(self, params: Params) -> Params:
        key = parse_routing_key(_get(params, "key", str, ""))
        return await self._site.insight.trace(key, _get(params, "to", str, ""))

    async def _bench_open(self, params: Params) -> Params:
        self._not_leaving()
        return await self._site.bench.open(_get(params, "site", str, ""), float(_get(params, "seconds", (int, float), 30)))

    async def _bench_sample(self, _params: Params) -> Params:
        return await self._site.bench.sample()

    async def _bench_close(self, _params: Params) -> Params:
        return await self._site.bench.close()

    async def _reconcile(self, _params: Params) -> Params:
        self._not_leaving()
        problems = self._site.reconcile()
        return {"generation": self._site.context.forwarding.generation, "problems": [problem_doc(p) for p in problems]}

    async def _issue(self, params: Params) -> Params:
        self._not_leaving()
        return await self._site.joining.issue(
            name=_get(params, "name", str, ""),
            uses=_get(params, "uses", int, 1),
            lifetime=float(_get(params, "expiry_seconds", (int, float), DEFAULT_EXPIRY)),
            cost=_get(params, "cost", int, 1),
            host=_get(params, "host", str, ""),
        )

    async def _generate_link(self, params: Params) -> Params:
        self._not_leaving()
        return await self._site.joining.static_link(
            name=_get(params, "name", str, ""),
            csr=_get(params, "csr", str, ""),
            lifetime=float(_get(params, "lifetime_seconds", (int, float), 0.0)),
            host=_get(params, "host", str, ""),
        )

    async def _redeem(self, params: Params) -> Params:
        self._not_leaving()
        token = parse_token(_get(params, "token", str, ""))
        link = await self._site.joining.redeem(token, link=_get(params, "name", str, ""), cost=_get(params, "cost", int, 0))
        return {"link": link}

    async def _delete_link(self, params: Params) -> Params:
        self._not_leaving()
        name = _get(params, "name", str, "")
        home = self._site.context.home
        credential = self._site.wanted.links[name].credential if name in self._site.wanted.links else name
        deleted = home.resources.delete("Link", name)
        if not deleted and home.state.read_credential(credential) is None:
            known = ", ".join(sorted(self._site.wanted.links)) or "none"
            raise ConfigError(
                f"there is no link {name}", hint=f"the links of this site: {known}; a link that another site dials ends there"
            )
        self._site.reconcile()
        if not any(w.credential == credential for w in self._site.wanted.links.values()):
            self._site.joining.forget(credential)
        return {"deleted": name}

    async def _delete_grant(self, params: Params) -> Params:
        return {"deleted": await self._site.joining.delete_grant(_get(params, "name", str, ""))}

    async def _handover(self, _params: Params) -> Reply:
        """Also while leaving: then there is nothing to hand over but the place."""
        sockets = self._site.context.plane.listening_sockets()
        self._handed_over = True
        described = [{"host": host, "port": port} for host, port, _ in sockets]
        automatic = [
            {"name": s.name, "routingKey": s.routing_key, "host": s.host, "port": s.port}
            for s in self._site.services.table.listener_statuses()
            if s.automatic
        ]
        answer = {"sockets": described, "listeners": automatic, "pid": os.getpid()}
        return Reply(answer, [os.dup(fd) for _, _, fd in sockets])

    async def _stop(self, params: Params) -> Params:
        grace = _get(params, "grace_seconds", (int, float), None)
        drain = _get(params, "drain_seconds", (int, float), None)
        handover = _get(params, "handover", bool, False)
        if handover and not self._handed_over:
            raise ConfigError("stop with handover comes after handover")
        if handover:
            self._site.give_way(drain=drain)
            self._released()
        else:
            self._site.stop(grace=grace, drain=drain)
        return {"pid": os.getpid(), "streams": self._site.context.plane.counters().streams_open}

    def _not_leaving(self) -> None:
        if self._site.leaving:
            raise NotReady("this router is leaving", hint="ask again when its successor runs")


def _get(params: Params, name: str, kind: Any, default: Any) -> Any:
    value = params.get(name, default)
    if value is None or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
        return value if value is not None else default
    raise ConfigError(f"parameter {name} is {value!r}; expected {getattr(kind, '__name__', 'a number')}")
