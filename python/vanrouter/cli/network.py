"""``van network``: every site, link and service that this site knows of, as a tree, a table, json, yaml or a DOT graph."""

from __future__ import annotations

from typing import Any

import click

from vanrouter.cli.base import Group, Invocation, pass_invocation
from vanrouter.cli.output import bad, dim, dump, say, strong, table
from vanrouter.cli.running import Site
from vanrouter.cli.values import timeout_option

__all__ = ["network"]

Doc = dict[str, Any]


@click.group("network", cls=Group)
def network() -> None:
    """See the sites of the network."""


@network.command("status", outputs=("table", "wide", "json", "yaml", "name"))
@click.option("--tree", "shape", flag_value="tree", default="tree", help="Each site with its links and services (the default).")
@click.option("--dot", "shape", flag_value="dot", help="A graph in DOT: van network status --dot | dot -Tsvg")
@timeout_option(10)
@pass_invocation
def status(invocation: Invocation, shape: str, timeout: float) -> None:
    """Show the whole network as it is known here."""
    site = Site(invocation, timeout)
    document: Doc = site.call("network")
    if invocation.output in ("json", "yaml"):
        dump(document, invocation.output)
    elif invocation.output == "name":
        for found in _sites(document):
            say(f"site/{found['name']}")
    elif invocation.output in ("table", "wide"):
        _table(document, wide=invocation.output == "wide")
    elif shape == "dot":
        _dot(document)
    else:
        _tree(document)


def _sites(document: Doc) -> list[Doc]:
    return sorted(document["sites"], key=lambda s: (s["name"], s["id"]))


def _labels(document: Doc) -> dict[str, str]:
    """Site id to what people call it; two sites of one name get the start of their ids."""
    names = [site["name"] for site in document["sites"]]
    return {s["id"]: s["name"] if names.count(s["name"]) == 1 else f"{s['name']} ({s['id'][:6]})" for s in document["sites"]}


def _edges(document: Doc) -> list[tuple[str, str, Doc]]:
    """Links as (from, to, link); the one that dialled comes first. One link seen from both ends counts once."""
    seen: dict[tuple[str, str], Doc] = {}
    for link in document["links"]:
        seen.setdefault((link["fromSiteId"], link["toSiteId"]), link)
    return [(a, b, link) for (a, b), link in seen.items()]


def _services_of(document: Doc, site_id: str) -> list[str]:
    """Addresses with a server in this site."""
    return sorted(s["address"] for s in document["services"] if any(t["siteId"] == site_id for t in s["targets"]))


def _state(link: Doc) -> str:
    return "" if link.get("active", True) else bad(" not active")


def _table(document: Doc, *, wide: bool) -> None:
    labels, edges = _labels(document), _edges(document)
    rows = []
    for site in _sites(document):
        peers = sorted({labels.get(b if a == site["id"] else a, "?") for a, b, _ in edges if site["id"] in (a, b)})
        services = _services_of(document, site["id"])
        row: list[object] = [labels[site["id"]], len(peers), len(services), "this site" if site.get("self") else ""]
        rows.append([*row, site["id"], site.get("version", ""), ", ".join(peers), ", ".join(services)] if wide else row)
    columns = ["site", "linked sites", "services", "note"]
    table([*columns, "id", "version", "linked to", "serves"] if wide else columns, rows)


def _tree(document: Doc) -> None:
    labels, edges = _labels(document), _edges(document)
    for site in _sites(document):
        here = dim("  (this site)") if site.get("self") else ""
        say(strong(labels[site["id"]]) + here)
        branches = []
        for a, b, link in edges:
            if site["id"] == a:
                branches.append(f"link to {labels.get(b, b)}, cost {link.get('cost', 1)}{_state(link)}")
            elif site["id"] == b:
                branches.append(f"link from {labels.get(a, a)}, cost {link.get('cost', 1)}{_state(link)}")
        branches += [f"serves {address}" for address in _services_of(document, site["id"])]
        for i, branch in enumerate(branches):
            say(("└─ " if i == len(branches) - 1 else "├─ ") + branch)


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _dot(document: Doc) -> None:
    labels = _labels(document)
    say("graph network {")
    say("  node [shape=box, style=rounded]")
    for site in _sites(document):
        services = "".join(f"\\n{address}" for address in _services_of(document, site["id"]))
        say(f'  {_quote(site["id"])} [label={_quote(labels[site["id"]])[:-1]}{services}"]')
    for a, b, link in _edges(document):
        style = "" if link.get("active", True) else ", style=dashed"
        say(f'  {_quote(a)} -- {_quote(b)} [label="{link.get("cost", 1)}"{style}]')
    say("}")
