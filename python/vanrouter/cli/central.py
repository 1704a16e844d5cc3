"""
A namespace whose controller is the one of the whole cluster, as commands see it: the Site is all that they change.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vanrouter.cli.base import Invocation
from vanrouter.kube.announcement import READ, announced_in
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Object
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.custom import custom_object
from vanrouter.kube.custom_home import has_custom
from vanrouter.kube.drift import drifted
from vanrouter.kube.errors import Forbidden, NotFound
from vanrouter.kube.kinds import DEPLOYMENTS
from vanrouter.kube.manifests import CONTROLLER, router_manifests
from vanrouter.kube.plan import plan
from vanrouter.kube.rollout import central_controller
from vanrouter.resources.kinds import API_VERSION, Site

if TYPE_CHECKING:
    from vanrouter.cli.namespace import NamespaceSite

__all__ = ["announced", "custom_document", "is_central", "log_of_controller", "not_taken_up", "unserved"]


def is_central(site: NamespaceSite) -> bool:
    """Whether the controller of the cluster serves this namespace, or will once a Site is there: all else is left to it."""
    deployments = site.deployments()
    if central_controller(deployments):
        return True
    if any(value["metadata"]["name"] == CONTROLLER for value in deployments):
        return False
    root = site.root()
    if root is not None and root.get("kind") != CUSTOM_KINDS["Site"].kind:
        return False  # what `van init` began
    return has_custom(site.client) and bool(announced(site.client))


def announced(client: BlockingClient) -> str:
    """Where the controller of the cluster is; empty: there is none, or nobody says so."""
    try:
        return announced_in(client.call(READ))
    except (NotFound, Forbidden):
        return ""


def custom_document(site: Site, namespace: str) -> Object:
    """What `van init -o yaml` prints where the Site is all that is applied."""
    value = custom_object(site)
    value["metadata"]["namespace"] = namespace
    return {"apiVersion": API_VERSION, "kind": site.kind, **value}


def unserved(root: Object, invocation: Invocation) -> dict[str, str]:
    """What is wrong where a Site is a custom resource and nothing is installed for it, as a problem of the status document."""
    path, status = f"Site/{root['metadata']['name']}", root.get("status") or {}
    said = next((c for c in status.get("conditions") or [] if c.get("type") == "Ready" and c.get("status") == "False"), None)
    if said is not None:
        return {"path": path, "message": str(said.get("message")), "hint": str(said.get("next") or "")}
    text = "nothing is installed for it: no controller that serves the whole cluster has taken it up (yet)"
    todo = (
        f"a controller of its own: {invocation.van('init')}; or whoever administers the cluster: van manifest controller | kubectl apply "
    )
    return {"path": path, "message": text, "hint": todo + "--server-side -f -"}


def log_of_controller(deployments: Iterable[Object]) -> str:
    """The command that shows it."""
    host = central_controller(deployments).partition(":")[0].split(".")
    where = f"-n {host[1]} " if len(host) > 1 else ""
    return f"kubectl {where}logs deployment/{CONTROLLER}"


def not_taken_up(site: Site, known: Object, address: str) -> list[str]:
    """Where the Deployment is not yet as the Site wants it: paths of what differs. ``address``: of the controller."""
    spec = known["spec"]["template"]["spec"]
    chosen = plan(site, image=str(spec["containers"][0].get("image")))
    made = router_manifests(chosen, "", owners=(), controller=address)
    wish = next(m.value for m in made if m.kind == DEPLOYMENTS)
    return drifted(wish, known)
