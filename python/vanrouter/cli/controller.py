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
@pass_invocation
def controller(invocation: Invocation, port: int, lease: bool) -> int:
    """Run the controller of a site in a Kubernetes namespace.

    It waits for a Site, and ends when that is deleted. Without a kubeconfig it takes the service account of its pod.
    """
    from vanrouter.controller.process import run_controller

    return run_controller(namespace=invocation.name, kubeconfig=invocation.kubeconfig, context=invocation.context, port=port, lease=lease)
