"""
When the start of a router in a pod is over, so that the kubelet may send it connections: links tried, what its peers know taken over, every
matched listener bound. Decides; time is an argument.

What does not come holds it back for `PATIENCE` at most: a peer that is away must not keep the others' streams from this router. Once it is
over it stays over.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from vanrouter.links.status import LinkStatus

if TYPE_CHECKING:
    from vanrouter.sites.site import RunningSite

__all__ = ["PATIENCE", "Starting"]

PATIENCE: Final = 10.0
QUIET: Final = 0.3  # so long nothing new was learnt from the peers
UNDECIDED: Final = ("Dialling", "NotTried")


class Starting:
    def __init__(self, site: RunningSite, *, now: float) -> None:
        self._site, self._began = site, now
        self._generation, self._changed = -1, now
        self.is_over = False

    @property
    def deadline(self) -> float:
        """When to ask `waits_for` again, if nothing happens before."""
        return math.inf if self.is_over else min(self._changed + QUIET, self._began + PATIENCE)

    def waits_for(self, now: float) -> str:
        """In words; empty: the start is over."""
        if self.is_over:
            return ""
        generation = self._site.context.forwarding.generation
        if generation != self._generation:
            self._generation, self._changed = generation, now
        why = self._siblings() or self._links() or self._peers() or self._listeners()
        if not why and now < self._changed + QUIET:
            why = "what its peers know is being taken over"
        self.is_over = not why or now >= self._began + PATIENCE
        if why and not self.is_over and self._changed + QUIET <= now:
            self._changed = now  # look again after a while
        return "" if self.is_over else why

    def _siblings(self) -> str:
        """Each router that serves already: it dials us, or we it, and what it knows is how we get to sites that only it is linked with."""
        context = self._site.context
        assert context.in_pod is not None
        if context.in_pod.pods is None:
            return "the pods of the namespace are not known yet"
        linked = [router for router in self._site.links.states if router.partition("/")[0] == str(context.keys.site_id)]
        serving = [pod.name for pod in context.in_pod.serving()]
        if len(linked) < len(serving):
            return f"linked with {len(linked)} of the {len(serving)} other routers of this site ({', '.join(sorted(serving)[:3])})"
        return ""

    def _links(self) -> str:
        links = self._site.links
        for name, link in links.dialled.items():
            if link.credential is None or link.stands_by or link.alone is not None:
                continue
            status, _ = links.status(name)
            if not _is_decided(status):
                return f"link {name} is being tried"
        return ""

    def _peers(self) -> str:
        for peer in self._site.services.exchange.peers():
            if peer.info is None:
                return f"{peer.router[:12]} has not said yet what it serves"
        return ""

    def _listeners(self) -> str:
        table = self._site.services.table
        for status in table.listener_statuses():
            listening = next((c for c in status.conditions if c.type == "Listening"), None)
            if status.matched and listening is not None and listening.reason in ("Pending", "BoundNotMatched"):
                return f"the listener on {status.host}:{status.port} is being opened"
        for name, listener in self._site.wanted.listeners.items():
            keys = [k.routing_key for k in listener.keys] or [listener.routing_key]
            if self._site.services.lacks_port(name) and any(map(table.matched_listener, keys)):
                return f"{listener.host}:{listener.port} has no port in the pod yet"
        for service in table.services():
            if any(problem.reason == "Pending" for problem in service.skipped):
                return f"the service {service.address} has no port in the pod yet"
        return ""


def _is_decided(status: LinkStatus | None) -> bool:
    """Up, or each of its endpoints was tried."""
    return status is None or status.active or (bool(status.endpoints) and all(e.reason not in UNDECIDED for e in status.endpoints))
