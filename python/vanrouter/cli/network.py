"""``van network``: every site, link, edge and service that this site knows of, as a tree, a table, json, yaml or a DOT graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from vanrouter.cli.base import BOTH, Group, Invocation, pass_invocation
from vanrouter.cli.output import bad, dim, dump, say, strong, table
from vanrouter.cli.running import open_site
from vanrouter.cli.values import timeout_option

__all__ = ["network"]

Doc = dict[str, Any]


@click.group("network", cls=Group)
def network() -> None:
    """See the sites of the network."""


@network.command("status", outputs=("tree", "table", "wide", "json", "yaml", "dot", "name"), platforms=BOTH)
@click.option("--tree", "shape", flag_value="tree", default="tree", help="Each site with its links and services (the default).")
@click.option("--dot", "shape", flag_value="dot", help="The same as -o dot: van network status -o dot | dot -Tsvg")
@timeout_option(10)
@pass_invocation
def status(invocation: Invocation, shape: str, timeout: float) -> None:
    """Show the whole network as it is known here.

    It comes from this site's own database and asks nobody: a site that does not answer is shown as unreachable, with what it said last.

    "link to" and "link from" say who dialled, where this site knows: of its own links. "itself or an edge behind it": a site tells of the
    services of its edges as its own. Of several routers of a site each is named by the end of its id.
    """
    document: Doc = open_site(invocation, timeout).call("network")
    output = invocation.output or shape
    if output in ("json", "yaml"):
        dump(document, output)
    elif output == "name":
        for found in document["sites"]:
            say(f"site/{found['name']}")
    elif output in ("table", "wide"):
        _table(document, wide=output == "wide")
    elif output == "dot":
        _dot(document)
    else:
        _tree(document)


class _Picture:
    """The document by site id. Two sites of one name get the start of their ids."""

    def __init__(self, document: Doc) -> None:
        self.sites: list[Doc] = document["sites"]
        self.edges = [site for site in self.sites if site.get("role") == "edge" and not site["self"]]
        self.interiors = [site for site in self.sites if site not in self.edges]
        names: dict[str, int] = {}
        for site in self.sites:
            names[site["name"]] = names.get(site["name"], 0) + 1
        self.labels = {s["id"]: s["name"] if names[s["name"]] == 1 else f"{s['name']} ({s['id'][:6]})" for s in self.sites}
        self.links: dict[str, list[Doc]] = {}
        for link in document["links"]:
            for end in {link["fromSiteId"], link["toSiteId"]}:
                self.links.setdefault(end, []).append(link)
        self.several = {site["id"] for site in self.sites if len(site.get("routers", ())) > 1}
        self.serves: dict[str, dict[str, bool]] = {}  # site id -> address -> whether it may be an edge behind it that serves it
        for service in document["services"]:
            for target in service["targets"]:
                self.serves.setdefault(target["siteId"], {})[service["address"]] = bool(target.get("orEdge"))

    def label(self, site_id: str) -> str:
        return self.labels.get(site_id, site_id[:12])

    def linked(self, site_id: str) -> list[str]:
        links = [x for x in self.links.get(site_id, ()) if x.get("active", True) and x["fromSiteId"] != x["toSiteId"]]
        return sorted({self.label(_other(link, site_id)) for link in links})

    def services(self, site_id: str) -> list[str]:
        return sorted(self.serves.get(site_id, ()))

    def served(self, site_id: str) -> list[str]:
        """The same, with what is not known of it."""
        said = self.serves.get(site_id, {})
        return [f"{address} (itself or an edge behind it)" if said[address] else address for address in self.services(site_id)]


def _other(link: Doc, site_id: str) -> str:
    return str(link["toSiteId"] if link["fromSiteId"] == site_id else link["fromSiteId"])


def _note(site: Mapping[str, Any]) -> str:
    """What is to be said of a site besides its name."""
    if site.get("self"):
        return "this site"
    state = site.get("state", "up")
    return "" if state == "up" else str(state)


def _link_state(link: Doc) -> str:
    match link.get("state", "up" if link.get("active", True) else "not active"):
        case "up":
            return ""
        case "one-sided":
            return bad(" (only one end reports it: it does not count)")
        case state:
            return bad(f" ({state})")


def _table(document: Doc, *, wide: bool) -> None:
    picture = _Picture(document)
    rows: list[list[object]] = []
    for site in document["sites"]:
        peers, services = picture.linked(site["id"]), picture.services(site["id"])
        role = site.get("role", "interior")
        routers = site.get("routers", [])
        cost = min((router["cost"] for router in routers if router.get("nextHops")), default=None)
        row: list[object] = [picture.label(site["id"]), role, _note(site), cost, len(peers), len(services)]
        if wide:
            hops = sorted({hop for router in routers for hop in router.get("nextHops", ())})
            row += [", ".join(hops), site["id"], site.get("version", ""), ", ".join(peers), ", ".join(services)]
        rows.append(row)
    columns = ["site", "role", "note", "cost", "linked sites", "services"]
    table([*columns, "by way of", "id", "version", "linked to", "serves"] if wide else columns, rows)
    if wide and document["links"]:
        say()
        _links_table(document, picture)


def _links_table(document: Doc, picture: _Picture) -> None:
    rows = []
    for link in document["links"]:
        ends = [picture.label(link["fromSiteId"]), picture.label(link["toSiteId"])]
        costs = [cost for cost in (link.get("fromCost"), link.get("toCost")) if cost is not None]
        rtt = f"{link['rttMs']:.1f} ms" if link.get("rttMs") else ""
        rows.append([link.get("name", ""), *ends, link.get("cost", 1), "/".join(str(c) for c in costs), link.get("state", "up"), rtt])
    table(["link", "from", "to", "cost", "each end's", "state", "round trip"], rows)


def _tree(document: Doc) -> None:
    picture = _Picture(document)
    for site in picture.interiors:
        note = _note(site)
        shown = dim(f"  ({note})") if note in ("this site", "") else bad(f"  ({note})")
        say(strong(picture.label(site["id"])) + (shown if note else ""))
        branches = [_branch(picture, site["id"], link) for link in picture.links.get(site["id"], ()) if not _is_uplink_to(link, site["id"])]
        branches += [f"serves {address}" for address in picture.served(site["id"])]
        branches += [
            f"edge {picture.label(link['fromSiteId'])}, cost {link.get('cost', 1)}{_link_state(link)}{_serves(picture, link['fromSiteId'])}"
            for link in picture.links.get(site["id"], ())
            if _is_uplink_to(link, site["id"])
        ]
        for i, branch in enumerate(branches):
            say(("└─ " if i == len(branches) - 1 else "├─ ") + branch)


def _is_uplink_to(link: Doc, site_id: str) -> bool:
    return bool(link.get("edge")) and link["toSiteId"] == site_id


def _serves(picture: _Picture, site_id: str) -> str:
    services = picture.services(site_id)
    return f", serves {', '.join(services)}" if services else ""


def _branch(picture: _Picture, site_id: str, link: Doc) -> str:
    """``to`` and ``from`` say who dialled; of links between other sites that is not known here."""
    cost = f", cost {link.get('cost', 1)}{_link_state(link)}"
    if link["fromSiteId"] == link["toSiteId"]:
        return f"its routers {_router(link['fromRouter'])} and {_router(link['toRouter'])} are linked{cost}"
    ways = {"from": "to" if link["fromSiteId"] == site_id else "from", "both": "to and from"}
    way = ways.get(link.get("dialler", ""), "with")
    return f"link {way} {picture.label(_other(link, site_id))}{_which(picture, site_id, link)}{cost}"


def _router(router: str) -> str:
    return router[-5:]


def _which(picture: _Picture, site_id: str, link: Doc) -> str:
    """Which router of a site is at which end, where a site has several."""
    ends = [("from", link["fromSiteId"]), ("to", link["toSiteId"])]
    said = [(site, _router(link[f"{end}Router"])) for end, site in ends if site in picture.several]
    own = "".join(f", of its router {router}" for site, router in said if site == site_id)
    return "".join(f" (router {router})" for site, router in said if site != site_id) + own


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _dot(document: Doc) -> None:
    picture = _Picture(document)
    say("graph network {")
    say("  node [shape=box, style=rounded]")
    for site in document["sites"]:
        services = "".join(f"\\n{address}" for address in picture.services(site["id"]))
        style = ", shape=ellipse" if site in picture.edges else ""
        style += ", style=dashed" if site.get("state") == "unreachable" else ", style=bold" if site.get("self") else ""
        say(f'  {_quote(site["id"])} [label={_quote(picture.label(site["id"]))[:-1]}{services}"{style}]')
    for link in document["links"]:
        style = "" if link.get("active", True) and link.get("state", "up") == "up" else ", style=dashed"
        say(f'  {_quote(link["fromSiteId"])} -- {_quote(link["toSiteId"])} [label="{link.get("cost", 1)}"{style}]')
    say("}")
