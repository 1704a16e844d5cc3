"""``van simulate --down SITE|LINK``: what would be lost, without touching anything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from vanrouter.cli.base import BOTH, Invocation, command, pass_invocation
from vanrouter.cli.output import bad, dump, good, say, table
from vanrouter.cli.running import open_site
from vanrouter.cli.values import timeout_option

__all__ = ["simulate"]

Doc = dict[str, Any]
MOST_ROWS = 40  # of one table, for people; -o json has all
MOST_KEYS = 20  # in one line


@command("simulate", outputs=("table", "json", "yaml"), platforms=BOTH)
@click.option("--down", metavar="SITE|LINK", multiple=True, required=True, help="What is supposed to be down; may be given several times.")
@timeout_option(10)
@pass_invocation
def simulate(invocation: Invocation, down: tuple[str, ...], timeout: float) -> None:
    """Say what would be lost if sites or links were down.

    SITE is a name, an id, or the start of one; LINK is the name of a link of this site, or SITE/SITE for all links between two sites.
    (site:NAME and link:NAME where a name is both.) Computed by the running site with its present data and the code that routes in
    earnest, as seen from this site; nothing is changed and nobody is asked. Streams are counted where this router knows them: on its own
    links. "at or behind" a site: it tells of the targets of its edges as its own, so that of an edge it is said only what may be lost.
    """
    document: Doc = open_site(invocation, timeout).call("simulate", down=list(down))
    if invocation.output in ("json", "yaml"):
        dump(document, invocation.output)
    else:
        _show(document)


def _show(document: Doc) -> None:
    down = [f"site {site['site']}" for site in document["down"]["sites"]]
    down += [f"the link {link['from']}/{link['to']}" for link in document["down"]["links"]]
    down = [*dict.fromkeys(down)]  # two sites may have several links
    say(f"With {', '.join(down) or 'nothing'} down, as seen from this site:")
    if document["selfDown"]:
        say(bad("  this site itself would be down: nothing works here"))
    lost = [key for key in document["keys"] if not key["after"]]
    fewer = [key for key in document["keys"] if key["after"]]
    if document["cutOff"]:
        say(f"  {_count(document['cutOff'], 'site')} cut off: " + bad(_names(document["cutOff"])))
    if document["parts"] > 1:
        say(bad(f"  the network falls into {document['parts']} parts"))
    paths = document["paths"]
    verbs = ["loses" if len(lost) == 1 else "lose", "changes" if len(paths) == 1 else "change"]
    say(f"  {_count(lost, 'routing key')} {verbs[0]} all targets, {len(fewer)} some; {_count(paths, 'path')} {verbs[1]}")
    for edge in document["maybeLost"]:
        say("  " + _may_be_lost(edge))
    streams, total = document["streams"], document["streamsOpen"]
    say(f"  {streams} of {total} streams open on this router's links go over what is down (what others carry is not known here)")
    if lost or fewer:
        say()
        rows = [[k["key"], f"{k['before']} -> {k['after']}", _names(k["lostAt"]), _names(k["leftAt"])] for k in document["keys"]]
        _rows(["routing key", "targets", "lost at", "left at"], rows)
    if document["paths"]:
        say()
        moved = [
            [p.get("label", p["site"]), f"{p['cost']} -> {p['newCost']}", f"{', '.join(p['nextHops'])} -> {', '.join(p['newNextHops'])}"]
            for p in document["paths"]
        ]
        _rows(["path to", "cost", "by way of"], moved)
    if not (lost or fewer or document["cutOff"] or document["selfDown"] or document["maybeLost"]):
        say()
        say(good("Nothing would be lost."))


def _may_be_lost(edge: Doc) -> str:
    """An interior tells of its edges' keys as its own, so that nobody further away knows whose they are."""
    keys: list[str] = edge["keys"]
    if not keys:
        return f"edge {edge['site']} is cut off; it serves nothing that is known here"
    more = f" and {len(keys) - MOST_KEYS} more (-o json)" if len(keys) > MOST_KEYS else ""
    return (
        bad(f"may be lost: {', '.join(keys[:MOST_KEYS])}{more}")
        + f" (the keys that {edge['at']} has may be those of its edge {edge['site']})"
    )


def _rows(columns: list[str], rows: list[list[str]]) -> None:
    table(columns, rows[:MOST_ROWS], indent="  ")
    if len(rows) > MOST_ROWS:
        say(f"  ... and {len(rows) - MOST_ROWS} more: -o json")


def _names(sites: Iterable[Doc]) -> str:
    """``at or behind``: an interior tells of its edges' keys as its own."""
    return ", ".join(f"at or behind {site['site']}" if site.get("orEdge") else site["site"] for site in sites)


def _count(things: list[Doc], word: str) -> str:
    return f"{len(things)} {word if len(things) == 1 else word + 's'}"
