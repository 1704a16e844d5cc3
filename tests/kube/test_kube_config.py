"""Where credentials come from: kubeconfigs as people have them, the service account of a pod, and what is wrong with either."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vanrouter.kube import access as access_module
from vanrouter.kube.access import Access, BasicAuth, ExecPlugin, Token, TokenFile
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import get
from vanrouter.kube.client import KubeClient
from vanrouter.kube.errors import KubeConfigError, ServerFailed, Unreachable
from vanrouter.kube.kinds import CONFIG_MAPS
from vanrouter.kube.kubeconfig import in_cluster, load_access


def document(**user: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "west",
        "contexts": [
            {"name": "west", "context": {"cluster": "w", "user": "me", "namespace": "north"}},
            {"name": "east", "context": {"cluster": "e", "user": "me"}},
            {"name": "lost", "context": {"cluster": "nowhere", "user": "me"}},
        ],
        "clusters": [
            {"name": "w", "cluster": {"server": "https://west:6443/", "certificate-authority": "ca.pem", "tls-server-name": "api"}},
            {"name": "e", "cluster": {"server": "https://east:6443", "insecure-skip-tls-verify": True, "proxy-url": "http://proxy:3128"}},
        ],
        "users": [{"name": "me", "user": user}],
    }


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "ca.pem").write_text("CA")
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(document(token="t0ken")))
    return path


def test_the_current_context_with_paths_relative_to_the_file(config: Path) -> None:
    found = load_access(kubeconfig=config)
    assert (found.server, found.namespace, found.ca, found.tls_server_name) == ("https://west:6443", "north", b"CA", "api")
    assert found.credentials.show().headers == {"Authorization": "Bearer t0ken"}
    assert "context west" in found.source
    assert "t0ken" not in repr(found)


def test_a_context_and_a_namespace_that_are_named_count(config: Path) -> None:
    found = load_access(kubeconfig=config, context="east")
    assert (found.server, found.namespace, found.insecure, found.proxy) == ("https://east:6443", "default", True, "http://proxy:3128")
    assert load_access(kubeconfig=config, namespace="south").namespace == "south"


def test_of_several_files_the_first_that_says_a_thing_counts(config: Path, tmp_path: Path) -> None:
    other = tmp_path / "sub" / "other"
    other.parent.mkdir()
    (other.parent / "ca.pem").write_text("OTHER")
    second = document(token="second")
    second["current-context"] = "east"
    other.write_text(yaml.safe_dump(second))
    first = {"contexts": [{"name": "mine", "context": {"cluster": "w", "user": "me"}}], "current-context": "mine"}
    config.write_text(yaml.safe_dump(first))
    found = load_access(environ={"KUBECONFIG": os.pathsep.join([str(config), str(tmp_path / "missing"), str(other)])})
    assert (found.server, found.ca) == ("https://west:6443", b"OTHER"), "the context of the first file, the cluster of the second"


def test_home_is_looked_at_last(tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text(yaml.safe_dump(document(username="me", password="pw")))
    (tmp_path / ".kube" / "ca.pem").write_text("CA")
    found = load_access(environ={"HOME": str(tmp_path)})
    assert isinstance(found.credentials, BasicAuth)
    assert found.credentials.show().headers["Authorization"] == "Basic " + base64.b64encode(b"me:pw").decode()


def test_no_kubeconfig_says_where_it_was_looked_for_and_what_else_there_is(tmp_path: Path) -> None:
    with pytest.raises(KubeConfigError, match="there is no kubeconfig: looked for") as caught:
        load_access(environ={"HOME": str(tmp_path)}, service_account=tmp_path)
    assert str(tmp_path / ".kube" / "config") in str(caught.value)
    assert "van -p linux" in caught.value.hint
    with pytest.raises(KubeConfigError, match="there is no kubeconfig"):
        load_access(kubeconfig=tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: [", "is not YAML at line"),
        ("[]", "holds no object"),
        ("", "no context is current"),
        ("\x00", "is not YAML"),
        ("contexts: 5\ncurrent-context: x", "there is no context 'x'"),
        ("contexts: [{name: x, context: 5}]\ncurrent-context: x", "there is no cluster ''"),
        ("contexts: [{name: x, context: {cluster: 7}}]\ncurrent-context: x", "cluster is not text"),
        (
            "contexts: [{name: x, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: 'ftp://x'}}]\ncurrent-context: x",
            "is no address",
        ),
    ],
)
def test_a_broken_kubeconfig_is_named_with_what_is_wrong(config: Path, text: str, match: str) -> None:
    config.write_text(text)
    with pytest.raises(KubeConfigError, match=match) as caught:
        load_access(kubeconfig=config)
    assert str(config) in str(caught.value)


@pytest.mark.parametrize(
    ("user", "match"),
    [
        ({"client-certificate-data": "!!"}, "client-certificate-data is not base64"),
        ({"client-certificate": "missing.crt", "client-key": "k"}, "cannot read missing.crt"),
        ({"client-certificate-data": "QQ=="}, "only one is given"),
        ({"auth-provider": {"name": "gcp"}}, "auth-provider is no longer supported"),
        ({"exec": {}}, "command is missing"),
        ({"token": 5}, "token is not text"),
    ],
)
def test_a_broken_user_is_named_with_what_is_wrong(config: Path, user: dict[str, Any], match: str) -> None:
    config.write_text(yaml.safe_dump(document(**user)))
    with pytest.raises(KubeConfigError, match=match) as caught:
        load_access(kubeconfig=config)
    assert "user 'me'" in str(caught.value)


def test_an_unknown_context_or_cluster_says_which_there_are(config: Path) -> None:
    with pytest.raises(KubeConfigError, match="there is no context 'nope'") as caught:
        load_access(kubeconfig=config, context="nope")
    assert "west, east, lost" in caught.value.hint
    with pytest.raises(KubeConfigError, match="there is no cluster 'nowhere'"):
        load_access(kubeconfig=config, context="lost")


def test_a_ca_that_is_none_is_the_kubeconfigs_fault(config: Path) -> None:
    found = load_access(kubeconfig=config)
    with pytest.raises(KubeConfigError, match="the CA, certificate or key is not usable"):
        found.tls(found.credentials.show())


def test_connections_of_many_threads_do_not_name_their_protocols_to_a_context_that_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """The HTTP library names them for each connection; while another thread copies the names, that garbles its hello."""
    named: list[list[str]] = []
    name = ssl.SSLContext.set_alpn_protocols

    def note(context: ssl.SSLContext, names: Iterable[str]) -> None:
        named.append(list(names))
        name(context, names)

    monkeypatch.setattr(ssl.SSLContext, "set_alpn_protocols", note)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = Access(server=f"https://127.0.0.1:{listener.getsockname()[1]}", namespace="north", source="test")
        with BlockingClient(found) as client:
            for _ in range(3):
                calling = threading.Thread(target=call_in_vain, args=(client,))
                calling.start()
                connection, _ = listener.accept()
                with connection:
                    assert b"http/1.1" in connection.recv(4096)
                calling.join()
    assert named == [["http/1.1"]]


def call_in_vain(client: BlockingClient) -> None:
    with pytest.raises(Unreachable):
        client.call(get(CONFIG_MAPS, "north", "x"))


# ---- Programs that print credentials ---------------------------------------------------------------------------------------------------


def plugin(tmp_path: Path, body: str, **more: Any) -> ExecPlugin:
    path = tmp_path / "plugin"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o700)
    return ExecPlugin(str(path), **more)


def test_a_plugin_is_run_with_its_arguments_and_again_only_when_its_credentials_end(tmp_path: Path) -> None:
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    body = f"""echo x >> "$0.calls"; echo "{{\\"status\\": {{\\"token\\": \\"$1-$SAID\\", \\"expirationTimestamp\\": \\"{end}\\"}}}}" """
    made = plugin(tmp_path, body, args=("a",), env={"SAID": "b"})
    for _ in range(3):
        assert made.show().headers == {"Authorization": "Bearer a-b"}
    assert (tmp_path / "plugin.calls").read_text() == "x\n"
    assert "Bearer" not in repr(made)
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 5))
    made = plugin(tmp_path, body.replace(end, soon))
    made.show()
    made.show()
    assert (tmp_path / "plugin.calls").read_text() == "x\n" * 3


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("echo no such account >&2; exit 3", r"failed \(3\): no such account"),
        ("echo nothing", "printed no ExecCredential"),
        ("echo '{}'", "printed no ExecCredential"),
        ("""echo '{"status": {"expirationTimestamp": "never"}}'""", "printed no ExecCredential"),
        ("sleep 60", "did not answer within"),
    ],
)
def test_a_plugin_that_fails_says_how(tmp_path: Path, body: str, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_module, "PLUGIN_SECONDS", 0.5)
    with pytest.raises(KubeConfigError, match=match):
        plugin(tmp_path, body).show()


def test_a_plugin_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(KubeConfigError, match="no-such-plugin is not installed") as caught:
        ExecPlugin("no-such-plugin", install_hint="get it from the cloud").show()
    assert caught.value.hint == "get it from the cloud"


# ---- In a pod ---------------------------------------------------------------------------------------------------------------------------


def test_a_pod_uses_its_service_account_and_its_token_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("ca.crt", "CA"), ("namespace", "north"), ("token", "one\n")):
        (tmp_path / name).write_text(text)
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443", "HOME": str(tmp_path)}
    found = load_access(environ=environ, service_account=tmp_path)
    assert (found.server, found.namespace, found.ca) == ("https://[fd00::1]:443", "north", b"CA")
    assert isinstance(found.credentials, TokenFile)
    assert found.credentials.show().headers == {"Authorization": "Bearer one"}
    (tmp_path / "token").write_text("two\n")
    assert found.credentials.show().headers == {"Authorization": "Bearer one"}, "not at each call"
    monkeypatch.setattr(access_module, "TOKEN_FILE_SECONDS", 0.0)
    assert found.credentials.show().headers == {"Authorization": "Bearer two"}
    (tmp_path / "token").unlink()
    with pytest.raises(KubeConfigError, match="cannot be read") as caught:
        found.credentials.show()
    assert "mounted" in caught.value.hint


def test_outside_of_a_pod_there_is_no_service_account() -> None:
    with pytest.raises(KubeConfigError, match="this is no pod"):
        in_cluster(environ={})


def test_a_token_never_prints() -> None:
    assert "secret" not in repr(Token("secret"))


# ---- What it costs ----------------------------------------------------------------------------------------------------------------------

LOADED = """
import sys
def kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
import trio, yaml, ssl, msgspec
before = kib()
import vanrouter.kube.client, vanrouter.kube.watching, vanrouter.kube.kubeconfig
from vanrouter.kube.access import Access
access = Access(server="https://127.0.0.1:1", source="")
from vanrouter.kube.session import Options
Options(access).refresh()
assert "kubernetes" not in sys.modules
print(kib() - before)
"""


def test_the_client_costs_a_process_little_memory(record_property: Any) -> None:
    """A site has 120 MiB in all. The official client takes 21 MiB for its import alone."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    mebibytes = int(done.stdout) / 1024
    record_property("figure", f"the Kubernetes client adds {mebibytes:.1f} MiB to a process that has trio, yaml and ssl")
    assert mebibytes < 14


