"""
What control planes at both ends of a link say to each other alone: who they are, what they cannot do, and what they have in force.

Refuses to send, and to know what travels further (`vanrouter.routing`). Latest state per peer, never a queue: `outbox` says what to send
to a peer now, and the caller reports with `sent` what the data plane took. What it did not take stays in its slot, and a newer state of the
slot replaces it.

    link up, or messages lost ──▶ everything again: site, problems, applied
    a fragment of theirs is taken ─▶ AddressTable ─▶ changes in force, listeners settled ─▶ Applied goes back
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from vanrouter.addresses.table import AddressTable
from vanrouter.messages import Applied, AppliedItem, Fragment, Problem, Problems, Reachable, SiteInfo, decode_untrusted, encode
from vanrouter.plane import LinkState

__all__ = ["Exchange", "Outgoing", "PeerView", "Position", "Positions"]

MAX_PROBLEMS: Final = 64
_ORDER: Final = {"site": 0, "problems": 1, "applied": 2}

Position = Callable[[str], tuple[int, int] | None]
"""(number, sequence) of our fragment that has a key as it is now. None: we do not advertise it."""

Positions = Callable[[], dict[int, int]]
"""The same for everything that we advertise."""


class Outgoing(msgspec.Struct, frozen=True):
    """A message for `DataPlane.send_message`. Give it back to `Exchange.sent` when the plane took it."""

    router: str
    data: bytes
    slot: str  # what it is
    version: int


class PeerView(msgspec.Struct, frozen=True, kw_only=True):
    """A peer as its messages show it."""

    router: str
    info: SiteInfo | None  # None: it has not said yet
    problems: list[Problem]  # with what we advertise
    more_problems: int
    cost: int


class _Peer:
    def __init__(self, router: str, cost: int) -> None:
        self.router, self.cost = router, cost
        self.info: SiteInfo | None = None
        self.problems = Problems()
        self.due: dict[str, int] = {}  # slot -> version of what is due
        self.applied: dict[int, int] = {}  # of our fragments, what it has applied
        self.to_confirm: dict[int, int] = {}  # of its fragments, what we have applied


class _Pending(msgspec.Struct):
    """A fragment that was taken and is not yet known to be in force."""

    origin: str
    number: int
    sequence: int
    keys: list[str]
    generation: int | None = None  # of the changes that carry it to the plane; None: not handed over yet


class Exchange:
    """Talk to all peers. Feed link states, messages and what was learnt in; send what `outbox` holds."""

    def __init__(self, table: AddressTable, *, info: SiteInfo, position: Position, positions: Positions) -> None:
        self.table = table
        self._info, self._position, self._positions = info, position, positions
        self._peers: dict[str, _Peer] = {}
        self._pending: dict[tuple[str, int], _Pending] = {}
        self._learned: list[tuple[str, list[Reachable]]] = []
        self._in_force = -1
        self._version = 0

    # ---- inputs ------------------------------------------------------------------------------------------------------------------------

    def handle_link_state(self, state: LinkState, *, now: float) -> None:
        """Every link's latest state, whoever dialled it."""
        peer = self._peers.get(state.router)
        if state.lanes <= 0:
            self._peers.pop(state.router, None)
            if peer is not None:
                self.table.set_reported(state.router, [], now=now)
            return
        if state.site_name:
            self.table.set_site_name(state.router.partition("/")[0], state.site_name)
        if peer is None:
            peer = self._peers[state.router] = _Peer(state.router, state.cost)
            self._everything(peer)
        peer.cost = state.cost

    def handle_messages_reset(self, router: str) -> None:
        """Messages may have been lost, in both directions: say everything again."""
        if (peer := self._peers.get(router)) is not None:
            self._everything(peer)

    def handle_message_untrusted(self, router: str, data: bytes, *, now: float) -> None:
        """One message of a peer. Raises RemoteProtocolError, and nothing else, when the peer broke the rules: cut the link, it redials."""
        message = decode_untrusted(data)
        peer = self._peers.get(router)
        if peer is None:
            return
        if isinstance(message, SiteInfo):
            peer.info = message
            if message.endpoints:
                self._learned.append((peer.router.partition("/")[0], message.endpoints))
            self.table.set_site_name(peer.router.partition("/")[0], message.name)
        elif isinstance(message, Problems):
            peer.problems = message
            self.table.set_reported(peer.router, message.problems, now=now)
        elif isinstance(message, Applied) and message.origin == self.table.own:
            for item in message.items:
                peer.applied[item.number] = max(item.sequence, peer.applied.get(item.number, 0))

    def learnt(self, fragment: Fragment, *, now: float) -> None:
        """A fragment that routing took, of a peer or of somebody further away: it goes into the table."""
        before = self.table.remote.keys_in(fragment.origin, fragment.number)
        if self.table.put_fragment_untrusted(fragment, now=now):
            keys = list({*before, *(info.key for info in fragment.keys)})
            self._pending[fragment.origin, fragment.number] = _Pending(fragment.origin, fragment.number, fragment.sequence, keys)

    def forgot(self, router: str, *, now: float) -> None:
        for name in [name for name in self._pending if name[0] == router]:
            del self._pending[name]
        self.table.forget(router, now=now)

    def set_info(self, info: SiteInfo) -> None:
        if info != self._info:
            self._info = info
            for peer in self._peers.values():
                self._due(peer, "site")

    def handed_over(self, generation: int) -> None:
        """What `AddressTable.take_changes` gave is in this generation (the one in force, when it gave nothing)."""
        for pending in self._pending.values():
            if pending.generation is None:
                pending.generation = generation

    def handle_in_force(self, generation: int) -> None:
        self._in_force = max(self._in_force, generation)

    # ---- outputs -----------------------------------------------------------------------------------------------------------------------

    def routers(self) -> list[str]:
        return list(self._peers)

    def take_endpoints(self) -> list[tuple[str, list[Reachable]]]:
        """(site, where it is linked to) of those that said so since the last call."""
        learned, self._learned = self._learned, []
        return learned

    def outbox(self, router: str) -> list[Outgoing]:
        """Everything due to a peer, in the order in which it should go. Stop at the first that the plane refuses."""
        self._pass_on()
        peer = self._peers.get(router)
        slots = sorted(peer.due, key=_ORDER.__getitem__) if peer is not None else []
        return [Outgoing(router, self._encode(peer, slot), slot, peer.due[slot]) for slot in slots] if peer is not None else []

    def sent(self, outgoing: Outgoing) -> None:
        """The plane took it."""
        peer = self._peers.get(outgoing.router)
        if peer is not None and peer.due.get(outgoing.slot) == outgoing.version:
            del peer.due[outgoing.slot]
            if outgoing.slot == "applied":
                peer.to_confirm.clear()

    def waiting_for(self, key: str) -> list[str]:
        """The linked routers that do not yet serve this key as we advertise it now. Empty: all that are up do."""
        if self.table.has_news:
            return list(self._peers)  # it has not been advertised yet
        position = self._position(key)
        if position is None:
            return self.waiting_for_all()
        number, sequence = position
        return [peer.router for peer in self._peers.values() if peer.applied.get(number, 0) < sequence]

    def waiting_for_all(self) -> list[str]:
        """The linked routers that have not yet applied everything that we advertise now (after a key was taken back, for one)."""
        if self.table.has_news:
            return list(self._peers)
        wanted = self._positions()
        return [peer.router for peer in self._peers.values() if any(peer.applied.get(n, 0) < s for n, s in wanted.items())]

    def peers(self) -> list[PeerView]:
        return [
            PeerView(router=p.router, info=p.info, problems=p.problems.problems, more_problems=p.problems.more, cost=p.cost)
            for p in self._peers.values()
        ]

    # ---- inside ------------------------------------------------------------------------------------------------------------------------

    def _pass_on(self) -> None:
        """What the table has found out since: problems with what peers offer, and which of their fragments are in force and served."""
        for router in self.table.take_problem_routers():
            if (peer := self._peers.get(router)) is not None:
                self._due(peer, "problems")
        for name, pending in list(self._pending.items()):
            if pending.generation is None or pending.generation > self._in_force or not self.table.settled(pending.keys):
                continue
            del self._pending[name]
            if (peer := self._peers.get(pending.origin)) is not None:
                peer.to_confirm[pending.number] = pending.sequence
                self._due(peer, "applied")

    def _everything(self, peer: _Peer) -> None:
        """Also what we have applied of it: it may have heard nothing of that, or not from us."""
        self._due(peer, "site")
        self._due(peer, "problems")
        for number, sequence in self.table.remote.sequences(peer.router).items():
            if (peer.router, number) not in self._pending:
                peer.to_confirm[number] = sequence
                self._due(peer, "applied")

    def _due(self, peer: _Peer, what: str) -> None:
        self._version += 1
        peer.due[what] = self._version

    def _encode(self, peer: _Peer, slot: str) -> bytes:
        match slot:
            case "site":
                return encode(self._info)
            case "problems":
                problems = self.table.problems(peer.router)
                return encode(Problems(problems=problems[:MAX_PROBLEMS], more=max(0, len(problems) - MAX_PROBLEMS)))
            case _:
                items = [AppliedItem(number, sequence) for number, sequence in sorted(peer.to_confirm.items())]
                return encode(Applied(origin=peer.router, items=items))
