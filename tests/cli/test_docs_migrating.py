"""Commands and YAML of docs/migrating.md and of the GitOps part of docs/kubernetes.md: the program takes them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from van_calls import Van

from vanrouter.cli.base import Command
from vanrouter.resources.skupper import Source, translate

DOCS = Path(__file__).parents[2] / "docs"
MIGRATING = (DOCS / "migrating.md").read_text()
GITOPS = (DOCS / "kubernetes.md").read_text().partition("## GitOps")[2].partition("\n## ")[0]


def commands(text: str) -> list[str]:
    """In backticks, and lines of shell blocks."""
    blocks = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    inline = re.findall(r"`(van [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return sorted({line.strip() for line in [*blocks, *inline]})


@pytest.mark.parametrize("line", [*commands(MIGRATING), *commands(GITOPS)])
def test_a_command_that_the_page_shows_is_one_that_the_program_takes(van: Van, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and flags; what the commands do has tests of its own."""
    taken: list[str] = []
    monkeypatch.setattr(Command, "invoke", lambda _self, ctx: taken.append(ctx.command_path))
    monkeypatch.setenv("VAN_PLATFORM", "kubernetes")
    words = {"NAME": "name", "HOST": "10.0.0.1", "KEY": "key", "FILE|DIR|-": "-"}
    program, *arguments = shlex.split(line.replace("FILE|DIR|-", "-"))
    result = van("", *[words.get(word, word) for word in arguments])
    assert (program, result.exit_code) == ("van", 0), result.output
    assert taken


def test_the_page_shows_commands_of_every_everyday_kind() -> None:
    shown = {line.split()[1] for line in commands(MIGRATING)}
    assert {
        "init",
        "status",
        "update",
        "delete",
        "token",
        "link",
        "expose",
        "unexpose",
        "listener",
        "connector",
        "apply",
        "version",
    } <= shown


@pytest.mark.parametrize("text", [MIGRATING, GITOPS], ids=["migrating", "gitops"])
def test_the_yaml_of_the_page_is_taken_without_a_warning(text: str) -> None:
    documents: list[Any] = [d for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) for d in yaml.safe_load_all(block)]
    inside = [yaml.safe_load(value) for d in documents if d["kind"] == "ConfigMap" for value in d["data"].values()]
    resources = [d for d in documents if d["kind"] != "ConfigMap"] + inside
    assert resources
    made = translate([Source("page", d) for d in resources], platform="kubernetes", namespace="west")
    assert (made.faults, made.notes) == ([], [])
    assert len(made.resources) == len(resources)