async def test_a_token_file_that_cannot_be_read_just_now_fails_the_call_and_nothing_more(tmp_path: Path) -> None:
    found = Access(server="https://127.0.0.1:1", namespace="north", credentials=TokenFile(tmp_path / "token"), ca=None, source="test")
    async with KubeClient(found) as client:
        with pytest.raises(ServerFailed, match=r"the token file .* cannot be read") as caught:
            await client.call(get(CONFIG_MAPS, "north", "x"))
    assert "mounted" in caught.value.hint


IN_A_ROUTER = """
import sys
import vanrouter.cli.main, vanrouter.cli.run, vanrouter.kube.kubeconfig, vanrouter.sites.process, vanrouter.sites.run_in_pod
print(*sys.modules)
"""
NOT_IN_A_ROUTER = {
    *("asyncio", "concurrent", "difflib", "kubernetes", "multiprocessing", "sqlite3", "vanrouter.baseline", "vanrouter.controller"),
    *("vanrouter.admin.client", "vanrouter.cli.namespace", "vanrouter.kube.blocking", "vanrouter.kube.manifests", "vanrouter.kube.schemas"),
    *("vanrouter.routing.explain", "vanrouter.routing.simulate", "vanrouter.sites.handover", "vanrouter.tokens.redeem"),
    "vanrouter.tokens.sqlite_ledger",
}


def test_a_router_in_a_pod_loads_nothing_that_it_seldom_or_never_needs() -> None:
    """A router has 60 MiB, and 50 of them are imports."""
    done = subprocess.run([sys.executable, "-c", IN_A_ROUTER], capture_output=True, text=True, check=True)
    assert not NOT_IN_A_ROUTER & set(done.stdout.split())
