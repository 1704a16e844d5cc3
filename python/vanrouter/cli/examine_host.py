"""What ``van doctor`` looks at on a host: the directory, the router, the link access, each link's hops, listeners and targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vanrouter.cli.base import Invocation
from vanrouter.cli.diagnosis import Finding, about_links, about_services, about_site, problems_in
from vanrouter.cli.hops import try_hop
from vanrouter.cli.running import HostSite, Site
from vanrouter.cli.values import HostPort
from vanrouter.errors import VanrouterError
from vanrouter.resources.shapes import parse_host_port

__all__ = ["access_hops", "examine_host"]

Doc = Mapping[str, Any]


def examine_host(invocation: Invocation, timeout: float) -> Iterator[Finding]:
    site = HostSite(invocation, timeout)
    try:
        site.require()
    except VanrouterError as error:
        yield Finding("site", "failed", str(error), error.hint)
        return
    broken = site.resources.load().problems
    for problem in broken:
        yield Finding(f"resources: {problem.path}", "failed", problem.message, problem.hint)
    if not broken:
        yield Finding("resources", "ok", f"{site.directory / 'resources'} can be read")
    try:
        status = site.status()
    except VanrouterError as error:
        yield Finding("router", "failed", str(error), error.hint)
        return
    told = [*about_site(status)]
    yield from told
    yield from access_hops(site, status)
    links = about_links(status)
    yield from links
    for link in status["links"]:
        if link["direction"] == "outgoing" and not link["active"]:
            yield from _hops_of(site, link)
    services = about_services(status)
    yield from services
    yield from problems_in(status, [*told, *links, *services, *(Finding("", "failed", p.message) for p in broken)])


def access_hops(site: Site, status: Doc) -> Iterator[Finding]:
    """Whether the addresses that tokens name answer from here. Others may have another way to them, so it is no more than a warning."""
    for said in status["site"].get("endpoints") or ():
        endpoint = HostPort(said["host"], said["port"])
        hop = try_hop(endpoint, seconds=site.left)
        if hop.stage:
            todo = "if the other sites cannot reach it either: choose another --link-access, or open it in the firewall"
            yield Finding(f"link access {endpoint}", "warning", f"not reached from here ({hop.stage}): {hop.why}", todo)
        else:
            yield Finding(f"link access {endpoint}", "ok", "answers with TLS from here")


def _hops_of(site: HostSite, link: Doc) -> Iterator[Finding]:
    """How far this machine gets with a link that is down."""
    from vanrouter.resources import Secret
    from vanrouter.stores import SiteHome

    name = str(link["name"])
    credential = link.get("spec", {}).get("tlsCredentials") or name
    try:
        secret = site.resources.get("Secret", credential)  # it counts before what was redeemed, as for the router
        files = secret.data if isinstance(secret, Secret) else SiteHome(site.directory).state.read_credential(credential) or {}
    except VanrouterError as error:
        yield Finding(f"link {name}: credential", "failed", str(error), error.hint)
        return
    for tried in link.get("endpoints") or ():
        try:
            host, port = parse_host_port(str(tried["endpoint"]))
        except VanrouterError:
            continue
        endpoint = HostPort(host, port)
        hop = try_hop(endpoint, ca=files.get("ca.crt", b""), site=str(link.get("remoteSiteId") or ""), seconds=site.left)
        check = f"link {name}: {endpoint}"
        if hop.stage:
            yield Finding(check, "failed", f"from here it fails at {hop.stage}: {hop.why}", _REMEDIES[hop.stage])
        else:
            yield Finding(check, "ok", "from here it answers, with TLS" + (" and the right identity" if "ca.crt" in files else ""))


_REMEDIES = {
    "address": "correct the name in the DNS, or make a new token there",
    "tcp": "is the other site running, and does a firewall let this machine through?",
    "tls": "something else listens there: compare with van status at the other site",
    "identity": "make a new token at the other site: van token create FILE",
}
