"""
One router's part in the network's talk: the engine, what is said to neighbours alone, and the address table, put together.

Refuses to send, bind or dial; whoever drives it (`vanrouter.sites.services`, a test) brings link states, messages, states of the plane and
time, and after any of them calls `work`, applies the table's changes, says `handed_over`, and sends what `next_message` gives.

    LinkState, MessagesReset ─▶ Engine and Exchange
    message ─▶ types 2, 3, 16, 17: Engine; 1, 4, 5: Exchange
    Engine ─▶ paths, routes, what was learnt or forgotten ─▶ AddressTable ─▶ our own keys ─▶ Engine
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

from vanrouter.addresses import AddressTable, Exchange, Outgoing, Path
from vanrouter.errors import RemoteProtocolError
from vanrouter.messages import SiteInfo
from vanrouter.plane import LinkState
from vanrouter.routing.actions import Forgot, Learnt, PathChanged, Problem, RouteChanged, Send
from vanrouter.routing.engine import Engine

__all__ = ["MAX_EARLY", "Speaker"]

MAX_EARLY: Final = 1 << 20  # bytes of messages that came before the state of their link


class Speaker:
    """Feed everything in; call `work`; take out messages. ``hop_limit`` is what OPENs that start here should carry now."""

    def __init__(self, table: AddressTable, engine: Engine, *, info: SiteInfo) -> None:
        self.table, self.engine = table, engine
        self.exchange = Exchange(table, info=info, position=engine.position, positions=engine.positions)
        self.hop_limit = engine.hop_limit()
        self._early: list[tuple[str, bytes]] = []

    # ---- inputs ------------------------------------------------------------------------------------------------------------------------

    def handle_link_state(self, state: LinkState, *, now: float) -> None:
        """Every link's latest state, whoever dialled it."""
        is_new = state.lanes > 0 and state.router not in self.engine.peers()
        self.engine.handle_link(state, edge=state.edge, now=now)
        if state.router == self.engine.own:
            return
        self.exchange.handle_link_state(state, now=now)
        if is_new:
            self._hear_early(state.router, now)

    def handle_messages_reset(self, router: str, *, now: float) -> None:
        """Messages may have been lost, in both directions."""
        self.engine.handle_messages_reset(router, now=now)
        self.exchange.handle_messages_reset(router)

    def handle_message_untrusted(self, router: str, data: bytes, *, now: float) -> None:
        """One message of a peer. Raises RemoteProtocolError, and nothing else, when the peer broke the rules: cut the link, it redials."""
        if router not in self.engine.peers():
            self._keep_early(router, data)
        elif not self.engine.handle_message_untrusted(router, data, now=now):
            self.exchange.handle_message_untrusted(router, data, now=now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due. Calling early is harmless."""
        self.table.handle_timeout(now)
        self.engine.handle_timeout(now)

    @property
    def deadline(self) -> float:
        """When `handle_timeout` is next worth calling; ``inf`` means never."""
        return min(self.engine.deadline, self.table.deadline)

    # ---- outputs -----------------------------------------------------------------------------------------------------------------------

    def work(self, now: float) -> Sequence[Problem]:
        """Pass on between the parts what each has found out. Returns what others did that was not taken, as of now."""
        self.handle_timeout(now)
        problems: list[Problem] = []
        paths_changed = False
        for key, info in self.table.take_advertised().items():
            self.engine.set_local(key, info, now=now)
        for action in self.engine.take_actions(now):
            match action:
                case PathChanged():
                    path = Path(action.next_hops, action.cost) if action.next_hops else None
                    self.table.set_path(action.router, path, now=now)
                    paths_changed = True
                case RouteChanged():
                    self.table.set_route(action.key, action.targets, now=now)
                case Learnt():
                    self.exchange.learnt(action.fragment, now=now)
                case Forgot():
                    self.exchange.forgot(action.router, now=now)
                case Problem():
                    problems.append(action)
        if paths_changed:
            self.hop_limit = self.engine.hop_limit()
        # What was learnt may have made or moved listeners of ours, which others are to know.
        for key, info in self.table.take_advertised().items():
            self.engine.set_local(key, info, now=now)
        self.engine.handle_timeout(now)
        return problems

    def next_messages(self, router: str, now: float) -> Sequence[Outgoing | Send]:
        """What should go to this peer next, in order. Say `sent` for what the plane took, and ask again until there is nothing."""
        if out := self.exchange.outbox(router):
            return out
        send = self.engine.next_message(router, now)
        return [send] if send is not None else []

    def sent(self, message: Outgoing | Send) -> None:
        """The plane took it."""
        if isinstance(message, Send):
            self.engine.sent(message)
        else:
            self.exchange.sent(message)

    def routers(self) -> list[str]:
        """The routers that there may be messages for."""
        return self.engine.peers()

    # ---- inside ------------------------------------------------------------------------------------------------------------------------

    def _keep_early(self, router: str, data: bytes) -> None:
        """Its link is gone, or the state of its link comes with the next events: the peer will not say this again."""
        self._early.append((router, data))
        while sum(len(kept) for _, kept in self._early) > MAX_EARLY:
            del self._early[0]

    def _hear_early(self, router: str, now: float) -> None:
        early = [data for peer, data in self._early if peer == router]
        self._early = [(peer, data) for peer, data in self._early if peer != router]
        for data in early:
            with contextlib.suppress(RemoteProtocolError):  # what it says next is judged when it comes
                self.handle_message_untrusted(router, data, now=now)
