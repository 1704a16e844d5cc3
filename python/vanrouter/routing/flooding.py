"""
Who lacks what: every neighbour's slots, filled by what is new here and by what their summaries show.

Refuses to decide what is taken; it hands on what the database has, as it came. A record goes to all neighbours but the one that sent it and
its origin, and only when it was new here, so flooding ends. An edge router relays nothing but its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from vanrouter.routing.actions import Send
from vanrouter.routing.database import MAX_AGE, Database
from vanrouter.routing.peers import Peer, Slot
from vanrouter.routing.wire import FIRST, LAST, MAX_RECORDS, WITHDRAWN, Summary, encode_relayed, encode_summary

__all__ = ["Flooding"]


class Flooding:
    def __init__(self, own: str, database: Database, *, edge: bool) -> None:
        self._own, self._database, self._edge = own, database, edge
        self.peers: dict[str, Peer] = {}

    def flood(self, slot: Slot, sequence: int, *, apart_from: str = "") -> None:
        """This is new here."""
        if self._edge and slot[0] != self._own:
            return
        for peer in self.peers.values():
            if peer.router not in (apart_from, slot[0]):
                peer.due[slot] = sequence

    def handle_summary(self, peer: Peer, summary: Summary, now: float) -> None:
        """A neighbour says what it has: too often, and the answer waits."""
        if peer.deferred or peer.exchange.ready_at(now) > now:
            peer.defer(summary)
            return
        peer.exchange.take(now)
        self._answer(peer, summary)

    @property
    def deadline(self) -> float:
        return min((peer.deadline for peer in self.peers.values()), default=math.inf)

    def handle_timeout(self, now: float) -> None:
        for peer in self.peers.values():
            while peer.deferred and peer.exchange.ready_at(now) <= now:
                peer.exchange.take(now)
                self._answer(peer, peer.deferred.pop(next(iter(peer.deferred))))
            if now >= peer.ask_at:
                peer.ask_at = math.inf
                peer.summary_from, peer.summary_version = FIRST, peer.summary_version + 1

    def next_message(self, peer: Peer, now: float) -> Send | None:
        """What should go to it next. It stays due until `sent`."""
        if peer.summary_from is not None:
            return Send(peer.router, self._summary(peer.summary_from)[0], ("", 0), peer.summary_version)
        while peer.due:
            slot, version = next(iter(peer.due.items()))
            record = self._database.record(*slot)
            if record is not None and (age := now - record.born) < MAX_AGE:
                data = record.wire if slot[0] == self._own else encode_relayed(record.wire, age)
                return Send(peer.router, data, slot, version)
            del peer.due[slot]
        return None

    def sent(self, peer: Peer, send: Send) -> None:
        if send.slot[0] == "":
            if peer.summary_version == send.version and peer.summary_from is not None:
                peer.summary_from = self._summary(peer.summary_from)[1]
                peer.summary_version += 1
        elif peer.due.get(send.slot) == send.version:
            del peer.due[send.slot]

    # ---- inside ------------------------------------------------------------------------------------------------------------------------

    def _summary(self, first: bytes) -> tuple[bytes, bytes | None]:
        """The next part of what we have, and where the one after it begins."""
        records, following = self._database.range(first, MAX_RECORDS)
        last = LAST if following is None else (int.from_bytes(following) - 1).to_bytes(40)
        return encode_summary(first, last, records), following

    def _answer(self, peer: Peer, summary: Summary) -> None:
        """Make due what it lacks of a range of origins."""
        theirs = summary.items()
        for router, key, number, sequence in self._mine(peer):
            if not summary.first <= key <= summary.last:
                continue
            known = theirs.get((key, number), -1)
            if known < sequence and (number == WITHDRAWN or (key, WITHDRAWN) not in theirs):
                peer.due[router, number] = sequence
            else:
                peer.due.pop((router, number), None)

    def _mine(self, peer: Peer) -> Iterator[tuple[str, bytes, int, int]]:
        for item in self._database.offers():
            if item[0] != peer.router and (not self._edge or item[0] == self._own):
                yield item
