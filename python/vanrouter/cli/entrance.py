"""What an install in a namespace asks the cluster about the link access, and what of a former one it removes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from vanrouter.cli.namespace import NamespaceSite
from vanrouter.cli.output import warn
from vanrouter.errors import ConfigError
from vanrouter.kube.calls import Call, Kind, Object, delete, discover, is_served, list_page
from vanrouter.kube.entrances import ACCESS_NAME, FRONT_KINDS, Entrance, kinds_in_front, unread
from vanrouter.kube.errors import Conflict, Forbidden, NoSuchKind, NotFound
from vanrouter.kube.kinds import ROUTES
from vanrouter.kube.rights import Right, ask, is_allowed
from vanrouter.resources.kinds import Site

__all__ = ["fronts_of", "has_routes", "remove_former", "require_kinds", "warn_of_unread"]


def has_routes(site: NamespaceSite, resource: Site) -> bool:
    """Whether Routes of OpenShift are the default link access: they are there, and the user may make them. Asked only where it matters."""
    if resource.spec.link_access != "default" or _served(site, [ROUTES]) is None:
        return False
    return is_allowed(site.client.call(ask(Right(ROUTES.group, ROUTES.plural, "create"), site.namespace)))


def require_kinds(site: NamespaceSite, chosen: Entrance) -> None:
    """Raise ConfigError when the cluster does not have what the link access takes."""
    for alternatives in kinds_in_front(chosen):
        if _served(site, alternatives) is None:
            first = alternatives[0]
            versions = ", ".join(kind.version for kind in alternatives)
            raise ConfigError(
                f"the cluster has no {first.kind} ({first.group}, {versions}), which --link-access {chosen.type} needs",
                hint="have an administrator install it, or choose another: van init --link-access loadbalancer, nodeport, local or none",
            )


def warn_of_unread(resource: Site, *, routes: bool) -> None:
    for name, readers in unread(resource.spec, routes=routes):
        warn(f"{resource.ref}: spec.settings.{name} has no effect with this link access", f"it is for: {', '.join(readers)}")


def remove_former(site: NamespaceSite, chosen: Entrance) -> None:
    """Objects of a link access that is no longer wanted. The controller has no right to them any more."""
    wanted = {first.plural for first, *_ in kinds_in_front(chosen)}
    for kind, value in fronts_of(site):
        if kind.plural not in wanted:
            with contextlib.suppress(NotFound, Conflict):
                site.client.call(delete(kind, site.namespace, ACCESS_NAME, uid=value["metadata"]["uid"]))


def fronts_of(site: NamespaceSite) -> Iterator[tuple[Kind, Object]]:
    """What of ours stands in front of the link access. What may not be seen is not ours: who may not list did not install it."""
    seen = set[str]()
    for kind in FRONT_KINDS:
        with contextlib.suppress(NoSuchKind, NotFound, Forbidden):
            for value in site.client.call(_mine(kind, site.namespace)).get("items") or []:
                ours = (value["metadata"].get("labels") or {}).get("app.kubernetes.io/part-of") == "vanrouter"
                if ours and kind.plural not in seen:
                    seen.add(kind.plural)
                    yield kind, value


def _mine(kind: Kind, namespace: str) -> Call:
    return list_page(kind, namespace, fields=f"metadata.name={ACCESS_NAME}")


def _served(site: NamespaceSite, alternatives: Sequence[Kind]) -> Kind | None:
    for kind in alternatives:
        with contextlib.suppress(NotFound, NoSuchKind):
            if is_served(kind, site.client.call(discover(kind))):
                return kind
    return None
