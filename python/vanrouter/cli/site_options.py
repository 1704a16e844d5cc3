"""The options of ``init``, ``update`` and ``manifest``: what a site can choose, and what an install in a namespace can choose besides."""

from __future__ import annotations

from typing import Any, Final

import click

from vanrouter.cli.values import COUNT, HOST, HostPort
from vanrouter.errors import ConfigError

__all__ = ["fields_of_site", "kube_options", "refuse_kube_options", "site_options"]

Doc = dict[str, Any]
# As kube.entrances has them; a test compares. Not imported: completion starts quicker.
_IN_NAMESPACES: Final = ("loadbalancer", "nodeport", "local", "route", "ingress", "ingress-nginx", "contour-http-proxy", "gateway")


class _LinkAccess(click.ParamType[str]):
    """``HOST:PORT`` or ``none`` on a host; in a namespace a word for what the cluster gives."""

    name = "host:port|type"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in ("none", *_IN_NAMESPACES):
            return str(value)
        from vanrouter.resources.shapes import parse_host_port

        try:
            return str(HostPort(*parse_host_port(value)))
        except ConfigError as error:
            self.fail(f"{error}; or write none, or on Kubernetes: {', '.join(_IN_NAMESPACES)}", param, ctx)


def site_options(function: Any) -> Any:
    for option in (
        click.option("--edge/--no-edge", default=None, help="A leaf: it links to others, nobody links to it or through it; default: no."),
        click.option(
            "--service-sync/--no-service-sync", default=None, help="Whether what one site exposes appears at the others; default: yes."
        ),
        click.option("--service-address", type=HOST, help="Where services of other sites listen here; default: 127.0.0.1."),
        click.option(
            "--link-access",
            type=_LinkAccess(),
            metavar="HOST:PORT|TYPE",
            help="Where other sites can link to this one. On Kubernetes: loadbalancer (the default; on OpenShift: route), nodeport, local, "
            "ingress, ingress-nginx, contour-http-proxy, gateway or none; on a host: HOST:PORT, default: none.",
        ),
    ):
        function = option(function)
    return function


def kube_options(function: Any) -> Any:
    """What an install in a namespace can choose besides; all of it is kept in the Site's settings."""
    pairs = (
        ("--node-selector", "Nodes for the pods"),
        ("--label", "Labels"),
        ("--annotation", "Annotations"),
        ("--ingress-annotation", "Annotations of what the link access makes: Service, Ingress, Route, Gateway"),
    )
    options = [
        click.option("--routers", type=COUNT, help="Kubernetes: routers that are active at once; default: 1."),
        click.option("--controllers", type=COUNT, help="Kubernetes: controllers of which one acts and the others stand by; default: 1."),
        click.option("--image", metavar="NAME", help="Kubernetes: image of the pods; else VAN_IMAGE, else that of this version."),
        click.option(
            "--pull-policy", "image_pull_policy", type=click.Choice(["Always", "IfNotPresent", "Never"]), help="Kubernetes: of the image."
        ),
        click.option("--pull-secret", "image_pull_secret", metavar="NAME", help="Kubernetes: Secret to pull the image with."),
        click.option(
            "--ingress-host",
            type=HOST,
            multiple=True,
            help="Kubernetes: for nodeport, a node's address as others see it (may be given several times); "
            "for route, ingress, ingress-nginx, contour-http-proxy and gateway, the name that leads there.",
        ),
        click.option(
            "--ingress-port", type=click.IntRange(1, 65535), help="Kubernetes: port of what --ingress-host leads to; default: 443."
        ),
        click.option("--ingress-class", metavar="NAME", help="Kubernetes: class of the Ingress, HTTPProxy or Gateway."),
        click.option("--gateway", metavar="[NAMESPACE/]NAME", help="Kubernetes: a Gateway that is there; else one is made."),
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Kubernetes: of router and controller."),
    ]
    names = {"--label": "labels", "--annotation": "annotations", "--ingress-annotation": "ingress_annotations"}
    for flag, what in pairs:
        dest = names.get(flag, flag.lstrip("-").replace("-", "_"))
        options.append(
            click.option(flag, dest, multiple=True, metavar="KEY=VALUE", help=f"Kubernetes: {what}; may be given several times.")
        )
    for part in ("router", "controller"):
        for size in ("cpu", "memory"):
            options.append(click.option(f"--{part}-{size}", metavar="QUANTITY", help=f"Kubernetes: {size} that a {part} asks for."))
            options.append(click.option(f"--{part}-{size}-limit", metavar="QUANTITY", help=f"Kubernetes: {size} that a {part} may have."))
    for option in reversed(options):
        function = option(function)
    return function


def fields_of_site(link_access: str | None, service_address: str | None, service_sync: bool | None, edge: bool | None) -> Doc:
    """What was named, as fields of the resource."""
    fields: Doc = {"linkAccess": link_access, "serviceAddress": service_address, "serviceSync": service_sync, "edge": edge}
    return {key: value for key, value in fields.items() if value is not None}


def refuse_kube_options(options: Doc) -> None:
    """Options that are for namespaces, on a host."""
    for name, value in options.items():
        if value not in (None, (), False):
            flag = {
                "image_pull_policy": "pull-policy",
                "image_pull_secret": "pull-secret",
                "labels": "label",
                "annotations": "annotation",
                "ingress_annotations": "ingress-annotation",
            }
            raise click.UsageError(f"--{flag.get(name, name).replace('_', '-')} is for Kubernetes; this is a host")
