"""The real CustomResourceDefinitions of `kube/crds`, installed into a cluster for a while."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from vanrouter.kube.access import Access
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Kind, create, delete, discover, is_served
from vanrouter.kube.errors import KubeError, NoSuchKind, NotFound
from vanrouter.kube.kinds import GATEWAYS, HTTP_PROXIES, ROUTES, TLS_ROUTES

DEFINITIONS = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
CRDS = {"routes": ROUTES, "httpproxies": HTTP_PROXIES, "gateways": GATEWAYS, "tlsroutes": TLS_ROUTES[0]}


@contextlib.contextmanager
def installed(cluster: Access, *names: str) -> Iterator[None]:
    """Gone afterwards: what a cluster has decides the default link access."""
    with BlockingClient(cluster) as client:
        values = [yaml.safe_load((Path(__file__).parent / "kube" / "crds" / f"{name}.yaml").read_text()) for name in names]
        for value in values:
            client.call(create(DEFINITIONS, "", value))
        try:
            for name in names:
                _until(client, CRDS[name], there=True)
            yield
        finally:
            for value in values:
                client.call(delete(DEFINITIONS, "", value["metadata"]["name"]))
            for name in names:
                _until(client, CRDS[name], there=False)


def _until(client: BlockingClient, kind: Kind, *, there: bool) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            found = is_served(kind, client.call(discover(kind)))
        except (NotFound, NoSuchKind):
            found = False
        except KubeError:
            found = not there
        if found is there:
            return
        assert time.monotonic() < until, f"{kind.resource} did not {'come' if there else 'go'}"
        time.sleep(0.05)
