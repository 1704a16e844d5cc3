"""
``vanrouter run``: a site's router in the foreground, until SIGTERM or Ctrl-C. What containers, service managers and ``van init`` start.

It needs a site directory that exists; it creates none and changes no resource.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import click

from vanrouter.cli.base import Invocation, command, pass_invocation
from vanrouter.cli.values import HOST_PORT, HostPort
from vanrouter.errors import ConfigError, VanrouterError

__all__ = ["run", "run_site_in_foreground"]


@command("run", platforms=None)
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--name", help="Instead of a directory: the name of a site of this user; as -n.")
@click.option(
    "--plane", type=click.Choice(["core", "baseline"]), envvar="VAN_PLANE", help="Data plane; default: core where it is built in."
)
@click.option("--kubernetes", is_flag=True, help="DIR follows a namespace: what the routers of a site on Kubernetes run.")
@click.option(
    "--controller",
    type=HOST_PORT,
    envvar="VAN_CONTROLLER",
    default=HostPort("van-controller", 55672),
    show_default="van-controller:55672",
    help="With --kubernetes: where the controller is.",
)
@click.option("--pod", envvar="VAN_POD", help="With --kubernetes: the name of this pod; default: the host's name.", default="")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=55671,
    show_default=True,
    help="With --kubernetes: where links, tokens and probes arrive.",
)
@pass_invocation
def run(
    invocation: Invocation,
    directory: Path | None,
    name: str | None,
    plane: Literal["core", "baseline"] | None,
    kubernetes: bool,
    pod: str,
    port: int,
    controller: HostPort,
) -> int:
    """Run a site in the foreground.

    DIR is a site directory; without it, the one that --name (or -n) names. With --kubernetes it may be empty: resources and keys come from
    the namespace of the pod (or of -c and -n), and what DIR has from before is in force until something newer is heard.
    """
    from vanrouter import settings

    if kubernetes:
        if directory is None or name:
            raise click.UsageError("--kubernetes needs a directory, and no name of a site")
        return _run_in_namespace(invocation, directory.absolute(), plane, pod, port, controller)
    if directory is not None and (name or invocation.name):
        raise click.UsageError("name a directory or a site, not both")
    if directory is None:
        directory = settings.site_directory(name or invocation.site_name)
    if not (directory / "resources").is_dir():
        raise ConfigError(f"{directory} is not a site: it has no resources", hint="create one: van -p linux init --site-name NAME")
    return run_site_in_foreground(directory.absolute(), plane)


def run_site_in_foreground(directory: Path, plane: Literal["core", "baseline"] | None) -> int:
    """Until a signal ends it. Exit code 0: every connection had ended; 1: some were cut at the deadline."""
    from vanrouter.sites.process import run_process

    return _one_error(lambda: run_process(directory, plane))


def _run_in_namespace(
    invocation: Invocation, directory: Path, plane: Literal["core", "baseline"] | None, pod: str, port: int, controller: HostPort
) -> int:
    from vanrouter.kube.kubeconfig import load_access
    from vanrouter.sites.process import Within, run_process

    access = load_access(kubeconfig=invocation.kubeconfig, context=invocation.context, namespace=invocation.name)
    return _one_error(lambda: run_process(directory, plane, within=Within(access, pod, port, controller)))


def _one_error(running: Callable[[], int]) -> int:
    try:
        return running()
    except BaseExceptionGroup as group:
        # Of several tasks that ended together, the one that knows why is the one to tell about.
        first: BaseException = group.subgroup(VanrouterError) or group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
