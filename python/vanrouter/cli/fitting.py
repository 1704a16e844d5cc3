"""
Whether a listener or a connector fits its namespace, before it is written: what cannot work is refused, what matches nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vanrouter.cli.namespace import NamespaceSite
from vanrouter.cli.workloads import check_address
from vanrouter.errors import ConfigError
from vanrouter.kube.kinds import PODS
from vanrouter.kube.pods import keep_pod, labels_that_exist, selected
from vanrouter.resources.kinds import Connector, Listener, MultiKeyListener
from vanrouter.resources.selectors import parse_selector

if TYPE_CHECKING:
    from vanrouter.resources import Resource

__all__ = ["check_fit"]


def check_fit(site: NamespaceSite, resource: Resource, *, together: Iterable[Resource] = ()) -> list[tuple[str, str]]:
    """What a person should know, each with what to do. Raises ConfigError for what can never work.

    ``together``: all that is written at once. Two listeners may swap their ports.
    """
    if isinstance(resource, Listener | MultiKeyListener):
        return _listener(site, resource, together)
    if isinstance(resource, Connector) and resource.spec.selector:
        return _connector(site, resource)
    return []


def _listener(site: NamespaceSite, wanted: Listener | MultiKeyListener, together: Iterable[Resource]) -> list[tuple[str, str]]:
    host, port = wanted.spec.host, wanted.spec.port
    there: list[Any] = [*site.resources.of_kind("Listener"), *site.resources.of_kind("MultiKeyListener")]
    others = {other.ref: other for other in (*there, *(r for r in together if isinstance(r, Listener | MultiKeyListener)))}
    for other in others.values():
        if other.ref != wanted.ref and (other.spec.host, other.spec.port) == (host, port):
            change = site.invocation.van(f"{other.kind.lower()} update {other.name}")
            raise ConfigError(
                f"{wanted.ref}: {other.ref} has host {host} and port {port} already",
                hint=f"choose another --host or port, or change that one: {change}",
            )
    note = check_address(site, host, option="--host")
    return [(note, "")] if note else []


def _connector(site: NamespaceSite, wanted: Connector) -> list[tuple[str, str]]:
    selector = parse_selector(wanted.spec.selector)
    pods = [keep_pod(value) for value in site.objects(PODS)]
    found = selected(pods, selector)
    if not found:
        said = f"{wanted.ref}: no pod matches {wanted.spec.selector}; {labels_that_exist(pods, selector)}"
        return [(said, "correct --selector, or start such pods: it serves as soon as there are some")]
    if not wanted.spec.include_not_ready_pods and not any(pod.ready for pod in found):
        return [(f"{wanted.ref}: no pod that matches {wanted.spec.selector} is ready: {found[0].name} is not", "")]
    return []
