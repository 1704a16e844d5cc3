"""``van service``: the services of the network as this site knows them, where they come from and where they can be reached here."""

from __future__ import annotations

from typing import Any

import click

from vanrouter.cli.base import ALL_OUTPUTS, BOTH, Group, Invocation, pass_invocation
from vanrouter.cli.output import bad, dump, explain, good, say, table
from vanrouter.cli.running import condition, open_site, worst
from vanrouter.cli.values import timeout_option
from vanrouter.errors import VanrouterError

__all__ = ["service"]


@click.group("service", cls=Group)
def service() -> None:
    """See the services of the network."""


@service.command("status", outputs=ALL_OUTPUTS, platforms=BOTH)
@click.argument("address", required=False)
@timeout_option(10)
@pass_invocation
def status(invocation: Invocation, address: str | None, timeout: float) -> None:
    """Show all services, or one of them.

    HERE is where a client on this site connects, SITES are those with a server behind it. "at or behind" a site: it tells of the servers of
    its edges as its own.
    """
    document = open_site(invocation, timeout).status()
    services = sorted(document["services"], key=lambda s: s["address"])
    own = document["site"]["id"]
    if address is not None:
        services = [s for s in services if s["address"] == address]
        if not services:
            raise VanrouterError(
                f"nobody in the network offers or asks for {address!r}",
                hint=f"see what there is: {invocation.van('service status')}",
            )
    if invocation.output == "name":
        for found in services:
            say(f"service/{found['address']}")
    elif invocation.output in ("json", "yaml"):
        dump(services[0] if address is not None else services, invocation.output)
    elif not services:
        say("No services. Offer one: " + invocation.van("expose host HOST:PORT --port PORT --address NAME"))
    else:
        wide = invocation.output == "wide"
        columns = ["address", "ports", "here", "sites", "state"] + (["targets", "listening at"] if wide else [])
        table(columns, [_row(found, own, wide=wide) for found in services])
        explain((f"service {found['address']}", worst(found)) for found in services)
        for found in services:
            if found.get("conflict"):
                say(f"\n{found['address']}: {found['conflict']}")


def _row(found: dict[str, Any], own: str, *, wide: bool) -> list[object]:
    here = [f"{x['host']}:{x['port']}" for x in found["listeners"] if x["siteId"] == own]
    sites = sorted({f"at or behind {t['site']}" if t.get("orEdge") else t["site"] for t in found["targets"]})
    health = condition(found, "Healthy")
    down = sum(target.get("down", 0) for target in found["targets"])
    if found.get("conflict"):
        state = bad("conflict")
    elif not found["targets"] or health["status"] == "False":
        state = bad("servers down" if down else "no server")
    elif not found["listeners"]:
        state = bad("no listener")
    elif down:
        state = bad(f"{down} down")
    else:
        state = good("ready")
    ports = ", ".join(str(port) for port in found["ports"])
    row: list[object] = [found["address"], ports, ", ".join(here), ", ".join(sites), state]
    if wide:
        row += [
            ", ".join(sorted(f"{t['site']}/{t['connector']}" for t in found["targets"])),
            ", ".join(sorted(f"{x['site']}={x['host']}:{x['port']}" for x in found["listeners"])),
        ]
    return row
