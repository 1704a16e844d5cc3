"""
``van delete`` in a namespace: everything as it was before. Needs no controller, and finishes what another one began.

In this order: the controller (which would make again what is removed), what was taken over is given back, our Services, the root; the
garbage collector takes the rest, and what it leaves is deleted by name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from vanrouter.cli.base import Invocation
from vanrouter.cli.namespace import OURS, NamespaceSite
from vanrouter.cli.output import say, warn
from vanrouter.cli.values import spell_duration
from vanrouter.controller.services import give_back, is_taken
from vanrouter.errors import DeadlineExceeded
from vanrouter.kube.calls import Call, Kind, Object, delete
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
from vanrouter.kube.manifests import CONTROLLER
from vanrouter.kube.names import CONTROLLER_LABELS, SERVICE, TYPE

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
    _stop_controller(site)
    for service in taken:
        _give_back(site, service)
    for service in site.objects(SERVICES, labels=f"{OURS},{TYPE}={SERVICE}"):
        _delete(site, SERVICES, service)
    if root is not None:
        _delete(site, CONFIG_MAPS, root)
    by_name = _wait(site, drain=drain)
    if by_name:
        warn(f"deleted by name, because nothing owned it: {', '.join(sorted(by_name))}")
    name = root["metadata"]["name"].split(".", 2)[2] if root is not None else site.namespace
    say(f"site/{name}" if invocation.output == "name" else f"Site {name} is deleted from namespace {site.namespace}.")


def _stop_controller(site: NamespaceSite) -> None:
    """Until it is gone, it would put back what is removed. A node that does not answer is not waited for."""
    if (found := site.get(DEPLOYMENTS, CONTROLLER)) is not None:
        _delete(site, DEPLOYMENTS, found)
    until = time.monotonic() + min(15.0, site.left / 2)
    while time.monotonic() < until:
        pods = site.objects(PODS, labels=",".join(f"{k}={v}" for k, v in CONTROLLER_LABELS.items()))
        if not pods:
            return
        _end_pods(site, pods)
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


def _wait(site: NamespaceSite, *, drain: bool) -> set[str]:
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
        if not drain:
            _end_pods(site, [value for kind, value in left if kind == PODS])
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


def _end_pods(site: NamespaceSite, pods: list[Object]) -> None:
    """Those that are being deleted: others would be made again."""
    for pod in pods:
        if pod["metadata"].get("deletionGracePeriodSeconds", 0) > QUICK:
            _call(site, delete(PODS, site.namespace, pod["metadata"]["name"], uid=pod["metadata"]["uid"], grace=QUICK))


def _delete(site: NamespaceSite, kind: Kind, value: Object) -> None:
    metadata = value["metadata"]
    _call(site, delete(kind, site.namespace, metadata["name"], uid=metadata["uid"]))


def _call(site: NamespaceSite, call: Call) -> None:
    """Gone already, or made again by somebody else, is as good."""
    try:
        site.client.call(call)
    except (NotFound, Conflict):
        return
