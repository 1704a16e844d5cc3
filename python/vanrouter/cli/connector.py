"""``van connector``: local servers that the network may reach, each bound to a routing key."""

from __future__ import annotations

import click

from vanrouter.cli.checks import CHECK_FIELDS
from vanrouter.cli.nouns import Field, Noun, make
from vanrouter.cli.running import condition
from vanrouter.cli.values import HOST, KEY, NAME, PORT, PROTOCOLS

__all__ = ["connector"]

NOUN = Noun(
    kind="Connector",
    help="Local servers that the network may reach.",
    fields=(
        Field("port", "--port", PORT, "Port of the server."),
        Field("routingKey", "--routing-key", KEY, "What joins it to listeners of the network; default: its name."),
        Field("host", "--host", HOST, "Host of the server; default: 127.0.0.1."),
        Field("selector", "--selector", str, "Pods by label (Kubernetes); instead of --host."),
        Field("type", "--type", click.Choice(["tcp"]), "Protocol."),
        Field("tlsCredentials", "--tls-credentials", NAME, "Credential to speak TLS to the server with."),
        Field("useClientCert", "--use-client-cert", bool, "Show a client certificate to the server."),
        Field("verifyHostname", "--verify-hostname", bool, "Check the server's name in its certificate."),
        Field("includeNotReadyPods", "--include-not-ready-pods", bool, "Count pods that are not ready."),
        Field("exposePodsByName", "--expose-pods-by-name", bool, "Reach each pod by its name too."),
        Field("expose.port", "--expose-port", PORT, "Offer it to the other sites on this port (service sync)."),
        Field("expose.address", "--expose-address", NAME, "Under this name; default: the routing key."),
        Field("expose.protocol", "--expose-protocol", click.Choice(PROTOCOLS), "Protocol of the service."),
        *CHECK_FIELDS,
        Field("settings", "--setting", dict, "Further settings; may be given several times."),
    ),
    wide=("server", "offered", "since"),
    more=lambda found: [condition(found, kind)["reason"] for kind in ("Healthy", "Synced")] + [condition(found, "Healthy")["since"]],
    defaults=lambda name, named: {"routingKey": name} | ({} if "selector" in named else {"host": "127.0.0.1"}),
    has_workload=True,
)

connector = make(NOUN)
