"""The flags that say how a connector's target is checked: shared by ``van connector`` and ``van expose``."""

from __future__ import annotations

from typing import Final

import click

from vanrouter.cli.nouns import Field
from vanrouter.cli.values import PORT

__all__ = ["CHECK_FIELDS"]

CHECK_FIELDS: Final = (
    Field("healthCheck.type", "--health-check", click.Choice(["tcp", "http", "none"]), "How the server is checked; default: tcp."),
    Field("healthCheck.interval", "--check-interval", str, "A dead server is taken out within this time; default: 5s."),
    Field("healthCheck.timeout", "--check-timeout", str, "How long one check may take; default: 1s."),
    Field("healthCheck.failureThreshold", "--check-failures", int, "Checks in a row that take it out; default: 2."),
    Field("healthCheck.successThreshold", "--check-successes", int, "Checks in a row that bring it back; default: 2."),
    Field("healthCheck.port", "--check-port", PORT, "Port to check; default: the server's."),
    Field("healthCheck.path", "--check-path", str, "What to GET with --health-check http; default: /."),
    Field("healthCheck.host", "--check-host", str, "Host named in that request; default: the server's address."),
    Field("healthCheck.status", "--check-status", str, "Statuses that pass; default: 200-399."),
)
