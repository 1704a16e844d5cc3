"""No private key, token secret or request for a certificate is seen outside the file it lives in, and that file is its owner's alone."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from linked import Linked, until
from test_system_kills import too_open


def halves(text: str) -> Iterator[str]:
    """Pieces of a secret that nothing else holds: lines of a PEM's body, or the whole."""
    if "PRIVATE KEY" in text:
        for block in re.findall(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", text, re.DOTALL):
            body = block.split()
            # The first line and a half of PKCS#8 are the same for all keys of a kind.
            yield "".join(body)[44:84]
    else:
        yield text


def canaries(pair: Linked, token: str) -> dict[str, str]:
    """Secret -> where it lives."""
    found: dict[str, str] = {}
    for path in sorted(pair.host.home.rglob("*")):
        if path.is_file() and path.stat().st_size < 1 << 20:
            text = path.read_bytes().decode("latin-1")
            if "PRIVATE KEY" in text:
                for piece in halves(text):
                    found[piece] = str(path.relative_to(pair.host.home))
            if path.suffix == ".json" and "pending" in path.parts:
                for value in json.loads(text).values():
                    if isinstance(value, str) and len(value) > 40:
                        found[value] = str(path)
    secret = re.search(r"^  secret: (\S+)$", token, re.MULTILINE)
    assert secret is not None
    raw = base64.urlsafe_b64decode(secret[1] + "==")
    for form in (secret[1], raw.hex(), base64.b64encode(raw).decode().rstrip("="), repr(raw)[2:-1]):
        found[form] = "the token"
    return found


def test_no_secret_is_printed_logged_or_passed(linked: Linked) -> None:
    linked.set_up()
    said: dict[str, str] = {}

    def van(line: str) -> None:
        result = linked.host.run("van", "-p", "linux", *line.split())
        said[f"van {line}"] = result.stdout + result.stderr

    van("-n north token create one.yaml --debug")
    token = (linked.host.directory / "one.yaml").read_text()
    secrets = canaries(linked, token)
    assert {Path(where).name for where in secrets.values()} >= {"identity.key", "ca.key", "tls.key", "the token"}

    # Everything that goes right and wrong with it, with tracebacks.
    damaged = linked.host.directory / "damaged.yaml"
    damaged.write_text(token.replace("secret: ", "sekret: "))
    (linked.host.directory / "cut.yaml").write_text(token[: token.index("secret: ") + 20])
    (linked.host.directory / "wrong.yaml").write_text(re.sub(r"(?m)^  token-id: .*$", "  token-id: hg53pgf3a4xs6d2bhscue6gewq", token))
    for file in ("damaged", "cut", "wrong"):
        (linked.host.directory / f"{file}.yaml").chmod(0o600)
        van(f"-n south link create {file}.yaml --debug --timeout 10s")
    van("-n north link create one.yaml --debug --timeout 10s")
    resources = linked.host.home / "south" / "resources"
    (resources / "Secret-broken.yaml").write_text(token.replace("secret: ", "sekret: "))
    (resources / "Secret-cut.yaml").write_text(token[: token.index("secret: ") + 20])
    os.kill(linked.host.router("south"), signal.SIGHUP)
    until("south shows the broken files", lambda: len(linked.status("south")["problems"]) >= 2)
    van("-n south status --debug")
    (resources / "Secret-broken.yaml").unlink()
    (resources / "Secret-cut.yaml").unlink()
    (resources / "Secret-token.yaml").write_text(token)
    linked.call("south", "reconcile")
    until("the token of the resources is redeemed", lambda: len(linked.status("south")["links"]) == 2)
    van("-n south link create one.yaml --debug --timeout 10s")
    for site in ("north", "south"):
        for line in ("status -o json", "link status -o yaml", "token status -o json", "network status -o json", "service status -o wide"):
            van(f"-n {site} {line} --debug")
        said[f"log of {site}"] = linked.log(site)
        said[f"status of {site}"] = json.dumps(linked.status(site)) + json.dumps(linked.call(site, "network"))
        pid = linked.host.router(site)
        said[f"arguments of {site}"] = Path(f"/proc/{pid}/cmdline").read_text()
        said[f"environment of {site}"] = Path(f"/proc/{pid}/environ").read_text()
    secrets |= canaries(linked, token)
    key = (linked.host.home / "north" / "state" / "identity.key").read_text()
    assert any(secret in key.replace("\n", "") for secret in secrets), "they would be seen if they were there"
    assert any(secret in token for secret in secrets)
    for where, text in said.items():
        flat = text.replace("\\n", "").replace("\n", "")
        for secret, home in secrets.items():
            assert secret not in text, f"{where} shows what is in {home}"
            assert secret not in flat, f"{where} shows what is in {home}"
        assert "PRIVATE KEY" not in text, where
        assert "CERTIFICATE REQUEST" not in text, where
    for site in ("north", "south"):
        assert too_open(linked.host.home / site) == ["resources/Secret-token.yaml 0644"] * (site == "south"), "only what this test wrote"


@pytest.mark.parametrize("name", ["state", "state/identity.key", "state/ledger.sqlite", "."])
def test_what_is_open_to_others_is_refused_with_the_chmod_to_type(linked: Linked, name: str) -> None:
    """As a user meets it: the next start says which file, and the command that it prints helps."""
    linked.van(f"init --site-name north --link-access 127.0.0.1:{linked.link_port}")
    linked.van("token create one.yaml")
    pid = linked.host.router("default")
    os.kill(pid, signal.SIGKILL)
    until("it is dead", lambda: pid not in linked.host.processes())
    path = linked.host.home / "default" / name
    right = "700" if path.is_dir() else "600"
    path.chmod(0o755)
    refused = linked.van("init", code=1)
    command = f"chmod {right} {path.resolve()}"
    assert command in refused.stderr, refused.stderr
    assert linked.host.run("bash", "-c", command).returncode == 0
    linked.van("init")


def test_a_key_of_somebody_else_or_of_nonsense_is_named(linked: Linked) -> None:
    linked.van("init --site-name north")
    os.kill(linked.host.router("default"), signal.SIGKILL)
    until("it is dead", lambda: not linked.host.processes())
    key = linked.host.home / "default" / "state" / "identity.key"
    good = key.read_bytes()
    key.write_bytes(b"nonsense")
    refused = linked.van("init", code=1).stderr
    assert str(key) in refused
    assert "Next:" in refused
    key.unlink()
    gone = linked.van("init", code=1).stderr
    assert f"{key} is gone" in gone
    assert "restore it from a backup" in gone
    key.write_bytes(good)
    key.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(key, 65534, 65534)
        refused = linked.van("init", code=1).stderr
        assert f"{key} belongs to user 65534" in refused
        os.chown(key, 0, 0)
    linked.van("init")
