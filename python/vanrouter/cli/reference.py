"""
``docs/cli.md``, made from the commands: ``python -m vanrouter.cli.reference > docs/cli.md``. A test says when it is not current.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from vanrouter.cli.base import Command, _shared_options
from vanrouter.cli.main import EVERYDAY, HIDDEN, OTHER, RESOURCES, van

__all__ = ["render"]

_INTRO = """\
# The commands

<!-- Generated: python -m vanrouter.cli.reference > docs/cli.md -->

`van` is for people, `vanrouter run` is what containers and service managers start. On a host say `-p linux` with each command, or once for
all `export VAN_PLATFORM=linux`; the examples here leave it away.

| exit code | means |
|---|---|
| 0 | done |
| 1 | failed; the message says what, why and what to do |
| 2 | usage: a word or value on the command line is wrong |
| 3 | not ready: the site, or what was asked for, is not there yet |
| 4 | timed out: what was waited for did not happen in time |

Results go to stdout, everything else to stderr. Durations are written like `90s`, `15m`, `1h30m`, `7d`. `-` as FILE is standard input or
output.

| environment | means |
|---|---|
| `VAN_PLATFORM` | where `-p` is not given: `linux` or `kubernetes` |
| `VAN_HOME` | where sites live; default: `$XDG_DATA_HOME/vanrouter`, that is `~/.local/share/vanrouter` |
| `VAN_IMAGE` | Kubernetes: image of the pods, where `--image` is not given |
| `KUBECONFIG` | Kubernetes: how to reach the cluster, where `--kubeconfig` is not given |
| `VAN_LOG_LEVEL` | from which level on a router or controller logs: `debug`, `info`, `warning`, `error` |
| `VAN_PLANE` | where `--plane` is not given: `core` or `baseline` |
| `VAN_MANAGER` | where `van init --manager` is not given: `auto`, `systemd` or `none` |
| `NO_COLOR` | no colour, even on a terminal |

These options are taken by every command, before or after it:
"""


def render() -> str:
    """The whole page."""
    root = click.Context(van, info_name="van")
    lines = [_INTRO, *_options(_shared_options(), root), ""]
    for heading, names in (("Everyday", EVERYDAY), ("Resources", RESOURCES), ("Other", OTHER), ("For containers", HIDDEN)):
        lines += [f"## {heading}", ""]
        for name in names:
            command = van.get_command(root, name)
            assert command is not None
            program = root if names is not HIDDEN else click.Context(van, info_name="vanrouter")
            lines += _command(command, click.Context(command, info_name=name, parent=program))
    return "\n".join(lines).rstrip() + "\n"


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    """One command, or one noun and its verbs."""
    if isinstance(command, click.Group):
        yield from (f"### {context.command_path}", "", command.help or "", "")
        for verb in command.list_commands(context):
            found = command.get_command(context, verb)
            assert found is not None
            if found is van.get_command(context, found.name or ""):
                yield from (f"`{context.command_path} {verb}` is `van {verb}`.", "")
            else:
                yield from _leaf(found, click.Context(found, info_name=verb, parent=context), "####")
    else:
        yield from _leaf(command, context, "###")


def _leaf(command: click.Command, context: click.Context, level: str) -> Iterator[str]:
    usage = " ".join([context.command_path, *(p.make_metavar(context) for p in command.params if isinstance(p, click.Argument))])
    yield f"{level} {usage}"
    yield from (*_help(command), "")
    shared = {option.name for option in _shared_options()}
    own = [p for p in command.params if isinstance(p, click.Option) and p.name not in shared]
    if own:
        yield from (*_options(own, context), "")
    if isinstance(command, Command) and command.outputs:
        yield from (f"Formats (`-o`): {', '.join(f'`{output}`' for output in command.outputs)}.", "")


def _help(command: click.Command) -> Iterator[str]:
    """The help text; what click must not wrap is an example."""
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            yield from ("", "```text", paragraph.removeprefix("\b").strip("\n"), "```")
        else:
            yield from ("", " ".join(paragraph.split()))


def _options(options: list[click.Option] | list[click.Parameter], context: click.Context) -> Iterator[str]:
    yield "| flag | what |"
    yield "|---|---|"
    for option in options:
        if isinstance(option, click.Option) and not option.hidden and (record := option.get_help_record(context)):
            flag, what = (" ".join(text.split()).replace("|", "\\|") for text in record)
            yield f"| `{flag}` | {what} |"


if __name__ == "__main__":
    print(render(), end="")
