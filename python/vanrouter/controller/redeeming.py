"""
Tokens in: a labelled token Secret, or an AccessToken, becomes a credential and a Link; credentials are renewed.

    token ▸ van-pending.ID (key and request) ▸ ask the issuer ▸ van-credential.NAME ▸ Link ▸ the token is marked ▸ pending goes

Each step is repeated harmlessly: a controller that is killed between two of them goes on where it was, with the same key, and the issuer
gives the same certificate. The mark (``offers``) is what says that a token is done, also after its link was deleted.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Final

import trio

from vanrouter.controller.copies import Copies
from vanrouter.controller.keys import SiteKeys
from vanrouter.controller.offers import Offer, ResourceOffer, SecretOffer
from vanrouter.controller.report import Doc
from vanrouter.errors import StoreError, TokenError, VanrouterError
from vanrouter.kube.calls import Object
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.kinds import CONFIG_MAPS, SECRETS
from vanrouter.kube.names import CREDENTIAL, PENDING, TYPE, credential_secret, pending_secret, resource_map
from vanrouter.kube.records import resource_object
from vanrouter.kube.state import NAME, files_in, secret_of
from vanrouter.pki import Renewal, renew_at, renewal_state
from vanrouter.resources import AccessToken, Endpoint, Link, Metadata
from vanrouter.resources.kinds import LinkSpec, Secret
from vanrouter.stores.resources import Located, Problem
from vanrouter.tokens import LinkCredential, Pending, prepare
from vanrouter.tokens.redeem import redeem, renew
from vanrouter.tokens.token import AccessToken as Token
from vanrouter.tokens.token import format_time

__all__ = ["Redeeming", "credentials_in"]

log: Final = logging.getLogger("vanrouter.controller")

AGAIN: Final = 1.0
AGAIN_CAP: Final = 30.0
RENEW_AGAIN: Final = 300.0
UNUSED: Final = 30.0
AT_A_TIME: Final = 8  # tokens say whom to dial: each of these holds sockets of a controller that may serve many namespaces
KEEP_PENDING: Final = 600.0  # after the token has expired: so long the same key is answered


class Redeeming:
    """One redemption at a time for each token; all are tasks of the nursery that ``run`` is given."""

    def __init__(
        self, copies: Copies, keys: SiteKeys, site_name: str, *, rng: random.Random, clock: Callable[[], float] = time.time
    ) -> None:
        self._copies, self._keys, self._site_name, self._rng, self._clock = copies, keys, site_name, rng, clock
        self._busy: set[str] = set()
        self._turns: dict[str, trio.Lock] = {}  # token id: the same one may stand in a Secret and in an AccessToken
        self._few = trio.CapacityLimiter(AT_A_TIME)
        self._failed: dict[str, str] = {}  # offer -> its version that failed for good
        self.said: dict[str, Doc] = {}  # of AccessTokens, by where they stand
        self._renew_at: dict[str, tuple[str, float]] = {}  # credential -> (version of the Secret, when)
        self._unused: dict[str, float] = {}
        self.problems: dict[str, Problem] = {}
        self.deadline = math.inf  # wall clock: the next renewal

    def look(
        self, nursery: trio.Nursery, tokens: Mapping[str, Secret], *, owners: tuple[Object, ...], resources: Iterable[Located] = ()
    ) -> None:
        """Start what is to be done about tokens and renewals. ``resources``: of which AccessTokens are looked at."""
        secrets = self._copies.of(SECRETS)
        offers = self._offers(tokens, secrets, resources)
        there = {f"Secret/{name}" for name in secrets} | {f"Link/{name}" for name in _credentials(secrets)} | {o.ref for o in offers}
        for path in self.problems.keys() - there:
            del self.problems[path]
        keys = {offer.key for offer in offers}
        self._failed = {key: version for key, version in self._failed.items() if key in keys}
        for key in self.said.keys() - keys:
            del self.said[key]
        for offer in offers:
            if offer.is_done:
                if isinstance(offer, ResourceOffer):
                    offer.say()
            elif offer.key not in self._busy and self._failed.get(offer.key) != offer.version:
                self._busy.add(offer.key)
                nursery.start_soon(self._redeem_task, offer, owners)
        self._look_at_renewals(nursery, secrets, owners)

    def _offers(self, tokens: Mapping[str, Secret], secrets: Mapping[str, Object], resources: Iterable[Located]) -> list[Offer]:
        """By name; those of Secrets first."""
        found: list[Offer] = [SecretOffer(token, secrets[name], self._copies) for name, token in sorted(tokens.items()) if name in secrets]
        customs = self._copies.customs.objects
        for located in resources:
            token = located.resource
            if not isinstance(token, AccessToken):
                continue
            value = customs.get(located.file)
            if value is not None:
                found.append(ResourceOffer(located.file, token, value, self._copies, said=self.said, clock=self._clock))
        return found

    async def clean(self, links: Iterable[Link], *, now: float) -> None:
        """Credentials that we got and no link uses any more: after a while, and only when the copy is current."""
        used = {link.spec.tls_credentials or link.name for link in links}
        secrets = self._copies.of(SECRETS)
        idle = {name for name, (secret, files) in _credentials(secrets).items() if name not in used and "link.json" in files}
        pending = [name for name, value in secrets.items() if _type(value) == PENDING]
        for name in pending:
            if self._is_over(secrets[name]) and not self._busy:
                await self._copies.remove(SECRETS, name)
        begun = pending or self._busy
        self._unused = {name: self._unused.get(name, now) for name in idle}
        for name, since in self._unused.items():
            if now >= since + UNUSED and not begun and self._sees_all_links():
                await self._copies.remove(SECRETS, credential_secret(name))

    def _sees_all_links(self) -> bool:
        """Whether no link can be there that we do not know: a credential that went does not come back."""
        customs = self._copies.customs
        return self._copies.current(CONFIG_MAPS) and customs.current and CUSTOM_KINDS["Link"].resource not in customs.unseen

    def _is_over(self, value: Object) -> bool:
        """Whether this redemption can never be answered any more."""
        try:
            return self._clock() >= Pending.load(files_in(value).get("pending.json", b"")).token.expires + KEEP_PENDING
        except VanrouterError:
            return True

    @property
    def clean_at(self) -> float:
        """Monotonic."""
        return min(self._unused.values(), default=math.inf) + UNUSED

    # ---- Redeeming -----------------------------------------------------------------------------------------------------------------------

    async def _redeem_task(self, offer: Offer, owners: tuple[Object, ...]) -> None:
        delay = AGAIN
        try:
            while True:
                token: Token | None = None
                try:
                    token = offer.token()
                    async with self._turn(token.id), self._few:
                        if not offer.is_there():
                            return
                        await self._redeem(offer, token, owners)
                except VanrouterError as exc:
                    error = offer.explained(self._given_up(exc, token), token)
                    self.problems[offer.ref] = Problem(offer.ref, str(error), error.hint)
                    log.warning("token not redeemed", extra={"token": offer.ref, "reason": str(error), "hint": error.hint})
                    for_good = not (isinstance(error, StoreError) or (isinstance(error, TokenError) and error.retryable))
                    await offer.say_failed(error, for_good=for_good)
                    self._copies.wake()
                    if for_good:
                        self._failed[offer.key] = offer.version
                        return
                except Exception:
                    log.exception("a bug in redeeming", extra={"token": offer.ref})
                else:
                    self.problems.pop(offer.ref, None)
                    return
                await trio.sleep(delay * self._rng.uniform(0.5, 1.0))
                delay = min(delay * 2, AGAIN_CAP)
                if not offer.is_there():
                    return
        finally:
            self._busy.discard(offer.key)
            self._copies.wake()

    def _given_up(self, error: VanrouterError, token: Token | None) -> VanrouterError:
        """No answer can bring what expired so long ago: else its issuer is dialled for ever, and nothing is cleaned away meanwhile."""
        if token is None or not isinstance(error, TokenError) or not error.retryable or error.reason == "clock":
            return error
        if self._clock() < token.expires + KEEP_PENDING:
            return error
        text = f"it expired at {format_time(token.expires)} by the clock of this site's controller, and is not tried again: {error}"
        return TokenError(text, reason="expired", hint=f"make a new one at {token.issuer_name}")

    @contextlib.asynccontextmanager
    async def _turn(self, token_id: str) -> AsyncIterator[None]:
        """One after the other: whoever comes second finds the credential, and asks nobody."""
        lock = self._turns.setdefault(token_id, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():  # nobody has it, and nobody waits
                self._turns.pop(token_id, None)

    async def _redeem(self, offer: Offer, token: Token, owners: tuple[Object, ...]) -> None:
        holder = pending_secret(token.id)
        secrets = self._copies.of(SECRETS)
        done = next((n for n, (_, f) in _credentials(secrets).items() if _token_id(f) == token.id), "")
        if not done:
            begun = files_in(secrets[holder]) if holder in secrets else {}
            key = Pending.load(begun["pending.json"]).key if "pending.json" in begun else None
            pending = prepare(token, site_name=self._site_name, identity=self._keys.identity, key=key)
            link, wanted = begun.get("link", b"").decode(), offer.link
            renamed = bool(wanted) and not link.startswith(wanted)  # what was begun under another name was refused
            if not link or renamed:
                link = self._free_name(wanted or token.name, secrets)
            files = {"pending.json": pending.dump().reveal(), "link": link.encode()}
            if key is None or renamed:
                await self._write(secret_of(holder, PENDING, files, owners=owners, name=token.id))
            credential = await redeem(pending, clock=self._clock)
            content = {file: data.reveal() for file, data in credential.files().items()}
            await self._write(secret_of(credential_secret(link), CREDENTIAL, content, owners=owners, name=link))
            done = link
        else:
            credential = LinkCredential.from_files(_credentials(secrets)[done][1])
        if self._copies.get(CONFIG_MAPS, resource_map("Link", done)) is None:  # else somebody may have changed it since
            await self._copies.ensure(CONFIG_MAPS, resource_object(_link(done, credential), owners=owners))
        await offer.say_redeemed(done)
        if holder in self._copies.of(SECRETS):
            await self._copies.remove(SECRETS, holder)
        log.info("token redeemed", extra={"link": done, "site": credential.issuer_name, "token": token.name})

    async def _write(self, value: Object) -> None:
        """Raises StoreError when it is not known to be there."""
        if not await self._copies.ensure(SECRETS, value) and value["metadata"]["name"] not in self._copies.of(SECRETS):
            raise StoreError(f"Secret/{value['metadata']['name']} could not be written")

    def _free_name(self, name: str, secrets: Mapping[str, Object]) -> str:
        taken = set(_credentials(secrets)) | {n.removeprefix("van.link.") for n in self._copies.of(CONFIG_MAPS)}
        customs = (where.partition("/") for where in self._copies.customs.objects)
        taken |= {name for kind, _, name in customs if kind == CUSTOM_KINDS["Link"].resource}  # a ConfigMap would count before it
        return next(n for n in (name, *(f"{name[:58]}-{i}" for i in range(2, 10_000))) if n not in taken)

    # ---- Renewing ------------------------------------------------------------------------------------------------------------------------

    def _look_at_renewals(self, nursery: trio.Nursery, secrets: Mapping[str, Object], owners: tuple[Object, ...]) -> None:
        wall, self.deadline = self._clock(), math.inf
        credentials = _credentials(secrets)
        self._renew_at = {name: known for name, known in self._renew_at.items() if name in credentials or f"renew {name}" in self._busy}
        for name, (value, files) in credentials.items():
            if "link.json" not in files:
                continue
            version = value["metadata"]["resourceVersion"]
            known = self._renew_at.get(name)
            if known is None or known[0] != version:
                try:
                    known = (version, renew_at(LinkCredential.from_files(files).leaf, jitter=self._rng.random()))
                except VanrouterError as exc:
                    self.problems[f"Secret/{credential_secret(name)}"] = Problem(f"Secret/{credential_secret(name)}", str(exc), exc.hint)
                    known = (version, math.inf)
                self._renew_at[name] = known
            if wall >= known[1] and f"renew {name}" not in self._busy:
                self._busy.add(f"renew {name}")
                nursery.start_soon(self._renew, name, files, owners)
            elif wall < known[1]:
                self.deadline = min(self.deadline, known[1])

    async def _renew(self, name: str, files: dict[str, bytes], owners: tuple[Object, ...]) -> None:
        problem, until = f"Link/{name}", ""
        try:
            current = LinkCredential.from_files(files)
            until = f"is valid until {format_time(current.leaf.not_valid_after_utc.timestamp())} and "
            if renewal_state(current.leaf, self._clock()) in (Renewal.FRESH, Renewal.NOT_YET):
                return
            renewed = await renew(current, identity=self._keys.identity, clock=self._clock)
            content = {file: data.reveal() for file, data in renewed.files().items()}
            await self._write(secret_of(credential_secret(name), CREDENTIAL, content, owners=owners, name=name))
            self.problems.pop(problem, None)
            log.info("certificate renewed", extra={"link": name, "site": renewed.issuer_name})
        except VanrouterError as exc:
            self.problems[problem] = Problem(problem, f"its certificate {until}was not renewed: {exc}", exc.hint)
            version = self._renew_at[name][0]
            self._renew_at[name] = (version, self._clock() + RENEW_AGAIN * self._rng.uniform(0.5, 1.0))
            log.warning("certificate not renewed", extra={"link": name, "reason": str(exc), "hint": exc.hint})
        except Exception:
            self._renew_at[name] = (self._renew_at[name][0], self._clock() + RENEW_AGAIN)
            log.exception("a bug in renewing", extra={"link": name})
        finally:
            self._busy.discard(f"renew {name}")
            self._copies.wake()


def credentials_in(
    secrets: Mapping[str, Object], links: Iterable[Link], given: Mapping[str, Secret], *, named: Iterable[str] = ()
) -> dict[str, dict[str, bytes]]:
    """What routers need for these links: credentials that tokens gave, and Secrets of a user that a link names; or that are ``named``."""
    used = {link.spec.tls_credentials or link.name for link in links}
    found = {name: files for name, (_, files) in _credentials(secrets).items() if name in used}
    return {name: dict(given[name].data) for name in sorted({*used, *named}) if name in given} | found


def _credentials(secrets: Mapping[str, Object]) -> dict[str, tuple[Object, dict[str, bytes]]]:
    found: dict[str, tuple[Object, dict[str, bytes]]] = {}
    for value in secrets.values():
        if _type(value) == CREDENTIAL:
            annotations = value["metadata"].get("annotations") or {}
            try:
                found[str(annotations.get(NAME) or value["metadata"]["name"].removeprefix("van-credential."))] = (value, files_in(value))
            except StoreError:
                continue
    return found


def _token_id(files: Mapping[str, bytes]) -> str:
    try:
        return LinkCredential.from_files(dict(files)).token_id
    except VanrouterError:
        return ""


def _type(value: Object) -> str:
    return str((value["metadata"].get("labels") or {}).get(TYPE, ""))


def _link(name: str, credential: LinkCredential) -> Link:
    endpoints = [Endpoint(host=e.host, port=e.port) for e in credential.endpoints]
    spec = LinkSpec(endpoints=endpoints, tls_credentials=name, cost=credential.cost, site_id=credential.issuer)
    return Link(metadata=Metadata(name=name), spec=spec)
