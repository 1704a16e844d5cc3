"""
From a kubeconfig, or from the service account of the pod we run in, to an ``Access``: with kubectl's rules of precedence.

``$KUBECONFIG`` may list several files, of which the first that says a thing counts; paths in a file are relative to it. Raises
KubeConfigError, which names the file and the entry. Our own, because the official client's loader adds 21 MiB to every process.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vanrouter.kube.access import Access, BasicAuth, ClientCertificate, Credentials, ExecPlugin, Token, TokenFile
from vanrouter.kube.errors import KubeConfigError

__all__ = ["SERVICE_ACCOUNT", "in_cluster", "load_access"]

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_FILE: Final = 4 << 20


def load_access(
    *,
    kubeconfig: Path | str | None = None,
    context: str | None = None,
    namespace: str | None = None,
    environ: Mapping[str, str] | None = None,
    service_account: Path = SERVICE_ACCOUNT,
) -> Access:
    """``--kubeconfig``, else ``$KUBECONFIG``, else ``~/.kube/config``, else the pod's service account."""
    env = os.environ if environ is None else environ
    paths = _paths(kubeconfig, env)
    documents = [_read(path) for path in paths if path.exists()]
    if not documents:
        if kubeconfig is None and context is None and (service_account / "token").exists() and env.get("KUBERNETES_SERVICE_HOST"):
            found = in_cluster(environ=env, service_account=service_account)
            found.namespace = namespace or found.namespace
            return found
        raise KubeConfigError(
            f"there is no kubeconfig: looked for {', '.join(map(str, paths))}",
            hint="name one with --kubeconfig or KUBECONFIG; on a host without Kubernetes use: van -p linux ...",
        )
    return _resolve(documents, context, namespace)


def in_cluster(*, environ: Mapping[str, str] | None = None, service_account: Path = SERVICE_ACCOUNT) -> Access:
    """The API server as a pod sees it. The token is read again as it is renewed."""
    env = os.environ if environ is None else environ
    host, port = env.get("KUBERNETES_SERVICE_HOST", ""), env.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise KubeConfigError("this is no pod of a cluster: KUBERNETES_SERVICE_HOST is not set")
    try:
        ca = (service_account / "ca.crt").read_bytes()
        namespace = (service_account / "namespace").read_text().strip()
    except OSError as exc:
        raise KubeConfigError(
            f"the service account of this pod cannot be read: {exc}", hint="set automountServiceAccountToken: true in the pod"
        ) from None
    return Access(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        source="the pod's service account",
        namespace=namespace,
        ca=ca,
        credentials=TokenFile(service_account / "token"),
    )


@dataclass(frozen=True)
class _Document:
    path: Path
    value: dict[str, Any]


@dataclass(frozen=True)
class _Entry:
    """A named part of a kubeconfig, and the file that it stands in."""

    path: Path
    what: str
    value: dict[str, Any]

    def text(self, key: str) -> str:
        value = self.value.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise KubeConfigError(f"{self.path}: {self.what}: {key} is not text")
        return value

    def data(self, key: str) -> bytes | None:
        """``key-data`` (base64), else the file that ``key`` names."""
        if encoded := self.text(f"{key}-data"):
            try:
                return base64.b64decode("".join(encoded.split()), validate=True)
            except (binascii.Error, ValueError):
                raise KubeConfigError(f"{self.path}: {self.what}: {key}-data is not base64") from None
        if not (name := self.text(key)):
            return None
        try:
            return (self.path.parent / name).read_bytes()
        except OSError as exc:
            raise KubeConfigError(f"{self.path}: {self.what}: {key}: cannot read {name}: {exc.strerror}") from None


def _paths(kubeconfig: Path | str | None, env: Mapping[str, str]) -> list[Path]:
    if kubeconfig is not None:
        path = Path(kubeconfig).expanduser()
        if not path.exists():
            raise KubeConfigError(f"there is no kubeconfig {path}", hint="check --kubeconfig")
        return [path]
    listed = [Path(p).expanduser() for p in env.get("KUBECONFIG", "").split(os.pathsep) if p]
    return listed or [Path(env.get("HOME", "~")).expanduser() / ".kube" / "config"]


