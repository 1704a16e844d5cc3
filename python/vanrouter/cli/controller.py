"""
``vanrouter controller``: the controller of a site in a Kubernetes namespace, in the foreground. What its Deployment starts.
"""

from __future__ import annotations

from pathlib import Path

import click

from vanrouter.cli.base import command

__all__ = ["controller"]


@command("controller", platforms=None)
@click.option("--namespace", help="The namespace of the site; default: the pod's, or the context's.")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Instead of the pod's service account.")
@click.option("--context", help="Of the kubeconfig.")
@click.option("--port", type=click.IntRange(0, 65535), default=55672, show_default=True, help="Where routers connect.")
def controller(namespace: str | None, kubeconfig: Path | None, context: str | None, port: int) -> int:
    """Run the controller of a site in a Kubernetes namespace.

    It waits for a Site, and ends when that is deleted.
    """
    from vanrouter.controller.process import run_controller

    return run_controller(namespace=namespace, kubeconfig=kubeconfig, context=context, port=port)
