"""``van version``: the version, without asking anything else."""

from __future__ import annotations

import click

from vanrouter import __version__
from vanrouter.cli.base import Invocation, command, pass_invocation
from vanrouter.cli.output import dump

__all__ = ["version"]


@command("version", outputs=("json", "yaml"), platforms=None)
@pass_invocation
def version(invocation: Invocation) -> None:
    """Print the version."""
    if invocation.output:
        dump({"version": __version__}, invocation.output)
    else:
        click.echo(__version__)
