"""
``vanrouter controller``: the controller of a site in a Kubernetes namespace, in the foreground. What its Deployment starts.
"""

from __future__ import annotations

from pathlib import Path

import click

from vanrouter.cli.base import Invocation, command, pass_invocation

__all__ = ["controller"]


@command("controller", platforms=None)
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Instead of the pod's service account.")
@click.option("--context", help="Of the kubeconfig.")
@click.option("--port", type=click.IntRange(0, 65535), default=55672, show_default=True, help="Where routers connect.")
@pass_invocation
def controller(invocation: Invocation, kubeconfig: Path | None, context: str | None, port: int) -> int:
    """Run the controller of a site in a Kubernetes namespace.

    The namespace is that of --namespace, else the pod's or the context's. It waits for a Site, and ends when that is deleted.
    """
    from vanrouter.controller.process import run_controller

    return run_controller(namespace=invocation.name or None, kubeconfig=kubeconfig, context=context, port=port)
