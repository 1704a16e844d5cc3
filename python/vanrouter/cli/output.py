"""
How results look: tables, json, yaml, names.

People read tables and sentences; programs read json and yaml, which carry everything and keep their field names. A table is written by
these few lines and not by a library, because ``van status`` has 300 ms. Colour and marks appear on a terminal only (and never under
NO_COLOR).
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

__all__ = ["bad", "dim", "dump", "dump_objects", "explain", "good", "say", "strong", "table", "warn", "warn_of_readers"]


def _colours() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _style(text: str, **style: Any) -> str:
    return click.style(text, **style) if text and _colours() else text


def good(text: str) -> str:
    return _style(text, fg="green")


def bad(text: str) -> str:
    return _style(text, fg="red")


def dim(text: str) -> str:
    return _style(text, dim=True)


def strong(text: str) -> str:
    return _style(text, bold=True)


def say(text: str = "") -> None:
    """A line of the result, on stdout."""
    click.echo(text)


def warn(text: str, hint: str = "") -> None:
    """Something that the command did not fail for, on stderr."""
    click.echo(click.style("Warning: ", fg="yellow", bold=True) + text, err=True)
    if hint:
        click.echo(click.style("Next:    ", bold=True) + hint, err=True)


def warn_of_readers(what: str) -> None:
    """When standard output is a file that others on this machine may read, and ``what`` is secret."""
    try:
        mode = os.fstat(sys.stdout.fileno()).st_mode
    except (OSError, ValueError):  # no file at all
        return
    if stat.S_ISREG(mode) and mode & 0o077:
        warn(f"others on this machine can read the file that this goes to (mode {stat.S_IMODE(mode):04o}): it has {what}", "chmod 600 it")


def dump(document: Any, output: str) -> None:
    """Print a document as json or yaml."""
    if output == "json":
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    import yaml

    documents = document if isinstance(document, list) else [document]

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # a network of 100 sites takes seconds without libyaml
        """For people: no anchors, and a text of several lines as it is."""

        def ignore_aliases(self, _data: Any) -> bool:
            return True

    Dumper.add_representer(str, lambda d, text: d.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None))
    text = yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, allow_unicode=True, explicit_start=len(documents) > 1)
    click.echo(text, nl=False)


def dump_objects(objects: Sequence[Mapping[str, Any]], output: str) -> None:
    """Print what can be applied: one object as itself; several as a ``List``, or as the documents of one stream."""
    if len(objects) == 1:
        dump(objects[0], output)
    else:
        dump({"apiVersion": "v1", "kind": "List", "items": list(objects)} if output == "json" else list(objects), output)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, indent: str = "") -> None:
    """Print rows under upper-case headings, as wide as they need to be. The last column is never padded."""
    text = [[cell_text(cell) for cell in row] for row in rows]
    lines = [[column.upper() for column in columns], *text]
    widths = [max(len(click.unstyle(line[i])) for line in lines) for i in range(len(columns))]
    for line in lines:
        padded = [cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(line, widths, strict=True)]
        click.echo((indent + "   ".join(padded)).rstrip())


def cell_text(value: object) -> str:
    """How a value stands in a table: yes and no for booleans, a dash for nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "-"
    return str(value).replace("\n", " ")


def explain(reasons: Iterable[tuple[str, Mapping[str, Any] | None]]) -> None:
    """Under a table: why something is not as wanted, and what to do about it."""
    for what, reason in reasons:
        if reason is None:
            continue
        say()
        say(f"{what}: {reason['message'] or reason['reason']}")
        if reason.get("next"):
            say(f"  next: {reason['next']}")
