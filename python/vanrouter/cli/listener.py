"""``van listener``: local ports where clients connect, each bound to a routing key."""

from __future__ import annotations

import click

from vanrouter.cli.nouns import Field, Noun, make
from vanrouter.cli.running import condition
from vanrouter.cli.values import HOST, KEY, NAME, PORT

__all__ = ["listener"]

NOUN = Noun(
    kind="Listener",
    help="Local ports where clients connect.",
    fields=(
        Field("port", "--port", PORT, "Where clients connect."),
        Field("routingKey", "--routing-key", KEY, "What joins it to connectors of the network; default: its name."),
        Field("host", "--host", HOST, "Address to listen on; default: the site's service address."),
        Field("strategy", "--strategy", click.Choice(["balanced", "closest"]), "How a target is chosen for each new connection."),
        Field("type", "--type", click.Choice(["tcp"]), "Protocol."),
        Field("tlsCredentials", "--tls-credentials", NAME, "Credential to offer TLS to clients with."),
        Field("observer", "--observer", click.Choice(["auto", "none", "http1", "http2"]), "Which requests to count."),
        Field("exposePodsByName", "--expose-pods-by-name", bool, "Reach each pod by its name too."),
        Field("settings", "--setting", dict, "Further settings; may be given several times."),
    ),
    wide=("listening", "since"),
    more=lambda found: [condition(found, "Listening")["reason"], condition(found, "Matched")["since"]],
    defaults=lambda name, _named: {"routingKey": name, "host": "127.0.0.1"},
    listens=True,
)

listener = make(NOUN)
