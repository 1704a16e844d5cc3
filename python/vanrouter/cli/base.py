"""
What all commands share: the options that every command takes, exit codes, and how an error looks.

``-p``, ``-n``, ``-c``, ``--kubeconfig``, ``-o`` and ``--debug`` are accepted before and after the subcommand, the later one wins. Expected
errors never show a traceback: they become two lines on stderr (what failed and why; what to do) and an exit code. ``--debug`` shows the
traceback too.

    0 done    1 failed    2 usage    3 not ready    4 timed out
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

import click

from vanrouter.errors import DeadlineExceeded, NotReady, VanrouterError

__all__ = [
    "ALL_OUTPUTS",
    "BOTH",
    "DONE",
    "FAILED",
    "NOT_READY",
    "TIMED_OUT",
    "USAGE",
    "Command",
    "Group",
    "Invocation",
    "Root",
    "command",
    "pass_invocation",
    "quiet_exit",
]

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_READY: Final = 3
TIMED_OUT: Final = 4

PLATFORMS: Final = ("linux", "kubernetes")
BOTH: Final = PLATFORMS
ALL_OUTPUTS: Final = ("table", "wide", "json", "yaml", "name")
OUTPUTS: Final = (*ALL_OUTPUTS, "tree", "dot")  # the last two: networks only
OBJECT: Final = ("json", "yaml", "name")


@dataclasses.dataclass
class Invocation:
    """One call of ``van``: what the shared options said."""

    platform: str | None = None
    name: str | None = None
    output: str | None = None
    debug: bool = False
    context: str | None = None
    kubeconfig: str | None = None

    @property
    def on_kubernetes(self) -> bool:
        return self._platform()[0] == "kubernetes"

    @property
    def site_name(self) -> str:
        """The site that ``-n`` names (the name of its directory, not its site name)."""
        return self.name or "default"

    def van(self, words: str) -> str:
        """The command line for ``words`` on the same site, as a user would type it."""
        wanted = self._platform()[0]
        platform = f" -p {wanted}" if wanted != os.environ.get("VAN_PLATFORM", "kubernetes") else ""
        given = (("-n", self.name), ("-c", self.context), ("--kubeconfig", self.kubeconfig))
        return f"van{platform}{''.join(f' {flag} {value}' for flag, value in given if value)} {words}"

    def _platform(self) -> tuple[str, str]:
        """The platform in force, and who says so."""
        if self.platform is not None:
            return self.platform, "-p"
        if named := os.environ.get("VAN_PLATFORM"):
            return named, "VAN_PLATFORM"
        return "kubernetes", "the default, as there is neither -p nor VAN_PLATFORM"

    def require_platform(self, supported: Sequence[str] = ("linux",)) -> str:
        """The platform in force, if this command can work on it."""
        platform, source = self._platform()
        if platform not in PLATFORMS:
            raise click.UsageError(f"platform {platform!r} (from {source}) is not one of: {', '.join(PLATFORMS)}")
        if platform not in supported:
            raise VanrouterError(
                f"this command is not for platform {platform} (from {source})",
                hint=f"use it with: van -p {supported[0]} ...   or once for all: export VAN_PLATFORM={supported[0]}",
            )
        if platform != "kubernetes" and (self.context or self.kubeconfig):
            flag = "--context" if self.context else "--kubeconfig"
            raise click.UsageError(f"{flag} is for Kubernetes, and the platform is {platform} (from {source})")
        return platform


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


# ---- The options that every command takes -----------------------------------------------------------------------------------------------


def _keep(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        if value not in (None, False):
            setattr(ctx.ensure_object(Invocation), field, value)

    return callback


def _site_names(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from vanrouter.cli.running import site_names  # only while completing

    return [name for name in site_names() if name.startswith(incomplete)]


def _shared_options() -> list[click.Parameter]:
    from vanrouter.cli.values import NAME

    return [
        click.Option(
            ["-p", "--platform"],
            type=click.Choice(PLATFORMS),
            expose_value=False,
            callback=_keep("platform"),
            help="Where the site runs; else VAN_PLATFORM, else kubernetes.",
        ),
        click.Option(
            ["-n", "--namespace", "name_of_site"],
            metavar="NAME",
            type=NAME,
            expose_value=False,
            callback=_keep("name"),
            shell_complete=_site_names,
            help="Which namespace; default: the context's. On a host: which site of this user; default: default.",
        ),
        click.Option(
            ["-c", "--context", "kube_context"],
            metavar="NAME",
            expose_value=False,
            callback=_keep("context"),
            help="Which context of the kubeconfig; default: the current one.",
        ),
        click.Option(
            ["--kubeconfig", "kube_config"],
            metavar="FILE",
            expose_value=False,
            callback=_keep("kubeconfig"),
            help="How to reach the cluster; else KUBECONFIG, else ~/.kube/config.",
        ),
        click.Option(
            ["-o", "--output", "output_format"],
            type=click.Choice(OUTPUTS),
            expose_value=False,
            callback=_keep("output"),
            help="How to print the result.",
        ),
        click.Option(["--debug"], is_flag=True, expose_value=False, callback=_keep("debug"), help="Show tracebacks."),
    ]


class Command(click.Command):
    """A command that takes the shared options and knows on which platforms, and in which formats, it answers."""

    def __init__(self, *args: Any, outputs: Sequence[str] = (), platforms: Sequence[str] | None = ("linux",), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outputs = tuple(outputs)
        self.platforms = platforms
        self.params += _shared_options()

    def invoke(self, ctx: click.Context) -> Any:
        invocation = ctx.ensure_object(Invocation)
        if self.platforms is not None:
            invocation.require_platform(self.platforms)
        if invocation.output and invocation.output not in self.outputs:
            can = f"it can: {', '.join(self.outputs)}" if self.outputs else "it has no other format"
            raise click.UsageError(f"'{ctx.command_path}' cannot print -o {invocation.output}; {can}", ctx)
        return super().invoke(ctx)


class Group(click.Group):
    """A noun. The shared options may stand before its verb too."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _shared_options()

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)  # in the order in which they stand in the file


