"""Certificates in real processes: a CA of the user's on both ends, in every form of key; and leaves that renew themselves under load."""

from __future__ import annotations

import base64
import threading
import time
from typing import Any

import pytest
import trustme
import yaml
from cryptography.hazmat.primitives import serialization
from linked import Linked, condition, run_router, until
from test_system_messages import says


class Corporate:
    """The user's CA, and Secrets with leaves of it."""

    def __init__(self, kind: str) -> None:
        self._type = trustme.KeyType.RSA if kind == "RSA" else trustme.KeyType.ECDSA
        self._form = serialization.PrivateFormat.PKCS8 if kind == "PKCS8" else serialization.PrivateFormat.TraditionalOpenSSL
        self.ca = trustme.CA(key_type=self._type)

    def secret(self, name: str, *identities: str) -> str:
        leaf = self.ca.issue_cert(*identities, key_type=self._type)
        key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
        pem = key.private_bytes(serialization.Encoding.PEM, self._form, serialization.NoEncryption())
        files = {
            "tls.crt": b"".join(blob.bytes() for blob in leaf.cert_chain_pems),
            "tls.key": pem,
            "ca.crt": self.ca.cert_pem.bytes(),
        }
        data = {file: base64.b64encode(content).decode() for file, content in files.items()}
        return document("Secret", name, "v1", type="kubernetes.io/tls", data=data)


def document(kind: str, name: str, version: str = "vanrouter.io/v1alpha1", **fields: Any) -> str:
    text: str = yaml.safe_dump({"apiVersion": version, "kind": kind, "metadata": {"name": name}, **fields})
    return text


def put(pair: Linked, site: str, name: str, text: str) -> None:
    path = pair.host.home / site / "resources" / f"{name}.yaml"
    path.touch(mode=0o600)
    path.write_text(text)
    pair.call(site, "reconcile")


def rejected(pair: Linked, link: str) -> Any:
    """Why the other end does not take this link; None: it does, or has not said."""
    found = condition(next(x for x in pair.status("south")["links"] if x["name"] == link), "Operational")
    return found if found["reason"] == "Rejected" else None


@pytest.mark.parametrize("kind", ["PKCS8", "SEC1", "RSA"])
def test_a_ca_of_the_users_on_both_ends(linked: Linked, kind: str) -> None:
    corporate = Corporate(kind)
    linked.van("-n north init --site-name north --link-access none")
    linked.van("-n south init --site-name south --link-access none --service-address 127.0.0.2")

    def access(*admit: str) -> str:
        roles = [{"name": "inter-router", "port": linked.link_port}]
        spec = {"roles": roles, "bindHost": "127.0.0.1", "tlsCredentials": "server", "admit": list(admit)}
        return document("RouterAccess", "own", spec=spec)

    put(linked, "north", "server", corporate.secret("server", "127.0.0.1"))
    put(linked, "north", "access", access())
    put(linked, "south", "client", corporate.secret("client", "south.example"))
    spec = {"endpoints": [{"host": "127.0.0.1", "port": linked.link_port}], "tlsCredentials": "client", "verifyHost": True}
    put(linked, "south", "link", document("Link", "north", spec=spec))

    # Nobody is listed: nobody is admitted, and both ends say so.
    says(linked.host.run("van", "-p", "linux", "-n", "north", "status").stdout, "admits nobody", "spec.admit")
    refused = until("south is refused", lambda: rejected(linked, "north"))
    assert refused["next"]
    shown = linked.host.run("van", "-p", "linux", "-n", "south", "link", "status", "north")
    assert shown.returncode == 3
    says(shown.stdout + shown.stderr, "admit")
    said = linked.host.run("van", "-p", "linux", "-n", "north", "token", "create", "-")
    assert said.returncode == 3
    says(said.stderr, "admits nobody", "spec.admit")

    # Somebody else is listed; then south is.
    put(linked, "north", "access", access("somebody.example"))
    put(linked, "south", "link", document("Link", "north", spec=spec | {"cost": 2}))  # dialled again at once
    until("south is refused again", lambda: rejected(linked, "north"))
    put(linked, "north", "access", access("somebody.example", "*.example"))
    put(linked, "south", "link", document("Link", "north", spec=spec | {"cost": 3}))
    linked.until_linked(seconds=10)  # the listed change is tried at once, not after the longest wait
    linked.van(f"-n south expose host 127.0.0.1:{linked.echo.port} --port {linked.port} --address hello")
    until("hello answers", linked.answers)

    # A wrong CA: south trusts another one. It says so and what to do; the link that stands stays.
    put(linked, "south", "other", Corporate(kind).secret("other", "south.example"))
    put(linked, "south", "second", document("Link", "second", spec=spec | {"tlsCredentials": "other"}))
    wrong = until("the second link says what is wrong", lambda: rejected(linked, "second"))
    assert f"127.0.0.1:{linked.link_port}" in wrong["message"]
    assert wrong["next"]
    assert linked.answers()


def test_leaves_renew_themselves_while_streams_run_and_lanes_come(linked: Linked) -> None:
    """Leaves of six seconds on both ends: over several renewals no stream ends, no new one is refused, the link stays."""
    linked.set_up()
    for name in ("north", "south"):
        linked.van(f"-n {name} delete")
    linked.van(f"-n north init --site-name north --link-access 127.0.0.1:{linked.link_port} --no-start")
    linked.van("-n south init --site-name south --link-access none --service-address 127.0.0.2 --no-start")
    plane = linked.host.environment["VAN_PLANE"]
    routers = [run_router(linked.host.home / name, plane, lifetime=6.0) for name in ("north", "south")]
    try:
        for name in ("north", "south"):
            until(f"{name} is ready", lambda name=name: linked.status(name)["site"]["ready"])  # type: ignore[misc]
        linked.van("-n north token create short.yaml")
        linked.van("-n south link create short.yaml")
        linked.van(f"-n south expose host 127.0.0.1:{linked.echo.port} --port {linked.port} --address hello")
        up = linked.operational("south")["since"]
        stop, came = threading.Event(), []

        def visit() -> None:
            while not stop.is_set():
                came.append(linked.answers())
                time.sleep(0.02)

        visitor = threading.Thread(target=visit, daemon=True)
        with linked.connect() as old:
            visitor.start()
            for number in range(1000):
                old.sendall(b"%3d" % number)
                assert old.recv(3, 0x100) == b"%3d" % number
                renewed = [linked.log(name).count("certificate renewed") for name in ("north", "south")]
                if min(renewed) >= 3:
                    break
                time.sleep(0.05)
            assert min(renewed) >= 3, renewed
        stop.set()
        visitor.join(20)
        assert came.count(False) == 0, f"{came.count(False)} of {len(came)} new streams failed"
        assert linked.operational("south")["since"] == up
        for name in ("north", "south"):
            assert "link down" not in linked.log(name).partition("token redeemed")[2]
    finally:
        for router in routers:
            router.terminate()
        assert [router.wait(20) for router in routers] == [0, 0]
