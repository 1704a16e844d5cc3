"""
What a link tells people: one condition with reason, since when and what to do, and why each endpoint does not answer.

A table from what the data plane reports to words. Decides nothing.
"""

from __future__ import annotations

from typing import Final

import msgspec

from vanrouter.conditions import Condition

__all__ = ["ADVICE", "AFTER_LOSS", "EndpointStatus", "LinkStatus", "Words", "words_for_failure", "words_for_silence"]


class EndpointStatus(msgspec.Struct, frozen=True, kw_only=True):
    endpoint: str  # host:port (server name), or the name that could not be resolved
    reason: str  # CamelCase: Dialling, Good, NotTried, or a failure's
    message: str = ""
    since: float = 0.0
    next: str = ""


class LinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one link that its supervisor knows, now."""

    name: str
    state: str
    condition: Condition  # type Operational
    endpoints: list[EndpointStatus]
    routers: list[str]  # RouterIds as text that this link leads to
    site_name: str = ""
    lanes: int = 0
    lanes_wanted: int = 0
    cost: int = 1
    endpoint: str = ""  # the one that answered last
    next_dial: float | None = None  # when the next dial is due; None: none is planned

    @property
    def active(self) -> bool:
        return bool(self.routers)


class Words(msgspec.Struct, frozen=True):
    reason: str
    cause: str
    next: str


# What accepts connections and never answers is as silent as what a firewall drops: both have to be looked at.
SILENT: Final = (
    "check that the router of the other site is neither stopped nor stuck (van status there), "
    "and that a firewall or NetworkPolicy lets this port through"
)

# Why a dial failed (DialResult.reason), for people. An unknown reason reads as "unreachable".
ADVICE: Final[dict[str, Words]] = {
    "refused": Words("Refused", "nothing listens there", "check that the other site runs and that its link access has this port"),
    "timeout": Words("TimedOut", "no answer in time", SILENT),
    "unreachable": Words("Unreachable", "there is no way to this address", "check the address, the network and the routes of this host"),
    "unresolved": Words("NameNotFound", "its name cannot be resolved", "check the name and the name servers of this host"),
    "tls": Words(
        "CertificateRejected",
        "the certificate of one end is not acceptable to the other",
        "compare the clocks of both ends; if they agree, redeem a new token of that site: van link create FILE",
    ),
    "policy": Words(
        "Rejected",
        "the other site does not admit this one, or is not the site expected",
        "ask the owner of that site whether access was revoked; redeem a new token: van link create FILE",
    ),
    "protocol": Words(
        "ProtocolError",
        "the other end does not speak this version of the link protocol",
        "check that the port belongs to a link access, and compare the versions: van version",
    ),
    "self": Words("SelfLink", "this endpoint is our own link access", "delete this link, or give it the endpoint of another site"),
    "wrong_site": Words("WrongSite", "another site answers there", "check the endpoint; redeem a new token if that site was set up anew"),
    "lost": Words("ClosedAtOnce", "the lane came up and closed at once", "look at the status of the other site: it may refuse this one"),
    "cancelled": Words("Cancelled", "another endpoint answered first", ""),
}


# What to do about a link that was good and may be so again by itself.
AFTER_LOSS: Final = "nothing yet: it comes back by itself; if it does not, look at the other site there: van status"


def words_for_failure(reason: str) -> Words:
    return ADVICE.get(reason, ADVICE["unreachable"])


def words_for_silence(who: str) -> str:
    """Of a suspect link, whoever dialled it."""
    return f"nothing was heard from {who} for a second; new streams go elsewhere where there is an elsewhere"