def command(name: str, **attrs: Any) -> Callable[[Callable[..., Any]], Command]:
    """A command of the top level: ``click.command`` with ours as its class."""
    return click.command(name, cls=Command, **attrs)


# ---- The two programs -------------------------------------------------------------------------------------------------------------------


class Root(Group):
    """``van`` or ``vanrouter``: loads the file of a command when it is called, and turns errors into messages and exit codes.

    ``sections`` maps a heading to ``{command: (file, attribute, one line of help)}``. The line stands here so that help need not import
    the file; a test checks that it is the command's own.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Mapping[str, tuple[str, str, str]]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections
        self.table = {name: entry for section in sections.values() for name, entry in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in self.table:
            return None
        file, attribute, _ = self.table[cmd_name]
        found: click.Command = getattr(importlib.import_module(f"vanrouter.cli.{file}"), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        for heading, section in self.sections.items():
            if heading:
                with formatter.section(heading):
                    formatter.write_dl([(name, entry[2]) for name, entry in section.items()])

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        invocation = extra.pop("obj", None) or Invocation()
        extra["standalone_mode"] = False
        try:
            result = super().main(args, prog_name, obj=invocation, **extra)
            sys.stdout.flush()
            code = result if isinstance(result, int) else DONE
        except Exception as error:
            code = report(error, debug=invocation.debug)
        except KeyboardInterrupt:
            code = 130
        sys.exit(code)


def quiet_exit(code: int) -> NoReturn:
    """End with this exit code; everything worth saying was said."""
    raise click.exceptions.Exit(code)


def report(error: Exception, *, debug: bool) -> int:
    """Print an error to stderr; return the exit code."""
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has left (`van ... | head`). Keep the interpreter from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    if isinstance(error, click.Abort):
        click.echo("Aborted.", err=True)
        return 130
    if debug:
        import traceback

        traceback.print_exception(error)
    match error:
        case click.UsageError():
            message = error.format_message()
            hint = f"{error.ctx.command_path} --help" if error.ctx else "van --help"
            code = USAGE
        case click.ClickException():
            message, hint, code = error.format_message(), "", FAILED
        case VanrouterError():
            message, hint = str(error), error.hint
            code = NOT_READY if isinstance(error, NotReady) else TIMED_OUT if isinstance(error, DeadlineExceeded) else FAILED
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            message, hint, code = f"{where}{error.strerror or error}", "", FAILED
        case _:
            message = f"{type(error).__name__}: {error}"
            hint = "this is a bug in vanrouter; run it again with --debug and report what it prints"
            code = FAILED
    click.echo(click.style("Error: ", fg="red", bold=True) + message, err=True)
    if hint:
        click.echo(click.style("Next:  ", bold=True) + hint, err=True)
    return code
