"""``van trace KEY``: which target the next stream would get and why, and the way there, hop by hop."""

from __future__ import annotations

from typing import Any

import click

from vanrouter.cli.base import BOTH, FAILED, Invocation, command, pass_invocation, quiet_exit
from vanrouter.cli.output import bad, dim, dump, good, say, table
from vanrouter.cli.running import open_site
from vanrouter.cli.values import KEY, timeout_option

__all__ = ["trace"]

Doc = dict[str, Any]


@command("trace", outputs=("table", "json", "yaml"), platforms=BOTH)
@click.argument("key", type=KEY)
@click.option("--to", metavar="SITE", default="", help="Trace to the target at this site, not to the one that would be chosen.")
@timeout_option(10)
@pass_invocation
def trace(invocation: Invocation, key: str, to: str, timeout: float) -> None:
    """Show where the next connection to a routing key would go.

    First the targets: the chosen one, and why the others are not. Then the way there as the sites on it report it now, each with the
    round trip from here and the cost in force and round trip of the link it was reached over. A site that does not answer within 1 s is
    named; no connection is made. Exit code 1: it would not get there.

    "at or behind" a site: it tells of the targets of its edges as its own; the way shows which it is. Of several routers of a site each is
    named by the end of its id.
    """
    document: Doc = open_site(invocation, timeout).call("trace", key=key, to=to)
    if invocation.output in ("json", "yaml"):
        dump(document, invocation.output)
    else:
        _show(document)
    if not document["complete"]:
        quiet_exit(FAILED)


def _show(document: Doc) -> None:
    say(f"Routing key {document['key']} from site {document['site']}, strategy {document['strategy']}:")
    say()
    rows = [[_target(c), c["cost"], c["streams"], ", ".join(c["nextHops"]), _said(c)] for c in document["choices"]]
    table(["target", "cost", "streams", "by way of", ""], rows, indent="  ")
    if document["hops"]:
        say()
        say(f"The way to {document['target']}:")
        say()
        hops = [
            [
                hop["index"],
                hop.get("label", hop["site"]),
                hop["cost"],
                _ms(hop["linkMs"]),
                _ms(hop["roundTripMs"]),
                _ms(hop["hopMs"]),
                _end(hop),
            ]
            for hop in document["hops"]
        ]
        table(["hop", "site", "cost", "link", "round trip", "this hop", ""], hops, indent="  ")
    say()
    if document["note"]:
        say(bad(document["note"]))
    elif not document["hops"]:
        say(good("It stays in this site."))
    else:
        count, last = len(document["hops"]), document["hops"][-1]
        say(good(f"It arrives after {count} {'hop' if count == 1 else 'hops'}, {_ms(last['roundTripMs'])} there and back."))


def _target(choice: Doc) -> str:
    if choice["connector"]:
        return f"{choice['site']}: {choice['connector']} ({choice['where']})"
    where = str(choice.get("label", choice["site"]))
    count = f" ({choice['targets']} targets)" if choice["targets"] != 1 else ""
    return (f"at or behind {where}" if choice.get("orEdge") else where) + count


def _said(choice: Doc) -> str:
    if choice["chosen"]:
        return good("chosen") + (f", though {choice['reason']}" if choice["reason"] else "")
    return dim(choice["reason"]) if choice["usable"] else bad(choice["reason"])


def _end(hop: Doc) -> str:
    notes = ["its link is suspect"] if hop["suspect"] else []
    if hop["end"] == "arrived":
        notes.append(f"{hop['targets']} {'target' if hop['targets'] == 1 else 'targets'}")
    return ", ".join(notes)


def _ms(value: float) -> str:
    return f"{value:.1f} ms" if value else "-"
