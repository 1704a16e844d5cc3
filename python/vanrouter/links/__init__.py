"""
Link supervision, without the link: which endpoint to dial when, and what to tell people about it.

One `LinkSupervisor` per configured link. It is sans-IO: callers hand it endpoints, what the data plane observed and the current time; it
hands back `Dial` and `CancelDial`. It never opens a socket, resolves a name, reads a clock or draws a random number but from the given rng.

    endpoints, results, link states, now ──▶ LinkSupervisor ──▶ Dial, CancelDial ──▶ data plane
                                                   └──────────▶ status: conditions with reason, since, next action

Invariants every module keeps:

* ``now`` is monotonic seconds and never decreases between calls.
* At most one dial per endpoint is outstanding while no lane is up, at most one while the link is up.
* A loss after a stable time is redialled at once; anything after that waits for a jittered backoff (`backoff`).
* What cannot be helped by redialling is retried at the cap only, and says what to do.
"""

from vanrouter.links.backoff import CAP, FIRST_DELAY, FIRST_MINUTE, FIRST_MINUTE_CAP, Backoff
from vanrouter.links.race import STAGGER
from vanrouter.links.status import EndpointStatus, LinkStatus
from vanrouter.links.supervisor import Action, CancelDial, Endpoint, LinkSupervisor, Retire, State
from vanrouter.links.uplinks import Uplinks

__all__ = [
    "CAP",
    "FIRST_DELAY",
    "FIRST_MINUTE",
    "FIRST_MINUTE_CAP",
    "STAGGER",
    "Action",
    "Backoff",
    "CancelDial",
    "Endpoint",
    "EndpointStatus",
    "LinkStatus",
    "LinkSupervisor",
    "Retire",
    "State",
    "Uplinks",
]
