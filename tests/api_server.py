"""
A real Kubernetes API server (etcd and kube-apiserver, nothing else) on loopback, that a test may stop, kill, and make forget.

The programs come from the PATH or from ``$VAN_CLUSTER_HOME/bin`` (default ``~/.cache/vanrouter/cluster``). No controller runs beside it: no
garbage collection, no service accounts, no pods.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import trustme
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from free_ports import free_port

from vanrouter.kube.access import Access
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import create
from vanrouter.kube.kinds import NAMESPACES, SERVICES
from vanrouter.kube.kubeconfig import load_access

READY_SECONDS = 60.0


def programs() -> tuple[str, str] | None:
    """kube-apiserver and etcd, if both are here."""
    home = os.environ.get("VAN_CLUSTER_HOME") or str(Path.home() / ".cache" / "vanrouter" / "cluster")
    path = os.pathsep.join([f"{home}/bin", os.environ.get("PATH", "")])
    found = [shutil.which(name, path=path) for name in ("kube-apiserver", "etcd")]
    return (found[0], found[1]) if found[0] and found[1] else None


class ApiServer:
    def __init__(self, directory: Path, kube_apiserver: str, etcd: str) -> None:
        self.directory, self._kube_apiserver, self._etcd = directory, kube_apiserver, etcd
        self.port, self._etcd_port, self._peer_port = free_port(), free_port(), free_port()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._ca = trustme.CA()
        self._write_keys()

    # ---- Start and stop ------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.start_etcd()
        self.start_api()

    def start_etcd(self) -> None:
        client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        self._run(
            "etcd",
            self._etcd,
            f"--data-dir={self.directory}/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )

    def start_api(self) -> None:
        d = self.directory
        self._run(
            "kube-apiserver",
            self._kube_apiserver,
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--etcd-compaction-interval=0",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={d}/server.pem",
            f"--tls-private-key-file={d}/server.key",
            f"--client-ca-file={d}/ca.pem",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={d}/sa.pub",
            f"--service-account-signing-key-file={d}/sa.key",
            "--service-cluster-ip-range=10.250.0.0/16",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
        )
        until = time.monotonic() + READY_SECONDS
        with BlockingClient(self.access(), deadline=2.0) as client:
            while True:
                try:
                    client.pages(NAMESPACES, "")
                    client.call(create(NAMESPACES, "", {"metadata": {"name": f"started-{time.monotonic_ns()}"}}))
                    # For a moment after its start it says that the range of addresses is full.
                    client.call(create(SERVICES, "default", {"metadata": {"generateName": "started-"}, "spec": {"ports": [{"port": 1}]}}))
                except Exception:
                    assert self._running["kube-apiserver"].poll() is None, (d / "kube-apiserver.log").read_text()[-3000:]
                    assert time.monotonic() < until, (d / "kube-apiserver.log").read_text()[-3000:]
                    time.sleep(0.2)
                else:
                    return

    def signal(self, number: int, program: str = "kube-apiserver") -> None:
        self._running[program].send_signal(number)

    def kill(self, program: str = "kube-apiserver") -> None:
        process = self._running.pop(program)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for name in list(self._running):
            with contextlib.suppress(OSError):
                self.signal(signal.SIGCONT, name)
            self.kill(name)

    def forget(self) -> None:
        """Compact etcd: no history is left, as after five minutes on any cluster."""
        revision = int(self._ask_etcd("kv/range", {"key": "AA=="})["header"]["revision"])
        self._ask_etcd("kv/compaction", {"revision": str(revision), "physical": True})

    # ---- Ways in -------------------------------------------------------------------------------------------------------------------------

    def kubeconfig(self, user: str = "admin", groups: tuple[str, ...] = ("system:masters",), *, port: int = 0) -> Path:
        path = self.directory / f"{user}-{port}.kubeconfig"
        if not path.exists():
            leaf = self._ca.issue_cert(f"{user}.test", organization_name=groups[0] if groups else None, common_name=user)
            (self.directory / f"{user}.crt").write_bytes(b"".join(c.bytes() for c in leaf.cert_chain_pems))
            (self.directory / f"{user}.key").write_bytes(leaf.private_key_pem.bytes())
            cluster = {"server": f"https://127.0.0.1:{port or self.port}", "certificate-authority": "ca.pem"}
            document = {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": user}}],
                "clusters": [{"name": "here", "cluster": cluster}],
                "users": [{"name": user, "user": {"client-certificate": f"{user}.crt", "client-key": f"{user}.key"}}],
            }
            path.write_text(yaml.safe_dump(document))
        return path

    def access(self, user: str = "admin", groups: tuple[str, ...] = ("system:masters",), *, port: int = 0) -> Access:
        return load_access(kubeconfig=self.kubeconfig(user, groups, port=port))

    # ---- Inside --------------------------------------------------------------------------------------------------------------------------

    def _run(self, name: str, *command: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as output:
            self._running[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def _ask_etcd(self, what: str, question: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self._etcd_port}/v3/{what}", data=json.dumps(question).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def _write_keys(self) -> None:
        leaf = self._ca.issue_cert("127.0.0.1", "localhost")
        (self.directory / "server.pem").write_bytes(b"".join(c.bytes() for c in leaf.cert_chain_pems))
        (self.directory / "server.key").write_bytes(leaf.private_key_pem.bytes())
        (self.directory / "ca.pem").write_bytes(self._ca.cert_pem.bytes())
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (self.directory / "sa.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (self.directory / "sa.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
