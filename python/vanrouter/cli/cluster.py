"""
The install of a controller that serves the whole cluster, as `van manifest controller` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping

from vanrouter import __version__
from vanrouter.kube.calls import Object
from vanrouter.kube.cluster_manifests import CLUSTER_NAMESPACE, cluster_manifests
from vanrouter.kube.plan import built_in_image, plan, settings_from
from vanrouter.resources.kinds import Metadata, Site, SiteSpec

__all__ = ["manifest_of_controller"]

_LIMIT = {"controller-memory": "128Mi", "controller-memory-limit": "1Gi"}  # of all namespaces


def manifest_of_controller(namespace: str | None, options: Mapping[str, object]) -> list[Object]:
    """``options``: as those of a Site that say what a controller's pod is like. Raises InvalidResource."""
    from vanrouter.cli.install import image_setting

    settings = {**_LIMIT, **image_setting(), **settings_from(options)}
    site = Site(metadata=Metadata(name="controller"), spec=SiteSpec(settings=settings))
    return cluster_manifests(plan(site, image=built_in_image(__version__)), namespace or CLUSTER_NAMESPACE)
