"""
``van expose`` and ``unexpose``: offer a local server to the network under a name and a port, and take it back.

``expose`` writes one connector that carries the service's name and port, and waits until every linked site that is up has it. ``unexpose``
takes what ``expose`` took (``host/127.0.0.1:8080``) or the service's name.
"""

from __future__ import annotations

import re
from typing import Any, Final

import click

from vanrouter.cli.base import BOTH, Invocation, command, pass_invocation
from vanrouter.cli.checks import CHECK_FIELDS
from vanrouter.cli.nouns import named, with_fields
from vanrouter.cli.output import say, warn
from vanrouter.cli.running import Site, condition, open_site
from vanrouter.cli.values import HOST_PORT, NAME, PORT, HostPort, timeout_option, wait_option
from vanrouter.errors import ConfigError, VanrouterError

__all__ = ["expose", "unexpose"]

Doc = dict[str, Any]
_FAILING: Final = ("Suspect", "TargetDown", "TargetFails")  # reasons of the condition Healthy
_WORKLOADS: Final = ("deployment", "statefulset", "daemonset", "pods", "service")


def _target(words: tuple[str, ...]) -> HostPort | None:
    """``host 127.0.0.1:8080`` or ``host/127.0.0.1:8080``; None: not of this form. Workloads are refused."""
    kind, _, rest = words[0].partition("/")
    if kind in _WORKLOADS:
        raise VanrouterError(
            f"{' '.join(words)}: a {kind} lives on Kubernetes, and this is a host",
            hint="expose a server by where it listens: van -p linux expose host HOST:PORT --port PORT --address NAME",
        )
    if kind != "host":
        return None
    given = ([rest] if rest else []) + list(words[1:])
    if len(given) != 1:
        raise click.UsageError("write 'host HOST:PORT', for example: host 127.0.0.1:8080")
    parsed: HostPort = HOST_PORT.convert(given[0], None, None)
    return parsed


@command("expose", outputs=("json", "yaml", "name"), platforms=BOTH)
@click.argument("target", nargs=-1, required=True, metavar="host HOST:PORT")
@click.option("--port", type=PORT, help="Port under which others reach it; default: the server's.")
@click.option("--address", type=NAME, required=True, help="Name under which others reach it.")
@click.option("--protocol", type=click.Choice(["tcp"]), default="tcp", show_default=True, help="Protocol of the service.")
@with_fields(CHECK_FIELDS)
@click.option("--dry-run", is_flag=True, help="Print what would be written; change nothing.")
@wait_option("the linked sites that are up have it")
@timeout_option(30, "How long to wait.")
@pass_invocation
def expose(
    invocation: Invocation,
    /,
    target: tuple[str, ...],
    port: int | None,
    address: str,
    protocol: str,
    dry_run: bool,
    wait: bool,
    timeout: float,
    **checks: Any,
) -> None:
    """Offer a local service to the network.

    \b
    van -p linux expose host 127.0.0.1:8080 --port 9090 --address hello
    """
    from vanrouter.cli import wanted

    server = _target(target)
    if server is None:
        raise click.UsageError(f"{target[0]!r} cannot be exposed; write 'host HOST:PORT', for example: host 127.0.0.1:8080")
    site = open_site(invocation, timeout)
    site.require()
    port = port or server.port
    spec: Doc = {
        "routingKey": address,
        "host": server.host,
        "port": server.port,
        "expose": {"port": port, "address": address} | ({"protocol": protocol} if protocol != "tcp" else {}),
    } | named(CHECK_FIELDS, checks)
    change = wanted.create(site, "Connector", _connector_name(site, address, server, port), spec, dry_run=dry_run)
    sentence = f"Service {address} is exposed on port {port}"
    left_out: list[str] = []
    wanted.finish(
        site,
        change,
        wait=wait,
        check=lambda status: _missing(status, address, port, left_out),
        sentence=f"{sentence} (it was already)." if change.done == "unchanged" else f"{sentence}.",
    )
    for line in left_out:
        warn(line, f"see {invocation.van('service status')}")


def _connector_name(site: Site, address: str, server: HostPort, port: int) -> str:
    """The connector of this server under this name and port: an old one, or the first free name."""
    from vanrouter.cli import wanted

    taken: dict[str, Any] = {connector.name: connector.spec for connector in wanted.read_all(site, "Connector")}
    for name, spec in taken.items():
        if _is(spec, address, server) and spec.expose.port == port:
            return name
    stem = re.sub(r"[^a-z0-9.-]", "-", address)[:50].rstrip("-.")
    candidates = [stem, f"{stem}-{port}", *(f"{stem}-{port}-{i}" for i in range(2, len(taken) + 3))]
    return next(name for name in candidates if name not in taken)


