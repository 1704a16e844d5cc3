"""What all commands share: options before and after, platforms, exit codes, how an error looks."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from fake_site import FakeSite, Refusal
from van_calls import Van

from vanrouter.cli import main
from vanrouter.cli.base import Command, Root
from vanrouter.cli.output import warn_of_readers


def test_the_help_of_each_program_says_what_its_commands_say() -> None:
    for root in (main.van, main.vanrouter):
        for name, (file, attribute, line) in root.table.items():
            command = getattr(importlib.import_module(f"vanrouter.cli.{file}"), attribute)
            assert isinstance(command, click.Command)
            assert command.get_short_help_str(200).rstrip(".") == line.rstrip("."), name
            assert command.name == name


@pytest.mark.parametrize(
    "line", ["-n here -o json status", "status -n here -o json", "-n other status -n here -o json", "-o yaml -n here status -o json"]
)
def test_shared_options_stand_before_or_after_the_command_and_the_later_one_wins(van: Van, line: str, site: FakeSite) -> None:
    site.directory.rename(site.directory.with_name("here"))
    site.directory = site.directory.with_name("here")
    result = van(line)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["site"]["name"] == "north"


def test_commands_in_hints_of_a_site_name_the_site_so_that_they_can_be_pasted(van: Van, site: FakeSite, monkeypatch: Any) -> None:
    site.directory.rename(site.directory.with_name("here"))
    todo = "redeem a new token: van link create FILE; look there: van status; or see van status there; (van update --link-access X)"
    site.document["problems"] = [{"path": "x", "message": "m", "hint": todo}]
    monkeypatch.delenv("VAN_PLATFORM")
    said = van("-p linux -n here status").stdout
    assert (
        "redeem a new token: van -p linux -n here link create FILE; look there: van status; or see van status there; "
        "(van -p linux -n here update --link-access X)"
    ) in said

    def refuse(_: object) -> None:
        raise Refusal("config", "no", "delete that one: van link delete a")

    site.on["network"] = refuse
    assert van("-p linux -n here network status").stderr == "Error: no\nNext:  delete that one: van -p linux -n here link delete a\n"


INTERRUPTED = """\
import os, runpy, signal, sys

