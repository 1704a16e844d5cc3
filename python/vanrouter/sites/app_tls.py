"""
TLS with applications, as resources want it: credentials to the ``Tls`` entries of the plane, and what is wrong with them.

What has no usable credential is not in force: nobody is served without TLS instead. A credential that was replaced by a broken one stays
in force as it was, and is named.
"""

from __future__ import annotations

from vanrouter.conditions import Condition
from vanrouter.errors import ConfigError
from vanrouter.pki.app_tls import build_tls, dates_of
from vanrouter.plane import Ref, Tls
from vanrouter.sites.context import Context
from vanrouter.sites.wanted import Fault, Wanted, WantedTls
from vanrouter.stores.resources import Key, Problem

__all__ = ["AppTls"]


class AppTls:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._entries: dict[str, Tls] = {}
        self._of: dict[Key, tuple[WantedTls, float]] = {}  # what is in force, and since when
        self._problems: list[Problem] = []

    def reconcile(self, wanted: Wanted) -> None:
        """Put what is usable, and take out of ``wanted`` what has nothing to speak TLS with. ``settle`` drops the rest."""
        self._problems.clear()
        before, self._of = self._of, {}
        every = [*(w.tls for w in wanted.listeners.values()), *(w.tls for w in wanted.connectors.values())]
        users = [tls for tls in every if tls is not None]
        for tls in {tls.name: tls for tls in users}.values():
            try:
                entry = self._build(tls, wanted)
            except ConfigError as exc:
                text = f"Secret {tls.credential}: {exc}"
                entry_before = self._entries.get(tls.name)
                if entry_before is None or not self._files(tls, wanted):
                    wanted.faults[tls.of] = Fault("InvalidCredential" if self._files(tls, wanted) else "NoCredential", text, exc.hint)
                    continue
                entry = entry_before
                self._problems.append(Problem(f"{_ref(tls.of)}: spec.tlsCredentials", f"{text}; the one before stays in force", exc.hint))
            self._entries[tls.name] = entry
            known = before.get(tls.of)
            self._of[tls.of] = (tls, known[1] if known is not None and known[0] == tls else self._context.now())
            self._context.forwarding.change(put=[entry])
        faulty = {tls.name for tls in users if tls.of not in self._of}
        wanted.listeners = {name: one for name, one in wanted.listeners.items() if one.tls is None or one.tls.name not in faulty}
        wanted.connectors = {name: one for name, one in wanted.connectors.items() if one.tls is None or one.tls.name not in faulty}

    def settle(self) -> None:
        """What nobody uses any more goes, after its users have gone."""
        used = {tls.name for tls, _ in self._of.values()}
        gone = self._entries.keys() - used
        self._context.forwarding.change(drop=[Ref("tls", name) for name in sorted(gone)])
        self._entries = {name: entry for name, entry in self._entries.items() if name in used}

    def entry(self, tls: WantedTls | None) -> Tls | None:
        return self._entries.get(tls.name) if tls is not None else None

    def _files(self, tls: WantedTls, wanted: Wanted) -> dict[str, bytes]:
        if self._context.in_pod is not None:  # the controller brings the Secrets that are named
            return dict(self._context.home.state.read_credential(tls.credential) or {})
        secret = wanted.secrets.get(tls.credential)
        return dict(secret.data) if secret is not None else {}

    def _build(self, tls: WantedTls, wanted: Wanted) -> Tls:
        """Raises ConfigError."""
        files = self._files(tls, wanted)
        needs = [*(["tls.crt", "tls.key"] if tls.shows else []), *(["ca.crt"] if tls.trusts else [])]
        if not files:
            hint = f"put a Secret {tls.credential} with {' and '.join(needs)} into resources/, or name another one in spec.tlsCredentials"
            if self._context.in_pod is not None:
                hint = (
                    f"it needs {' and '.join(needs)} and a label: kubectl label secret {tls.credential} vanrouter.io/type=resource; "
                    f"to make it: kubectl create secret generic {tls.credential} {' '.join(f'--from-file={file}' for file in needs)}"
                )
            raise ConfigError("there is none that this site sees", hint=hint)
        terms = Tls(
            name=tls.name,
            client_cert=tls.client_cert,
            server_name=tls.server_name,
            verify_host=tls.verify_host,
            alpn=list(tls.alpn),
        )
        return build_tls(terms, files, shows=tls.shows, trusts=tls.trusts)

    # ---- Status ------------------------------------------------------------------------------------------------------------------

    def problems(self) -> list[Problem]:
        """Dates go by without a change of anything: they are looked at when somebody asks."""
        found = list(self._problems)
        for key, (tls, _) in sorted(self._of.items()):
            reason, text = dates_of(self._entries[tls.name], now=self._context.wall())
            if reason:
                found.append(Problem(f"{_ref(key)}: spec.tlsCredentials", f"Secret {tls.credential}: {text}", _renew(tls)))
        return found

    def condition(self, kind: str, name: str) -> Condition | None:
        known = self._of.get((kind, name))
        if known is None:
            return None
        tls, since = known
        reason, text = dates_of(self._entries[tls.name], now=self._context.wall())
        status = "False" if reason in ("Expired", "NotYetValid") else "True"
        message = f"Secret {tls.credential}: {text}" if text else f"TLS with the credential {tls.credential}"
        return Condition(
            type="Tls",
            status=status,  # type: ignore[arg-type]
            reason=reason or "Ok",
            message=message,
            since=since,
            next=_renew(tls) if reason else "",
        )


def _renew(tls: WantedTls) -> str:
    return f"replace the content of Secret {tls.credential}: new connections use it at once, and those that are up stay"


def _ref(key: Key) -> str:
    return f"{key[0]}/{key[1]}"
