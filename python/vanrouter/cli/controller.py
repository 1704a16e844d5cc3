"""
``vanrouter controller``: the controller of a site in a Kubernetes namespace, in the foreground. What its Deployment starts.
"""

from __future__ import annotations

import click

from vanrouter.cli.base import Invocation, command, pass_invocation

__all__ = ["controller"]


@command("controller", platforms=None)
@click.option("--port", type=click.IntRange(0, 65535), default=55672, show_default=True, help="Where routers connect.")
@click.option("--lease", is_flag=True, help="One of several: act only while the Lease van-controller is held.")
@click.option("--cluster", is_flag=True, help="Serve every namespace that has a Site as a custom resource.")
@click.option("--image", envvar="VAN_IMAGE", help="With --cluster: of routers whose Site names none; default: that of this version.")
@pass_invocation
def controller(invocation: Invocation, port: int, lease: bool, cluster: bool, image: str | None) -> int:
    """Run the controller of a site in a Kubernetes namespace.

    It waits for a Site, and ends when that is deleted. Without a kubeconfig it takes the service account of its pod.
    """
    from vanrouter import __version__
    from vanrouter.controller.process import run_controller
    from vanrouter.kube.plan import built_in_image

    chosen = (image or built_in_image(__version__)) if cluster else ""
    where = {"namespace": invocation.name, "kubeconfig": invocation.kubeconfig, "context": invocation.context}
    return run_controller(**where, port=port, lease=lease, cluster=chosen)
