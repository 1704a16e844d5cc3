"""
A site in a namespace of a cluster, as a command sees it: the objects that the controller keeps there.

Needs no more than the rights of the namespace's owner. What the running site says stands in the status ConfigMap of its root, so most
commands are two reads. Each call ends within the command's deadline.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

import click
import msgspec

from vanrouter.admin.protocol import decode_reply
from vanrouter.cli.base import Invocation
from vanrouter.cli.central import log_of_controller, unserved
from vanrouter.cli.idle_workloads import name_idle
from vanrouter.cli.running import Resources, Site, commands_here, named_here
from vanrouter.errors import ConfigError, DeadlineExceeded, NotReady, StoreError, VanrouterError
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import Call, Kind, Object, create, delete, get
from vanrouter.kube.custom_home import ResourceObjects, custom_sites
from vanrouter.kube.errors import Forbidden, NotFound
from vanrouter.kube.kinds import CONFIG_MAPS, DEPLOYMENTS, NAMESPACES, PODS, SECRETS
from vanrouter.kube.kubeconfig import load_access
from vanrouter.kube.leaf_dates import late, leaf_dates
from vanrouter.kube.names import PART_OF, REQUEST, RESOURCE, resource_map, selector, status_map
from vanrouter.kube.records import ROOT, SITE_KEY, reference_to, root_order, site_text
from vanrouter.kube.rollout import install_troubles, missing
from vanrouter.kube.state import files_in, secret_of

__all__ = ["OURS", "SETTLES", "NamespaceSite", "owner", "site_of"]

SETTLES: Final = 3.0  # seconds
OURS: Final = f"{PART_OF}=vanrouter"
_REQUEST: Final = "van-request."
_METHODS: Final = {"grant.delete": "token.delete"}  # of a host, and here


class _Client(BlockingClient):
    """No call lasts longer than the command has left."""

    def __init__(self, site: NamespaceSite) -> None:
        super().__init__(site.access)
        self._site = site

    def call(self, call: Call, *, deadline: float | None = None) -> Object:
        return super().call(call, deadline=min(self.deadline if deadline is None else deadline, self._site.left))


class NamespaceSite(Site):
    settles = SETTLES

    def __init__(self, invocation: Invocation, timeout: float) -> None:
        super().__init__(invocation, timeout)
        self.access = load_access(kubeconfig=invocation.kubeconfig, context=invocation.context, namespace=invocation.name)
        self.name = self.namespace = self.access.namespace
        self.client: BlockingClient = _Client(self)
        if (context := click.get_current_context(silent=True)) is not None:
            context.call_on_close(self.client.close)
        self._root: Object | None = None

    # ---- Objects -------------------------------------------------------------------------------------------------------------------------

    def objects(self, kind: Kind, *, labels: str = "", metadata_only: bool = False) -> list[Object]:
        return self.client.pages(kind, self.namespace, labels=labels, metadata_only=metadata_only)

    def get(self, kind: Kind, name: str) -> Object | None:
        try:
            return self.client.call(get(kind, self.namespace, name))
        except NotFound:
            return None

    def root(self) -> Object | None:
        """What owns all else of a site, if there is one: a ConfigMap, or a Site that is a custom resource.

        Raises ConfigError when there is no such namespace.
        """
        if self._root is None:
            found = [o for o in self.objects(CONFIG_MAPS, labels=selector(RESOURCE)) if o["metadata"]["name"].startswith(ROOT)]
            found = found or custom_sites(self.client, self.namespace)
            self._root = min(found, key=_order, default=None)
            if self._root is None:
                self.require_namespace()
        return self._root

    def forget(self) -> None:
        """What was read of the root may have changed."""
        self._root = None

    def require_namespace(self) -> None:
        """Raise ConfigError when the namespace does not exist, or is being deleted. Who may not ask is believed."""
        try:
            value = self.client.call(get(NAMESPACES, "", self.namespace))
        except NotFound:
            raise ConfigError(
                f"there is no namespace {self.namespace} ({self.access.source})",
                hint=f"create it: kubectl create namespace {self.namespace}   or name another one with -n",
            ) from None
        except Forbidden:
            return
        if value.get("metadata", {}).get("deletionTimestamp"):
            raise ConfigError(f"namespace {self.namespace} is being deleted", hint="wait until it is gone, or name another one with -n")

    # ---- As every site -------------------------------------------------------------------------------------------------------------------

    @property
    def resources(self) -> Resources:
        root = self.root()
        return ResourceObjects(self.client, self.namespace, secrets=False, owners=() if root is None else (owner(root),))

    def require(self) -> None:
        if self.root() is None:
            raise ConfigError(
                f"not installed in namespace {self.namespace}", hint=f"install it: {self.invocation.van('init --site-name NAME')}"
            )

    def call(self, method: str, **params: Any) -> Any:
        self.require()
        if method == "status":
            return named_here(self._status(), self.invocation)
        return named_here(self._ask(_METHODS.get(method, method), params), self.invocation)

    def wait(self, what: str, check: Callable[[dict[str, Any]], str], *, hint: str = "") -> dict[str, Any]:
        """Resources, keys and Services reach the routers one after the other: what fails in the first moments is only not there yet."""
        settled = time.monotonic() + SETTLES

        def patient(status: dict[str, Any]) -> str:
            try:
                return check(status)
            except VanrouterError as error:
                if time.monotonic() >= settled:
                    raise
                return str(error)

        return super().wait(what, patient, hint=hint)

    def reconcile(self) -> list[dict[str, str]]:
        """The controller sees each change by itself."""
        return []

    def is_running(self) -> bool:
        """Whether somebody keeps the status of this site."""
        try:
            self._status()
        except NotReady:
            return False
        return True

    def redeem(self, token: str, *, name: str | None, cost: int | None) -> str:
        from vanrouter.cli.joining import redeem  # needs more than other commands do

        return redeem(self, token, name=name, cost=cost)

    def delete_link(self, name: str) -> None:
        from vanrouter.cli.joining import delete_link

        delete_link(self, name)

    def troubles(self) -> list[dict[str, str]]:
        """What is wrong with the site's own pods, as problems of the status document."""
        deployments, root = self.deployments(), self.root()
        if not deployments and root is not None and root.get("kind") == "Site":
            return [unserved(root, self.invocation)]
        found = install_troubles(deployments, self.objects(PODS, labels=OURS))
        return [{"path": t.what, "message": t.why, "hint": commands_here(t.next, self.invocation)} for t in found]

    def deployments(self) -> list[Object]:
        return self.objects(DEPLOYMENTS, labels=OURS)

    def _ask(self, method: str, params: dict[str, Any]) -> Any:
        """A question to the controller: a Secret, because a token may be in the answer. Gone afterwards, whatever happens."""
        name = f"{_REQUEST}{secrets.token_hex(8)}"
        root = self.root()
        asked = msgspec.json.encode({"method": method, "params": params})
        value = secret_of(name, REQUEST, {"request.json": asked}, owners=() if root is None else (owner(root),))
        self.client.call(create(SECRETS, self.namespace, value))
        try:
            return self._answer(name, method)
        finally:
            with contextlib.suppress(StoreError):
                self.client.call(delete(SECRETS, self.namespace, name), deadline=2.0)

    def _answer(self, name: str, method: str) -> Any:
        pause = 0.05
        while True:
            found = self.get(SECRETS, name)
            if found is None:
                raise NotReady(f"'{method}': somebody deleted the question, Secret/{name}", hint="try again")
            if answer := files_in(found).get("answer.json"):
                return decode_reply(answer)
            if self.expired:
                troubles = self.troubles()
                why = "; ".join(f"{t['path']}: {t['message']}" for t in troubles) or "is it running?"
                raise DeadlineExceeded(
                    f"the controller of namespace {self.namespace} did not answer '{method}' within {self.patience:g} s: {why}",
                    hint=next((t["hint"] for t in troubles if t["hint"]), log_of_controller(self.deployments())),
                )
            time.sleep(min(pause, self.left))
            pause = min(pause * 1.3, 0.4)

    def _status(self) -> dict[str, Any]:
        self.require()
        root = self.root()
        assert root is not None
        site = site_of(root)
        name = resource_map("Site", site)
        kept = self.get(CONFIG_MAPS, status_map(name))
        text = site_text(kept or {})
        if not text:
            troubles = self.troubles()
            why = "; ".join(f"{t['path']}: {t['message']}" for t in troubles)
            why = why or "; ".join(filter(None, map(missing, self.deployments()))) or "its controller has not said anything yet"
            hints = [t["hint"] for t in troubles if t["hint"]]
            raise NotReady(
                f"site {site} is installed in namespace {self.namespace} and not ready: {why}",
                hint=hints[0] if hints else f"wait for it: {self.invocation.van('init')}",
            )
        document = _parse(text, f"ConfigMap/{status_map(name)}: {SITE_KEY}")
        _fill_in(document, site)
        name_idle(document["connectors"], self.objects)
        document["problems"] += self.troubles()
        dates = leaf_dates(document["site"].get("certificate"))
        problem = late(dates, time.time()) if dates is not None else None
        if problem is not None and not any(p.get("path") == problem.path for p in document["problems"]):  # nobody is there who says it
            hint = commands_here(problem.hint, self.invocation)
            document["problems"].append({"path": problem.path, "message": problem.message, "hint": hint})
        return document


