"""
``van doctor``: each thing that can be wrong has a check that names it, and a site that is well has none.

In a namespace of a real API server, with what its controller and routers say written by the test; hops are tried on real sockets.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trustme
from fake_site import FakeSite, cond, link_element, listener_element
from test_cli_namespace import Here, here, ok
from test_cli_namespace_bad import installed, router_pod

from vanrouter.cli.hops import try_hop
from vanrouter.cli.values import HostPort
from vanrouter.kube.calls import create, delete, merge_patch
from vanrouter.kube.kinds import CONFIG_MAPS, DEPLOYMENTS, NETWORK_POLICIES, SERVICES

__all__ = ["here", "installed"]

READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
ROLLED = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "observedGeneration": 99}


def checks(output: str) -> dict[str, dict[str, str]]:
    return {f"{c['check']}": c for c in json.loads(output)["checks"]}


# ---- Namespaces -------------------------------------------------------------------------------------------------------------------------


def test_what_is_not_as_it_was_made_is_named_and_update_brings_it_back(installed: Here) -> None:
    before = checks(installed.van("doctor -o json").stdout)
    assert before["objects"]["verdict"] == "ok", "nothing but what the server fills in"
    installed.client.call(delete(SERVICES, installed.name, "van-controller"))
    installed.client.call(merge_patch(DEPLOYMENTS, installed.name, "van-router", {"spec": {"replicas": 3}}))
    result = installed.van("doctor -o json")
    found = checks(result.stdout)
    assert result.exit_code == 3
    assert found["object Service/van-controller"]["verdict"] == "failed"
    assert found["object Deployment/van-router"]["message"].endswith(": spec.replicas")
    assert f"van -n {installed.name} update" in found["object Deployment/van-router"]["next"]
    ok(installed.van("update --router-cpu 1000m --node-selector a=b --log-level debug --no-wait"))
    assert checks(installed.van("doctor -o json").stdout)["objects"]["verdict"] == "ok"


def test_a_policy_that_denies_all_is_named_with_every_way_that_it_cuts(installed: Here) -> None:
    ok(installed.van("connector create hello 8080 --selector app=hello --no-wait"))
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    installed.client.call(create(NETWORK_POLICIES, installed.name, {"metadata": {"name": "deny-all"}, "spec": spec}))
    said = installed.van("doctor").stdout
    (line,) = [line for line in said.splitlines() if "NetworkPolicy/deny-all denies" in line]
    for way in (
        "the router's way to the API server (egress, TCP 443 or 6443)",
        "the router's way to the controller (ingress, TCP 55672)",
        "the way of other sites to the router (ingress, TCP 55671)",
        "the router's way to pod hello-1 of connector hello (egress, TCP 8080)",
    ):
        assert way in line


def test_a_site_that_is_well_has_nothing_wrong_and_its_links_are_judged_by_its_own_word(installed: Here) -> None:
    from fake_site import site_document

    document = site_document() | {"links": [link_element("south")], "listeners": [listener_element("db", host="db")]}
    document["site"] |= {"endpoints": [], "routers": [{"pod": "van-router-0", "ready": True}], "controller": {"name": "c", "version": "1"}}
    status = {"metadata": {"name": "van-status.site.north"}, "data": {"site.json": json.dumps(document)}}
    installed.client.call(create(CONFIG_MAPS, installed.name, status))
    for name in ("van-router", "van-controller"):
        installed.client.call(merge_patch(DEPLOYMENTS, installed.name, name, {"status": ROLLED}, subresource="status"))
    with router_pod(installed, READY):
        found = checks(installed.van("doctor -o json").stdout)
        assert [c["check"] for c in found.values() if c["verdict"] != "ok"] == ["controller"], "no pod of it is here"
        assert "active (outgoing, south at 127.0.0.1:7001)" in found["link south"]["message"]
        document["links"] = [link_element("south", active=False)]
        changed = {"data": {"site.json": json.dumps(document)}}
        installed.client.call(merge_patch(CONFIG_MAPS, installed.name, "van-status.site.north", changed))
        found = checks(installed.van("doctor -o json").stdout)
        assert found["link south"]["verdict"] == "failed"
        assert "nothing listens there" in found["link south"]["message"]


def test_without_rights_the_first_step_says_which_and_a_role_that_grants_it(here: Here) -> None:
    here.use(here.server.kubeconfig("nobody", ("strangers",)))
    result = here.van("doctor -o json")
    assert result.exit_code == 3
    found = checks(result.stdout)
    assert "you may not list configmaps" in found["cluster"]["message"]
    assert "kind: Role" in found["cluster"]["next"]


# ---- Hosts ------------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def listening(context: ssl.SSLContext | None) -> Iterator[HostPort]:
    """Takes connections, with TLS or with a word that is none."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    visitor, _ = server.accept()
                    with contextlib.suppress(OSError), visitor:
                        if context is None:
                            visitor.sendall(b"SSH-2.0-x\r\n")
                        else:
                            context.wrap_socket(visitor, server_side=True).close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield HostPort("127.0.0.1", server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_hop_says_at_which_stage_it_fails() -> None:
    ca, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("south.van").configure_cert(context)
    pem, strange = ca.cert_pem.bytes(), other.cert_pem.bytes()
    with socket.create_server(("127.0.0.1", 0)) as gone:
        nobody = HostPort("127.0.0.1", gone.getsockname()[1])
    assert try_hop(HostPort("no-such-host.invalid", 1)).stage == "address"
    assert try_hop(nobody) == ("tcp", "Connection refused")
    with listening(None) as endpoint:
        assert try_hop(endpoint).stage == "tls"
    with listening(context) as endpoint:
        assert try_hop(endpoint, ca=pem, site="south").stage == ""
        assert try_hop(endpoint, ca=strange, site="south").stage == "identity"
        assert "is that of south.van" in try_hop(endpoint, ca=pem, site="east").why


def test_a_host_names_what_is_down_and_how_far_it_gets(van: Any, site: FakeSite) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    tried = [{"endpoint": f"127.0.0.1:{port}", "reason": "Refused", "message": "", "next": ""}]
    taken = listener_element("db") | {"conditions": [cond("Listening", "False", "PortInUse", "port 9090 is in use", "free it")]}
    site.document |= {"links": [link_element("south", active=False, endpoints=tried)], "listeners": [taken]}
    site.document["site"]["endpoints"] = []
    result = van("doctor -o json")
    found = checks(result.stdout)
    assert result.exit_code == 3
    assert found["router"]["verdict"] == "ok"
    assert found["link south"]["verdict"] == "failed"
    assert "from here it fails at tcp: Connection refused" in found[f"link south: 127.0.0.1:{port}"]["message"]
    assert found["listener db"] == {"check": "listener db", "verdict": "failed", "message": "port 9090 is in use", "next": "free it"}
    assert "failed   listener db: port 9090 is in use\n           next: free it\n" in van("doctor").stdout


def test_a_host_that_is_well_has_nothing_wrong(van: Any, site: FakeSite) -> None:
    site.document["links"] = [link_element("south"), link_element("east", direction="incoming")]
    with listening(None) as endpoint:
        site.document["site"]["endpoints"] = []
        result = van("doctor")
        assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "Nothing is wrong.")
        site.document["site"]["endpoints"] = [{"host": endpoint.host, "port": endpoint.port}]
        result = van("doctor")
        assert result.exit_code == 0, "a warning is no failure"
        assert f"warning  link access {endpoint}: not reached from here (tls)" in result.stdout


@pytest.mark.parametrize("line", ["doctor", "doctor -o json"])
def test_a_site_that_is_not_there_or_not_running_is_said(van: Any, stopped: Any, line: str) -> None:
    result = van(line)
    assert (result.exit_code, "is not running" in result.stdout) == (3, True)
    result = van(f"-n other {line}")
    assert (result.exit_code, "there is no site 'other'" in result.stdout) == (3, True)
