"""``van apply`` in a namespace: one ConfigMap for each resource, a Secret as itself; a Site is installed as by ``van init``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from vanrouter.cli import install
from vanrouter.cli.apply import changes, say_change
from vanrouter.cli.base import DONE
from vanrouter.cli.central import is_central
from vanrouter.cli.fitting import check_fit
from vanrouter.cli.namespace import NamespaceSite, owner
from vanrouter.cli.output import warn
from vanrouter.cli.running import Site
from vanrouter.errors import ConfigError
from vanrouter.kube.custom_home import ResourceObjects
from vanrouter.kube.errors import KubeError
from vanrouter.kube.kinds import SECRETS
from vanrouter.kube.names import RESOURCE, TYPE, credential_secret, is_own_secret
from vanrouter.resources import Connector, Link, Listener, MultiKeyListener, Resource, Secret
from vanrouter.resources import Site as SiteResource
from vanrouter.stores.resources import Loaded

__all__ = ["as_written", "write"]


def as_written(opened: Site, resources: Sequence[Resource]) -> list[Resource]:
    """With the settings that the install keeps, and a Site of which no install could be made refused; without a cluster as they are."""
    if not any(isinstance(resource, SiteResource) for resource in resources):
        return list(resources)
    try:
        site = cast(NamespaceSite, opened)
        loaded = ResourceObjects(site.client, site.namespace, secrets=False).load()
    except KubeError as error:
        warn(f"what is installed cannot be looked at, so settings that it keeps are not in this: {error}", error.hint)
        loaded = Loaded({}, [])
    made = [_with_settings_kept(loaded, resource) for resource in resources]
    for resource in made:
        if isinstance(resource, SiteResource):
            install.require_plan(resource)
    return made


def write(opened: Site, resources: Sequence[Resource], *, dry_run: bool, wait: bool, force: bool) -> int:
    site = cast(NamespaceSite, opened)
    root = site.root()
    if root is None and not any(isinstance(resource, SiteResource) for resource in resources):
        site.require()
    with_secrets = any(isinstance(resource, Secret) for resource in resources)

    def home() -> ResourceObjects:
        now = site.root()
        owners = () if now is None else (owner(now),)
        return ResourceObjects(site.client, site.namespace, secrets=with_secrets, owners=owners, force=force)

    loaded = home().load()
    if root is not None and not any(kind == "Site" for kind, _ in loaded.resources):
        problem = next((p for p in loaded.problems), None)
        said = f": {problem.path}: {problem.message}" if problem is not None else ""
        raise ConfigError(f"nothing was written: the Site of this namespace cannot be read{said}", hint=problem.hint if problem else "")
    _refuse_secrets(site, loaded, resources, force=force)
    todo = changes(loaded, [_with_settings_kept(loaded, resource) for resource in resources])
    ofsite = [change for change in todo if isinstance(change.resource, SiteResource)]
    central = bool(ofsite) and is_central(site)
    plans = [None if central else install.check(site, change.resource) for change in ofsite]
    notes = [note for change in todo if change.done != "unchanged" for note in check_fit(site, change.resource, together=resources)]
    for said, what in notes:
        warn(said, what)
    _warn_of_missing(site, loaded, resources)
    if dry_run:
        for change in todo:
            say_change(site.invocation, change, dry=True)
        return DONE
    for change, chosen in zip(ofsite, plans, strict=True):
        if chosen is not None:
            install.put_in_force(site, change.resource, chosen, write=change.done != "unchanged", force=force)
        elif change.done != "unchanged":
            install.put_site(site, change.resource, force=force)
        say_change(site.invocation, change, dry=False)
    maps = home()
    loaded = maps.load()
    for change in todo:
        if change in ofsite:
            continue
        if change.done != "unchanged":
            maps.put(change.resource, loaded=loaded)
        say_change(site.invocation, change, dry=False)
    for change in ofsite:
        if wait:
            install.wait_and_say(site, change.resource, central=central)
    return DONE


def _refuse_secrets(site: NamespaceSite, loaded: Loaded, resources: Sequence[Resource], *, force: bool) -> None:
    """Raise ConfigError for those that the controller keeps, and for one that somebody else made and we would take over unasked."""
    for secret in (r for r in resources if isinstance(r, Secret)):
        if is_own_secret(secret.name):
            raise ConfigError(
                f"nothing was written: {secret.ref} is one that the controller of a site keeps", hint="leave it out; a site makes its own"
            )
        if (Secret.KIND, secret.name) in loaded.resources or force:
            continue
        found = site.get(SECRETS, secret.name)
        if found is not None and (found["metadata"].get("labels") or {}).get(TYPE) != RESOURCE:
            raise ConfigError(
                f"nothing was written: there is {secret.ref} in {site.namespace} already, and it is no resource of this site",
                hint=f"to use that one: kubectl label secret {secret.name} -n {site.namespace} {TYPE}={RESOURCE}, and leave it out of the "
                "files; to overwrite it: --force-conflicts",
            )


def _warn_of_missing(site: NamespaceSite, loaded: Loaded, resources: Sequence[Resource]) -> None:
    """Secrets that resources name and nobody brings: they wait. One without our label is not seen by the controller."""
    given = {r.name for r in resources if isinstance(r, Secret)}
    for one in resources:
        if isinstance(one, Link):
            name, hint = one.spec.tls_credentials or one.name, "van link generate {}, at the other site, prints both"
        elif isinstance(one, Listener | MultiKeyListener | Connector) and one.spec.tls_credentials:
            name, hint = one.spec.tls_credentials, "docs/resources.md says what it needs: TLS with clients and servers"
        else:
            continue
        if name in given or (Secret.KIND, name) in loaded.resources or site.get(SECRETS, credential_secret(name)):
            continue
        if (found := site.get(SECRETS, name)) is None:
            warn(
                f"{one.ref}: there is no Secret {name} yet; {'the link' if isinstance(one, Link) else 'it'} waits for it",
                hint.format(name),
            )
        elif (found["metadata"].get("labels") or {}).get(TYPE) != RESOURCE:
            label = f"kubectl label secret {name} -n {site.namespace} {TYPE}={RESOURCE}"
            warn(f"{one.ref}: Secret {name} has no label {TYPE}: {RESOURCE}, so the controller does not see it", label)


def _with_settings_kept(loaded: Loaded, resource: Resource) -> Resource:
    """Settings of an install that the file does not name (its image, its sizes) stay as ``van init`` or ``update`` made them."""
    located = loaded.resources.get((resource.kind, resource.name))
    if not isinstance(resource, SiteResource):
        return resource
    kept = dict(located.resource.spec.settings) if located is not None and isinstance(located.resource, SiteResource) else {}
    settings = kept | install.image_setting() | dict(resource.spec.settings)
    return msgspec.structs.replace(resource, spec=msgspec.structs.replace(resource.spec, settings=settings))
