"""
Addresses: who serves a routing key, what the data plane should do about it, and what the other sites should know of it.

Sans-IO. Callers hand in what is configured here, what peers advertise, what the plane reports, and the time; they take out the smallest
difference of plane entries, the messages to send, and conditions to show. Nothing here opens a socket, reads a clock or signs anything but
with the function it was given.

    connectors, listeners, ──▶ AddressTable ──▶ Listener, Connector, Route entries (difference)
    paths, bind results            ▲  │  └────▶ matched, service sync, conflicts: conditions
                                   │  ▼
    links, messages, now ─────▶  Exchange  ──▶ messages (latest state per peer), who has applied what

Invariants every module keeps:

* One changed key costs work for that key, and resends one fragment.
* Handling the same advertisement twice changes nothing and emits nothing.
* Where a route leads comes from `AddressTable.set_path` alone; for direct links that is the peer itself. Nothing assumes it.
* What came first stays: a service's protocol, a port of the service address. Whoever comes second is told why, at both ends.
"""

from vanrouter.addresses.exchange import Exchange, Outgoing, PeerView
from vanrouter.addresses.fragments import Advertiser
from vanrouter.addresses.model import (
    AddressStatus,
    Delta,
    LocalConnector,
    LocalListener,
    Offer,
    Path,
    Reserved,
    ServiceStatus,
)
from vanrouter.addresses.remote import MAX_KEYS_PER_SITE, Remote
from vanrouter.addresses.sync import Decision, ServiceSync
from vanrouter.addresses.table import AddressTable

__all__ = [
    "MAX_KEYS_PER_SITE",
    "AddressStatus",
    "AddressTable",
    "Advertiser",
    "Decision",
    "Delta",
    "Exchange",
    "LocalConnector",
    "LocalListener",
    "Offer",
    "Outgoing",
    "Path",
    "PeerView",
    "Remote",
    "Reserved",
    "ServiceStatus",
    "ServiceSync",
]
