"""
Tokens out: answers routers, to whose link access visitors come with tokens, and the CLI, which wants tokens made.

The issuer decides, in a thread, because its ledger waits for the API server. A ledger that fails gives 503 and issues nothing.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import trio

from vanrouter.conditions import Condition
from vanrouter.controller.keys import SiteKeys
from vanrouter.controller.report import rfc3339
from vanrouter.errors import ConfigError, NotReady
from vanrouter.pki.authority import LEAF_LIFETIME
from vanrouter.tokens import AccessGrant, Endpoint, GrantStatus, Issuer, Ledger, format_token
from vanrouter.tokens.declared import secret_of
from vanrouter.tokens.issuer import Shown
from vanrouter.tokens.token import format_time
from vanrouter.tokens.wire import MALFORMED, MAX_REQUEST

__all__ = ["Issuing"]

Params = dict[str, Any]
DEFAULT_EXPIRY: Final = 900.0


class Issuing:
    """``endpoints``, ``condition`` (of the link access) and ``refused_sites`` are set as they change."""

    def __init__(
        self,
        ledger: Ledger,
        keys: SiteKeys,
        site_name: str,
        *,
        clock: Callable[[], float] = time.time,
        leaf_lifetime: float = LEAF_LIFETIME,
    ) -> None:
        self.refused_sites: frozenset[str] = frozenset()  # they get no certificate, and renew none
        self._issuer = Issuer(
            ledger=ledger,
            identity=keys.identity,
            site_name=site_name,
            authority=keys.authority,
            endpoints=(),
            revoked=lambda site: site in self.refused_sites,
            leaf_lifetime=leaf_lifetime,
        )
        self._clock = clock
        self.condition: Condition | None = None
        self.changed: Callable[[], None] = lambda: None  # grants may be others than before

    def set_endpoints(self, endpoints: list[tuple[str, int]]) -> None:
        self._issuer.endpoints = [Endpoint(host, port) for host, port in endpoints]

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(str(endpoint) for endpoint in self._issuer.endpoints)

    async def join(self, params: Params) -> Params:
        """One request of ``van-join/1``, passed by a router. Raises ConfigError for one that is no such thing."""
        request = params.get("request")
        visitor = params.get("visitor")
        if not isinstance(request, dict) or not isinstance(visitor, str):
            raise ConfigError("join wants a visitor and a request")
        try:
            body = base64.b64decode(str(request.get("body", "")), validate=True)
            certificates = [base64.b64decode(str(c), validate=True) for c in request.get("certificates") or []]
        except (binascii.Error, ValueError, TypeError):
            return _reply(*MALFORMED)
        path, issuer, now = request.get("path"), self._issuer, self._clock()
        if request.get("method") != "POST" or path not in ("/redeem", "/renew") or len(body) > MAX_REQUEST:
            return _reply(*MALFORMED)
        if path == "/redeem":
            answer = await trio.to_thread.run_sync(lambda: issuer.redeem_untrusted(body, source=visitor, now=now))
        else:
            answer = await trio.to_thread.run_sync(lambda: issuer.renew_untrusted(body, certificates=certificates, source=visitor, now=now))
        if answer.status == 200:
            self.changed()
        return _reply(answer.status, answer.body)

    async def issue(self, params: Params) -> Params:
        """``token.issue`` of the admin protocol."""
        host, name = str(params.get("host") or ""), str(params.get("name") or "")
        endpoints = list(self._issuer.endpoints)
        if not endpoints and self.condition is not None:
            raise NotReady(f"no token can be made now: {self.condition.message}", hint=self.condition.next)
        if host:
            endpoints = [Endpoint(host, e.port) for e in endpoints[:1]]
        name = name or f"{self._issuer.site_name[:48]}-{secrets.token_hex(4)}"
        uses, cost = _number(params, "uses", 1), _number(params, "cost", 1)
        lifetime, now, issuer = float(_number(params, "expiry_seconds", DEFAULT_EXPIRY)), self._clock(), self._issuer
        _, token = await trio.to_thread.run_sync(
            lambda: issuer.grant(name, now=now, uses=int(uses), lifetime=lifetime, cost=int(cost), endpoints=endpoints)
        )
        self.changed()
        return {"name": token.name, "yaml": format_token(token), "expires": format_time(token.expires), "uses": uses}

    async def static_link(self, params: Params) -> Params:
        """``link.generate`` of the admin protocol."""
        host, endpoints = str(params.get("host") or ""), list(self._issuer.endpoints)
        if not endpoints and self.condition is not None:
            raise NotReady(f"no link can be made now: {self.condition.message}", hint=self.condition.next)
        if host:
            endpoints = [Endpoint(host, e.port) for e in endpoints[:1]]
        name, csr = str(params.get("name") or ""), str(params.get("csr") or "")
        lifetime, now, issuer = float(_number(params, "lifetime_seconds", 0)), self._clock(), self._issuer
        made = await trio.to_thread.run_sync(lambda: issuer.static_link(name, csr, now=now, lifetime=lifetime, endpoints=endpoints))
        return dict(msgspec.to_builtins(made))

    async def delete(self, params: Params) -> Params:
        """``grant.delete``: by name or id."""
        name = str(params.get("name") or "")
        grants = await self.grants()
        doomed = [g.id for g in grants if name in (g.name, g.id) and not g.source]
        if kept := [g for g in grants if name in (g.name, g.id) and g.source]:
            raise ConfigError(
                f"grant {name} is that of an AccessGrant, {kept[0].source}: it would be made again", hint="delete that, and it is withdrawn"
            )
        if not doomed:
            known = ", ".join(g.name for g in grants) or "none"
            raise ConfigError(f"there is no grant {name}", hint=f"the grants of this site: {known}")
        count = await trio.to_thread.run_sync(lambda: sum(self._issuer.delete_grant(grant_id) for grant_id in doomed))
        self.changed()
        return {"deleted": count}

    # ---- Those of resources ------------------------------------------------------------------------------------------------------------

    async def declare(self, grant_id: str, name: str, *, source: str, code: str, uses: int, lifetime: float) -> AccessGrant:
        """Raises NotReady, TokenError, StoreError."""
        issuer, now = self._issuer, self._clock()
        self._require_endpoints()
        made = await trio.to_thread.run_sync(
            lambda: issuer.declare(grant_id, name, source=source, code=code, now=now, uses=uses, lifetime=lifetime)
        )
        if made.created == round(now, 3):
            self.changed()
        return made

    def shown(self, grant: AccessGrant, code: str) -> Shown:
        """Raises NotReady, ConfigError while nobody could reach us."""
        self._require_endpoints()
        return self._issuer.shown(grant, code)

    def _require_endpoints(self) -> None:
        if not self._issuer.endpoints and self.condition is not None:
            raise NotReady(f"nobody can reach this site now: {self.condition.message}", hint=self.condition.next)

    def proves(self, grant: AccessGrant, code: str) -> bool:
        """Whether we know its code."""
        return grant.proves(secret_of(self._issuer.code_of(grant, code)))

    async def withdraw(self, grant_id: str) -> None:
        """Raises StoreError."""
        if await trio.to_thread.run_sync(lambda: self._issuer.delete_grant(grant_id)):
            self.changed()

    async def grants(self) -> list[GrantStatus]:
        now = self._clock()
        return await trio.to_thread.run_sync(lambda: self._issuer.grants(now))

    async def prune(self) -> int:
        now = self._clock()
        return await trio.to_thread.run_sync(lambda: self._issuer.prune(now))


def grant_docs(grants: list[GrantStatus]) -> list[Params]:
    """As in the status document."""
    return [
        {
            "name": g.name,
            "id": g.id,
            "spec": {"redemptionsAllowed": g.uses, "cost": g.cost},
            "state": g.state,
            "uses": g.uses,
            "used": g.used,
            "created": rfc3339(g.created),
            "expires": rfc3339(g.expires),
            "redeemedBy": [{"siteId": site, "site": name, "at": rfc3339(at)} for site, name, at in g.redeemed_by],
            "conditions": [],
            **({"source": g.source} if g.source else {}),
        }
        for g in sorted(grants, key=lambda g: (g.created, g.id))
    ]


def _reply(status: int, body: bytes) -> Params:
    return {"status": status, "body": base64.b64encode(body).decode()}


def _number(params: Params, name: str, default: float) -> float:
    value = params.get(name, default)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"parameter {name} is {value!r}; expected a number")
    return value
