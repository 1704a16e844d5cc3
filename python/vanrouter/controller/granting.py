"""
AccessGrants: each has one grant in the ledger, from when it is there until it is deleted, and shows what an AccessToken needs.

    AccessGrant ▸ van-grant.ID (once for each spec; a start anew finds it by its id) ▸ status: url, code, ca, redemptions
                                                            in a ConfigMap instead: the Secret van-token.NAME

A ConfigMap, and the status of one, is read by whoever may look at the namespace, so no code stands there: one that is chosen in a ConfigMap
is refused. Nothing is withdrawn unless the copy that shows the resource gone is current.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from vanrouter.controller.copies import Copies
from vanrouter.controller.issuing import Issuing
from vanrouter.controller.offers import condition_of
from vanrouter.controller.report import Doc, rfc3339
from vanrouter.errors import ConfigError, NotReady, StoreError, VanrouterError
from vanrouter.kube.calls import Object
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.kinds import CONFIG_MAPS, SECRETS
from vanrouter.kube.ledger import grant_in
from vanrouter.kube.names import GRANT, TOKEN, TYPE, grant_secret, token_secret
from vanrouter.kube.records import Stamp
from vanrouter.kube.state import secret_of
from vanrouter.kube.workloads import MADE_FROM
from vanrouter.resources import AccessGrant, AccessToken
from vanrouter.stores.resources import Located, Problem
from vanrouter.tokens import AccessGrant as Grant
from vanrouter.tokens import format_token
from vanrouter.tokens.declared import check_code, declared_id, read_declared
from vanrouter.tokens.issuer import Shown
from vanrouter.tokens.token import format_time

__all__ = ["Granting", "grant_status", "tokens_in_maps"]

_MAP: Final = "ConfigMap/"
_SHOWN: Final = "van-token."


class Granting:
    """``look`` when something changed, or at ``deadline`` (wall clock)."""

    def __init__(self, issuing: Issuing, copies: Copies, site_id: str, *, clock: Callable[[], float]) -> None:
        self._issuing, self._copies, self._site_id, self._clock = issuing, copies, site_id, clock
        # What takes a millisecond, for each pass. By the name of the grant's Secret.
        self._read: dict[str, tuple[str, Grant]] = {}  # of which version, and what it says, where we know its code
        self._shown: dict[str, tuple[float, tuple[str, ...], Shown]] = {}  # since when, reached where, and what it shows
        self.said: dict[str, Doc] = {}  # of custom resources, by where they stand
        self.problems: list[Problem] = []
        self.deadline = math.inf

    async def look(self, resources: Iterable[Located], stamps: Callable[[], Mapping[str, Stamp]], broken: Collection[str]) -> None:
        """``broken``: where something stands that cannot be read: what came of it before stays. Raises StoreError, after all were tried."""
        grants = [(located, located.resource) for located in resources if isinstance(located.resource, AccessGrant)]
        self.deadline = math.inf
        said: dict[str, Doc] = {}
        problems: list[Problem] = []
        wanted: set[str] = set()
        failed: StoreError | None = None
        seen = stamps() if grants else {}
        customs = self._copies.customs.objects
        for located, resource in grants:
            where = located.file
            uid = seen[where.partition(": ")[0]][0]
            grant_id = declared_id(self._site_id, uid, resource.ref, _spec(resource))
            wanted.add(grant_secret(grant_id))
            value = customs.get(where)
            grant: Grant | None = None
            try:
                grant = await self._grant(grant_id, resource, where)
                shown = self._show(grant, resource.spec.code)
                if value is not None:
                    said[where] = grant_status(value, grant, shown, self._clock())
                else:
                    wanted.add(token_secret(resource.name))
                    await self._write_token(resource, shown, where, uid)
                if self._clock() < grant.expires:
                    self.deadline = min(self.deadline, grant.expires)
            except StoreError as exc:
                failed = exc
                wanted.add(token_secret(resource.name))
                if where in self.said:
                    said[where] = self.said[where]
            except VanrouterError as exc:
                if isinstance(exc, NotReady):  # it passes: what was shown is good for whoever has it
                    wanted.add(token_secret(resource.name))
                problems.append(Problem(resource.ref, str(exc), exc.hint))
                if value is not None:
                    said[where] = _refused(value, exc, grant, self._clock())
        self.said, self.problems = said, problems
        await self._withdraw(wanted, broken)
        if failed is not None:
            raise failed

    async def _grant(self, grant_id: str, resource: AccessGrant, where: str) -> Grant:
        """Raises TokenError, NotReady, ConfigError, StoreError."""
        spec = resource.spec
        if spec.code:
            if where.startswith(_MAP):
                raise _code_in_a_map("spec.code")
            check_code(spec.code)
        value = self._copies.get(SECRETS, grant_secret(grant_id))
        if value is not None:
            known = self._known(value, spec.code)
            if known is not None:
                return known
        return await self._issuing.declare(
            grant_id, resource.name, source=where, code=spec.code, uses=spec.redemptions_allowed, lifetime=resource.lifetime
        )

    def _known(self, value: Object, code: str) -> Grant | None:
        name, version = value["metadata"]["name"], str(value["metadata"]["resourceVersion"])
        known = self._read.get(name)
        if known is None or known[0] != version:
            known = version, grant_in(value)
            if not self._issuing.proves(known[1], code):
                return None
            self._read[name] = known
        return known[1]

    def _show(self, grant: Grant, code: str) -> Shown:
        """Raises NotReady, ConfigError."""
        name, reached = grant_secret(grant.id), self._issuing.endpoints
        known = self._shown.get(name)
        if known is None or known[:2] != (grant.created, reached):
            self._shown[name] = known = grant.created, reached, self._issuing.shown(grant, code)
        return known[2]

    async def _write_token(self, resource: AccessGrant, shown: Shown, where: str, uid: str) -> None:
        token = read_declared(resource.name, shown.url, shown.code, shown.ca, endpoints=" ".join(shown.endpoints))
        files = {"url": shown.url, "code": shown.code, "ca": shown.ca, "endpoints": ", ".join(shown.endpoints)}
        files["token.yaml"] = format_token(token)
        source = where.partition(": ")[0].removeprefix(_MAP)
        owners = ({"apiVersion": "v1", "kind": "ConfigMap", "name": source, "uid": uid},)
        content = {key: text.encode() for key, text in files.items()}
        await self._copies.ensure(SECRETS, secret_of(token_secret(resource.name), TOKEN, content, owners=owners, name=resource.name))

    async def _withdraw(self, wanted: set[str], broken: Collection[str]) -> None:
        """What resources wanted that are gone, or that want something else now."""
        copies = self._copies
        secrets = copies.of(SECRETS)
        self._read = {name: read for name, read in self._read.items() if name in secrets}
        self._shown = {name: shown for name, shown in self._shown.items() if name in wanted}
        unseen = CUSTOM_KINDS["AccessGrant"].resource in copies.customs.unseen
        if unseen or not (copies.current(CONFIG_MAPS) and copies.customs.current):
            return
        for name, value in secrets.items():
            metadata = value["metadata"]
            kind = (metadata.get("labels") or {}).get(TYPE)
            if name in wanted or kind not in (GRANT, TOKEN):
                continue
            source = (metadata.get("annotations") or {}).get(MADE_FROM, "")
            if kind == TOKEN and name.startswith(_SHOWN) and not any(where.startswith(_MAP) for where in broken):
                await copies.remove(SECRETS, name)
            elif kind == GRANT and source and source not in broken:
                await self._issuing.withdraw(name.removeprefix("van-grant."))


def _code_in_a_map(field: str) -> ConfigError:
    text = f"{field}: a code does not belong into a ConfigMap, which whoever may view the namespace can read"
    return ConfigError(text, hint="leave it out, or write it as a custom resource (van manifest crds)")


def tokens_in_maps(resources: Iterable[Located]) -> Iterable[Problem]:
    """AccessTokens that are not redeemed, because of where they stand."""
    for located in resources:
        if isinstance(located.resource, AccessToken) and located.file.startswith(_MAP):
            text = "its code stands in a ConfigMap, which whoever may view the namespace can read: it is not redeemed"
            yield Problem(
                located.resource.ref, text, "apply the file with van apply -f FILE, which makes a Secret of it; and remove it here"
            )


def _spec(grant: AccessGrant) -> str:
    """Of what another grant is made when it changes."""
    spec = grant.spec
    return json.dumps([spec.redemptions_allowed, grant.lifetime, spec.code, sorted(spec.settings.items())])


def grant_status(value: Object, grant: Grant, shown: Shown, now: float) -> Doc:
    """``status`` of the object, as ``custom_status`` takes it. Pure."""
    used, until = len(grant.redemptions), format_time(grant.expires)
    times = f"redeemed {used} of {grant.uses} times"
    if used >= grant.uses:
        since = max(redemption.taken_at for redemption in grant.redemptions)
        ready = condition_of(value, "Ready", "True", "Used", times, "", since)
        usable = condition_of(value, "Redeemable", "False", "Used", f"{times}: nobody can redeem it any more", _ANEW, since)
    elif now >= grant.expires:
        text = f"it expired at {until}; {times}"
        ready, usable = (condition_of(value, kind, "False", "Expired", text, _ANEW, grant.expires) for kind in ("Ready", "Redeemable"))
    else:
        ready, usable = (
            condition_of(value, kind, "True", "Ok", f"until {until}; {times}", "", grant.created) for kind in ("Ready", "Redeemable")
        )
    return {
        "conditions": [ready, usable],
        "failed": usable["reason"] == "Expired",
        "url": shown.url,
        "code": shown.code,
        "ca": shown.ca,
        "endpoints": ", ".join(shown.endpoints),
        "redemptions": used,
        "expirationTime": rfc3339(grant.expires),
    }


_ANEW: Final = "delete it and make it again, or change its spec: then there is another one, with another code"


def _refused(value: Object, error: VanrouterError, grant: Grant | None, now: float) -> Doc:
    waits = isinstance(error, NotReady)
    reason = "NotReachable" if waits else "Refused"
    both = [condition_of(value, kind, "False", reason, str(error), error.hint, now) for kind in ("Ready", "Redeemable")]
    known = {"redemptions": len(grant.redemptions), "expirationTime": rfc3339(grant.expires)} if grant is not None else {}
    return {"conditions": both, "failed": not waits, **known}
