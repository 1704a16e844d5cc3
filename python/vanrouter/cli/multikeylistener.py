"""``van multikeylistener``: local ports that stand for several routing keys, in an order or in proportion."""

from __future__ import annotations

from typing import Any

import click

from vanrouter.cli.nouns import KEYS, WEIGHTS, Field, Noun, make
from vanrouter.cli.running import condition
from vanrouter.cli.values import HOST, NAME, PORT

__all__ = ["multikeylistener"]

Doc = dict[str, Any]
_STRATEGIES = ("strategy.priority", "strategy.weighted")


def _one_strategy(fields: Doc) -> Doc:
    """A strategy that is named takes the place of the other one."""
    for this, other in (_STRATEGIES, _STRATEGIES[::-1]):
        keys = f"{this}.routingKeys"
        if keys in fields and fields[keys] is None:
            fields[this] = fields.pop(keys)
        elif keys in fields and f"{other}.routingKeys" not in fields:
            fields[other] = None
    return fields


def _defaults(_name: str, given: Doc) -> Doc:
    if not any(f"{strategy}.routingKeys" in given for strategy in _STRATEGIES):
        raise click.UsageError(
            "no routing key is named; name them in their order (--priority KEY ...), or with shares (--weight KEY=NUMBER ...)"
        )
    return {"host": "127.0.0.1"}


def _keys(found: Doc) -> str:
    keys = found.get("routingKeys", ())
    return ", ".join(f"{key['routingKey']}={key['weight']}" if found["strategy"] == "weighted" else key["routingKey"] for key in keys)


def _unmatched(found: Doc) -> str:
    return ", ".join(key["routingKey"] for key in found.get("routingKeys", ()) if not key["matched"])


NOUN = Noun(
    kind="MultiKeyListener",
    help="Local ports that stand for several routing keys.",
    fields=(
        Field("port", "--port", PORT, "Where clients connect."),
        Field("strategy.priority.routingKeys", "--priority", KEYS, "The next key in order: the first that has a target is used."),
        Field("strategy.weighted.routingKeys", "--weight", WEIGHTS, "A key and its share of new connections; may be given several times."),
        Field("host", "--host", HOST, "Address to listen on; default: the site's service address."),
        Field("tlsCredentials", "--tls-credentials", NAME, "Credential to offer TLS to clients with."),
        Field("requireClientCert", "--require-client-cert", bool, "Ask clients for a certificate."),
        Field("observer", "--observer", click.Choice(["auto", "none", "http1", "http2"]), "Which requests to count."),
        Field("settings", "--setting", dict, "Further settings; may be given several times."),
    ),
    wide=("strategy", "without target", "listening", "since"),
    more=lambda found: [
        found.get("strategy"),
        _unmatched(found),
        condition(found, "Listening")["reason"],
        condition(found, "Matched")["since"],
    ],
    defaults=_defaults,
    listens=True,
    listed="multiKeyListeners",
    keys=_keys,
    settle=_one_strategy,
)

multikeylistener = make(NOUN)
