"""
``van link create`` and ``link delete`` in a namespace: the token is stored as the Secret that it is, and the controller redeems it.

The same as ``kubectl apply -f TOKEN``, and then the command waits for the mark that the controller leaves on the Secret.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any

import click
import yaml

from vanrouter.cli.namespace import NamespaceSite, owner
from vanrouter.cli.values import spell_duration
from vanrouter.controller.marks import COST, FAILED, LINK_NAME, REDEEMED
from vanrouter.errors import ConfigError, DeadlineExceeded, StoreError, TokenError
from vanrouter.kube.calls import Object, apply, delete
from vanrouter.kube.errors import NotFound
from vanrouter.kube.kinds import CONFIG_MAPS, SECRETS
from vanrouter.kube.names import PART_OF, TYPE, credential_secret, resource_map, selector
from vanrouter.resources.kinds import TOKEN_VALUE

__all__ = ["delete_link", "redeem"]

_QUIET = 1.5


def redeem(site: NamespaceSite, token: str, *, name: str | None, cost: int | None) -> str:
    """The name of the link. Raises TokenError with the issuer's reason; then the Secret is gone again."""
    root = site.root()
    assert root is not None, "the command asked for a site"
    value = _secret(token, owner(root), {LINK_NAME: name or "", COST: str(cost or "")})
    secret = value["metadata"]["name"]
    known = site.get(SECRETS, secret)
    if known is not None and _type(known) != TOKEN_VALUE:
        raise ConfigError(
            f"there is a Secret {secret} in {site.namespace} that is no token", hint="rename it, or make a token of another name"
        )
    if name is not None and _annotations(known).get(REDEEMED) != name and site.get(CONFIG_MAPS, resource_map("Link", name)) is not None:
        raise ConfigError(
            f"there is a link {name!r} already", hint=f"see it: {site.invocation.van(f'link status {name}')}; or name another"
        )
    stored = site.client.call(apply(SECRETS, site.namespace, value))
    return _wait(site, secret, str(stored["metadata"]["uid"]), was_there=known is not None)


def _wait(site: NamespaceSite, secret: str, uid: str, *, was_there: bool) -> str:
    started, pause, shown = time.monotonic(), 0.05, False
    while True:
        value = site.get(SECRETS, secret)
        if value is None:
            raise TokenError(f"Secret {secret} was deleted by somebody else before it was redeemed", hint="create the link again")
        said = _annotations(value)
        if REDEEMED in said:
            return said[REDEEMED]
        if FAILED in said:
            if not was_there:
                with contextlib.suppress(NotFound):
                    site.client.call(delete(SECRETS, site.namespace, secret, uid=uid))
            raise _failure(said[FAILED])
        if site.expired:
            raise DeadlineExceeded(
                f"the token was not redeemed within {spell_duration(site.timeout)}; {_why(site, secret)}",
                hint=f"Secret {secret} stays and is tried again; take it back: kubectl delete secret {secret}",
            )
        if not shown and time.monotonic() - started > _QUIET and sys.stderr.isatty():
            click.echo(f"Waiting for the controller to redeem the token: {_why(site, secret)}", err=True)
            shown = True
        time.sleep(min(pause, site.left))
        pause = min(pause * 1.3, 0.4)


def delete_link(site: NamespaceSite, name: str) -> None:
    """With its credential, and the token it was made of, which would only be read again and again."""
    site.resources.delete("Link", name)
    with contextlib.suppress(NotFound):
        site.client.call(delete(SECRETS, site.namespace, credential_secret(name)))
    for value in site.objects(SECRETS, labels=selector(TOKEN_VALUE), metadata_only=True):
        if _annotations(value).get(REDEEMED) == name:
            with contextlib.suppress(NotFound):
                site.client.call(delete(SECRETS, site.namespace, value["metadata"]["name"], uid=value["metadata"]["uid"]))


def _secret(token: str, root: Object, annotations: dict[str, str]) -> Object:
    """The token's own file, as an object of this site."""
    value: dict[str, Any] = yaml.safe_load(token)
    metadata = value["metadata"]
    metadata.pop("namespace", None)
    metadata["labels"] = {**metadata.get("labels", {}), PART_OF: "vanrouter"}
    metadata["annotations"] = {**metadata.get("annotations", {}), **{key: text for key, text in annotations.items() if text}}
    metadata["ownerReferences"] = [root]
    return value


def _why(site: NamespaceSite, secret: str) -> str:
    """What the controller says of it, else what is wrong with our pods."""
    with contextlib.suppress(StoreError):
        for problem in site.status()["problems"]:
            if problem.get("path") == f"Secret/{secret}":
                return str(problem["message"])
        troubles = site.troubles()
        if troubles:
            return "; ".join(f"{t['path']}: {t['message']}" for t in troubles)
    return "the controller has not said why"


def _failure(text: str) -> TokenError:
    try:
        said = json.loads(text)
        return TokenError(str(said["message"]), hint=str(said.get("hint", "")))
    except (ValueError, KeyError, TypeError):
        return TokenError(text[:500])


def _annotations(value: Object | None) -> dict[str, str]:
    return ((value or {}).get("metadata") or {}).get("annotations") or {}


def _type(value: Object) -> str:
    return str((value["metadata"].get("labels") or {}).get(TYPE, ""))
