"""
The talk between this control plane and those at the other ends of its links: latest state per peer, never a queue.

Refuses to send: `outbox` says what to send to whom now, and the caller reports with `sent` what the data plane took. What it did not take
stays in its slot, and a newer state of the slot replaces it. Signing and verifying are functions that the caller gives.

    link up, or messages lost ──▶ everything again: site, fragments, problems, applied
    a fragment arrives ─▶ verify ─▶ AddressTable ─▶ changes in force, listeners settled ─▶ Applied goes back
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from vanrouter.addresses.fragments import Advertiser
from vanrouter.addresses.model import Path
from vanrouter.addresses.table import AddressTable
from vanrouter.errors import RemoteProtocolError
from vanrouter.messages import (
    Applied,
    AppliedItem,
    Neighbour,
    Problem,
    Problems,
    Sealed,
    Sign,
    SiteInfo,
    Verify,
    Withdrawal,
    decode_untrusted,
    encode,
    encode_signed,
    verify_signature,
)
from vanrouter.model import RouterId
from vanrouter.plane import LinkState

__all__ = ["Accepts", "Exchange", "Outgoing", "PeerView"]

MAX_PROBLEMS: Final = 64
MAX_EARLY: Final = 1 << 20  # bytes of messages that came before the state of their link
_ORDER: Final = {"site": 0, "withdrawal": 1, "fragment": 2, "problems": 3, "applied": 4}

Slot = tuple[str, int]  # what it is, and the number of the fragment

Accepts = Callable[[Sealed, str], str]
"""(signed message, router id of the peer that sent it): why it is not taken; empty: it is."""


class Outgoing(msgspec.Struct, frozen=True):
    """A message for `DataPlane.send_message`. Give it back to `Exchange.sent` when the plane took it."""

    router: str
    data: bytes
    slot: Slot
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
        self.due: dict[Slot, int] = {}  # slot -> version of what is due
        self.applied: dict[int, int] = {}  # of our fragments, what it has applied
        self.to_confirm: dict[int, int] = {}  # of its fragments, what we have applied


class _Pending(msgspec.Struct):
    """A fragment that was taken and is not yet known to be in force."""

    origin: str
    number: int
    sequence: int
    keys: list[str]
    generation: int | None = None  # of the changes that carry it to the plane; None: not handed over yet


def only_from_itself(sealed: Sealed, peer: str) -> str:
    """Direct links only: a peer speaks for itself."""
    return (
        "" if str(sealed.router) == peer else f"{peer} sent what {sealed.router} advertises, and this version takes nothing at second hand"
    )


class Exchange:
    """Talk to all peers. Feed link states, messages and deadlines in; send what `outbox` holds."""

    def __init__(
        self,
        table: AddressTable,
        *,
        identity: bytes,
        sign: Sign,
        info: SiteInfo,
        admissions: Sequence[bytes] = (),
        verify: Verify = verify_signature,
        accepts: Accepts = only_from_itself,
        now: float,
    ) -> None:
        self.table = table
        self._identity, self._sign, self._verify, self._accepts = identity, sign, verify, accepts
        self._admissions = list(admissions)
        self._info = info
        self._peers: dict[str, _Peer] = {}
        self._advertiser = Advertiser(RouterId.parse(table.own), admissions_size=sum(len(a) + 3 for a in admissions), now=now)
        self._sealed: dict[int, bytes] = {}
        self._withdrawal: bytes | None = None
        self._pending: dict[tuple[str, int], _Pending] = {}
        self._early: list[tuple[str, bytes]] = []
        self._in_force = -1
        self._version = 0
        self.handle_timeout(now)

    # ---- inputs ------------------------------------------------------------------------------------------------------------------------

    def handle_link_state(self, state: LinkState, *, now: float) -> None:
        """Every link's latest state, whoever dialled it. A direct link is a path."""
        peer = self._peers.get(state.router)
        if state.lanes <= 0:
            if peer is not None:
                self._forget(state.router, now)
            return
        if state.site_name:
            self.table.set_site_name(state.router.partition("/")[0], state.site_name)
        if peer is None:
            peer = self._peers[state.router] = _Peer(state.router, state.cost)
            self._everything(peer)
        elif peer.cost == state.cost:
            return
        peer.cost = state.cost
        self._hear_early(peer, now)
        self.table.set_path(state.router, Path(state.router, state.cost), now=now)
        self._advertiser.set_neighbour(state.router, Neighbour(router=state.router, cost=state.cost), now=now)
        self.handle_timeout(now)

    def handle_messages_reset(self, router: str, *, now: float) -> None:
        """Messages may have been lost, in both directions: say everything again."""
        peer = self._peers.get(router)
        if peer is not None:
            self._everything(peer)
        self.handle_timeout(now)

    def handle_message_untrusted(self, router: str, data: bytes, *, now: float) -> None:
        """One message of a peer. Raises RemoteProtocolError, and nothing else, when the peer broke the rules: cut the link, it redials."""
        peer = self._peers.get(router)
        if peer is None:
            self._keep_early(router, data)
            return
        self._hear(peer, data, now)
        self.handle_timeout(now)

    def _hear(self, peer: _Peer, data: bytes, now: float) -> None:
        message = decode_untrusted(data, verify=self._verify)
        if isinstance(message, Sealed):
            self._handle_sealed(peer, message, now)
        elif isinstance(message, SiteInfo):
            peer.info = message
            self.table.set_site_name(peer.router.partition("/")[0], message.name)
        elif isinstance(message, Problems):
            peer.problems = message
            self.table.set_reported(peer.router, message.problems, now=now)
        elif isinstance(message, Applied) and message.origin == self.table.own:
            for item in message.items:
                peer.applied[item.number] = max(item.sequence, peer.applied.get(item.number, 0))

    def _keep_early(self, router: str, data: bytes) -> None:
        """Its link is gone, or the state of its link comes with the next events: the peer will not say this again."""
        self._early.append((router, data))
        while sum(len(kept) for _, kept in self._early) > MAX_EARLY:
            del self._early[0]

    def _hear_early(self, peer: _Peer, now: float) -> None:
        early = [data for router, data in self._early if router == peer.router]
        self._early = [(router, data) for router, data in self._early if router != peer.router]
        for data in early:
            with contextlib.suppress(RemoteProtocolError):  # what it says next is judged when it comes
                self._hear(peer, data, now)

    def set_info(self, info: SiteInfo, *, now: float) -> None:
        if info != self._info:
            self._info = info
            self._due_to_all("site")
            self.handle_timeout(now)

    def set_draining(self, draining: bool, *, now: float) -> None:
        """Grace: the others prefer other routers from now on."""
        self._advertiser.set_draining(draining)
        self.handle_timeout(now)

    def leave(self, *, now: float) -> None:
        """This router is about to end: the last thing that it says."""
        self._withdrawal = encode_signed(
            Withdrawal(origin=self.table.own), identity=self._identity, sign=self._sign, admissions=self._admissions
        )
        self._due_to_all("withdrawal")
        self.handle_timeout(now)

    def handed_over(self, generation: int, *, now: float) -> None:
        """What `AddressTable.take_changes` gave is in this generation (the one in force, when it gave nothing)."""
        for pending in self._pending.values():
            if pending.generation is None:
                pending.generation = generation
        self._confirm()
        self.handle_timeout(now)

    def handle_in_force(self, generation: int, *, now: float) -> None:
        self._in_force = max(self._in_force, generation)
        self._confirm()
        self.handle_timeout(now)

    @property
    def deadline(self) -> float:
        """When `handle_timeout` is next worth calling (`AddressTable.deadline` included); ``inf`` means never."""
        return min(self._advertiser.deadline if not self._withdrawal else math.inf, self.table.deadline)

    def handle_timeout(self, now: float) -> None:
        """Do what is due, and pass on what the table has learnt. Calling early is harmless; every input calls it."""
        self.table.handle_timeout(now)
        for key, info in self.table.take_advertised().items():
            self._advertiser.set_key(key, info, now=now)
        for router in self.table.take_problem_routers():
            if (peer := self._peers.get(router)) is not None:
                self._due(peer, "problems")
        self._confirm()
        if self._withdrawal is not None:
            return
        for fragment in self._advertiser.due(now):
            self._sealed[fragment.number] = encode_signed(fragment, identity=self._identity, sign=self._sign, admissions=self._admissions)
            self._due_to_all("fragment", fragment.number)

    # ---- outputs -----------------------------------------------------------------------------------------------------------------------

    def outbox(self) -> list[Outgoing]:
        """Everything due, per peer in the order in which it should go. Stop at the first that the plane refuses, for that router."""
        out = []
        for peer in self._peers.values():
            for slot, version in sorted(peer.due.items(), key=lambda item: (_ORDER[item[0][0]], item[0][1])):
                out.append(Outgoing(peer.router, self._encode(peer, slot), slot, version))
        return out

    def sent(self, outgoing: Outgoing) -> None:
        """The plane took it."""
        peer = self._peers.get(outgoing.router)
        if peer is not None and peer.due.get(outgoing.slot) == outgoing.version:
            del peer.due[outgoing.slot]
            if outgoing.slot[0] == "applied":
                peer.to_confirm.clear()

    def waiting_for(self, key: str) -> list[str]:
        """The linked routers that do not yet serve this key as we advertise it now. Empty: all that are up do."""
        if self.table.has_news:
            return list(self._peers)  # `handle_timeout` has not seen it yet
        position = self._advertiser.position(key)
        if position is None:
            return self.waiting_for_all()
        number, sequence = position
        return [peer.router for peer in self._peers.values() if peer.applied.get(number, 0) < sequence]

    def waiting_for_all(self) -> list[str]:
        """The linked routers that have not yet applied everything that we advertise now (after a key was taken back, for one)."""
        if self.table.has_news:
            return list(self._peers)
        wanted = self._advertiser.positions()
        return [peer.router for peer in self._peers.values() if any(peer.applied.get(n, 0) < s for n, s in wanted.items())]

    def peers(self) -> list[PeerView]:
        return [
            PeerView(router=p.router, info=p.info, problems=p.problems.problems, more_problems=p.problems.more, cost=p.cost)
            for p in self._peers.values()
        ]

    # ---- inside ------------------------------------------------------------------------------------------------------------------------

    def _handle_sealed(self, peer: _Peer, sealed: Sealed, now: float) -> None:
        if why := self._accepts(sealed, peer.router):
            raise RemoteProtocolError(why)
        content = sealed.content
        if isinstance(content, Withdrawal):
            self.table.withdraw(content.origin, now=now)
            return
        before = self.table.remote.keys_in(content.origin, content.number)
        if self.table.put_fragment_untrusted(content, now=now):
            keys = list({*before, *(info.key for info in content.keys)})
            self._pending[content.origin, content.number] = _Pending(content.origin, content.number, content.sequence, keys)
        elif (content.origin, content.number) not in self._pending:
            sequence = self.table.remote.sequence(content.origin, content.number)
            if sequence:
                peer.to_confirm[content.number] = sequence  # it asks again: it may have lost our answer
                self._due(peer, "applied")

    def _confirm(self) -> None:
        """Tell peers which of their fragments are in force and served."""
        for name, pending in list(self._pending.items()):
            if pending.generation is None or pending.generation > self._in_force or not self.table.settled(pending.keys):
                continue
            del self._pending[name]
            peer = self._peers.get(pending.origin)
            if peer is not None:
                peer.to_confirm[pending.number] = pending.sequence
                self._due(peer, "applied")

    def _forget(self, router: str, now: float) -> None:
        del self._peers[router]
        for name in [name for name in self._pending if name[0] == router]:
            del self._pending[name]
        self.table.set_path(router, None, now=now)
        self._advertiser.set_neighbour(router, None, now=now)
        self.handle_timeout(now)

    def _everything(self, peer: _Peer) -> None:
        self._due(peer, "site")
        for number in self._sealed:
            self._due(peer, "fragment", number)
        self._due(peer, "problems")
        if self._withdrawal is not None:
            self._due(peer, "withdrawal")

    def _due(self, peer: _Peer, what: str, number: int = 0) -> None:
        self._version += 1
        peer.due[what, number] = self._version

    def _due_to_all(self, what: str, number: int = 0) -> None:
        for peer in self._peers.values():
            self._due(peer, what, number)

    def _encode(self, peer: _Peer, slot: Slot) -> bytes:
        match slot:
            case ("site", _):
                return encode(self._info)
            case ("withdrawal", _):
                assert self._withdrawal is not None
                return self._withdrawal
            case ("fragment", number):
                return self._sealed[number]
            case ("problems", _):
                problems = self.table.problems(peer.router)
                return encode(Problems(problems=problems[:MAX_PROBLEMS], more=max(0, len(problems) - MAX_PROBLEMS)))
            case _:
                items = [AppliedItem(number, sequence) for number, sequence in sorted(peer.to_confirm.items())]
                return encode(Applied(origin=peer.router, items=items))
