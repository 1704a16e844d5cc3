"""``link.generate`` in a namespace: asked of the controller, which has the CA; the key never comes there."""

from __future__ import annotations

import base64
from typing import Any

from controllers import in_namespace

from vanrouter.kube.kinds import SECRETS, SERVICES
from vanrouter.kube.state import files_in
from vanrouter.pki import CertificateAuthority, PrivateKey, load_certificates
from vanrouter.pki.authority import make_csr


async def test_the_controller_certifies_a_key_for_a_link_that_is_made_elsewhere(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site(spec="{linkAccess: nodeport, settings: {ingress-host: north.example.com}}")
        async with here.controller():
            service = await here.until(SERVICES, "van-router", lambda v: v and v["spec"]["ports"][0].get("nodePort"))
            csr = base64.b64encode(make_csr(PrivateKey.generate())).decode()
            ask = {"name": "to-north", "csr": csr, "lifetime_seconds": 86_400}
            made = (await here.ask("link.generate", ask))["result"]
            assert made["endpoints"] == [f"north.example.com:{service['spec']['ports'][0]['nodePort']}"]
            ca = files_in(await here.until(SECRETS, "van-ca", bool))
            (leaf,) = load_certificates(made["certificate"].encode(), "tls.crt")
            assert CertificateAuthority.load(ca["ca.crt"], ca["ca.key"]).issued(leaf)
            assert made["ca"].encode() == ca["ca.crt"]
            other = (await here.ask("link.generate", ask | {"host": "10.0.0.9"}, name="van-request.2"))["result"]
            assert other["endpoints"][0].startswith("10.0.0.9:")


async def test_a_site_that_nobody_can_reach_makes_no_link_and_says_why(cluster: Any, namespace: str) -> None:
    async with in_namespace(cluster, namespace) as here:
        await here.site(spec="{linkAccess: none}")
        async with here.controller():
            csr = base64.b64encode(make_csr(PrivateKey.generate())).decode()
            error = (await here.ask("link.generate", {"name": "x", "csr": csr, "lifetime_seconds": 86_400}))["error"]
            assert "nobody could reach it" in error["message"] or "no link can be made now" in error["message"]
