"""
``van completion``: the script that teaches a shell to complete ``van``.

It prints a script and installs nothing. The script asks ``van`` itself, so names of sites, links, listeners and connectors complete too.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from vanrouter.cli.base import command

__all__ = ["completion"]

SHELLS = ("bash", "zsh", "fish")


@command("completion", platforms=None)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  source <(van completion bash)                          in ~/.bashrc
    zsh:   source <(van completion zsh)                           in ~/.zshrc, after compinit
    fish:  van completion fish > ~/.config/fish/completions/van.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = ctx.find_root()
    program = root.info_name or "van"
    variable = f"_{program}_COMPLETE".replace("-", "_").upper()
    script = kind(root.command, {}, program, variable)
    # The template and not `source()`: that runs a shell to learn its version, and this may be built into an image that has none.
    click.echo(script.source_template % script.source_vars())
