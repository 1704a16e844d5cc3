"""
``van hosts``: lines for /etc/hosts, so that programs find a service under its plain name.

It prints and changes nothing: ``van hosts | sudo tee -a /etc/hosts`` is the user's decision. The lines are those of the listeners of this
site, whichever way they came; a name is left out, with a warning, when no hosts file can hold it.
"""

from __future__ import annotations

import ipaddress
import re

from vanrouter.cli.base import Invocation, command, pass_invocation
from vanrouter.cli.output import dump, say, warn
from vanrouter.cli.running import open_site
from vanrouter.cli.values import timeout_option

__all__ = ["hosts"]

_LABEL = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*", re.IGNORECASE)


@command("hosts", outputs=("json", "yaml"))
@timeout_option(10)
@pass_invocation
def hosts(invocation: Invocation, timeout: float) -> None:
    """Print lines for /etc/hosts, one for each service.

    \b
    van -p linux hosts | sudo tee -a /etc/hosts
    """
    status = open_site(invocation, timeout).status()
    found: dict[tuple[str, str], None] = {}
    for listener in status["listeners"]:
        name, address = listener["routingKey"], loopback_for(listener["host"])
        if not _LABEL.fullmatch(name):
            warn(f"service {name}: not a name that /etc/hosts can hold; use {address}:{listener['port']}")
        elif address:
            found[address, name] = None
    if invocation.output:
        dump([{"address": address, "name": name} for address, name in found], invocation.output)
        return
    for address, name in found:
        say(f"{address}\t{name}")


def loopback_for(host: str) -> str:
    """The address that a client on this machine uses for a listener bound to ``host``."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if not address.is_unspecified:
        return str(address)
    return "127.0.0.1" if address.version == 4 else "::1"
