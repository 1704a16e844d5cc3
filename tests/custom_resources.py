"""CustomResourceDefinitions in a test's API server, and resources under them."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Kind, Object, apply, delete, list_page
from vanrouter.kube.crds import CUSTOM_KINDS, definitions
from vanrouter.kube.errors import NoSuchKind, NotFound

DEFINITIONS = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)


def install_definitions(client: BlockingClient, made: list[Object] | None = None) -> None:
    """Returns when the server serves all of them."""
    for value in definitions() if made is None else made:
        client.call(apply(DEFINITIONS, "", value))
    for kind in CUSTOM_KINDS.values() if made is None else ():
        until(lambda kind=kind: served(client, kind))


def remove_definitions(client: BlockingClient) -> None:
    """With all resources under them. Returns when the server knows none of them."""
    for kind in CUSTOM_KINDS.values():
        with contextlib.suppress(NotFound):
            client.call(delete(DEFINITIONS, "", kind.resource))
    for kind in CUSTOM_KINDS.values():
        until(lambda kind=kind: not served(client, kind))


def served(client: BlockingClient, kind: Kind) -> bool:
    try:
        client.call(list_page(kind, "default", limit=1))
    except NoSuchKind:
        return False
    return True


def until(check: Any, seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, "it did not become so"
        time.sleep(0.05)
    return found
