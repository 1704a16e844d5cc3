"""
``van link generate``: a Link and its Secret as files, for another site that gets them from a GitOps tool and redeems no token.

The key is made here and goes into the printed Secret alone: the site that is asked sees a certificate request.
"""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any

import click

from vanrouter.cli.base import BOTH, Command, Invocation, pass_invocation
from vanrouter.cli.output import dump_objects, warn_of_readers
from vanrouter.cli.running import open_site
from vanrouter.cli.values import COST, DURATION, HOST, NAME, timeout_option

__all__ = ["generate"]

YEAR = 365 * 86_400.0


@click.command("generate", cls=Command, outputs=("json", "yaml"), platforms=BOTH)
@click.argument("name", type=NAME, required=False)
@click.option("--cost", type=COST, default=1, show_default=True, help="Cost of the link.")
@click.option("--lifetime", type=DURATION, default=YEAR, help="How long its certificate is good; it is not renewed. [default: 365d]")
@click.option("--host", type=HOST, help="Name or address under which the other site reaches this one; default: those of the link access.")
@click.option("--tls-credentials", type=NAME, metavar="NAME", help="Of a Secret that the other site has already: only the Link is printed.")
@click.option("--objects", is_flag=True, help="As the ConfigMap and the Secret that hold them in a namespace, for kubectl and GitOps.")
@timeout_option(30)
@pass_invocation
def generate(
    invocation: Invocation,
    name: str | None,
    cost: int,
    lifetime: float,
    host: str | None,
    tls_credentials: str | None,
    objects: bool,
    timeout: float,
) -> None:
    """Print a Link to this site and the Secret for it, to apply at another one: van apply -f FILE, or with --objects kubectl and GitOps.

    Who has the Secret can link to this site until its certificate ends: keep it like a password. A token (token create) ends sooner, and
    its certificates are renewed.
    """
    from vanrouter.cli.apply import object_of
    from vanrouter.resources import Endpoint, Link, Metadata, Resource, Secret, parse_host_port, to_dict
    from vanrouter.resources.kinds import LinkSpec

    site = open_site(invocation, timeout)
    key, csr = _key_and_request()
    params: dict[str, Any] = {"csr": csr, "lifetime_seconds": round(lifetime), "name": name or f"link-{site.status()['site']['name']}"[:63]}
    if host:
        params["host"] = host
    made = site.call("link.generate", **params)
    name = str(params["name"])
    spec = LinkSpec(
        endpoints=[Endpoint(host=h, port=p) for h, p in map(parse_host_port, made["endpoints"])],
        tls_credentials=tls_credentials or name,
        cost=cost,
        site_id=made["issuer"],
        verify_host=made["verifyHost"],
    )
    found: list[Resource] = [Link(metadata=Metadata(name=name), spec=spec)]
    if tls_credentials is None:
        data = {"tls.crt": made["certificate"].encode(), "tls.key": key, "ca.crt": made["ca"].encode()}
        found.append(Secret(metadata=Metadata(name=name, annotations=_until(made["expires"])), type="kubernetes.io/tls", data=data))
    documents = [object_of(r) for r in found] if objects else [to_dict(r) for r in found]
    dump_objects(documents, invocation.output or "yaml")
    if tls_credentials is None:
        warn_of_readers("a private key, which is as good as a password")


def _until(expires: float) -> dict[str, str]:
    return {"vanrouter.io/expires": dt.datetime.fromtimestamp(expires, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


def _key_and_request() -> tuple[bytes, str]:
    from vanrouter.pki import PrivateKey
    from vanrouter.pki.authority import make_csr

    key = PrivateKey.generate()
    return key.pem().reveal(), base64.b64encode(make_csr(key)).decode()
