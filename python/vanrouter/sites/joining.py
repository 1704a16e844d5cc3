"""
Joining networks: issues this site's tokens, redeems those of others, renews the certificates that they gave.

A redemption is written down before it is asked for (state/pending), so that a lost reply or ``kill -9`` in between costs nothing: the
next start, or the same token again, asks with the same key and gets the same certificate. The credential is stored before the link, the
link before the pending redemption is forgotten.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from vanrouter.errors import ConfigError, NotReady, StoreError, TokenError, VanrouterError
from vanrouter.model import parse_name
from vanrouter.pki import Renewal, renew_at, renewal_state
from vanrouter.plane import Visitor
from vanrouter.resources import Endpoint as LinkEndpoint
from vanrouter.resources import Link, Metadata
from vanrouter.resources.kinds import LinkSpec
from vanrouter.sites.accesses import Accesses
from vanrouter.sites.context import Context, Waker
from vanrouter.sites.wanted import EDGE_HINT
from vanrouter.stores.files import clean_leftovers, make_private_directory, read_private, remove, write_atomic
from vanrouter.stores.resources import Problem
from vanrouter.tokens import AccessToken, GrantStatus, Issuer, LinkCredential, Pending, format_token, parse_token, prepare
from vanrouter.tokens.desk import pass_join, serve_health, serve_join
from vanrouter.tokens.pending import refuse_if_redeemed
from vanrouter.tokens.token import format_time
from vanrouter.tokens.wire import ALPN_JOIN

if TYPE_CHECKING:
    from vanrouter.tokens.sqlite_ledger import SqliteLedger

__all__ = ["Joining"]

log = logging.getLogger("vanrouter.sites")

ACCESS_WAIT: Final = 3.0
PRUNE_EVERY: Final = 3600.0
BETWEEN_RENEWALS: Final = 1.0  # however short the lifetimes are
LONGEST_WAIT: Final = 3600.0  # a wall clock may jump: look again at least so often


class _Due(msgspec.Struct):
    """When a credential of the state is to be renewed (wall clock), and why the last attempt failed."""

    at: float
    jitter: float
    error: str = ""


class Joining:
    """``stored`` is called with the name of a credential that is new in the state."""

    def __init__(self, context: Context, accesses: Accesses, *, stored: Callable[[str], None]) -> None:
        self._context, self._accesses, self._stored = context, accesses, stored
        self._pending = context.home.state.directory / "pending"
        self._issuer: Issuer | None = None
        self._ledger: SqliteLedger | None = None
        self._busy: dict[str, trio.Lock] = {}  # token id -> one redemption at a time
        self._dues: dict[str, _Due] = {}
        self._renewals = Waker()
        self._grants: list[GrantStatus] = []
        self.refused_sites: frozenset[str] = frozenset()  # they get no certificate, and renew none
        self.problems: dict[str, Problem] = {}  # of tokens among the resources
        self.redeemed: dict[str, str] = {}  # token id -> credential
        self._of_resources: set[str] = set()  # ids of tokens that stand, or stood, among the resources

    def start(self) -> None:
        """Read what the state has. A credential that is unusable is its link's trouble, not ours."""
        clean_leftovers(self._pending)
        for path in self._pending.glob("*.link") if self._pending.is_dir() else []:
            if not path.with_suffix(".json").exists():
                remove(path)  # written before its redemption, or not yet removed after it
        for name in self._context.home.state.credential_names():
            self._note(name)

    def close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    # ---- Issuing -------------------------------------------------------------------------------------------------------------------------

    def issuer(self) -> Issuer:
        """Raises StoreError when the ledger cannot be opened; it is tried again the next time."""
        keys, timing = self._context.keys, self._context.timing
        if keys.authority is None:
            raise ConfigError("this router makes no tokens: the controller of its namespace does", hint="ask there: van token create FILE")
        if self._issuer is None:
            from vanrouter.tokens.sqlite_ledger import SqliteLedger  # not in pods: there the controller issues

            self._ledger = SqliteLedger(self._context.home.state.ledger)
            self._issuer = Issuer(
                ledger=self._ledger,
                place=self._ledger.place,
                identity=keys.identity,
                site_name=self._context.site_name,
                authority=keys.authority,
                endpoints=(),
                revoked=lambda site: site in self.refused_sites,
                leaf_lifetime=timing.leaf_lifetime,
            )
        self._issuer.endpoints = self._accesses.endpoints()
        trust, self._issuer.verify_host = self._accesses.trust()
        self._issuer.trust = trust or None
        return self._issuer

    async def issue(self, *, name: str, uses: int, lifetime: float, cost: int, host: str) -> dict[str, Any]:
        if self._context.edge:
            raise ConfigError("this is an edge site: others do not link to an edge, so it makes no tokens", hint=EDGE_HINT)
        await self._accesses_open()
        issuer = self.issuer()
        name = name or f"{self._context.site_name[:48]}-{secrets.token_hex(4)}"
        endpoints = self._accesses.endpoints(host)
        now = self._context.wall()
        _, token = await trio.to_thread.run_sync(
            lambda: issuer.grant(name, now=now, uses=uses, lifetime=lifetime, cost=cost, endpoints=endpoints)
        )
        await self.refresh_grants()
        return {"name": token.name, "yaml": format_token(token), "expires": format_time(token.expires), "uses": uses}

    async def static_link(self, *, name: str, csr: str, lifetime: float, host: str = "") -> dict[str, Any]:
        """The certificate of a link that another site gets from files, without a token."""
        issuer = self.issuer()
        await self._accesses_open()
        endpoints, now = self._accesses.endpoints(host), self._context.wall()
        made = await trio.to_thread.run_sync(lambda: issuer.static_link(name, csr, now=now, lifetime=lifetime, endpoints=endpoints))
        return dict(msgspec.to_builtins(made))

    async def _accesses_open(self) -> None:
        """A token names where we can be reached. Raises NotReady when there is a link access and it does not listen."""
        with trio.move_on_after(ACCESS_WAIT):
            while self._accesses.is_pending:  # noqa: ASYNC110 - milliseconds after a start
                await trio.sleep(0.01)
        trouble = self._accesses.condition()
        if trouble is not None and trouble.status != "True" and not self._accesses.endpoints():
            raise NotReady(f"no token can be made now: {trouble.message}", hint=trouble.next or "see van status")

    async def refresh_grants(self) -> None:
        """A ledger that fails is a problem to show; what it said last is shown with it."""
        if self._issuer is None and not self._context.home.state.ledger.exists():
            return
        try:
            issuer, now = self.issuer(), self._context.wall()
            self._grants = await trio.to_thread.run_sync(lambda: issuer.grants(now))
            self.problems.pop("", None)
        except StoreError as exc:
            self.problems[""] = Problem(str(self._context.home.state.ledger), str(exc), exc.hint)

    def grants(self) -> list[GrantStatus]:
        return self._grants

    async def delete_grant(self, name: str) -> int:
        """By name or id. Nobody redeems it any more; certificates that it gave stay valid. Returns how many were deleted."""
        await self.refresh_grants()
        issuer, doomed = self.issuer(), [g.id for g in self._grants if name in (g.name, g.id)]
        if not doomed:
            known = ", ".join(g.name for g in self._grants) or "none"
            raise ConfigError(f"there is no grant {name}", hint=f"the grants of this site: {known}")
        if any(g.state == "elsewhere" for g in self._grants if g.id in doomed):
            raise ConfigError(
                f"grant {name} was made by another router of this site, which redeems it on; this one has a copy of it and never does",
                hint=f"delete it there: van token delete {name}",
            )
        return await trio.to_thread.run_sync(lambda: sum(issuer.delete_grant(grant_id) for grant_id in doomed))

    async def receive(self, visitor: Visitor, ready: Callable[[], bool]) -> None:
        """Serve one visitor of a link access. Raises nothing for what it does."""
        if visitor.alpn != ALPN_JOIN:
            await serve_health(visitor, ready)
            return
        if self._context.in_pod is not None:
            await pass_join(visitor, self._context.in_pod.join)
            return
        issuer: Issuer | None = None
        try:
            issuer = self.issuer()
        except StoreError as exc:
            log.warning("redemption postponed", extra={"error": str(exc), "hint": exc.hint})
        await serve_join(visitor, issuer, clock=self._context.wall)

    # ---- Redeeming -----------------------------------------------------------------------------------------------------------------------

    async def redeem(self, token: AccessToken, *, link: str = "", cost: int = 0) -> str:
        """Exchange the token for a link. Returns the link's name. Raises TokenError, StoreError, ConfigError."""
        lock = self._busy.setdefault(token.id, trio.Lock())
        async with lock:
            refuse_if_redeemed(token, self.redeemed)
            # What was begun goes on with its key, so that a lost reply is no lost token; all else is as this token and this command say.
            begun = self._load_pending(token.id)
            if cost:
                token = dataclasses.replace(token, cost=cost)
            key = begun.key if begun is not None else None
            pending = prepare(token, site_name=self._context.site_name, identity=self._context.keys.identity, key=key)
            name = "" if link else self._pending_name(token.id)
            name = name or self._free_name(parse_name(link or token.name, "link name"), chosen=bool(link))
            self._save_pending(pending, name)
            try:
                from vanrouter.tokens.redeem import redeem

                credential = await redeem(pending, clock=self._context.wall)
            except TokenError as exc:
                if getattr(exc, "reason", "") in ("refused", "malformed", "own", "used"):
                    self._forget_pending(token.id)
                raise
            self._store(name, credential)
            self._forget_pending(token.id)
            log.info("token redeemed", extra={"link": name, "site": credential.issuer_name, "token": token.name})
            return name

    def _store(self, name: str, credential: LinkCredential) -> None:
        home = self._context.home
        home.state.write_credential(name, {file: secret.reveal() for file, secret in credential.files().items()})
        link = Link(
            metadata=Metadata(name=name),
            spec=LinkSpec(
                endpoints=[LinkEndpoint(host=e.host, port=e.port) for e in credential.endpoints],
                tls_credentials=name,
                cost=credential.cost,
                site_id=credential.issuer,
            ),
        )
        home.resources.put(link)
        self._note(name)
        self._stored(name)

    def _free_name(self, name: str, *, chosen: bool) -> str:
        """``name``, or with a number behind it; a name that a person chose is not changed."""
        taken = {k[1] for k in self._context.home.resources.load().resources if k[0] == "Link"}
        taken |= set(self._context.home.state.credential_names())
        if chosen and name in taken:
            raise ConfigError(f"there is a link {name} already", hint=f"choose another name, or delete that one: van link delete {name}")
        return next(n for n in (name, *(f"{name[:58]}-{i}" for i in range(2, 10_000))) if n not in taken)

    async def resume(self) -> None:
        """Finish what was begun before a crash, as long as the token allows it."""
        for path in sorted(self._pending.glob("*.json")) if self._pending.is_dir() else []:
            try:
                pending = Pending.load(read_private(path) or b"")
                if self._context.wall() >= pending.token.expires + 600:
                    self._forget_pending(pending.token.id)
                    continue
                if pending.token.id in self.redeemed:
                    self._finish_stored(pending)
                else:
                    await self.redeem(pending.token)
            except VanrouterError as exc:
                log.warning("redemption not finished", extra={"file": path.name, "error": str(exc), "hint": exc.hint})

    def _finish_stored(self, pending: Pending) -> None:
        """The credential is there; the link may not be."""
        name = self.redeemed[pending.token.id]
        if self._context.home.resources.get("Link", name) is None:
            files = self._context.home.state.read_credential(name)
            assert files is not None
            self._store(name, LinkCredential.from_files(files))
        self._forget_pending(pending.token.id)

    async def redeem_resource(self, ref: str, text: str) -> None:
        """A token among the resources: redeemed once; what fails is shown."""
        try:
            token = parse_token(text, ref)
            self._of_resources.add(token.id)
            if token.id not in self.redeemed and not self._spent_path(token.id).exists():
                await self.redeem(token)
            self.problems.pop(ref, None)
        except VanrouterError as exc:
            self.problems[ref] = Problem(ref, str(exc), exc.hint)

    def forget(self, link: str) -> None:
        """The link is deleted: its credential goes too. A token of it that stands among the resources makes no other one.

        Raises StoreError, and then nothing is forgotten.
        """
        of_link = [token_id for token_id, name in self.redeemed.items() if name == link]
        for token_id in of_link:
            if token_id in self._of_resources:
                make_private_directory(self._pending)
                write_atomic(self._spent_path(token_id), link.encode())
        self._context.home.state.delete_credential(link)
        self._dues.pop(link, None)
        for token_id in of_link:
            del self.redeemed[token_id]

    def _save_pending(self, pending: Pending, name: str) -> None:
        make_private_directory(self._pending)
        write_atomic(self._name_path(pending.token.id), name.encode())
        write_atomic(self._pending_path(pending.token.id), pending.dump().reveal())

    def _load_pending(self, token_id: str) -> Pending | None:
        raw = read_private(self._pending_path(token_id))
        try:
            return Pending.load(raw) if raw is not None else None
        except TokenError:
            self._forget_pending(token_id)
            return None

    def _pending_name(self, token_id: str) -> str:
        return (read_private(self._name_path(token_id)) or b"").decode()

    def _forget_pending(self, token_id: str) -> None:
        if self._pending.is_dir():
            remove(self._pending_path(token_id))
            remove(self._name_path(token_id))

    def _pending_path(self, token_id: str) -> Path:
        return self._pending / f"{token_id}.json"

    def _name_path(self, token_id: str) -> Path:
        return self._pending / f"{token_id}.link"

    def _spent_path(self, token_id: str) -> Path:
        return self._pending / f"{token_id}.spent"

    # ---- Renewing ------------------------------------------------------------------------------------------------------------------------

    def _note(self, name: str) -> None:
        """A credential that the state has: when it is due, and that its token is used."""
        try:
            files = self._context.home.state.read_credential(name)
            if files is None or "link.json" not in files:
                return
            credential = LinkCredential.from_files(files)
        except (ConfigError, StoreError) as exc:
            log.warning("credential is not usable", extra={"credential": name, "error": str(exc), "hint": exc.hint})
            return
        self.redeemed[credential.token_id] = name
        jitter = self._context.rng.random()
        self._dues[name] = _Due(at=renew_at(credential.leaf, jitter=jitter), jitter=jitter)
        self._renewals.wake()

    def renewal_error(self, name: str) -> str:
        due = self._dues.get(name)
        return due.error if due is not None else ""

    async def run_renewals(self) -> None:
        prune_at = 0.0
        while True:
            wall = self._context.wall()
            if wall >= prune_at and self._context.home.state.ledger.exists():
                prune_at = wall + PRUNE_EVERY
                await self._prune(wall)
            for name, due in list(self._dues.items()):
                if wall >= due.at:
                    await self._renew(name, due)
            wait = min((due.at for due in self._dues.values()), default=math.inf) - self._context.wall()
            await self._renewals.wait_until(trio.current_time() + min(max(wait, 0.05), LONGEST_WAIT))

    async def _prune(self, wall: float) -> None:
        """Grants that ended long ago."""
        try:
            issuer = self.issuer()
            await trio.to_thread.run_sync(lambda: issuer.prune(wall))
        except StoreError as exc:
            log.warning("old grants not deleted", extra={"error": str(exc), "hint": exc.hint})

    async def _renew(self, name: str, due: _Due) -> None:
        context = self._context
        try:
            files = context.home.state.read_credential(name)
            if files is None:
                self._dues.pop(name, None)
                return
            credential = LinkCredential.from_files(files)
            if renewal_state(credential.leaf, context.wall(), jitter=due.jitter) in (Renewal.FRESH, Renewal.NOT_YET):
                due.at = renew_at(credential.leaf, jitter=due.jitter)
                return
            from vanrouter.tokens.redeem import renew

            renewed = await renew(credential, identity=context.keys.identity, clock=context.wall)
            context.home.state.write_credential(name, {file: secret.reveal() for file, secret in renewed.files().items()})
        except VanrouterError as exc:
            end = format_time(credential.leaf.not_valid_after_utc.timestamp()) if "credential" in locals() else "?"
            due.error = f"its certificate is valid until {end} and was not renewed: {exc}"
            due.at = context.wall() + context.timing.renew_retry * context.rng.uniform(0.5, 1.0)
            log.warning("certificate not renewed", extra={"link": name, "error": str(exc), "hint": exc.hint})
            return
        log.info("certificate renewed", extra={"link": name, "site": renewed.issuer_name})
        self._note(name)
        self._dues[name].at = max(self._dues[name].at, context.wall() + BETWEEN_RENEWALS)
        self._stored(name)
