"""
``van expose`` and ``unexpose``: offer a local server to the network under a name and a port, and take it back.

In a namespace a server is a workload, a Service or pods as well (``workloads``). ``expose`` writes one connector that carries the service's
name and port, and waits until every linked site that is up has it. ``unexpose`` takes what ``expose`` took (``deployment/hello``,
``host/127.0.0.1:8080``) or the service's name.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from vanrouter.cli.base import BOTH, Invocation, command, pass_invocation
from vanrouter.cli.checks import CHECK_FIELDS
from vanrouter.cli.nouns import named, with_fields
from vanrouter.cli.output import say, warn
from vanrouter.cli.ports import Wanted, pair_ports, ports_option, target_ports_option
from vanrouter.cli.running import Site, condition, open_site
from vanrouter.cli.values import HOST_PORT, NAME, PROTOCOLS, HostPort, timeout_option, wait_option
from vanrouter.errors import ConfigError, NotReady, VanrouterError

if TYPE_CHECKING:
    from vanrouter.cli.wanted import Change

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
@click.argument("target", nargs=-1, required=True, metavar="KIND/NAME|host HOST:PORT")
@ports_option("Port under which others reach it; several: 80,443. Default: the server's.")
@target_ports_option("Kubernetes: port of the pods, by number or name; of several ports 80:http,443:8443. Default: PORT, or the only one.")
@click.option("--address", type=NAME, help="Name under which others reach it; default on Kubernetes: the workload's.")
@click.option("--include-not-ready-pods", is_flag=True, help="Kubernetes: pods serve before they are ready too.")
@click.option("--expose-pods-by-name", is_flag=True, help="Kubernetes: each pod of a StatefulSet by its own name too.")
@click.option("--protocol", type=click.Choice(PROTOCOLS), default="tcp", show_default=True, help="Protocol of the service.")
@with_fields(CHECK_FIELDS)
@click.option("--dry-run", is_flag=True, help="Print what would be written; change nothing.")
@wait_option("the linked sites that are up have it")
@timeout_option(30, "How long to wait.")
@pass_invocation
def expose(
    invocation: Invocation,
    /,
    target: tuple[str, ...],
    ports: tuple[int, ...],
    target_ports: tuple[Wanted, ...],
    address: str | None,
    include_not_ready_pods: bool,
    expose_pods_by_name: bool,
    protocol: str,
    dry_run: bool,
    wait: bool,
    timeout: float,
    **checks: Any,
) -> None:
    """Offer a local service to the network.

    \b
    van expose deployment/hello --port 80
    van expose deployment/web --port 80,443 --target-port 80:http,443:8443
    van expose statefulset/db --port 5432 --target-port postgres --address database --expose-pods-by-name
    van expose pods/app=hello --port 80 --address hello
    van -p linux expose host 127.0.0.1:8080 --port 9090 --address hello
    """
    from vanrouter.cli import wanted

    annotations: Doc = {}
    if invocation.on_kubernetes:
        from vanrouter.cli.workloads import spelled

        if expose_pods_by_name and spelled(target)[0] != "statefulset":
            raise click.UsageError("--expose-pods-by-name is for a StatefulSet: other pods have no lasting names")
        site, found = _in_namespace(invocation, timeout, target, pair_ports(ports, target_ports), address, include_not_ready_pods)
        address, where, leads, annotations = found
    else:
        if target_ports or include_not_ready_pods or expose_pods_by_name:
            raise click.UsageError("--target-port, --include-not-ready-pods and --expose-pods-by-name are for Kubernetes; this is a host")
        server = _target(target)
        if server is None:
            raise click.UsageError(f"{target[0]!r} cannot be exposed; write 'host HOST:PORT', for example: host 127.0.0.1:8080")
        if address is None:
            raise click.MissingParameter(param_hint="'--address'", param_type="option")
        site = open_site(invocation, timeout)
        site.require()
        where, leads = {"host": server.host}, dict.fromkeys(ports or (server.port,), server.port)
    by_name = {"exposePodsByName": True} if expose_pods_by_name else {}
    more = named(CHECK_FIELDS, checks) | by_name | ({"expose.protocol": protocol} if protocol != "tcp" else {})
    changes = _write(site, address, where, leads, more, annotations=annotations, dry_run=dry_run)
    left_out: list[str] = []

    def say_left_out() -> None:
        for line in left_out:
            warn(line, f"see {invocation.van('service status')}")
        left_out.clear()

    effects = []
    for port, change in zip(sorted(leads), changes, strict=True):
        check = functools.partial(_missing, connector=change.resource, left_out=left_out)
        already = " (it was already)" * (change.done == "unchanged")
        sentence = f"Service {address} is exposed on port {port}{already}."
        effects.append(wanted.Effect(change, _patient(site, check, left_out), sentence, say_left_out))
    wanted.finish_all(site, effects, wait=wait)


def _write(site: Site, address: str, where: Doc, leads: dict[int, int], more: Doc, *, annotations: Doc, dry_run: bool) -> list[Change]:
    """A connector for each port. All of them are known to be well before the first one is written."""
    from vanrouter.cli import wanted
    from vanrouter.resources import Connector
    from vanrouter.resources.service_keys import keys_in_use, service_key

    connectors = list(wanted.read_all(site, "Connector"))
    keys = keys_in_use(connectors, _services(site))
    planned: list[tuple[str, Doc]] = []
    taken: dict[str, Any] = {connector.name: connector.spec for connector in connectors}
    for port, server_port in sorted(leads.items()):
        spec: Doc = {"routingKey": "", **where, "port": server_port, "expose": {"port": port, "address": address}} | more
        name = _connector_name(taken, address, spec, port)
        old = taken.get(name)
        spec["routingKey"] = old.routing_key if old is not None else service_key(address, port, keys)
        keys[address, port] = spec["routingKey"]
        built = wanted.build("Connector", name, spec, annotations)
        assert isinstance(built, Connector)
        taken.setdefault(name, built.spec)
        planned.append((name, spec))
    tried = [wanted.create(site, "Connector", name, spec, dry_run=True, annotations=annotations) for name, spec in planned]
    if dry_run:
        return tried
    return [wanted.create(site, "Connector", name, spec, annotations=annotations) for name, spec in planned]


def _services(site: Site) -> list[Doc]:
    """Of the network, as the running site knows them; nothing where it does not run."""
    try:
        return list(site.call("status")["services"]) if site.is_running() else []
    except NotReady:
        return []


def _in_namespace(
    invocation: Invocation,
    timeout: float,
    target: tuple[str, ...],
    wanted: list[Wanted],
    address: str | None,
    include_not_ready: bool,
) -> tuple[Site, tuple[str, Doc, dict[int, int], Doc]]:
    """The site; name, place and ports of the service, and what marks its connectors."""
    from vanrouter.cli.namespace import NamespaceSite
    from vanrouter.cli.workloads import check_address, find_target
    from vanrouter.controller.view import TARGET

    site = NamespaceSite(invocation, timeout)
    site.require()
    found = find_target(site, target, wanted, include_not_ready=include_not_ready)
    name = address or found.name
    if not name:
        raise click.MissingParameter(param_hint="'--address'", param_type="option")
    note = check_address(site, name)
    if note:
        warn(note)
    for doubt in found.doubts:
        warn(doubt.message, doubt.hint)
    where = found.where | ({"includeNotReadyPods": True} if include_not_ready else {})
    return site, (name, where, found.ports, {TARGET: found.words})


def _connector_name(taken: Mapping[str, Any], address: str, where: Doc, port: int) -> str:
    """The connector of this server under this name and port: an old one, or the first free name."""
    for name, spec in taken.items():
        if _is(spec, address, where) and spec.expose.port == port:
            return name
    stem = re.sub(r"[^a-z0-9.-]", "-", address)[:50].rstrip("-.")
    candidates = [stem, f"{stem}-{port}", *(f"{stem}-{port}-{i}" for i in range(2, len(taken) + 3))]
    return next(name for name in candidates if name not in taken)


def _is(spec: Any, address: str, where: Doc) -> bool:
    if spec.expose is None or (spec.expose.address or spec.routing_key) != address:
        return False
    return (spec.host, spec.selector, spec.port) == (where.get("host", ""), where.get("selector", ""), where["port"])


def _patient(site: Site, check: Callable[[Doc], str], left_out: list[str]) -> Callable[[Doc], str]:
    """Where a site that cannot listen may only not have got there yet, it has a moment for it."""
    until: float | None = None

    def patient(status: Doc) -> str:
        nonlocal until
        until = until or time.monotonic() + site.settles
        missing = check(status)
        return missing or (left_out[0] if left_out and time.monotonic() < until else "")

    return patient


def _missing(status: Doc, *, connector: Any, left_out: list[str]) -> str:
    """Which linked sites that are up do not have the service yet. Fills ``left_out`` with what a person should know besides."""
    left_out.clear()
    address, port = connector.spec.expose.address, connector.spec.expose.port
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
    for element in status["connectors"]:
        spec, health = element["spec"], condition(element, "Healthy")
        theirs = (spec.get("expose") or {}).get("port"), element["routingKey"]
        if theirs == (port, connector.spec.routing_key) and health["reason"] in _FAILING:
            left_out.append(f"its server does not answer yet: {health['message']}")
    lacking = sorted(name for site_id, name in up.items() if site_id not in have and site_id not in cannot)
    return f"not there yet: {', '.join(lacking)}" if lacking else ""


@command("unexpose", outputs=("name",), platforms=BOTH)
@click.argument("target", nargs=-1, required=True, metavar="ADDRESS|KIND/NAME|host HOST:PORT")
@click.option("--address", type=NAME, help="Only under this name.")
@ports_option("Only on this port; several: 80,443.")
@click.option("--dry-run", is_flag=True, help="Say what would be taken back; change nothing.")
@wait_option("it is gone here")
@timeout_option(30, "How long to wait.")
@pass_invocation
def unexpose(
    invocation: Invocation, target: tuple[str, ...], address: str | None, ports: tuple[int, ...], dry_run: bool, wait: bool, timeout: float
) -> None:
    """Take back what was exposed.

    Named by what 'expose' took, or by the service's name:

    \b
    van unexpose deployment/hello
    van -p linux unexpose hello
    van -p linux unexpose host 127.0.0.1:8080
    """
    from vanrouter.cli import wanted
    from vanrouter.kube.workloads import MADE_FROM

    server, words = _meant(invocation, target)
    site = open_site(invocation, timeout)
    doomed: list[tuple[str, str, str, int]] = []
    left: list[tuple[str, int]] = []  # name and port of the service, for each server that stays
    for connector in wanted.read_all(site, "Connector"):
        spec = connector.spec
        if spec.expose is None or connector.metadata.annotations.get(MADE_FROM, "").startswith("connector/"):  # it goes with that one
            continue
        name = spec.expose.address or spec.routing_key
        words_of = _words_of(connector)
        hit = words_of == words if words else name == target[0] if server is None else (spec.host, spec.port) == tuple(server)
        if hit and address in (None, name) and spec.expose.port in (ports or (spec.expose.port,)):
            wanted.refuse_made(connector)
            doomed.append((connector.name, name, words_of, spec.expose.port))
        else:
            left.append((name, spec.expose.port))
    if not doomed:
        raise ConfigError(
            f"this site exposes nothing that matches {' '.join(target)!r}", hint=f"see what it does: {invocation.van('connector status')}"
        )
    effects = []
    for connector_name, name, its_server, service_port in doomed:
        still = left.count((name, service_port))
        others = "1 other server of this site still serves" if still == 1 else f"{still} other servers of this site still serve"
        sentence = (
            f"Server {its_server} is taken back from service {name}, port {service_port}; {others} it."
            if still
            else f"Service {name} is no longer exposed on port {service_port} by this site."
        )
        change = wanted.delete(site, "Connector", connector_name, dry_run=dry_run)
        effects.append(wanted.Effect(change, wanted.is_gone("connectors", connector_name), sentence))
    wanted.finish_all(site, effects, wait=wait)
    if dry_run:
        say("Nothing was changed.")


def _meant(invocation: Invocation, target: tuple[str, ...]) -> tuple[HostPort | None, str]:
    """A server of a host, or what ``expose`` took in a namespace; neither of it: the name of a service."""
    if invocation.on_kubernetes:
        from vanrouter.cli.workloads import spelled

        kind, name = spelled(target)
        server, words = None, f"{kind}/{name}" if kind else ""
    else:
        server, words = _target(target), ""
    if server is None and not words and len(target) != 1:
        raise click.UsageError("name one service, or write 'host HOST:PORT'")
    return server, words


def _words_of(connector: Any) -> str:
    """What its connector was made of."""
    from vanrouter.controller.view import TARGET

    spec = connector.spec
    return str(connector.metadata.annotations.get(TARGET) or (HostPort(spec.host, spec.port) if spec.host else f"pods/{spec.selector}"))
