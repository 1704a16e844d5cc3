"""
The routing of one router: links, messages and time in; messages, paths and routes out.

Refuses to send, to sign with anything but the function it was given, or to look at a clock. After any inputs the driver calls
`take_actions`, sends what `next_message` gives for each peer as far as the data plane takes it, and comes back at `deadline`. A peer that
breaks the rules of the protocol gets an error, which costs it its link; a member that lies about itself is named in a `Problem`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from vanrouter.addresses import Remote
from vanrouter.errors import RemoteProtocolError
from vanrouter.messages import (
    Fragment,
    KeyInfo,
    Leaf,
    Neighbour,
    Sealed,
    Sign,
    Verify,
    Withdrawal,
    decode_untrusted,
    verify_signature,
)
from vanrouter.model import RouterId
from vanrouter.plane import LinkState, RouteTarget
from vanrouter.routing.actions import Action, Forgot, Learnt, PathChanged, Problem, Send
from vanrouter.routing.complaints import Complaints
from vanrouter.routing.database import MAX_AGE, MAX_JUMP, Database, Limits, Origin, Record
from vanrouter.routing.flooding import Flooding
from vanrouter.routing.membership import Membership
from vanrouter.routing.own import OwnRecords
from vanrouter.routing.paths import Paths
from vanrouter.routing.peers import Held, Pace, Peer
from vanrouter.routing.routes import Routes, merged
from vanrouter.routing.topology import DRAIN_PENALTY, Topology
from vanrouter.routing.wire import (
    FRAGMENT,
    RELAYED,
    SUMMARY,
    WITHDRAWAL,
    WITHDRAWN,
    Head,
    head_untrusted,
    relayed_untrusted,
    summary_untrusted,
)

__all__ = ["Engine", "Issuers"]

MIN_HOP_LIMIT: Final = 8
Path = tuple[int, tuple[str, ...]]

Issuers = Callable[[Sealed], Sequence[tuple[str, str]]]
"""(issuer, subject) of every admission that a signed message carries and that holds now. Must not raise."""


def no_issuers(sealed: Sealed) -> Sequence[tuple[str, str]]:  # noqa: ARG001 - the shape of `Issuers`
    return ()


class Engine:
    """
    ``name``: of our site, and ``version``: of our software, for people. ``issuers_of_own``: the sites whose admissions we hold. ``edge``:
    this router is a leaf; it relays nothing.
    """

    def __init__(
        self,
        own: RouterId,
        *,
        identity: bytes,
        sign: Sign,
        name: str = "",
        verify: Verify = verify_signature,
        issuers: Issuers = no_issuers,
        issuers_of_own: Sequence[str] = (),
        admissions: Sequence[bytes] = (),
        version: str = "",
        edge: bool = False,
        limits: Limits | None = None,
        now: float,
    ) -> None:
        limits = limits or Limits()
        self.own, self.edge = str(own), edge
        self._verify, self._issuers = verify, issuers
        self.database = Database(limits)
        self._flooding = Flooding(self.own, self.database, edge=edge)
        self._peers = self._flooding.peers
        self.membership = Membership(own.site, issuers_of_own, max_per_admitter=limits.sites_per_admitter)
        self.topology = Topology(self.own, own_word_suffices=edge)
        self.paths = Paths(self.own, self.topology.edges)
        self.remote = Remote()
        self._routes = Routes(self.remote, self._counts_ours)
        self._said = OwnRecords(
            own, self.database, self._flooding, identity=identity, sign=sign, admissions=admissions, name=name, version=version, now=now
        )
        self._advertiser = self._said.advertiser
        self._local: dict[str, KeyInfo] = {}
        self._pace = Pace()
        self._refused: set[str] = set()
        self._actions: list[Action] = []
        self._complaints = Complaints()
        self._edge_keys: dict[str, None] = {}  # keys that an edge of ours has or had, and that changed
        self._moved: dict[str, None] = {}  # edges of ours whose link changed
        self.handle_timeout(now)

    # ---- inputs ------------------------------------------------------------------------------------------------------------------------

    def handle_link(self, link: LinkState, *, edge: bool = False, now: float) -> None:
        """The latest state of a link, whoever dialled. ``edge``: the other end is an edge router."""
        if link.router == self.own:
            self._problem("LinkToItself", self.own, self.own, "a link leads from this router to itself", now)
            return
        peer = self._peers.get(link.router)
        if peer is not None and (link.lanes <= 0 or peer.edge != edge):
            self._drop_peer(peer, now)
            peer = None
        if link.lanes <= 0:
            return
        if peer is None:
            peer = self._peers[link.router] = Peer(link.router, edge=edge, now=now)
            self.membership.link_up(peer.site)
            peer.everything()
            self._hurry(now)
            self._uplink_changed(link.router)
        peer.name = link.site_name[:63]
        if peer.adjacency.handle(link):
            self._link_changed(peer, now)

    def handle_messages_reset(self, router: str, *, now: float) -> None:  # noqa: ARG002 - inputs have their time
        """Messages may have been lost, in both directions."""
        if (peer := self._peers.get(router)) is not None:
            peer.everything()

    def handle_message_untrusted(self, router: str, data: bytes, *, now: float) -> bool:
        """One message of a peer. False: it is none of routing's. Raises RemoteProtocolError, and nothing else: cut the link, it redials."""
        kind = data[1] if len(data) > 1 else 0
        if kind not in (FRAGMENT, WITHDRAWAL, RELAYED, SUMMARY):
            return False
        peer = self._peers.get(router)
        if peer is None:
            return True  # its link is gone, or its state comes with the next events: then it says everything again
        if kind == SUMMARY:
            self._flooding.handle_summary(peer, summary_untrusted(data), now)
            return True
        record, age = relayed_untrusted(data) if kind == RELAYED else (data, 0)
        self._consider(peer, record, float(age), now)
        return True

    def set_local(self, key: str, info: KeyInfo | None, *, now: float) -> None:
        """What this site's own connectors and listeners make of a key. None: nothing any more."""
        if info is not None and info.is_empty:
            info = None
        if info == self._local.get(key):
            return
        if info is None:
            del self._local[key]
        else:
            self._local[key] = info
        self._advertise(key, now)

    def set_admissions(self, admissions: Sequence[bytes], issuers_of_own: Sequence[str], *, now: float) -> None:
        """The admissions that we hold are others now: they are carried in all that we advertise."""
        self.membership.set_issuers(issuers_of_own)
        self._hurry(now)
        if self._said.set_admissions(admissions):
            self.handle_timeout(now)

    def set_draining(self, draining: bool, *, now: float) -> None:
        """Grace: the others prefer other routers from now on."""
        self._advertiser.set_draining(draining)
        self.topology.set_draining(self.own, draining)
        self.handle_timeout(now)

    def set_refused(self, sites: Iterable[str], *, now: float) -> None:
        """Refused sites: nothing that they signed counts, from now on and until they are left out here."""
        before, self._refused = self._refused, set(sites)
        for site in before - self._refused:
            self._complaints.forget("RefusedSite", site)
        for router, origin in list(self.database.origins.items()):
            if origin.site in self._refused:
                self._remove(router)
        for peer in self._peers.values():
            peer.missed(now)  # a site that is no longer refused comes back

    def leave(self, *, now: float) -> None:
        """This router is about to end: the last thing that it says."""
        self._said.leave(now)

    def accuse(self, router: str, message: str, *, now: float) -> None:
        """A neighbour broke the rules of a message and loses its link: name it, since a link that it dials leaves no trace here."""
        self._problem("BrokeRules", router, router, message, now)

    @property
    def deadline(self) -> float:
        """When `handle_timeout` is next worth calling; ``inf`` means never."""
        return min(self._said.deadline, self._flooding.deadline, self._pace.deadline, self.database.deadline, self.remote.deadline)

    def handle_timeout(self, now: float) -> None:
        """Do what is due. Calling early is harmless."""
        for router, slot in self._pace.due(now):
            peer = self._peers.get(router)
            held = peer.held.pop(slot, None) if peer is not None else None
            if peer is not None and held is not None:
                try:
                    self._consider(peer, held.wire, held.age + now - held.at, now)
                except RemoteProtocolError as err:
                    self._problem("BadRecord", router, router, str(err), now)
        self._flooding.handle_timeout(now)
        for origin in self.database.expire(now):
            self._lost(origin, now)
        for keys in self.remote.expire(now).values():
            self._keys_changed(keys)
        while self._edge_keys:
            key, _ = self._edge_keys.popitem()
            self._advertise(key, now)
        self._said.say(now)

    # ---- outputs -----------------------------------------------------------------------------------------------------------------------

    def take_actions(self, now: float) -> list[Action]:
        """What changed since the last call. Computes paths, once for everything that came in between."""
        self.handle_timeout(now)
        changed = set(self._moved)
        self._moved.clear()
        changed |= self.paths.update(self.topology.take()) if self.topology.has_changes else set()
        for router in sorted(changed):
            path = self.path(router)
            self._actions.append(PathChanged(router, path[1] if path else (), path[0] if path else 0))
        self._actions += self._routes.take()
        out, self._actions = self._actions, []
        return out

    def next_message(self, router: str, now: float) -> Send | None:
        """What should go to this peer next. It stays due until `sent`."""
        peer = self._peers.get(router)
        return self._flooding.next_message(peer, now) if peer is not None else None

    def sent(self, send: Send) -> None:
        """The plane took it."""
        peer = self._peers.get(send.peer)
        if peer is not None:
            self._flooding.sent(peer, send)

    def peers(self) -> list[str]:
        return list(self._peers)

    def attached(self) -> list[Peer]:
        """Edge routers of ours."""
        return [peer for peer in self._peers.values() if peer.edge]

    def own_keys(self, *, merged: bool = True) -> dict[str, KeyInfo]:
        """What we advertise of each key; not ``merged``: what is of this site alone, without its edges."""
        return self._advertiser.keys() if merged else dict(self._local)

    @property
    def draining(self) -> bool:
        return self.topology.is_draining(self.own)

    def counts_ours(self, router: str) -> bool:
        """Whether what this router advertises includes our own targets: it is our uplink."""
        return self._counts_ours(router)

    def path(self, router: str) -> Path | None:
        """(price, next hops) toward a router. None: there is no path."""
        peer = self._peers.get(router)
        if peer is None or not peer.edge:
            return self.paths.path(router)
        cost = peer.adjacency.cost
        if cost is None:
            return None
        return cost + DRAIN_PENALTY * self.remote.draining(router), (router,)

    def edge_cost(self, router: str) -> int | None:
        """What the link with an edge of ours costs. None: it is none."""
        peer = self._peers.get(router)
        return peer.adjacency.cost if peer is not None and peer.edge else None

    def siblings(self) -> list[str]:
        """The other routers of our site that can be reached, sorted."""
        site = self.own.partition("/")[0]
        return sorted(router for router in self.database.routers_of(site) if router != self.own and self.path(router) is not None)

    def hop_limit(self) -> int:
        """For OPENs that start here: twice the longest way, so that one detour while the network converges is no refusal."""
        return min(255, max(MIN_HOP_LIMIT, 2 * self.paths.depth()))

    def position(self, key: str) -> tuple[int, int] | None:
        """(number, sequence) of our fragment that has this key as it is now. None: we do not advertise it."""
        return self._advertiser.position(key)

    def positions(self) -> dict[int, int]:
        """The same for everything that we advertise."""
        return self._advertiser.positions()

    def routes(self) -> dict[str, list[RouteTarget]]:
        """All routes as last said, for a snapshot."""
        return self._routes.said()

    def problems(self, now: float) -> list[Problem]:
        """What others did in the last quarter of an hour that was not taken."""
        return self._complaints.recent(now)

    # ---- records -----------------------------------------------------------------------------------------------------------------------

    def _consider(self, peer: Peer, wire: bytes, age: float, now: float) -> None:
        """Take a record if it is newer, its turn, signed, of our network, and there is room. In this order: what costs most comes last."""
        head = head_untrusted(wire)
        slot = (head.origin, head.number)
        if not self.database.is_newer(head):
            known = self.database.sequence(head)
            if known is None or known == head.sequence:
                peer.due.pop(slot, None)  # it has it already
            return
        if age >= MAX_AGE or (self._from_elsewhere(peer, head.origin, now)):
            return
        before = self.database.record(*slot)
        at = self._pace.ready_at(peer, head, before is not None, now)
        if at > now:
            if not self._pace.hold(peer, head, Held(wire, age, now, head.sequence), at):
                peer.missed(now)
            elif self._pace.is_flood(peer, head):
                text = f"it sends what {head.origin} advertises far more often than once a second; only the latest is looked at"
                self._problem("TooFrequent", peer.router, peer.router, text, now)
            return
        sealed = decode_untrusted(wire, verify=self._verify)
        assert isinstance(sealed, Sealed)
        content = sealed.content
        self._pace.take(peer, head, before is not None, now)
        site = str(sealed.router.site)
        if head.origin == self.own:
            self._problem("DuplicateRouter", self.own, peer.router, "another router signs as this start of this router", now)
        elif site in self._refused:
            self._problem("RefusedSite", site, peer.router, "it is refused here, and what it advertises still arrives", now)
        elif isinstance(content, Fragment) and content.sequence - (before.sequence if before is not None else 0) > MAX_JUMP:
            text = f"fragment {content.number} of {head.origin} jumps to sequence {content.sequence}"
            self._problem("SequenceJump", head.origin, peer.router, text, now)
        elif not self._join(peer, sealed, site, now):
            peer.missed(now)
        elif isinstance(content, Withdrawal):
            self._withdrawn(peer, head.origin, Record(wire, 0, now - age, peer=peer.router), now)
        else:
            self._take(peer, head, content, Record(wire, head.sequence, now - age, peer=peer.router), now)

    def _from_elsewhere(self, peer: Peer, origin: str, now: float) -> bool:
        """Whether an edge speaks for another, or another for an edge of ours."""
        if peer.edge and origin != peer.router:
            self._problem("EdgeRelays", peer.router, peer.router, f"edge {peer.router} sent what {origin} advertises", now)
            return True
        attached = self._peers.get(origin)
        return attached is not None and attached.edge and attached is not peer

    def _join(self, peer: Peer, sealed: Sealed, site: str, now: float) -> bool:
        was_in = site in self.membership
        pairs = list(self._issuers(sealed))
        if not was_in and isinstance(sealed.content, Fragment):
            # Whoever has a link with it let it in, and signs that it has.
            origin = sealed.content.origin
            listed = (neighbour.router for neighbour in sealed.content.neighbours)
            pairs += [(other.partition("/")[0], site) for other in listed if origin in self.topology.reported_by(other)]
        reason, message = self.membership.admit(site, pairs)
        if reason == "TooManySites" or (reason and peer.asked_in_vain):  # at first it may only have come before what joins it
            self._problem(reason, site, peer.router, message, now)
        if not reason and not was_in:
            self._hurry(now)
        return not reason

    def _take(self, peer: Peer, head: Head, content: Fragment, record: Record, now: float) -> None:
        why, evict = self.database.room(head, len(record.wire), self._reachable)
        if not why:
            if evict:
                self._remove(evict)
            try:
                keys = self.remote.put_untrusted(content, now=now)
            except RemoteProtocolError as err:
                keys, why = None, str(err)
            if keys is None and not why:
                return
        if why:
            self.membership.tidy(head.origin.partition("/")[0])
            self._problem("NoRoom", head.origin, peer.router, f"{head.origin} was not taken: {why}", now)
            peer.missed(now)
            return
        assert keys is not None
        is_new = head.origin not in self.database.origins
        record.neighbours = {neighbour.router: neighbour.cost for neighbour in content.neighbours}
        before = self.database.record(head.origin, head.number)
        origin = self.database.put(head, record, attached=peer.edge)
        if is_new:
            self.membership.router_added(origin.site)
        self._links_changed(origin, before.neighbours if before is not None else {}, record.neighbours, now)
        if peer.edge and peer.adjacency.handle_said(origin.cost_to(self.own)):
            self._link_changed(peer, now)
        if head.number == 0 and origin.draining != content.draining:
            origin.draining = content.draining
            self.topology.set_draining(head.origin, content.draining)
            if peer.edge:
                self._moved[head.origin] = None
        self._actions.append(Learnt(content))
        self._keys_changed(keys, attached=peer.edge)
        if not peer.edge:
            self._flooding.flood((head.origin, head.number), head.sequence, apart_from=peer.router)

    def _withdrawn(self, peer: Peer, router: str, record: Record, now: float) -> None:
        if peer.edge:
            self._remove(router)  # its link keeps order: nothing older comes behind it
            return
        self._forget(router, self.database.withdraw(router, record))
        self._keys_changed(self.remote.withdraw(router, now=now))
        self.membership.tidy(router.partition("/")[0])
        self._flooding.flood((router, WITHDRAWN), 0, apart_from=peer.router)

    def _links_changed(self, origin: Origin, old: dict[str, int], new: dict[str, int], now: float) -> None:
        """A changed address does not get past the first line."""
        if old == new or origin.attached:
            return
        neighbours: dict[str, int] = {}
        for record in origin.fragments.values():
            for router, cost in record.neighbours.items():
                neighbours[router] = max(cost, neighbours.get(router, 0))
        self.topology.report(origin.router, neighbours)
        if any(router.partition("/")[0] not in self.membership for router in new):
            self._hurry(now)

    def _lost(self, origin: Origin, now: float) -> None:
        """Some of its fragments were not refreshed, or all."""
        if not origin.fragments:
            self._keys_changed(self.remote.remove(origin.router), attached=origin.attached)
            self._forget(origin.router, origin)
        else:
            self._links_changed(origin, {"": 0}, {}, now)

    def _remove(self, router: str) -> None:
        origin = self.database.remove(router)
        if origin is not None:
            self._keys_changed(self.remote.remove(router), attached=origin.attached)
            self._forget(router, origin)

    def _forget(self, router: str, origin: Origin | None) -> None:
        self._pace.forget(router)
        if origin is not None:
            self.membership.router_removed(origin.site)
            self.topology.forget(router)
            self._actions.append(Forgot(router))

    # ---- links and keys ----------------------------------------------------------------------------------------------------------------

    def _link_changed(self, peer: Peer, now: float) -> None:
        cost = peer.adjacency.cost
        if peer.edge:
            self._moved[peer.router] = None
            self._edge_keys.update(dict.fromkeys(self.remote.keys_of(peer.router)))
            leaf = Leaf(router=peer.router, cost=cost, name=peer.name) if cost is not None and not self.edge else None
            self._advertiser.set_edge(peer.router, leaf, now=now)
            return
        item = Neighbour(router=peer.router, cost=cost) if cost is not None else None
        self._advertiser.set_neighbour(peer.router, item, now=now)
        costs = {p.router: c for p in self._peers.values() if not p.edge and (c := p.adjacency.cost) is not None}
        self.topology.report(self.own, costs)

    def _drop_peer(self, peer: Peer, now: float) -> None:
        del self._peers[peer.router]
        self._uplink_changed(peer.router)
        self.membership.link_down(peer.site)
        if peer.edge:
            self._remove(peer.router)
            self._moved[peer.router] = None
            self._advertiser.set_edge(peer.router, None, now=now)
            return
        self._advertiser.set_neighbour(peer.router, None, now=now)
        costs = dict(self.topology.reported_by(self.own))
        costs.pop(peer.router, None)
        self.topology.report(self.own, costs)

    def _hurry(self, now: float) -> None:
        """A site joined: what was refused may now be of our network."""
        for peer in self._peers.values():
            peer.hurry(now)

    def _keys_changed(self, keys: Iterable[str], *, attached: bool = False) -> None:
        keys = list(keys)
        self._routes.mark(keys)
        if attached:
            self._edge_keys.update(dict.fromkeys(keys))

    def _advertise(self, key: str, now: float) -> None:
        own = self._local.get(key)
        self._routes.set_own(key, own)
        edges = []
        for router, info in self.remote.key(key).items():
            peer = self._peers.get(router)
            if peer is not None and peer.edge and (cost := peer.adjacency.cost) is not None:
                edges.append((cost, info))
        edges.sort(key=lambda item: item[0])
        self._advertiser.set_key(key, merged(own, edges), now=now)

    def _counts_ours(self, router: str) -> bool:
        """Our uplink advertises our targets as its own."""
        return self.edge and router in self._peers

    def _uplink_changed(self, router: str) -> None:
        if self.edge:
            self._routes.mark(self.remote.keys_of(router))

    def _reachable(self, router: str) -> bool:
        return self.path(router) is not None

    def _problem(self, reason: str, subject: str, peer: str, message: str, now: float) -> None:
        problem = Problem(reason, subject, peer, message)
        if self._complaints.add(problem, now):
            self._actions.append(problem)
