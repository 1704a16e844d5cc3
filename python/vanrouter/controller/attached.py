"""
AttachedConnectors and their bindings: which of them agree, and the connectors that follow from it. Pure.

    namespace shop: AttachedConnector db       namespace north: AttachedConnectorBinding db     agree: the pods of shop
      siteNamespace: north, selector, port       connectorNamespace: shop, routingKey           are targets of the site north

Each names the other's namespace, under one name: nobody's pods are taken into a site, and nothing is put into a site, without the word of
both. To a side that lacks the other's word it looks as if there was nothing over there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from vanrouter.kube.names import resource_map
from vanrouter.kube.pods import Pod, labels_that_exist, selected
from vanrouter.kube.workloads import MADE_FROM
from vanrouter.resources.effects import TLS_ALPN, TLS_SERVER_NAME
from vanrouter.resources.kinds import AttachedConnector, AttachedConnectorBinding, AttachedConnectorSpec, Connector, ConnectorSpec, Metadata
from vanrouter.resources.selectors import parse_selector
from vanrouter.stores.resources import Problem

__all__ = [
    "Key",
    "Verdict",
    "connectors_of",
    "consent",
    "map_name",
    "needs_the_cluster",
    "targets_of",
    "verdict_of_binding",
    "verdict_of_connector",
]

Key = tuple[str, str]  # namespace, name
_LONGEST = 63


class Verdict(msgspec.Struct, frozen=True):
    """How it is with one of the two. ``matched``: both agree; ``ready``: and there is a pod that takes streams."""

    matched: bool
    ready: bool
    reason: str
    message: str
    next: str = ""


def needs_the_cluster(resource: AttachedConnector | AttachedConnectorBinding) -> Problem:
    """Of a site that has a controller of its own."""
    text = f"{resource.ref} takes a controller that serves the whole cluster, and this namespace has one of its own: it is not in force"
    todo = "docs/kubernetes.md: One controller for the whole cluster; or install a site in the namespace of the pods"
    return Problem(resource.ref, text, todo)


def consent(
    connectors: Mapping[Key, AttachedConnector], bindings: Mapping[Key, AttachedConnectorBinding]
) -> dict[Key, tuple[Key, AttachedConnector]]:
    """By binding, the connector that agrees with it."""
    found = {}
    for (namespace, name), binding in bindings.items():
        other = connectors.get((binding.spec.connector_namespace, name))
        if other is not None and other.spec.site_namespace == namespace:
            found[namespace, name] = ((binding.spec.connector_namespace, name), other)
    return found


def targets_of(connector: AttachedConnector, pods: Iterable[Pod]) -> list[Pod]:
    spec = connector.spec
    chosen = selected(pods, parse_selector(spec.selector))
    return [pod for pod in chosen if pod.takes_streams(include_not_ready=spec.include_not_ready_pods)]


def verdict_of_connector(connector: AttachedConnector, namespace: str, *, agreed: bool, pods: Iterable[Pod] | None) -> Verdict:
    """``pods``: of its namespace; None: not known yet."""
    site, name = connector.spec.site_namespace, connector.name
    if not agreed:
        text = f"waiting for the consent of namespace {site}: no AttachedConnectorBinding {name} there names {namespace}"
        return Verdict(
            False, False, "NoBinding", text, f"in {site}: an AttachedConnectorBinding {name} with connectorNamespace: {namespace}"
        )
    if pods is None:
        return Verdict(True, False, "Pending", "its pods are not known yet")
    pods = list(pods)
    selector = parse_selector(connector.spec.selector)
    chosen, taken = selected(pods, selector), targets_of(connector, pods)
    if not chosen:
        return Verdict(True, False, "NoPods", f"{connector.spec.selector} means no pod", labels_that_exist(pods, selector))
    if not taken:
        return Verdict(
            True, False, "NoPods", f"none of {len(chosen)} pods of {connector.spec.selector} is ready", "see why: kubectl get pods"
        )
    return Verdict(True, True, "Ok", f"{len(taken)} of {len(chosen)} pods are targets of the site in {site}")


def verdict_of_binding(binding: AttachedConnectorBinding, namespace: str, *, agreed: bool, targets: int | None) -> Verdict:
    there, name = binding.spec.connector_namespace, binding.name
    if not agreed:
        text = f"waiting for the consent of namespace {there}: no AttachedConnector {name} there names {namespace}"
        return Verdict(False, False, "NoConnector", text, f"in {there}: an AttachedConnector {name} with siteNamespace: {namespace}")
    if targets is None:
        return Verdict(True, False, "Pending", f"the pods of namespace {there} are not known yet")
    if not targets:
        text = f"AttachedConnector {name} in {there} has no pod that is ready"
        return Verdict(True, False, "NoPods", text, f"kubectl -n {there} describe attachedconnector {name}")
    return Verdict(True, True, "Ok", f"{targets} pods of namespace {there} are targets")


def connectors_of(binding: AttachedConnectorBinding, connector: AttachedConnector, targets: Iterable[Pod]) -> list[Connector]:
    """One for each pod; with ``exposePodsByName`` one more, under its own key."""
    made = []
    for pod in targets:
        keys = [("", binding.spec.routing_key)]
        if binding.spec.expose_pods_by_name:
            keys.append(("key.", f"{binding.spec.routing_key}.{pod.name}"))
        for prefix, key in keys:
            marks = {MADE_FROM: f"attachedconnectorbinding/{binding.name}"}
            spec = _spec(connector.spec, key, pod.address)
            made.append(Connector(metadata=Metadata(name=_name(binding.name, prefix + pod.name), annotations=marks), spec=spec))
    return made


def _spec(wish: AttachedConnectorSpec, key: str, address: str) -> ConnectorSpec:
    """TLS as of a connector with a selector: the Secret is one of the site's namespace, and a name is checked where one is said."""
    spec = ConnectorSpec(routing_key=key, host=address, port=wish.port)
    if not wish.tls_credentials and not wish.use_client_cert:
        return spec
    settings = {name: text for name, text in wish.settings.items() if name in (TLS_ALPN, TLS_SERVER_NAME)}
    return msgspec.structs.replace(
        spec,
        tls_credentials=wish.tls_credentials,
        use_client_cert=wish.use_client_cert,
        verify_hostname=TLS_SERVER_NAME in settings,
        settings=settings,
    )


def map_name(binding: str) -> str:
    """Of the ConfigMap with the connectors of a binding."""
    return resource_map("made", f"attached.{binding}")


def _name(binding: str, pod: str) -> str:
    name = f"{binding[:30].rstrip('-.')}.{pod}"
    if len(name) <= _LONGEST:
        return name
    return f"{name[:50].rstrip('-.')}-{hashlib.sha256(f'{binding}.{pod}'.encode()).hexdigest()[:12]}"