def _is(spec: Any, address: str, server: HostPort) -> bool:
    return spec.expose is not None and (spec.expose.address or spec.routing_key) == address and (spec.host, spec.port) == tuple(server)


def _missing(status: Doc, address: str, port: int, left_out: list[str]) -> str:
    """Which linked sites that are up do not have the service yet. Fills ``left_out`` with what a person should know besides."""
    left_out.clear()
    service = next((s for s in status["services"] if s["address"] == address), None)
    if service is None or not service["targets"]:
        return "this site has not taken it up"
    if service.get("conflict"):
        raise VanrouterError(
            f"service {address}: {service['conflict']}", hint="choose another name with --address, or unexpose the other one"
        )
    up = {x["remoteSiteId"]: x["remoteSiteName"] for x in status["links"] if x["active"]}
    have = {x["siteId"] for x in service["listeners"] if x["port"] == port}
    cannot = {
        x["siteId"]: f"site {x['site']} does not listen for {address}: {x['message']}" for x in service["problems"] if x["port"] == port
    }
    left_out += [why for site_id, why in cannot.items() if site_id in up or site_id == status["site"]["id"]]
    for connector in status["connectors"]:
        spec, health = connector["spec"], condition(connector, "Healthy")
        if (spec.get("expose") or {}).get("port") == port and connector["routingKey"] == address and health["reason"] in _FAILING:
            left_out.append(f"its server does not answer yet: {health['message']}")
    lacking = sorted(name for site_id, name in up.items() if site_id not in have and site_id not in cannot)
    return f"not there yet: {', '.join(lacking)}" if lacking else ""


@command("unexpose", outputs=("name",), platforms=BOTH)
@click.argument("target", nargs=-1, required=True, metavar="ADDRESS|host HOST:PORT")
@click.option("--address", type=NAME, help="Only under this name.")
@click.option("--port", type=PORT, help="Only on this port.")
@click.option("--dry-run", is_flag=True, help="Say what would be taken back; change nothing.")
@wait_option("it is gone here")
@timeout_option(30, "How long to wait.")
@pass_invocation
def unexpose(
    invocation: Invocation, target: tuple[str, ...], address: str | None, port: int | None, dry_run: bool, wait: bool, timeout: float
) -> None:
    """Take back what was exposed.

    Named by what 'expose' took, or by the service's name:

    \b
    van -p linux unexpose hello
    van -p linux unexpose host 127.0.0.1:8080
    """
    from vanrouter.cli import wanted

    server = _target(target)
    if server is None and len(target) != 1:
        raise click.UsageError("name one service, or write 'host HOST:PORT'")
    site = open_site(invocation, timeout)
    doomed: list[tuple[str, str, HostPort, int]] = []
    left: list[tuple[str, int]] = []  # name and port of the service, for each server that stays
    for connector in wanted.read_all(site, "Connector"):
        spec = connector.spec
        if spec.expose is None:
            continue
        name = spec.expose.address or spec.routing_key
        hit = name == target[0] if server is None else (spec.host, spec.port) == tuple(server)
        if hit and address in (None, name) and port in (None, spec.expose.port):
            doomed.append((connector.name, name, HostPort(spec.host, spec.port), spec.expose.port))
        else:
            left.append((name, spec.expose.port))
    if not doomed:
        raise ConfigError(
            f"this site exposes nothing that matches {' '.join(target)!r}", hint=f"see what it does: {invocation.van('connector status')}"
        )
    for connector_name, name, its_server, service_port in doomed:
        still = left.count((name, service_port))
        others = "1 other server of this site still serves" if still == 1 else f"{still} other servers of this site still serve"
        change = wanted.delete(site, "Connector", connector_name, dry_run=dry_run)
        wanted.finish(
            site,
            change,
            wait=wait,
            check=wanted.is_gone("connectors", connector_name),
            sentence=f"Server {its_server} is taken back from service {name}, port {service_port}; {others} it."
            if still
            else f"Service {name} is no longer exposed on port {service_port} by this site.",
        )
    if dry_run:
        say("Nothing was changed.")
