"""
The cloud that a cluster of one machine does not have: Services of type LoadBalancer get an address, and traffic to it gets to the node.

    cloud.py KUBECONFIG NETNS PREFIX        cluster.sh starts it; PREFIX is that of the node's network, for example 10.200.1

Addresses PREFIX.100 to PREFIX.199 are put on eth0 of the cluster's namespace, kube-proxy does the rest. As in a real cloud, a Service that
names a ``loadBalancerClass`` is somebody else's. Stop the process (SIGSTOP) for a cloud that keeps its users waiting. Needs only Python.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

FIRST, LAST = 100, 199
RETRY: Final = 0.5
WATCHED_FOR: Final = 300  # seconds; then everything is read anew
Service = dict[str, Any]


class Api:
    """As much of the API as is needed, over connections of their own."""

    def __init__(self, kubeconfig: Path) -> None:
        text = kubeconfig.read_text()

        def data(name: str) -> bytes:
            found = re.search(rf"{name}-data: ([A-Za-z0-9+/=]+)", text)
            assert found, f"{kubeconfig} has no {name}-data"
            return base64.b64decode(found[1])

        self._tls = ssl.create_default_context(cadata=data("certificate-authority").decode())
        with tempfile.NamedTemporaryFile() as file:
            file.write(data("client-certificate") + data("client-key"))
            file.flush()
            self._tls.load_cert_chain(file.name)
        server = re.search(r"server: \"?https://([0-9.]+):(\d+)", text)
        assert server, f"{kubeconfig} names no server"
        self._server = (server[1], int(server[2]))

    def ask(self, method: str, path: str, body: object = None, *, timeout: float = 10) -> http.client.HTTPResponse:
        connection = http.client.HTTPSConnection(*self._server, context=self._tls, timeout=timeout)
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": content})
        response = connection.getresponse()
        if response.status >= 400:
            raise OSError(f"{method} {path}: {response.status} {response.read(300)!r}")
        return response

    def services(self) -> tuple[list[Service], Iterator[Service]]:
        """All of them now, and then each change."""
        now = json.load(self.ask("GET", "/api/v1/services"))
        since = f"watch=true&resourceVersion={now['metadata']['resourceVersion']}&timeoutSeconds={WATCHED_FOR}"
        changes = self.ask("GET", f"/api/v1/services?{since}", timeout=WATCHED_FOR + 10)
        return now["items"], map(json.loads, changes)


class Cloud:
    def __init__(self, api: Api, netns: str, prefix: str) -> None:
        self._api, self._netns, self._prefix = api, netns, prefix
        self._given: dict[str, str] = {}  # address of each Service

    def run(self) -> None:
        while True:
            try:
                present, changes = self._api.services()
                for gone in self._given.keys() - {_key(service) for service in present}:
                    self._take_back(gone)
                for service in sorted(present, key=lambda service: not _addresses(service)):  # those that have one keep it
                    self.look_at(service)
                for change in changes:
                    if change["type"] == "ERROR":
                        break
                    if change["type"] == "DELETED":
                        self._take_back(_key(change["object"]))
                    else:
                        self.look_at(change["object"])
            except (OSError, http.client.HTTPException, ValueError) as error:
                print(f"asking again in {RETRY} s: {error}", flush=True)
                time.sleep(RETRY)

    def look_at(self, service: Service) -> None:
        """Give what a Service asks for, take back what it no longer does."""
        key, has = _key(service), _addresses(service)
        if service["spec"]["type"] != "LoadBalancer" or service["spec"].get("loadBalancerClass"):
            if key in self._given:
                self._take_back(key)
                self._write(service, [])
            return
        if key not in self._given:
            taken = set(self._given.values())
            free = (f"{self._prefix}.{number}" for number in range(FIRST, LAST + 1) if f"{self._prefix}.{number}" not in taken)
            address = has[0] if has and has[0] not in taken else next(free, None)
            if address is None:
                print(f"no address is left for {key}", flush=True)
                return
            self._ip("add", address)
            self._given[key] = address
            print(f"{key} gets {address}", flush=True)
        if has != [self._given[key]]:
            self._write(service, [{"ip": self._given[key]}])

    def _write(self, service: Service, ingress: list[dict[str, str]]) -> None:
        path = f"/api/v1/namespaces/{service['metadata']['namespace']}/services/{service['metadata']['name']}/status"
        self._api.ask("PATCH", path, {"status": {"loadBalancer": {"ingress": ingress}}})

    def _take_back(self, key: str) -> None:
        if address := self._given.pop(key, None):
            self._ip("del", address)
            print(f"{key} gives {address} back", flush=True)

    def _ip(self, verb: str, address: str) -> None:
        subprocess.run(["ip", "-n", self._netns, "addr", verb, f"{address}/24", "dev", "eth0"], capture_output=True, check=False)


def _key(service: Service) -> str:
    return f"{service['metadata']['namespace']}/{service['metadata']['name']}"


def _addresses(service: Service) -> list[str]:
    return [entry.get("ip", "") for entry in service["status"].get("loadBalancer", {}).get("ingress", [])]


if __name__ == "__main__":
    Cloud(Api(Path(sys.argv[1])), *sys.argv[2:]).run()
