"""
``van init``, ``update``, ``manifest`` and ``delete`` in a namespace: objects applied in order, waited for, and removed again.

Twice, or over a half of it, the result is the same. Nothing is created before the namespace and every right that is needed are there.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from vanrouter import __version__
from vanrouter.cli import entrance, wanted
from vanrouter.cli.base import DONE, Invocation
from vanrouter.cli.central import custom_document, is_central, log_of_controller, not_taken_up, unserved
from vanrouter.cli.health import is_ready, troubles
from vanrouter.cli.namespace import SETTLES, NamespaceSite
from vanrouter.cli.output import dump_objects, say, warn
from vanrouter.cli.rights_held import lacking
from vanrouter.cli.values import HostPort, spell_duration
from vanrouter.errors import ConfigError, DeadlineExceeded, NotReady, VanrouterError
from vanrouter.kube.calls import Object, delete, get
from vanrouter.kube.crds import CUSTOM_KINDS
from vanrouter.kube.custom import custom_object
from vanrouter.kube.custom_home import ResourceObjects, has_custom
from vanrouter.kube.entrances import ACCESS_TYPES, front_rules
from vanrouter.kube.errors import NotFound, Unreachable
from vanrouter.kube.keeping import apply_beside
from vanrouter.kube.kinds import DEPLOYMENTS
from vanrouter.kube.manifests import (
    CONTROLLER,
    CONTROLLER_CUSTOM_RULES,
    OPTIONAL,
    ROUTER,
    ROUTER_CUSTOM_RULES,
    Manifest,
    manifests,
)
from vanrouter.kube.names import resource_map
from vanrouter.kube.plan import Plan, built_in_image, plan, settings_from
from vanrouter.kube.rights import LEASE_INSTALLER_RULES, needed, rights_in, role_granting
from vanrouter.kube.rollout import central_controller, missing

__all__ = ["check", "fields_of", "image_setting", "init", "may_give_custom_rights", "put_in_force", "put_site", "update", "wait_and_say"]

Doc = dict[str, Any]
_QUIET = 1.5


def fields_of(fields: Doc, options: Doc) -> Doc:
    """What the command line named, as fields of the Site."""
    if "serviceAddress" in fields:
        raise click.UsageError("--service-address is for hosts; in a namespace each service of another site is a Service")
    if ":" in (fields.get("linkAccess") or ""):
        raise click.UsageError(f"--link-access HOST:PORT is for hosts; in a namespace it is one of: {', '.join(ACCESS_TYPES)}")
    return fields | {f"settings.{name}": value for name, value in settings_from(options).items()}


def init(
    invocation: Invocation, site_name: str | None, fields: Doc, *, print_only: bool, wait: bool, timeout: float, own: bool = False
) -> int:
    """``own``: a controller of its own, also where one serves the whole cluster."""
    site = NamespaceSite(invocation, timeout)
    site.require_namespace()
    fields = _with_image(fields)
    old = _sites(site) if site.root() is not None else []
    if old and site_name not in (None, old[0].name):
        raise ConfigError(
            f"namespace {site.namespace} has a site already, and it is called {old[0].name!r}; a site keeps its name",
            hint=f"leave --site-name away, or use another namespace: van -n NAME init --site-name {site_name}",
        )
    if old:
        change = wanted.update(site, "Site", old[0].name, fields, dry_run=True)
    else:
        change = wanted.Change(wanted.build("Site", site_name or site.namespace, _defaults(fields)), "created", dry=True)
    return _install(site, change, print_only=print_only, wait=wait, own=own)


def update(invocation: Invocation, fields: Doc, *, print_only: bool, wait: bool, timeout: float) -> int:
    site = NamespaceSite(invocation, timeout)
    site.require()
    change = wanted.update(site, "Site", _sites(site)[0].name, _with_image(fields), dry_run=True)
    return _install(site, change, print_only=print_only, wait=wait)


def _sites(site: NamespaceSite) -> list[Any]:
    """Of a namespace that has one; the last good form of one that somebody broke. Raises ConfigError where there is none."""
    found = wanted.read_all(site, "Site")
    if not found:
        root = site.root()
        name = f"ConfigMap/{root['metadata']['name']}" if root is not None else "its ConfigMap"
        broken = next((p for p in site.resources.load().problems if p.path.startswith(name)), None)
        why, hint = (f"{broken.path}: {broken.message}", broken.hint) if broken else (f"{name} has no Site", "")
        raise ConfigError(f"the Site of namespace {site.namespace} cannot be read: {why}", hint=hint or f"kubectl edit {name.lower()}")
    return found


def _with_image(fields: Doc) -> Doc:
    """VAN_IMAGE is remembered, so that a later command without it does not go back."""
    return {f"settings.{name}": value for name, value in image_setting().items()} | fields


def image_setting() -> dict[str, str]:
    image = os.environ.get("VAN_IMAGE")
    return {"image": image} if image else {}


def _defaults(fields: Doc) -> Doc:
    return fields if fields.get("edge") else {"linkAccess": "default", **fields}


def _install(site: NamespaceSite, change: Any, *, print_only: bool, wait: bool, own: bool = False) -> int:
    resource, output = change.resource, site.invocation.output
    if not own and is_central(site):
        return _change_site(site, change, print_only=print_only, wait=wait)
    if print_only:
        chosen, _ = _chosen(site, resource)
        custom = may_give_custom_rights(site)
        documents = [m.value for m in manifests(resource, chosen, site.namespace, root=site.root(), custom=custom)]
        dump_objects(documents, output if output in ("json", "yaml") else "yaml")
        return DONE
    chosen = check(site, resource)
    existed = site.root() is not None
    lacked = _lacked(site, resource, chosen) if existed and change.done == "unchanged" else []
    put_in_force(site, resource, chosen, write=change.done != "unchanged")
    if wait:
        _wait(site, f"site {resource.name}")
    _say(site, resource.name, change.done if existed else "created", waited=wait, lacked=lacked)
    return DONE


def _lacked(site: NamespaceSite, resource: Any, chosen: Plan) -> list[str]:
    """What an install that ended early, or somebody who deleted, left out."""
    wanted_objects = manifests(resource, chosen, site.namespace, root=site.root(), custom=False)[1:]
    with ThreadPoolExecutor(8) as at_once:
        found = list(at_once.map(lambda manifest: site.get(manifest.kind, manifest.name), wanted_objects))
    return [manifest.ref for manifest, known in zip(wanted_objects, found, strict=True) if known is None]


def _change_site(site: NamespaceSite, change: Any, *, print_only: bool, wait: bool) -> int:
    """Where the controller of the whole cluster makes all else of it."""
    resource, output = change.resource, site.invocation.output
    _chosen(site, resource)
    if idle := sorted(name for name in resource.spec.settings if name.startswith("controller")):
        warn(
            f"the controller of the whole cluster serves this namespace, so these settings change nothing: {', '.join(idle)}",
            f"a controller of its own: {site.invocation.van('init --own-controller')}",
        )
    if print_only:
        dump_objects([custom_document(resource, site.namespace)], output if output in ("json", "yaml") else "yaml")
        return DONE
    if change.done != "unchanged":
        put_site(site, resource)
    if wait:
        _wait_taken_up(site, resource)
        _wait(site, f"site {resource.name}")
    _say(site, resource.name, change.done, waited=wait, lacked=[])
    return DONE


def put_site(site: NamespaceSite, resource: Any, *, force: bool = False) -> None:
    """Where it stands; a new one as a custom resource, because the controller of the cluster takes up no other."""
    if site.root() is None:
        apply_beside(site.client, CUSTOM_KINDS["Site"], site.namespace, custom_object(resource), force=force)
    else:
        ResourceObjects(site.client, site.namespace, secrets=False, force=force).put(resource)
    site.forget()


def _wait_taken_up(site: NamespaceSite, resource: Any) -> None:
    """Until the controller of the cluster has made it so."""
    while True:
        deployments = site.deployments()
        known = next((d for d in deployments if d["metadata"]["name"] == ROUTER), None)
        paths = ["metadata"] if known is None else not_taken_up(resource, known, central_controller(deployments))
        if not paths:
            return
        if site.expired:
            site.forget()
            root = site.root() if known is None else None
            why = unserved(root, site.invocation)["message"] if root is not None and root.get("status") else ""
            todo = f"see why: {site.invocation.van('status')}; {log_of_controller(deployments)}"
            if known is None:
                todo = f"ask whoever administers the cluster; or a controller of its own: {site.invocation.van('init --own-controller')}"
            raise DeadlineExceeded(
                f"site {resource.name}: the controller of the cluster has not taken {'up the change' if known else 'it up'} within "
                f"{spell_duration(site.timeout)}{f': {why}' if why else ''}",
                hint=todo,
            )
        time.sleep(min(0.1, site.left))


def _chosen(site: NamespaceSite, resource: Any) -> tuple[Plan, bool]:
    """And whether Routes of OpenShift are the default."""
    routes = entrance.has_routes(site, resource)
    return plan(resource, image=built_in_image(__version__), routes=routes), routes


def require_plan(resource: Any) -> None:
    """Raise ConfigError for a Site of which no install can be made, wherever."""
    plan(resource, image=built_in_image(__version__), routes=False)


def check(site: NamespaceSite, resource: Any) -> Plan:
    """What is chosen. What is wrong with the Site here, what the cluster lacks, and rights that are missing, before anything is changed."""
    chosen, routes = _chosen(site, resource)
    entrance.require_kinds(site, chosen.entrance)
    _check_rights(site, [*front_rules(chosen.entrance), *(LEASE_INSTALLER_RULES if chosen.controllers > 1 else ())])
    entrance.warn_of_unread(resource, routes=routes)
    return chosen


def put_in_force(site: NamespaceSite, resource: Any, chosen: Plan, *, write: bool, force: bool = False) -> None:
    """The Site, unless it stands there as it is, and every object of its install."""
    custom = may_give_custom_rights(site)
    if write:
        # The root of all others has no owner.
        ResourceObjects(site.client, site.namespace, secrets=False, force=force).put(resource)
        site.forget()
    root = site.root()
    if root is None:
        raise ConfigError(
            f"{resource.ref} does not stand in ConfigMap/{resource_map('Site', resource.name)}", hint="rename its ConfigMap to this name"
        )
    made = manifests(resource, chosen, site.namespace, root=root, custom=custom)
    for manifest in made[1:]:
        apply_beside(site.client, manifest.kind, site.namespace, manifest.value, force=force)
    _remove_unwanted(site, made)
    entrance.remove_former(site, chosen.entrance)


def wait_and_say(site: NamespaceSite, resource: Any, *, central: bool) -> None:
    if central:
        _wait_taken_up(site, resource)
    _wait(site, f"site {resource.name}")
    if site.invocation.output != "name":
        say(f"Site {resource.name} is ready.")


def _check_rights(site: NamespaceSite, more: list[Object]) -> None:
    """Name every right that is missing, and a Role that has them, before anything is created. ``more``: rules that the choice takes."""
    if missing := lacking(site, needed(more)):
        raise VanrouterError(
            f"you may not do in namespace {site.namespace} what an install needs: {', '.join(map(str, missing))}",
            hint="ask for the ClusterRole admin in this namespace, or for a Role that grants what is missing:\n"
            + role_granting(missing, site.namespace),
        )


def may_give_custom_rights(site: NamespaceSite) -> bool:
    """Whether router and controller get the rights to custom resources: where there are some, and we hold these rights ourselves."""
    if not has_custom(site.client):
        return False
    missing = lacking(site, rights_in((*ROUTER_CUSTOM_RULES, *CONTROLLER_CUSTOM_RULES)))
    if missing:
        warn(
            f"custom resources will not count in namespace {site.namespace}: you may not {missing[0]}, so you cannot give that right",
            "the other ways to say what is wanted work without; whoever administers the cluster gives it with: van manifest crds | kubectl "
            "apply -f -",
        )
    return not missing


def _remove_unwanted(site: NamespaceSite, made: list[Manifest]) -> None:
    """What an earlier choice wanted and this one does not."""
    kept = {(manifest.kind, manifest.name) for manifest in made}
    for kind, name in OPTIONAL:
        if (kind, name) not in kept:
            with contextlib.suppress(NotFound):
                site.client.call(delete(kind, site.namespace, name))


# ---- Waiting ----------------------------------------------------------------------------------------------------------------------------


def _wait(site: NamespaceSite, what: str) -> None:
    """Until router and controller are ready. What keeps a pod from it is shown while that lasts."""
    started, shown, pause = time.monotonic(), "", 0.1
    found: list[dict[str, str]] = []
    why = "it was not looked at yet"
    while True:
        try:
            names = (ROUTER,) if central_controller(site.deployments()) else (CONTROLLER, ROUTER)
            lacking = [said for name in names if (said := missing(_deployment(site, name)))]
            if not lacking:
                return
            found = site.troubles()
            why = "; ".join(f"{t['path']}: {t['message']}" for t in found) or "; ".join(lacking)
        except Unreachable:  # the last look, which had no time left: what was seen before counts
            if not site.expired:
                raise
        if site.expired:
            hint = next((t["hint"] for t in found if t["hint"]), f"see {site.invocation.van('status')}; a longer time: --timeout")
            raise DeadlineExceeded(f"{what}: not ready within {spell_duration(site.timeout)}; {why}", hint=hint)
        if why != shown and time.monotonic() - started > _QUIET and sys.stderr.isatty():
            click.echo(f"Waiting for {what}: {why}", err=True)
            shown = why
        time.sleep(min(pause, site.left))
        pause = min(pause * 1.3, 0.5)


def _deployment(site: NamespaceSite, name: str) -> Object:
    return site.client.call(get(DEPLOYMENTS, site.namespace, name))


def _say(site: NamespaceSite, name: str, done: str, *, waited: bool, lacked: list[str]) -> None:
    if site.invocation.output == "name":
        say(f"site/{name}")
        return
    what = {"created": "is ready", "updated": "was updated", "unchanged": "existed already; it is unchanged"}[done]
    if lacked:
        what = f"existed already; what was missing of it was made: {', '.join(lacked)}"
    if not waited:
        say(f"Site {name} is starting. See: {site.invocation.van('status')}" if done == "created" else f"Site {name} {what}.")
        return
    say(f"Site {name} {what}.")
    status = _soon_ready(site)
    if status is None:
        return
    endpoints = ", ".join(str(HostPort(e["host"], e["port"])) for e in status["site"].get("endpoints", ()))
    if endpoints:
        say(f"Others can link to it at {endpoints}.")
    for trouble in troubles(status):
        warn(f"{trouble.what}: {trouble.why}" if trouble.what else trouble.why, trouble.next)
    if done == "created":
        way = f"Link another site to it with a token: {site.invocation.van('token create FILE')}" if endpoints else ""
        say(way or f"Link it to another site with a token of that one: {site.invocation.van('link create FILE')}")


def _soon_ready(site: NamespaceSite) -> Doc | None:
    """The status once it says that the site is ready: that is a moment after the pods are. What it says else, when that lasts."""
    until, status = time.monotonic() + SETTLES, None
    while True:
        with contextlib.suppress(NotReady):
            status = site.status()
            if is_ready(status):
                return status
        if time.monotonic() >= until or site.expired:
            return status
        time.sleep(0.1)
