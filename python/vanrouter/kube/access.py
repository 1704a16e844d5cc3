"""
How to reach one cluster: its address, whom to trust, and the credentials to show, refreshed when they are due.

Reads files and runs a credential plugin when asked; sends nothing. Secrets never appear in ``repr`` or messages.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from vanrouter.kube.errors import KubeConfigError

__all__ = ["Access", "BasicAuth", "ClientCertificate", "Credentials", "ExecPlugin", "Token", "TokenFile"]

TOKEN_FILE_SECONDS: Final = 60.0
"""A projected token is renewed at four fifths of its life, an hour as a rule: a minute late is early."""

PLUGIN_SECONDS: Final = 30.0
EARLY_SECONDS: Final = 30.0

PROTOCOLS: Final = ("http/1.1",)
"""Of TLS (ALPN)."""


@dataclass(frozen=True)
class ClientCertificate:
    """PEM; shown in the TLS handshake."""

    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Shown:
    """What one request shows: headers, and a certificate if the connection must have one."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    certificate: ClientCertificate | None = field(default=None, repr=False)


class Credentials:
    """None at all: a cluster that lets everybody in, or a certificate alone. The others refine it."""

    def show(self) -> Shown:
        """What to show now. May read a file or run a program; raises KubeConfigError."""
        return Shown()

    def refused(self) -> bool:
        """The server said 401. Whether showing anew can help."""
        return False


@dataclass
class Token(Credentials):
    token: str = field(repr=False)

    def show(self) -> Shown:
        return Shown({"Authorization": f"Bearer {self.token}"})


@dataclass
class BasicAuth(Credentials):
    username: str
    password: str = field(repr=False)

    def show(self) -> Shown:
        pair = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return Shown({"Authorization": f"Basic {pair}"})


@dataclass
class TokenFile(Credentials):
    """A file that somebody renews: the service account's of a pod."""

    path: Path
    _token: str = field(default="", repr=False)
    _read_at: float = -1e9

    def show(self) -> Shown:
        now = time.monotonic()
        if now - self._read_at >= TOKEN_FILE_SECONDS:
            try:
                self._token = self.path.read_text().strip()
            except (OSError, UnicodeDecodeError) as exc:
                raise KubeConfigError(
                    f"the token file {self.path} cannot be read: {exc}", hint="is the service account's token mounted in the pod?"
                ) from None
            self._read_at = now
        return Shown({"Authorization": f"Bearer {self._token}"})

    def refused(self) -> bool:
        self._read_at = -1e9
        return True


@dataclass
class ExecPlugin(Credentials):
    """A program that prints credentials (``client.authentication.k8s.io``), as managed clusters use."""

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    api_version: str = "client.authentication.k8s.io/v1"
    install_hint: str = ""
    cluster: Mapping[str, Any] | None = field(default=None, repr=False)
    _shown: Shown | None = field(default=None, repr=False)
    _until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def show(self) -> Shown:
        with self._lock:
            if self._shown is None or time.time() >= self._until - EARLY_SECONDS:
                self._shown, self._until = self._parse(self._run())
            return self._shown

    def refused(self) -> bool:
        self._shown = None
        return True

    def _run(self) -> bytes:
        spec: dict[str, Any] = {"interactive": False}
        if self.cluster is not None:
            spec["cluster"] = dict(self.cluster)
        info = {"apiVersion": self.api_version, "kind": "ExecCredential", "spec": spec}
        env = {**os.environ, **self.env, "KUBERNETES_EXEC_INFO": json.dumps(info)}
        try:
            done = subprocess.run(  # noqa: S603 - the user's kubeconfig names it, as for kubectl
                [self.command, *self.args], env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=PLUGIN_SECONDS, check=False
            )
        except FileNotFoundError:
            hint = self.install_hint or f"install {self.command}, which this kubeconfig needs to log in"
            raise KubeConfigError(f"the credential plugin {self.command} is not installed", hint=hint) from None
        except subprocess.TimeoutExpired:
            raise KubeConfigError(
                f"the credential plugin {self.command} did not answer within {PLUGIN_SECONDS:.0f} s", hint="run it by hand; log in again"
            ) from None
        except OSError as exc:
            raise KubeConfigError(f"the credential plugin {self.command} cannot be run: {exc.strerror}") from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()[-500:]
            raise KubeConfigError(
                f"the credential plugin {self.command} failed ({done.returncode}): {said}", hint="log in again with the cluster's own tool"
            )
        return done.stdout

    def _parse(self, printed: bytes) -> tuple[Shown, float]:
        try:
            status = json.loads(printed)["status"]
            token, certificate, key = (status.get(k) or "" for k in ("token", "clientCertificateData", "clientKeyData"))
            until = status.get("expirationTimestamp")
            end = datetime.fromisoformat(until).timestamp() if until else float("inf")
            shown = Shown(
                {"Authorization": f"Bearer {token}"} if token else {},
                ClientCertificate(certificate.encode(), key.encode()) if certificate else None,
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise KubeConfigError(
                f"the credential plugin {self.command} printed no ExecCredential with a status", hint="update the plugin"
            ) from None
        return shown, end


@dataclass
class Access:
    """One cluster, one user, one namespace. ``source`` says where this comes from, for messages."""

    server: str
    source: str
    namespace: str = "default"
    path: Path | None = None  # the kubeconfig in which the context stands
    ca: bytes | None = field(default=None, repr=False)  # None: the machine's CAs
    insecure: bool = False
    tls_server_name: str = ""
    proxy: str = ""
    certificate: ClientCertificate | None = field(default=None, repr=False)
    credentials: Credentials = field(default_factory=Credentials)

    def tls(self, shown: Shown) -> ssl.SSLContext:
        """The TLS side of a connection. Raises KubeConfigError when keys or CA are not what they should be."""
        context = _Context(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(PROTOCOLS)
        if self.ca is None:
            context.load_default_certs()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        certificate = shown.certificate or self.certificate
        try:
            if self.ca is not None:
                context.load_verify_locations(cadata=self.ca.decode())
            if self.insecure:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if certificate is not None:
                _load_chain(context, certificate)
        except (ssl.SSLError, ValueError) as exc:
            raise KubeConfigError(f"{self.source}: the CA, certificate or key is not usable: {exc}", hint="get a new kubeconfig") from None
        return context


class _Context(ssl.SSLContext):
    """
    The HTTP library names its protocols to the context anew for each connection, which frees what another thread is copying just then
    (``ssl`` lets go of the interpreter's lock there): one hello in some thousands is garbled, and the server answers decode_error. Here
    the same names once more change nothing.
    """

    _named: tuple[str, ...] = ()

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        names = tuple(alpn_protocols)
        if names != self._named:
            super().set_alpn_protocols(names)
            self._named = names


def _load_chain(context: ssl.SSLContext, pair: ClientCertificate) -> None:
    """OpenSSL takes a file only: one that nobody else can open, and that is gone at once."""
    with tempfile.NamedTemporaryFile(prefix="van-", suffix=".pem") as file:  # 0600
        file.write(pair.certificate + b"\n" + pair.key)
        file.flush()
        context.load_cert_chain(file.name)