def _order(root: Object) -> tuple[bool, str, str]:
    return root_order(str(root["metadata"]["name"]), str(root["metadata"].get("creationTimestamp", "")))


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise StoreError(f"{where} cannot be read: {error}", hint="the controller writes it again within a minute") from None


def _fill_in(document: dict[str, Any], site: str) -> None:
    """Before a router has said anything, the document has what the controller knows."""
    for name in ("links", "listeners", "multiKeyListeners", "connectors", "services", "grants", "problems"):
        document.setdefault(name, [])
    about = document.setdefault("site", {})
    empty = {"name": site, "id": "", "version": "", "dataPlane": "", "ready": False, "linkedSites": 0, "exposedServices": 0}
    for key, value in {**empty, "endpoints": []}.items():
        about.setdefault(key, value)
    conditions = about.setdefault("conditions", [])
    if not any(c.get("type") == "Ready" for c in conditions):
        why = next((f": {p['message']}" for p in document["problems"] if p.get("path") == "routers"), "")
        why = f"none of its routers has said yet how it is{why}"
        conditions.append({"type": "Ready", "status": "Unknown", "reason": "NoRouter", "message": why, "since": "", "next": ""})


def owner(root: Object) -> Object:
    """The reference to the root that all other objects of a site have."""
    return reference_to(root)


def site_of(root: Object) -> str:
    """The name of the site."""
    return str(root["metadata"]["name"]).removeprefix(ROOT)
