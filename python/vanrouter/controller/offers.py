"""
What may be redeemed: a labelled token Secret, or an AccessToken that is a custom resource; and what is said on it. Drives nothing.

A Secret carries its marks itself (``marks``): whoever stored it may have no other place to look. Of an AccessToken the status says it, and
``custom_statuses`` writes that: ``redeemed`` there is what says that it is done, also after its link was deleted.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Protocol

from vanrouter.controller.copies import Copies
from vanrouter.controller.marks import FAILED, LINK_NAME, REDEEMED
from vanrouter.controller.report import Doc, rfc3339
from vanrouter.errors import StoreError, TokenError, VanrouterError
from vanrouter.kube.calls import Object, merge_patch
from vanrouter.kube.custom import custom_stamp
from vanrouter.kube.kinds import CONFIG_MAPS, SECRETS
from vanrouter.kube.names import resource_map
from vanrouter.resources import AccessToken, Secret
from vanrouter.resources.writing import to_yaml
from vanrouter.tokens import parse_token
from vanrouter.tokens.declared import read_resource
from vanrouter.tokens.token import AccessToken as Token
from vanrouter.tokens.token import format_time

__all__ = ["Offer", "ResourceOffer", "SecretOffer", "condition_of"]


class Offer(Protocol):
    key: str  # where it stands
    ref: str  # of its problems
    version: str  # another one when it says something else
    link: str  # how its link is to be called; empty: as the token

    @property
    def is_done(self) -> bool: ...
    def token(self) -> Token:
        """Raises TokenError."""

    def is_there(self) -> bool:
        """Whether it still says what it said."""

    def explained(self, error: VanrouterError, token: Token | None, /) -> VanrouterError:
        """What to say to who holds it."""

    async def say_redeemed(self, link: str) -> None: ...
    async def say_failed(self, error: VanrouterError, *, for_good: bool) -> None:
        """``version`` is afterwards that with what was said."""


class SecretOffer:
    def __init__(self, secret: Secret, value: Object, copies: Copies) -> None:
        self._name, self._secret, self._value, self._copies = secret.name, secret, value, copies
        self.key = self.ref = f"Secret/{secret.name}"
        self.version = str(value["metadata"]["resourceVersion"])
        self.link = secret.metadata.annotations.get(LINK_NAME, "")

    @property
    def is_done(self) -> bool:
        return REDEEMED in (self._value["metadata"].get("annotations") or {})

    def token(self) -> Token:
        return parse_token(to_yaml(self._secret), self.ref)

    def is_there(self) -> bool:
        return self._name in self._copies.of(SECRETS)

    def explained(self, error: VanrouterError, _token: Token | None, /) -> VanrouterError:
        return error

    async def say_redeemed(self, link: str) -> None:
        mark = {"metadata": {"annotations": {REDEEMED: link, FAILED: None}}}
        await self._copies.send(merge_patch(SECRETS, self._copies.namespace, self._name, mark))

    async def say_failed(self, error: VanrouterError, *, for_good: bool) -> None:
        """Until somebody changes the Secret. The mark is for who waits for it."""
        if not for_good:
            return
        said = json.dumps({"message": str(error), "hint": error.hint})
        mark = merge_patch(SECRETS, self._copies.namespace, self._name, {"metadata": {"annotations": {FAILED: said}}})
        value = None
        with contextlib.suppress(StoreError):
            value = await self._copies.send(mark)
        value = value or self._copies.of(SECRETS).get(self._name)
        self.version = str(value["metadata"]["resourceVersion"]) if value is not None else ""


class ResourceOffer:
    """``said``: where it says how it is, by ``key``."""

    def __init__(
        self, where: str, resource: AccessToken, value: Object, copies: Copies, *, said: dict[str, Doc], clock: Callable[[], float]
    ) -> None:
        self._resource, self._value, self._said, self._copies, self._clock = resource, value, said, copies, clock
        self.key, self.ref, self.link = where, resource.ref, ""
        self.version = "/".join(custom_stamp(value))
        self._uid = str(value["metadata"].get("uid"))
        if said.get(where, {}).get("uid") != self._uid:
            said.pop(where, None)  # of one that had this name before

    @property
    def is_done(self) -> bool:
        return (self._value.get("status") or {}).get("redeemed") is True or self._said.get(self.key, {}).get("redeemed") is True

    def token(self) -> Token:
        return read_resource(self._resource)

    def is_there(self) -> bool:
        value = self._copies.customs.objects.get(self.key)
        return value is not None and "/".join(custom_stamp(value)) == self.version

    def explained(self, error: VanrouterError, token: Token | None, /) -> VanrouterError:
        """Its url has a check: one that was changed on the way never comes so far that its issuer refuses it."""
        if token is None or not isinstance(error, TokenError) or error.reason != "refused":
            return error
        if self._clock() >= token.expires:
            why = f"it expired at {format_time(token.expires)}"
        else:
            why = f"it was redeemed as often as it may be, or its AccessGrant was deleted or changed (until {format_time(token.expires)})"
        hint = f"copy url, code and ca again from the status of an AccessGrant at {token.issuer_name}; van token status there says more"
        return TokenError(f"{token.issuer_name} refuses this token: {why}", reason="refused", hint=hint)

    async def say_redeemed(self, link: str) -> None:
        self.say(link)

    def say(self, link: str = "") -> None:
        """That it is redeemed: now, or as its status says already."""
        known: Doc = self._value.get("status") or {}
        link = link or str(self._said.get(self.key, known).get("link") or "")
        gone = bool(link) and self._copies.current(CONFIG_MAPS) and self._copies.get(CONFIG_MAPS, resource_map("Link", link)) is None
        text = f"link {link} was made of it{', and is gone' if gone else ''}; it is redeemed once, whatever it says from then on"
        both = [condition_of(self._value, kind, "True", "Redeemed", text, "", self._clock()) for kind in ("Ready", "Redeemed")]
        self._said[self.key] = {"uid": self._uid, "redeemed": True, "link": link, "conditions": both}

    async def say_failed(self, error: VanrouterError, *, for_good: bool) -> None:
        reason = "Refused" if for_good else "TryingAgain"
        value, now = self._copies.customs.objects.get(self.key) or self._value, self._clock()
        both = [condition_of(value, kind, "False", reason, str(error), error.hint, now) for kind in ("Ready", "Redeemed")]
        self._said[self.key] = {"uid": self._uid, "redeemed": False, "conditions": both, "failed": for_good}


def condition_of(value: Object, kind: str, status: str, reason: str, message: str, todo: str, since: float) -> Doc:
    """``since``: when it began, unless the object says already that it is so."""
    conditions = (value.get("status") or {}).get("conditions") or []
    alike = [c for c in conditions if (c.get("type"), c.get("status"), c.get("reason")) == (kind, status, reason)]
    date = str(alike[0].get("lastTransitionTime") or "") if alike else ""
    return {"type": kind, "status": status, "reason": reason, "message": message, "next": todo, "since": date or rfc3339(since)}
