"""
Link-state routing, without the link.

This package decides *where* bytes should go: which neighbours are alive, what each router last advertised, and the cheapest next hops to
every routing key. It is sans-IO. Callers hand it events and the current time; it hands back actions. It never opens a socket, starts a
task, reads a clock or draws a random number, so a network with a partition and a heal runs in a unit test in milliseconds.

    link states, now ──▶ adjacency ──▶ topology ──▶ paths ──▶ routes ──▶ RouteChanged
                        (at what price?)  ▲ (both ends?)  (cheapest way)  (key ──▶ targets)
    messages, now ─────▶ database ────────┴── membership
                        (who said what last?)  (are they of our network?)     peers ──▶ Send

Invariants every module keeps:

* ``now`` is monotonic seconds and never decreases between calls.
* Handling the same advertisement twice changes nothing and emits nothing.
* Equal inputs give equal outputs, ties included: lower cost, then lower id.
* A changed address computes no path; a changed link sends no message per address.
* Nobody is taken at their word but for themselves: a link counts when both ends report it.

`docs/routing.md` has the rules, the bounds, and what a lying member can and cannot do.
"""

from vanrouter.routing.actions import Action, Forgot, Learnt, PathChanged, Problem, RouteChanged, Send
from vanrouter.routing.adjacency import LAST_RESORT
from vanrouter.routing.database import MAX_AGE, MAX_JUMP, Limits
from vanrouter.routing.engine import Engine, Issuers
from vanrouter.routing.paths import MAX_NEXT_HOPS, Paths
from vanrouter.routing.speaker import Speaker
from vanrouter.routing.topology import DRAIN_PENALTY, Topology

__all__ = [
    "DRAIN_PENALTY",
    "LAST_RESORT",
    "MAX_AGE",
    "MAX_JUMP",
    "MAX_NEXT_HOPS",
    "Action",
    "Engine",
    "Forgot",
    "Issuers",
    "Learnt",
    "Limits",
    "PathChanged",
    "Paths",
    "Problem",
    "RouteChanged",
    "Send",
    "Speaker",
    "Topology",
]