class AtImport:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[-1]:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins without it
sys.meta_path.insert(0, AtImport())
when, sys.argv[1:] = sys.argv[1], ["demo"]
sys.argv.append(when)
runpy.run_module("vanrouter.cli", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["click", "vanrouter.cli.base", "vanrouter.cli.demo"])
def test_an_interrupt_while_van_is_being_loaded_ends_it_quietly_with_exit_code_130(module: str) -> None:
    result = subprocess.run([sys.executable, "-c", INTERRUPTED, module], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (130, "")
    assert result.stderr.strip() in ("", "Aborted."), "no traceback"


def test_shared_options_stand_between_noun_and_verb(van: Van, site: FakeSite) -> None:
    assert van("link -o json status").stdout == "[]\n"


def test_kubernetes_is_the_default_and_says_what_to_do_instead(van: Van, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAN_PLATFORM")
    result = van("status")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: there is no kubeconfig: looked for /nowhere/kubeconfig\n"
        "Next:  name one with --kubeconfig or KUBECONFIG; on a host without Kubernetes use: van -p linux ...\n"
    )


def test_a_command_for_hosts_says_so_on_kubernetes(van: Van, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAN_PLATFORM")
    result = van("hosts")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: this command is not for platform kubernetes (from the default, as there is neither -p nor VAN_PLATFORM)\n"
        "Next:  use it with: van -p linux ...   or once for all: export VAN_PLATFORM=linux\n"
    )


@pytest.mark.parametrize(
    "line", ["status --context one", "-c one status", "status --kubeconfig file", "init --routers 2", "update --image a"]
)
def test_what_is_for_kubernetes_is_refused_on_a_host(van: Van, stopped: object, line: str) -> None:
    result = van(line)
    assert result.exit_code == 2
    assert "Kubernetes" in result.stderr


def test_p_wins_over_the_environment(van: Van, site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAN_PLATFORM", "kubernetes")
    assert "(from VAN_PLATFORM)" in van("hosts").stderr
    assert van("-p linux status").exit_code == 0
    assert "(from -p)" in van("hosts -p kubernetes").stderr


def test_an_unknown_platform_is_a_usage_error_that_names_where_it_came_from(van: Van, monkeypatch: pytest.MonkeyPatch) -> None:
    result = van("-p windows status")
    assert (result.exit_code, "windows" in result.stderr, "-p" in result.stderr) == (2, True, True)
    monkeypatch.setenv("VAN_PLATFORM", "podman")
    result = van("status")
    assert result.exit_code == 2
    assert "platform 'podman' (from VAN_PLATFORM) is not one of: linux, kubernetes" in result.stderr


@pytest.mark.parametrize("line", ["version", "completion bash", "--help", "link --help", "link create --help"])
def test_what_needs_no_site_needs_no_platform(van: Van, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAN_PLATFORM", "nonsense")
    assert van(line).exit_code == 0


def test_a_format_that_a_command_cannot_print_is_refused_and_not_ignored(van: Van, site: FakeSite) -> None:
    result = van("hosts -o wide")
    assert result.exit_code == 2
    assert "'van hosts' cannot print -o wide; it can: json, yaml" in result.stderr


@pytest.mark.parametrize(
    "line", ["nothing", "link nothing", "status surplus", "--nothing", "status -o xml", "-n UPPER status", "-n ../x status"]
)
def test_wrong_words_are_usage_errors_on_stderr(van: Van, line: str) -> None:
    result = van(line)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr


def test_a_site_that_does_not_exist_is_told_from_one_that_does_not_run(van: Van, stopped: object) -> None:
    result = van("-n nowhere status")
    assert result.exit_code == 1
    assert "there is no site 'nowhere'" in result.stderr
    assert "there is: default" in result.stderr
    assert "Next:  create it: van -n nowhere init --site-name NAME" in result.stderr
    result = van("status")
    assert result.exit_code == 3
    assert "is not running" in result.stderr
    assert "Next:  start it: van init" in result.stderr


@pytest.mark.parametrize(("code", "exit_code"), [("config", 1), ("token", 1), ("internal", 1), ("not_ready", 3), ("timeout", 4)])
def test_what_the_site_refuses_is_said_with_its_hint_and_exit_code(van: Van, site: FakeSite, code: str, exit_code: int) -> None:
    def refuse(_params: object) -> object:
        raise Refusal(code, "the reason", "the cure")

    site.on["status"] = refuse
    result = van("status")
    assert result.exit_code == exit_code
    assert result.stderr.startswith("Error: the reason\nNext:  ")


def test_a_bug_is_one_line_and_a_traceback_only_with_debug(van: Van, site: FakeSite) -> None:
    site.on["status"] = lambda _: {"no": "site"}
    result = van("status")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert "this is a bug in vanrouter" in result.stderr
    assert "Traceback" in van("status --debug").stderr


def test_a_site_that_does_not_answer_costs_the_timeout_and_no_more(van: Van, site: FakeSite) -> None:
    import threading

    never = threading.Event()
    site.on["status"] = lambda _: never.wait(5)
    result = van("status --timeout 300ms")
    never.set()
    assert result.exit_code == 4
    assert "did not answer 'status' within 0.3 s" in result.stderr


def test_every_command_that_asks_a_site_has_a_deadline() -> None:
    def walk(command: click.Command, path: str) -> None:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                walk(found, f"{path} {name}")
        elif isinstance(command, Command) and command.platforms is not None and not path.endswith("generate"):
            assert "timeout" in {parameter.name for parameter in command.params}, path

    assert isinstance(main.van, Root)
    walk(main.van, "van")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_asks_van(van: Van, shell: str) -> None:
    result = van(f"completion {shell}")
    assert result.exit_code == 0
    assert "_VAN_COMPLETE" in result.stdout
    assert "van" in result.stdout


def test_completion_knows_names(van: Van, site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    from fake_site import link_element

    site.document["links"] = [link_element("west"), link_element("east")]
    monkeypatch.setenv("COMP_WORDS", "van link delete w")
    monkeypatch.setenv("COMP_CWORD", "3")
    monkeypatch.setenv("_VAN_COMPLETE", "bash_complete")
    assert van("").stdout == "plain,west\n"
    monkeypatch.setenv("COMP_WORDS", "van -n d")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert van("").stdout == "plain,default\n"


def test_no_colour_where_there_is_no_terminal(van: Van, site: FakeSite) -> None:
    from fake_site import link_element

    site.document["links"] = [link_element("west", active=False)]
    for line in ("status", "link status", "-n nowhere status"):
        assert "\x1b" not in van(line).output


@pytest.mark.parametrize(("mode", "says"), [(0o644, True), (0o640, True), (0o600, False)])
def test_a_secret_that_goes_to_a_file_that_others_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mode: int, says: bool
) -> None:
    path = tmp_path / "link.yaml"
    path.touch(mode=0o600)
    path.chmod(mode)
    with path.open("w") as file:
        monkeypatch.setattr("sys.stdout", file)
        warn_of_readers("a private key")
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert ("it has a private key" in said and f"mode {mode:04o}" in said) == says, said