def _read(path: Path) -> _Document:
    import yaml  # takes its time to import

    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
        if len(raw) > MAX_FILE:
            raise KubeConfigError(f"the kubeconfig {path} has more than {MAX_FILE} bytes")
        value = yaml.load(raw, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe loaders
    except OSError as exc:
        raise KubeConfigError(f"the kubeconfig {path} cannot be read: {exc.strerror}", hint="is it yours?") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as exc:
        where = getattr(exc, "problem_mark", None)
        at = f" at line {where.line + 1}" if where is not None else ""
        raise KubeConfigError(f"the kubeconfig {path} is not YAML{at}", hint="correct it, or get a new one") from None
    if value is not None and not isinstance(value, dict):
        raise KubeConfigError(f"the kubeconfig {path} holds no object", hint="correct it, or get a new one")
    return _Document(path, value or {})


def _resolve(documents: list[_Document], context: str | None, namespace: str | None) -> Access:
    files = ", ".join(str(d.path) for d in documents)
    name = context or next((str(d.value["current-context"]) for d in documents if d.value.get("current-context")), "")
    if not name:
        raise KubeConfigError(f"{files}: no context is current", hint=f"name one with --context: {_names(documents, 'contexts')}")
    chosen = _find(documents, "contexts", "context", name)
    cluster = _find(documents, "clusters", "cluster", chosen.text("cluster"))
    server = cluster.text("server")
    if not server.startswith(("https://", "http://")):
        raise KubeConfigError(f"{cluster.path}: {cluster.what}: server {server!r} is no address such as https://HOST:PORT")
    user = _find(documents, "users", "user", chosen.text("user")) if chosen.text("user") else None
    certificate, key = (user.data("client-certificate"), user.data("client-key")) if user else (None, None)
    if user and (certificate is None) != (key is None):
        raise KubeConfigError(f"{user.path}: {user.what}: of client-certificate and client-key only one is given")
    return Access(
        server=server.rstrip("/"),
        source=f"{chosen.path}, context {name}",
        path=chosen.path,
        namespace=namespace or chosen.text("namespace") or "default",
        ca=cluster.data("certificate-authority"),
        insecure=bool(cluster.value.get("insecure-skip-tls-verify")),
        tls_server_name=cluster.text("tls-server-name"),
        proxy=cluster.text("proxy-url"),
        certificate=ClientCertificate(certificate, key) if certificate and key else None,
        credentials=_credentials(user, cluster, server) if user else Credentials(),
    )


def _find(documents: list[_Document], section: str, what: str, name: str) -> _Entry:
    for path, entry in _entries(documents, section):
        if entry.get("name") == name:
            value = entry.get(what)
            return _Entry(path, f"{what} {name!r}", value if isinstance(value, dict) else {})
    files = ", ".join(str(d.path) for d in documents)
    raise KubeConfigError(f"{files}: there is no {what} {name!r}", hint=f"there are: {_names(documents, section)}")


def _entries(documents: list[_Document], section: str) -> list[tuple[Path, dict[str, Any]]]:
    listed = [(d.path, d.value.get(section)) for d in documents]
    return [(path, e) for path, entries in listed if isinstance(entries, list) for e in entries if isinstance(e, dict)]


def _names(documents: list[_Document], section: str) -> str:
    return ", ".join(str(entry.get("name")) for _, entry in _entries(documents, section)[:20]) or "none"


def _credentials(user: _Entry, cluster: _Entry, server: str) -> Credentials:
    """kubectl's order: a token, its file, a password, a program."""
    if token := user.text("token"):
        return Token(token)
    if path := user.text("tokenFile"):
        return TokenFile(user.path.parent / path)
    if username := user.text("username"):
        return BasicAuth(username, user.text("password"))
    if user.value.get("auth-provider"):
        raise KubeConfigError(
            f"{user.path}: {user.what}: auth-provider is no longer supported by Kubernetes", hint="use its exec plugin, or a new kubeconfig"
        )
    given = user.value.get("exec")
    if given is None:
        return Credentials()
    plugin = _Entry(user.path, f"{user.what}: exec", given if isinstance(given, dict) else {})
    command = plugin.text("command")
    if not command:
        raise KubeConfigError(f"{plugin.path}: {plugin.what}: command is missing")
    shared = {"server": server, "insecure-skip-tls-verify": bool(cluster.value.get("insecure-skip-tls-verify"))}
    if ca := cluster.data("certificate-authority"):
        shared["certificate-authority-data"] = base64.b64encode(ca).decode()
    args, env = plugin.value.get("args") or [], plugin.value.get("env") or []
    return ExecPlugin(
        command=str(user.path.parent / command) if os.sep in command else command,
        args=tuple(map(str, args)) if isinstance(args, list) else (),
        env={str(e["name"]): str(e.get("value", "")) for e in env if isinstance(e, dict) and "name" in e} if isinstance(env, list) else {},
        api_version=plugin.text("apiVersion") or "client.authentication.k8s.io/v1",
        install_hint=plugin.text("installHint"),
        cluster=shared if plugin.value.get("provideClusterInfo") else None,
    )
