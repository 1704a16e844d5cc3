"""
``van delete`` in a namespace: everything as it was before. Needs no controller, and finishes what another one began.

In this order: the controller (which would make again what is removed), what was taken over is given back, our Services, the root; the
garbage collector takes the rest, and what it leaves is deleted by name.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Final

from vanrouter.cli.base import Invocation
from vanrouter.cli.entrance import fronts_of
from vanrouter.cli.namespace import OURS, NamespaceSite, site_of
from vanrouter.cli.output import say, warn
from vanrouter.cli.values import spell_duration
from vanrouter.controller.services import give_back, is_taken
from vanrouter.errors import DeadlineExceeded
from vanrouter.kube.calls import Kind, Object, delete
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.errors import Conflict, NoSuchKind, NotFound
from vanrouter.kube.kinds import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    REPLICA_SETS,
    ROLE_BINDINGS,
    ROLES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
)
from vanrouter.kube.manifests import CONTROLLER, ROUTER
from vanrouter.kube.names import CONTROLLER_LABELS, ROUTER_LABELS, SERVICE, TYPE
from vanrouter.kube.rollout import central_controller

__all__ = ["uninstall"]

# Those that own come before those that are owned.
_KINDS: Final = (
    DEPLOYMENTS,
    POD_DISRUPTION_BUDGETS,
    SERVICES,
    CONFIG_MAPS,
    SECRETS,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    REPLICA_SETS,
    ENDPOINT_SLICES,
    PODS,
)
_OTHERS: Final = (REPLICA_SETS, ENDPOINT_SLICES, PODS)  # made by the cluster's own controllers, and removed by them
TRIES: Final = 5
COLLECTED_WITHIN: Final = 5.0  # by the garbage collector; then by name
QUICK: Final = 1  # seconds for a pod that nobody waits for


def uninstall(invocation: Invocation, *, drain: bool, timeout: float) -> None:
    site = NamespaceSite(invocation, timeout)
    root = site.root()
    taken = [s for s in site.objects(SERVICES) if is_taken(s)]
    if root is None and not taken and not any(site.objects(kind, labels=OURS, metadata_only=True) for kind in _KINDS):
        site.require()
    if root is not None and central_controller(site.deployments()):
        # The controller of the cluster would make again what goes, as long as there is a Site.
        _delete(site, CUSTOM_KINDS["Site"] if root.get("kind") == "Site" else CONFIG_MAPS, root)
    _stop_controller(site)
    for service in taken:
        _give_back(site, service)
    for service in site.objects(SERVICES, labels=f"{OURS},{TYPE}={SERVICE}"):
        _delete(site, SERVICES, service)
    for kind, value in fronts_of(site):
        _delete(site, kind, value)
    if root is not None:
        _delete(site, CUSTOM_KINDS["Site"] if root.get("kind") == "Site" else CONFIG_MAPS, root)
    _stop(site, ROUTER, ROUTER_LABELS, drain=drain)
    by_name = _wait(site)
    if by_name:
        warn(f"deleted by name, because nothing owned it: {', '.join(sorted(by_name))}")
    name = site_of(root) if root is not None else site.namespace
    say(f"site/{name}" if invocation.output == "name" else f"Site {name} is deleted from namespace {site.namespace}.")


def _stop(site: NamespaceSite, name: str, labels: dict[str, str], *, drain: bool = False) -> None:
    """End a Deployment's pods. Quickly means before the collector gives them their whole grace, which nobody shortens afterwards."""
    selected = ",".join(f"{key}={value}" for key, value in labels.items())
    for _ in range(2):  # once more: one may have been made again in between
        if not drain:
            for pod in site.objects(PODS, labels=selected, metadata_only=True):
                _delete(site, PODS, pod, grace=QUICK)
        if (found := site.get(DEPLOYMENTS, name)) is not None:
            _delete(site, DEPLOYMENTS, found)
        for replicas in site.objects(REPLICA_SETS, labels=selected, metadata_only=True):
            _delete(site, REPLICA_SETS, replicas)


def _stop_controller(site: NamespaceSite) -> None:
    """Until it is gone, it would put back what is removed. A node that does not answer is not waited for."""
    _stop(site, CONTROLLER, CONTROLLER_LABELS)
    until = time.monotonic() + min(15.0, site.left / 2)
    while time.monotonic() < until and site.objects(PODS, labels=",".join(f"{k}={v}" for k, v in CONTROLLER_LABELS.items())):
        time.sleep(0.1)


def _give_back(site: NamespaceSite, service: Object) -> None:
    """Selector and ports as they were, unless somebody changed them since."""
    name = service["metadata"]["name"]
    for _ in range(TRIES):
        call, note = give_back(site.namespace, service)
        try:
            if call is not None:
                site.client.call(call)
        except Conflict:
            again = site.get(SERVICES, name)
            if again is None or not is_taken(again):
                return
            service = again
        except NotFound:
            return
        else:
            if note is not None:
                warn(note.message, note.next)
            return
    warn(f"Service {name} could not be given back: it is changed by somebody else all the time", "delete again")


def _wait(site: NamespaceSite) -> set[str]:
    """Until nothing of ours is left. Returns what had to be deleted by name."""
    started, by_name = time.monotonic(), set[str]()
    while True:
        left = list(_left(site))
        if not left:
            return by_name
        if site.expired:
            names = ", ".join(f"{kind.kind}/{value['metadata']['name']}" for kind, value in left[:10])
            raise DeadlineExceeded(
                f"not everything is gone within {spell_duration(site.timeout)}; left: {names}",
                hint=f"delete again; a longer time: {site.invocation.van('delete --timeout 2m')}",
            )
        late = time.monotonic() - started > COLLECTED_WITHIN
        for kind, value in left:
            metadata = value["metadata"]
            if kind not in _OTHERS and not metadata.get("deletionTimestamp") and (late or not metadata.get("ownerReferences")):
                by_name.add(f"{kind.kind}/{metadata['name']}")
                _delete(site, kind, value)
        time.sleep(min(0.2, site.left))


def _left(site: NamespaceSite) -> Iterator[tuple[Kind, Object]]:
    for kind in _KINDS:
        try:
            for value in site.objects(kind, labels=OURS, metadata_only=True):
                yield kind, value
        except NoSuchKind:
            continue


def _delete(site: NamespaceSite, kind: Kind, value: Object, *, grace: int | None = None) -> None:
    """Gone already, or made again by somebody else, is as good."""
    metadata = value["metadata"]
    with contextlib.suppress(NotFound, Conflict):
        site.client.call(delete(kind, site.namespace, metadata["name"], uid=metadata["uid"], grace=grace))
