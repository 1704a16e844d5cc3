"""
What of an install can be chosen: read from the Site resource (``spec.settings``), with defaults. Pure.

The command line writes the same settings, so that `van update` years later, GitOps and the command that installed agree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from vanrouter.errors import InvalidResource
from vanrouter.kube.entrances import ACCESS_SETTINGS, Entrance, entrance, faults
from vanrouter.resources.kinds import Site

__all__ = ["PULL_POLICIES", "SETTINGS", "Plan", "Sizes", "built_in_image", "most_connections", "plan", "settings_from"]

PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
IMAGE_HOME: Final = "registry.local/vanrouter"
MOST_ROUTERS: Final = 16
SPARE_CONNECTIONS: Final = 6
MOST_CONTROLLERS: Final = 3

_QUANTITY: Final = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?")
_SIZES: Final = {
    "router-cpu": "100m",
    "router-memory": "64Mi",
    "router-cpu-limit": "",  # a limit of CPU costs latency and protects nobody here: none
    "router-memory-limit": "512Mi",
    "controller-cpu": "50m",
    "controller-memory": "64Mi",
    "controller-cpu-limit": "",
    "controller-memory-limit": "256Mi",
}
SETTINGS: Final = (
    "routers",
    "controllers",
    "image",
    "image-pull-policy",
    "image-pull-secret",
    *ACCESS_SETTINGS,
    "log-level",
    "node-selector",
    "labels",
    "annotations",
    "tolerations",
    "affinity",
    *_SIZES,
)


class Sizes(msgspec.Struct, frozen=True):
    """Quantities as Kubernetes writes them; empty: none."""

    cpu: str
    memory: str
    cpu_limit: str
    memory_limit: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    routers: int
    controllers: int
    entrance: Entrance
    image: str
    pull_policy: str
    pull_secret: str
    log_level: str
    node_selector: dict[str, str]
    labels: dict[str, str]
    annotations: dict[str, str]
    tolerations: list[Any]
    affinity: dict[str, Any]
    router: Sizes
    controller: Sizes


def built_in_image(version: str) -> str:
    """The image of this very version."""
    return f"{IMAGE_HOME}:{version}"


def plan(site: Site, *, image: str, routes: bool = False) -> Plan:
    """``image``: where the Site names none. ``routes``: the cluster has those of OpenShift. Raises InvalidResource, with the path of the
    setting.
    """
    said = site.spec.settings
    for where, what, hint in faults(site.spec, routes=routes):
        raise InvalidResource(f"{site.ref}: {where}", what, hint=hint)
    pull_policy = said.get("image-pull-policy", "IfNotPresent")
    if pull_policy not in PULL_POLICIES:
        raise _wrong(site, "image-pull-policy", f"is {pull_policy!r}", f"one of: {', '.join(PULL_POLICIES)}")
    return Plan(
        routers=_routers(site),
        controllers=_controllers(site),
        entrance=entrance(site.spec, routes=routes),
        image=said.get("image") or image,
        pull_policy=pull_policy,
        pull_secret=said.get("image-pull-secret", ""),
        log_level=said.get("log-level", ""),
        node_selector=_pairs(site, "node-selector"),
        labels=_pairs(site, "labels"),
        annotations=_pairs(site, "annotations"),
        tolerations=_json(site, "tolerations", list),
        affinity=_json(site, "affinity", dict),
        router=_sizes(site, "router"),
        controller=_sizes(site, "controller"),
    )


def most_connections(site: Site) -> int:
    """Of routers with their controller: those of a rollout, where as many go as come, and of some whose end was not noticed yet."""
    try:
        routers = _routers(site)
    except InvalidResource:  # it is named where it is used
        routers = MOST_ROUTERS
    return 2 * routers + SPARE_CONNECTIONS


def _routers(site: Site) -> int:
    text = site.spec.settings.get("routers", "2" if site.spec.ha else "1")
    if not text.isdecimal() or not 1 <= int(text) <= MOST_ROUTERS:
        raise _wrong(site, "routers", f"is {text!r}", f"write a number from 1 to {MOST_ROUTERS}")
    if site.spec.edge and int(text) > 1:
        raise _wrong(site, "routers", f"is {text}, and an edge site has one router", "remove it, or spec.edge")
    return int(text)


def _controllers(site: Site) -> int:
    text = site.spec.settings.get("controllers", "1")
    if not text.isdecimal() or not 1 <= int(text) <= MOST_CONTROLLERS:
        raise _wrong(site, "controllers", f"is {text!r}", f"write a number from 1 to {MOST_CONTROLLERS}; one acts, the others stand by")
    return int(text)


def _sizes(site: Site, part: str) -> Sizes:
    values = []
    for what in ("cpu", "memory", "cpu-limit", "memory-limit"):
        name = f"{part}-{what}"
        value = site.spec.settings.get(name, _SIZES[name])
        if value and not _QUANTITY.fullmatch(value):
            raise _wrong(site, name, f"{value!r} is no quantity", "write it like 100m (CPU) or 128Mi (memory)")
        values.append(value)
    return Sizes(*values)


def _pairs(site: Site, name: str) -> dict[str, str]:
    """``KEY=VALUE,KEY=VALUE``."""
    found: dict[str, str] = {}
    for item in filter(None, site.spec.settings.get(name, "").split(",")):
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise _wrong(site, name, f"{item!r} is not KEY=VALUE", "separate several by commas")
        found[key.strip()] = value.strip()
    return found


def _json(site: Site, name: str, type_: type[Any]) -> Any:
    """As a pod has it, in JSON."""
    text = site.spec.settings.get(name, "")
    if not text:
        return type_()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(site, name, f"is not JSON: {error}", f"write it as spec.{name} of a pod, in JSON") from None
    if not isinstance(value, type_):
        raise _wrong(site, name, f"is not a JSON {'array' if type_ is list else 'object'}", f"write it as spec.{name} of a pod, in JSON")
    return value


def _wrong(site: Site, name: str, message: str, hint: str) -> InvalidResource:
    return InvalidResource(f"{site.ref}: spec.settings.{name}", message, hint=hint)


def settings_from(values: Mapping[str, object]) -> dict[str, str]:
    """Settings as the command line names them: ``--router-cpu`` is ``router_cpu``, several pairs become one text. None: not named."""
    found: dict[str, str] = {}
    for name in SETTINGS:
        value = values.get(name.replace("-", "_"))
        if value is None or value == ():
            continue
        found[name] = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return found
