"""``van apply`` on a host: what is written and said, what is refused before anything is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml
from declared_tokens import access_token, north, shown_by
from fake_site import FakeSite
from free_ports import free_port
from van_calls import Van

from vanrouter.stores import SiteHome

LISTENER = (
    "apiVersion: skupper.io/v2alpha1\nkind: Listener\nmetadata: {name: hello}\nspec: {routingKey: hello, host: 127.0.0.1, port: %d}\n"
)
CONNECTOR = "apiVersion: skupper.io/v2alpha1\nkind: Connector\nmetadata: {name: back}\nspec: {routingKey: k, host: 127.0.0.1, port: 1}\n"
GRANT = "apiVersion: skupper.io/v2alpha1\nkind: AccessGrant\nmetadata: {name: g}\nspec: {redemptionsAllowed: 3, expirationWindow: 1h}\n"
THEIRS = (
    "apiVersion: skupper.io/v2alpha1\nkind: AccessToken\nmetadata: {name: west}\n"
    "spec: {url: 'https://10.0.0.5:9090/0a1b', code: hP4f, ca: pem}\n"
)


def files(home: SiteHome) -> set[str]:
    return {path.name for path in home.resources.directory.iterdir()}


def test_resources_are_created_configured_and_then_unchanged(van: Van, site: FakeSite, stopped: SiteHome, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"{LISTENER % 1}---\n{CONNECTOR}")
    first = van(f"apply -f {file}")
    assert (first.exit_code, first.stdout, first.stderr) == (0, "connector/back created\nlistener/hello created\n", "")
    assert [name for name, _ in site.calls].count("reconcile") == 1
    file.write_text(f"{LISTENER % 2}---\n{CONNECTOR}")
    assert van(f"apply -f {file}").stdout == "connector/back unchanged\nlistener/hello configured\n"
    assert van("apply -f - -o name", input=LISTENER % 2).stdout == "listener/hello\n"
    assert yaml.safe_load((stopped.resources.directory / "Listener-hello.yaml").read_text())["spec"]["port"] == 2


def test_nothing_is_written_when_one_document_of_all_files_is_wrong(van: Van, site: FakeSite, stopped: SiteHome, tmp_path: Path) -> None:
    before = files(stopped)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.yaml").write_text(LISTENER % 1)
    (tmp_path / "d" / "b.yml").write_text(f"{CONNECTOR}---\n{LISTENER % 99999}")
    (tmp_path / "d" / "c.json").write_text('{"kind": "Sit"}')
    (tmp_path / "d" / "notes.txt").write_text("{")
    result = van("apply -f d")
    assert result.exit_code == 1
    assert "nothing was written: 2 faults\n" in result.stderr
    assert "  d/b.yml, document 2: Listener/hello: spec.port" in result.stderr
    assert "  d/c.json: Sit/?: kind: 'Sit' is not known; did you mean Site?" in result.stderr
    assert files(stopped) == before


def test_a_warning_says_what_to_do_and_strict_writes_nothing_then(van: Van, site: FakeSite, stopped: SiteHome) -> None:
    text = CONNECTOR.replace("port: 1", "port: 1, useClientCert: true")
    before = files(stopped)
    strict = van("apply --strict -f -", input=text)
    assert (strict.exit_code, files(stopped)) == (1, before)
    result = van("apply -f -", input=text)
    assert (result.exit_code, result.stdout) == (0, "connector/back created\n")
    assert result.stderr.startswith(
        "Warning: Connector/back: spec.useClientCert: is for TLS, and there is no spec.tlsCredentials: this res"
    )
    assert "Next:    name a Secret there, or remove it to connect without TLS" in result.stderr


def test_a_token_is_kept_as_it_is_and_a_grant_says_which_command_makes_one(
    van: Van, site: FakeSite, stopped: SiteHome, tmp_path: Path
) -> None:
    token = access_token(shown_by(north(tmp_path)))
    result = van("apply -f -", input=f"{token}---\n{GRANT}")
    assert (result.exit_code, result.stdout) == (0, "accessgrant/g created\naccesstoken/from-north created\n")
    assert "AccessGrant/g: spec: is for Kubernetes" in result.stderr
    assert "van token create FILE g --uses 3 --expiry 1h" in result.stderr
    assert "AccessToken" not in result.stderr
    assert (stopped.resources.directory / "AccessToken-from-north.yaml").read_text() == token


def test_a_token_of_the_incumbent_is_left_out_with_words(van: Van, site: FakeSite, stopped: SiteHome) -> None:
    before = files(stopped)
    result = van("apply -f -", input=THEIRS)
    assert (result.exit_code, files(stopped)) == (1, before)
    assert "AccessToken/west: is left out: a token of the incumbent, which its own sites redeem and no other" in result.stderr


def test_a_dry_run_and_a_print_write_nothing(van: Van, site: FakeSite, stopped: SiteHome) -> None:
    before = files(stopped)
    assert van("apply --dry-run -f -", input=LISTENER % 1).stdout == "listener/hello would be created\n"
    assert yaml.safe_load(van("apply -o yaml -f -", input=LISTENER % 1).stdout)["apiVersion"] == "vanrouter.io/v1alpha1"
    shown = van("apply -o json -f -", input=f"{LISTENER % 1}---\n{CONNECTOR}").stdout
    assert [d["kind"] for d in json.loads(shown)["items"]] == ["Connector", "Listener"]
    assert van("apply --dry-run -f -", input=shown).stdout == "connector/back would be created\nlistener/hello would be created\n"
    assert files(stopped) == before


def test_a_resource_among_others_in_one_file_is_left_to_its_author(van: Van, site: FakeSite, stopped: SiteHome) -> None:
    (stopped.resources.directory / "mine.yaml").write_text(f"{LISTENER % 1}---\n{CONNECTOR}")
    result = van("apply -f -", input=f"{LISTENER % 2}---\n{CONNECTOR.replace('back', 'new')}")
    assert result.exit_code == 1
    assert "nothing was written: Listener/hello stands in mine.yaml together with others" in result.stderr
    assert "Connector-new.yaml" not in files(stopped)


def test_a_namespace_or_a_site_of_another_name_is_refused(van: Van, site: FakeSite, stopped: SiteHome) -> None:
    result = van("apply -f -", input=LISTENER.replace("name: hello", "name: hello, namespace: west") % 1)
    assert "Listener/hello: metadata.namespace: is 'west', not 'default'; van -n west apply" in result.stderr
    other = van("apply -f -", input="apiVersion: skupper.io/v2alpha1\nkind: Site\nmetadata: {name: south}\n")
    assert "there is a site already, Site/north; a site keeps its name" in other.stderr


def test_without_a_site_it_says_what_to_type_and_a_stopped_one_is_told(van: Van, home: Path, tmp_path: Path) -> None:
    assert "there is no site 'default'" in van("apply -f -", input=LISTENER % 1).stderr
    assert list(home.iterdir()) == []
    missing = van("apply -f nowhere.yaml")
    assert (missing.exit_code, missing.stderr.splitlines()[0]) == (1, "Error: nowhere.yaml cannot be read: No such file or directory")


def test_a_stopped_site_has_it_when_it_starts(van: Van, stopped: SiteHome) -> None:
    result = van("apply -f -", input=LISTENER % 1)
    assert (result.exit_code, result.stdout) == (3, "listener/hello created\n")
    assert "is not running; this takes effect when it starts" in result.stderr


def test_a_site_in_the_files_is_made_and_started(home: Path) -> None:
    def run(line: str, text: str = "") -> tuple[int, str, str]:
        command = [sys.executable, "-m", "vanrouter.cli", "-n", "west", *line.split()]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    text = f"{LISTENER % free_port()}---\napiVersion: skupper.io/v2alpha1\nkind: Site\nmetadata: {{name: west}}\n"
    try:
        assert run("apply -f -", text) == (0, "site/west created\nlistener/hello created\nSite west is ready.\n", "")
        assert json.loads(run("status -o json")[1])["site"]["ready"] is True
        assert run("apply -f -", text) == (0, "site/west unchanged\nlistener/hello unchanged\n", "")
    finally:
        assert run("delete")[0] == 0
    assert list(home.iterdir()) == []
