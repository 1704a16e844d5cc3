"""
The link accesses of a site: where others link to it, redeem its tokens and ask for its health.

Each has a credential: a leaf of our own CA that names every host under which others come, made at each start and renewed by itself; or the
user's, with the patterns that it admits. A port in use is shown and tried again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from vanrouter.addresses import Reserved
from vanrouter.conditions import Condition, Conditions, Status
from vanrouter.errors import ConfigError
from vanrouter.pki import build_credential
from vanrouter.pki.authority import guest_name, names_of
from vanrouter.pki.pem import load_certificates
from vanrouter.plane import Access, AccessState, AnyEntry, BindStatus, Credential, Ref
from vanrouter.resources import Secret
from vanrouter.resources.kinds import check_link_files
from vanrouter.resources.shapes import format_host_port
from vanrouter.sites.context import Context
from vanrouter.sites.machine import reachable_hosts
from vanrouter.sites.wanted import WantedAccess
from vanrouter.tokens import Endpoint

__all__ = ["Accesses"]

log = logging.getLogger("vanrouter.sites")

RETRY_BIND: Final = 3.0


class _Access:
    def __init__(self, wanted: WantedAccess) -> None:
        self.wanted = wanted
        self.secret: Secret | None = None
        self.hosts: list[str] = []  # under which others come: the names in our own leaf, or those of the user's
        self.trust: list[x509.Certificate] = []  # what its leaf chains to
        self.credential: Credential | None = None
        self.renew_at = math.inf  # wall clock
        self.retry_at = math.inf  # monotonic
        self.host = ""  # IP literal; empty: not resolved yet
        self.state: AccessState | None = None
        self.conditions = Conditions()

    @property
    def admits_nobody(self) -> bool:
        return bool(self.wanted.credential) and not self.wanted.admit

    @property
    def listens(self) -> bool:
        return self.state is not None and self.state.status in (BindStatus.BOUND, BindStatus.LISTENING)

    def entries(self) -> list[AnyEntry]:
        if self.credential is None or not self.host:
            return []
        access = Access(name=self.wanted.name, host=self.host, port=self.wanted.port, credential=self.credential.name)
        return [self.credential, access]


class Accesses:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._accesses: dict[str, _Access] = {}

    # ---- what is wanted ------------------------------------------------------------------------------------------------------------------

    def reconcile(self, wanted: Mapping[str, WantedAccess], secrets: Mapping[str, Secret]) -> None:
        now = self._context.now()
        self._context.names.want("accesses", [w.host for w in wanted.values()])
        for name in [n for n in self._accesses if n not in wanted]:
            del self._accesses[name]
            self._context.forwarding.change(drop=[Ref("access", name), Ref("credential", _credential_name(name))])
        for name, access in wanted.items():
            known = self._accesses.get(name)
            if known is None or known.wanted.host != access.host or known.wanted.port != access.port:
                known = self._accesses[name] = _Access(access)
            self._update(known, access, secrets.get(access.credential), now)
            self._context.forwarding.change(put=known.entries())

    def _update(self, access: _Access, wanted: WantedAccess, secret: Secret | None, now: float) -> None:
        changed = access.wanted != wanted or access.secret != secret or access.credential is None
        access.wanted, access.secret = wanted, secret
        answer = self._context.names.get(wanted.host)
        access.host = answer.addresses[0] if answer is not None and answer.addresses else ""
        try:
            hosts = wanted.names or reachable_hosts(wanted.host)
        except OSError:  # no descriptor to ask the kernel with: what it said last
            hosts = access.hosts or [wanted.host]
        if changed or (not wanted.credential and hosts != access.hosts):
            access.hosts = hosts
            try:
                access.credential = self._users(access) if wanted.credential else self._own(access)
            except ConfigError as exc:
                access.credential = None
                access.conditions.set("Configured", "False", "InvalidCredential", str(exc), now=now, next=exc.hint)
                return
        where = format_host_port(wanted.host, wanted.port)
        if answer is not None and answer.error:
            text = f"link access {wanted.name} cannot listen on {where}: {answer.error}"
            access.conditions.set("Configured", "False", "NameNotFound", text, now=now, next="write an IP address of this host")
        elif access.admits_nobody:
            text = f"link access {wanted.name} uses a certificate of yours and lists nobody who may link: it admits nobody"
            access.conditions.set("Configured", "False", "AdmitsNobody", text, now=now, next="list subject or SAN patterns in spec.admit")
        else:
            access.conditions.set("Configured", "True", "Configured", f"link access {wanted.name} is on {where}", now=now)

    def _own(self, access: _Access) -> Credential:
        """A leaf of our own CA."""
        keys, wall, rng = self._context.keys, self._context.wall(), self._context.rng
        shown = keys.leaves.server(access.hosts, now=wall, lifetime=self._context.timing.leaf_lifetime, jitter=rng.random())
        access.renew_at = shown.renew_at
        access.trust = keys.leaves.trust()
        return build_credential(
            _credential_name(access.wanted.name),
            certificate_pem=shown.certificate,
            key_pem=shown.key,
            trust_pem=keys.leaves.ca_pem(),
            identity=keys.identity,
        )

    def _users(self, access: _Access) -> Credential:
        access.renew_at = math.inf
        if access.secret is None:
            raise ConfigError(
                f"link access {access.wanted.name}: there is no Secret {access.wanted.credential}",
                hint="put a Secret with tls.crt, tls.key and ca.crt into resources/, or set spec.generateTlsCredentials",
            )
        data, keys = access.secret.data, self._context.keys
        check_link_files(access.secret.name, data)
        access.trust = load_certificates(data["ca.crt"], "ca.crt")
        named = names_of(load_certificates(data["tls.crt"], "tls.crt")[0])
        access.hosts = access.wanted.names or named or access.hosts
        # Who redeemed a token of ours shows a leaf of our own CA: such guests are admitted beside those that are listed.
        admit = [*(access.wanted.admit or []), guest_name("*", keys.site_id)] if access.wanted.admit else []
        return build_credential(
            _credential_name(access.wanted.name),
            certificate_pem=data["tls.crt"],
            key_pem=data["tls.key"],
            trust_pem=data["ca.crt"].rstrip() + b"\n" + keys.leaves.ca_pem(),
            identity=keys.identity,
            admit=admit,
        )

    def leaf_changed(self) -> None:
        """There is another leaf of our own: new lanes see it."""
        for access in self._accesses.values():
            if not access.wanted.credential:
                access.credential = None
        self._context.wanted.wake()

    def close(self) -> None:
        """A successor has our sockets: from now on only it accepts. Lanes that are up stay."""
        self._context.forwarding.change(drop=[Ref("access", name) for name in self._accesses])
        self._accesses.clear()

    # ---- what happens --------------------------------------------------------------------------------------------------------------------

    def handle_access_state(self, state: AccessState) -> None:
        access = self._accesses.get(state.name)
        if access is None or state.gone:
            return
        access.state = state
        access.retry_at = math.inf if access.listens else self._context.now() + RETRY_BIND
        self._context.timers.wake()

    @property
    def deadline(self) -> float:
        """Monotonic; certificates go by the wall clock, whose distance is taken now."""
        wall, now = self._context.wall(), self._context.now()
        times = [a.retry_at for a in self._accesses.values()]
        times += [now + max(0.0, a.renew_at - wall) for a in self._accesses.values()]
        return min(times, default=math.inf)

    def handle_timeout(self) -> None:
        wall, now = self._context.wall(), self._context.now()
        for name, access in self._accesses.items():
            if wall >= access.renew_at and not access.wanted.credential:
                access.hosts = access.wanted.names or reachable_hosts(access.wanted.host)
                access.credential = self._own(access)
                log.info("server certificate renewed", extra={"access": name})
                self._context.forwarding.change(put=access.entries())
            if now >= access.retry_at:
                access.retry_at = math.inf
                self._context.forwarding.change(drop=[Ref("access", name)])
                self._context.forwarding.change(put=access.entries())

    # ---- what others ask -----------------------------------------------------------------------------------------------------------------

    @property
    def is_pending(self) -> bool:
        """Whether the data plane has yet to say how opening one of them went."""
        return any(a.state is None and a.credential is not None and a.host for a in self._accesses.values())

    def endpoints(self, host: str = "") -> list[Endpoint]:
        """Where others reach this site; ``host`` instead of the known hosts, when a person says so. Of a pod the controller knows."""
        if self._context.in_pod is not None:
            return self._context.in_pod.endpoints
        found: list[Endpoint] = []
        for access in self._open():
            found += [Endpoint(h, access.state.port) for h in ([host] if host else access.hosts) if access.state is not None]
        return list(dict.fromkeys(found))

    def trust(self) -> tuple[list[x509.Certificate], bool]:
        """For those who come: the CAs of our accesses, and whether the host is to be checked, because one of them is the user's."""
        opened = self._open()
        found = {c.fingerprint(hashes.SHA256()): c for access in opened for c in access.trust}
        return list(found.values()), any(access.wanted.credential for access in opened)

    def _open(self) -> list[_Access]:
        return [a for a in self._accesses.values() if a.listens and not a.admits_nobody]

    def reserved(self) -> list[Reserved]:
        return [Reserved(a.host, a.wanted.port, f"the link access {n}") for n, a in self._accesses.items() if a.host]

    def condition(self) -> Condition | None:
        """How all of them are: the first that is not well, else the first. None: there is none."""
        found = [c for access in self._accesses.values() for c in self._conditions(access)]
        return next((c for c in found if c.status != "True"), found[-1] if found else None)

    def _conditions(self, access: _Access) -> list[Condition]:
        now = self._context.now()
        configured = access.conditions.get("Configured")
        if configured is not None and configured.status != "True" and access.credential is None:
            return [configured]
        status, reason, message, todo = self._words(access)
        access.conditions.set("Listening", status, reason, message, now=now, next=todo)
        return access.conditions.list()

    def _words(self, access: _Access) -> tuple[Status, str, str, str]:
        where = format_host_port(access.wanted.host, access.wanted.port)
        state = access.state
        if state is None:
            return "Unknown", "Pending", f"link access {access.wanted.name} on {where} is being opened", ""
        match state.status:
            case BindStatus.BOUND | BindStatus.LISTENING:
                return "True", "Listening", f"link access {access.wanted.name} listens on {where}", ""
            case BindStatus.IN_USE:
                todo = "stop what uses the port (ss -ltnp shows it), or choose another one: van update --link-access HOST:PORT"
                return "False", "InUse", f"link access {access.wanted.name} cannot listen on {where}: the port is in use", todo
            case BindStatus.DENIED:
                todo = "choose a port from 1024 up and an address of this host: van update --link-access HOST:PORT"
                return "False", "Denied", f"link access {access.wanted.name} may not listen on {where}: {state.error}", todo
            case _:
                todo = "choose an address of this host: van update --link-access HOST:PORT"
                return "False", "Failed", f"link access {access.wanted.name} cannot listen on {where}: {state.error}", todo


def _credential_name(access: str) -> str:
    return f"access:{access}"
