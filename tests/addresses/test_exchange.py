"""
What control planes say to each other, and when a peer has it: latest state, never a queue.

    south ── Advertisement 0/2 ──▶ north ── plane: in force, listener listening ── Applied 0/2 ──▶ south: `van expose` returns
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_sites import Network, Site, connector, entries, fake_sign, fragment, router, service

from vanrouter.addresses import Exchange, Outgoing
from vanrouter.addresses.exchange import MAX_EARLY
from vanrouter.addresses.remote import MAX_AGE, SWEEP_EVERY
from vanrouter.errors import RemoteProtocolError
from vanrouter.messages import (
    Applied,
    AppliedItem,
    Fragment,
    Problem,
    Problems,
    Sealed,
    SiteInfo,
    Withdrawal,
    decode_untrusted,
    encode,
    encode_signed,
)
from vanrouter.plane import BindStatus, LinkState, ListenerState


def up(site: Site, *, lanes: int = 1, cost: int = 1) -> LinkState:
    return LinkState(router=site.router, site_name=site.name, lanes=lanes, lanes_wanted=1, cost=cost)


def pair() -> tuple[Site, Site]:
    """Two sites that know of their link, and nothing said yet."""
    north, south = Site("north"), Site("south", service_address="127.0.0.2")
    north.exchange.handle_link_state(up(south), now=0.0)
    south.exchange.handle_link_state(up(north), now=0.0)
    return north, south


def hand(sender: Site, receiver: Site, now: float = 0.0) -> list[str]:
    """Deliver everything once. The kinds of what was delivered."""
    kinds = []
    for outgoing in sender.exchange.outbox():
        sender.exchange.sent(outgoing)
        receiver.exchange.handle_message_untrusted(sender.router, outgoing.data, now=now)
        kinds.append(outgoing.slot[0])
    return kinds


def offer_hello(site: Site, now: float = 0.0, *, target: int = 8080) -> None:
    site.table.put_connector(connector("hello", target, offer=service("hello", 9090)), now=now)
    site.exchange.handle_timeout(now)


def sealed(site: Site, content: Fragment | Withdrawal) -> bytes:
    return encode_signed(content, identity=site.name.encode(), sign=fake_sign(site.name.encode()), admissions=[])


def test_a_new_link_is_told_everything_in_order_and_once() -> None:
    north, south = pair()
    offer_hello(south)
    assert hand(south, north) == ["site", "fragment", "problems"]
    assert hand(south, north) == []
    (peer,) = north.exchange.peers()
    assert peer.info == SiteInfo(name="south")
    assert north.table.remote.info(south.router, "hello:9090") is not None


def test_lost_messages_are_said_again() -> None:
    north, south = pair()
    hand(south, north)
    south.exchange.handle_messages_reset(north.router, now=1.0)
    assert hand(south, north) == ["site", "fragment", "problems"]
    assert north.exchange.peers()[0].info is not None


def test_what_the_plane_did_not_take_stays_and_a_newer_state_replaces_it() -> None:
    """send_message said False: nothing is queued here, the slot holds the latest"""
    north, south = pair()
    hand(south, north)
    for n in range(5):
        offer_hello(south, now=float(n), target=8000 + n)
        south.table.put_connector(connector(f"k{n}"), now=float(n))
        south.exchange.handle_timeout(float(n))
    (only,) = south.exchange.outbox()
    assert only.slot == ("fragment", 0)
    sealed_now = decode_untrusted(only.data, verify=lambda *_: True)
    assert isinstance(sealed_now, Sealed)
    assert len(sealed_now.content.keys) == 6  # type: ignore[union-attr]


def test_sending_an_older_state_does_not_clear_the_newer_one() -> None:
    north, south = pair()
    hand(south, north)
    offer_hello(south)
    (old,) = south.exchange.outbox()
    south.table.put_connector(connector("more"), now=1.0)
    south.exchange.handle_timeout(1.0)
    south.exchange.sent(old)
    (new,) = south.exchange.outbox()
    assert new.version > old.version
    south.exchange.sent(Outgoing("nobody", b"", ("site", 0), 1))


def test_a_peer_has_it_only_when_its_plane_has_it_in_force_and_the_listener_listens() -> None:
    north, south = pair()
    hand(south, north)
    hand(north, south)
    offer_hello(south)
    assert south.exchange.waiting_for("hello:9090") == [north.router]
    hand(south, north)
    assert hand(north, south) == []
    delta = north.table.take_changes()
    assert entries(delta) == (["listener/hello:9090", "route/hello:9090"], [])
    north.exchange.handed_over(7, now=0.1)
    north.exchange.handle_in_force(6, now=0.2)
    assert hand(north, south) == []
    north.exchange.handle_in_force(7, now=0.3)
    assert hand(north, south) == [], "in force, but nobody listens yet"
    north.table.handle_listener_state(ListenerState(name="hello:9090", status=BindStatus.BOUND, port=9090), now=0.4)
    north.exchange.handle_timeout(0.4)
    assert "applied" not in hand(north, south), "bound, and matched, but clients are still refused"
    assert south.exchange.waiting_for("hello:9090") == [north.router]
    north.table.handle_listener_state(ListenerState(name="hello:9090", status=BindStatus.LISTENING, port=9090), now=0.5)
    north.exchange.handle_timeout(0.5)
    assert "applied" in hand(north, south)
    assert south.exchange.waiting_for("hello:9090") == []


def test_a_key_without_a_listener_is_applied_when_its_generation_is_in_force_and_not_before() -> None:
    north, south = pair()
    hand(south, north)
    south.table.put_connector(connector("plain"), now=0.0)
    south.exchange.handle_timeout(0.0)
    hand(south, north)
    assert entries(north.table.take_changes()) == (["route/plain"], [])
    north.exchange.handed_over(3, now=0.1)
    north.exchange.handle_in_force(2, now=0.2)
    assert "applied" not in hand(north, south)
    north.exchange.handle_in_force(3, now=0.3)
    assert "applied" in hand(north, south)
    assert south.exchange.waiting_for("plain") == []


def test_a_port_that_cannot_be_bound_is_applied_too_with_its_problem_first() -> None:
    north, south = Site("north"), Site("south")
    north.busy.add(("127.0.0.1", 9090))
    net = Network(north, south)
    net.link(north, south)
    offer_hello(south)
    net.settle()
    assert south.exchange.waiting_for("hello:9090") == []
    (peer,) = south.exchange.peers()
    assert [(p.reason, p.address, p.port) for p in peer.problems] == [("PortNotBound", "hello", 9090)]


def test_waiting_for_sees_a_change_that_was_not_passed_on_yet() -> None:
    north, south = Site("north"), Site("south")
    net = Network(north, south)
    net.link(north, south)
    net.settle()
    south.table.put_connector(connector("hello"), now=0.0)
    assert south.exchange.waiting_for("hello") == [north.router]
    net.settle()
    assert south.exchange.waiting_for("hello") == []
    south.table.drop_connector("hello", now=0.0)
    assert south.exchange.waiting_for("hello") == [north.router]
    net.settle()
    assert south.exchange.waiting_for("hello") == []
    assert south.exchange.waiting_for_all() == []


def test_a_peer_whose_link_is_gone_is_not_waited_for() -> None:
    north, south = pair()
    offer_hello(south)
    assert south.exchange.waiting_for("hello:9090") == [north.router]
    south.exchange.handle_link_state(up(north, lanes=0), now=1.0)
    assert south.exchange.waiting_for("hello:9090") == []
    assert south.exchange.outbox() == []


def test_a_lost_answer_is_given_again_when_the_peer_asks_again() -> None:
    north, south = Site("north"), Site("south")
    net = Network(north, south)
    net.link(north, south)
    offer_hello(south)
    net.settle()
    forgetful = Exchange(
        south.table, identity=b"south", sign=fake_sign(b"south"), info=SiteInfo(name="south"), verify=lambda *_: True, now=0.0
    )
    assert forgetful.outbox() == []
    south.exchange.handle_messages_reset(north.router, now=1.0)
    assert hand(south, north, 1.0) == ["site", "fragment", "problems"]
    assert "applied" in hand(north, south, 1.0)


def test_a_path_has_the_links_cost_and_follows_it() -> None:
    north, south = pair()
    offer_hello(south)
    hand(south, north)
    assert [t.cost for t in north.table.targets("hello:9090")] == [1]
    north.exchange.handle_link_state(up(south, cost=5), now=1.0)
    assert [t.cost for t in north.table.targets("hello:9090")] == [5]
    north.exchange.handle_link_state(up(south, lanes=0), now=2.0)
    assert north.table.targets("hello:9090") == []
    assert north.exchange.peers() == []


def test_links_are_told_as_neighbours() -> None:
    north, south = pair()
    hand(south, north)
    (fragment0,) = [
        f.content
        for o in north.exchange.outbox()
        if o.slot[0] == "fragment" and isinstance(f := decode_untrusted(o.data, verify=lambda *_: True), Sealed)
    ]
    assert [n.router for n in fragment0.neighbours] == [south.router]  # type: ignore[union-attr]


def test_leaving_withdraws_and_nothing_older_brings_it_back() -> None:
    north, south = pair()
    offer_hello(south)
    (_, fragments, _) = south.exchange.outbox()
    hand(south, north)
    south.exchange.set_draining(True, now=0.5)
    assert "fragment" in hand(south, north)
    assert north.table.remote.draining(south.router)
    south.exchange.leave(now=1.0)
    assert hand(south, north) == ["withdrawal"]
    assert north.table.services() == []
    north.exchange.handle_message_untrusted(south.router, fragments.data, now=2.0)
    assert north.table.services() == []


def test_a_peer_cannot_speak_for_another_router() -> None:
    north, south = pair()
    with pytest.raises(RemoteProtocolError, match="second hand"):
        north.exchange.handle_message_untrusted(south.router, sealed(Site("east"), fragment("east", 1)), now=0.0)
    with pytest.raises(RemoteProtocolError, match="second hand"):
        north.exchange.handle_message_untrusted(south.router, sealed(Site("east"), Withdrawal(origin=router("east"))), now=0.0)
    with pytest.raises(RemoteProtocolError, match="another site's key"):
        north.exchange.handle_message_untrusted(south.router, sealed(south, fragment("east", 1)), now=0.0)


def test_what_a_peer_says_before_its_link_is_reported_is_heard_when_it_is() -> None:
    """the events of one link may arrive in any order, and the peer does not say it again"""
    north, south = Site("north"), Site("south", service_address="127.0.0.2")
    south.exchange.handle_link_state(up(north), now=0.0)
    offer_hello(south)
    north.exchange.handle_message_untrusted(south.router, b"garbage", now=0.0)
    assert hand(south, north) == ["site", "fragment", "problems"]
    assert north.exchange.peers() == []
    assert north.table.services() == []
    north.exchange.handle_link_state(up(south), now=0.1)
    assert north.exchange.peers()[0].info == SiteInfo(name="south")
    assert [t.router for t in north.table.targets("hello:9090")] == [south.router]


def test_what_routers_without_a_link_say_is_kept_within_a_bound() -> None:
    north = Site("north")
    for n in range(100):
        north.exchange.handle_message_untrusted(router("ghost", n), b"x" * 60_000, now=0.0)
    assert sum(len(data) for _, data in north.exchange._early) <= MAX_EARLY
    assert north.exchange.peers() == []


def test_what_others_have_applied_of_somebody_else_is_ignored() -> None:
    north, south = pair()
    offer_hello(south)
    lie = Applied(origin=router("east"), items=[AppliedItem(0, 1 << 40)])
    south.exchange.handle_message_untrusted(north.router, encode(lie), now=0.0)
    assert south.exchange.waiting_for("hello:9090") == [north.router]


def test_problems_replace_the_ones_before() -> None:
    north, south = pair()
    south.exchange.handle_message_untrusted(north.router, encode(Problems(problems=[Problem(reason="X", message="y", key="k")])), now=0.0)
    assert len(south.exchange.peers()[0].problems) == 1
    south.exchange.handle_message_untrusted(north.router, encode(Problems()), now=0.0)
    assert south.exchange.peers()[0].problems == []


def test_a_link_that_stays_up_for_hours_expires_nothing() -> None:
    north, south = Site("north"), Site("south", service_address="127.0.0.2")
    net = Network(north, south)
    net.link(north, south)
    offer_hello(south)
    net.settle()
    sent, deltas = net.sent, len(north.deltas)
    net.run(4 * MAX_AGE, step=SWEEP_EVERY)
    assert len(north.deltas) == deltas
    assert north.listening() == {"hello:9090": "127.0.0.1:9090"}
    assert net.sent - sent <= 2 * 2 * (4 * MAX_AGE / 300 + 1), "refreshed each 300 s and answered, no more"


def test_a_peer_that_only_repeats_itself_makes_no_work() -> None:
    north, south = pair()
    offer_hello(south)
    hand(south, north)
    north.apply(0.0)
    hand(north, south)
    before = len(north.deltas)
    for n in range(20):
        south.exchange.handle_messages_reset(north.router, now=float(n))
        hand(south, north, float(n))
        north.apply(float(n))
    assert len(north.deltas) == before


def test_the_deadline_moves_on() -> None:
    north, _ = pair()
    assert north.exchange.deadline > 0.0
    now = 0.0
    for _ in range(20):
        now = max(now, north.exchange.deadline)
        north.exchange.handle_timeout(now)
        assert north.exchange.deadline > now


@settings(max_examples=200, deadline=None)
@given(
    script=st.lists(
        st.tuples(st.sampled_from(["expose", "unexpose", "deliver", "lose", "cut", "link", "wait"]), st.integers(0, 2), st.integers(0, 4)),
        max_size=40,
    )
)
def test_whatever_is_lost_or_cut_in_the_end_all_sites_agree(script: list[tuple[str, int, int]]) -> None:
    """three sites in a triangle; messages get lost only together with a MessagesReset at both ends, as the contract says"""
    sites = [Site(n, service_address=f"127.0.0.{i + 1}") for i, n in enumerate(("north", "south", "east"))]
    net = Network(*sites)
    pairs = [(0, 1), (1, 2), (2, 0)]
    for a, b in pairs:
        net.link(sites[a], sites[b])
    for what, n, port in script:
        site, (a, b) = sites[n], pairs[n]
        one, other = sites[a], sites[b]
        if what == "expose":
            site.table.put_connector(connector(f"c{port}", 8000 + n, offer=service("hello", 9000 + port)), now=net.now)
        elif what == "unexpose":
            site.table.drop_connector(f"c{port}", now=net.now)
        elif what == "deliver":
            net.deliver()
        elif what == "lose":
            for outgoing in one.exchange.outbox():
                if outgoing.router == other.router:
                    one.exchange.sent(outgoing)
            one.exchange.handle_messages_reset(other.router, now=net.now)
            other.exchange.handle_messages_reset(one.router, now=net.now)
        elif what == "cut":
            net.unlink(one, other)
        elif what == "link" and frozenset((one.router, other.router)) not in net.links:
            net.link(one, other)
        elif what == "wait":
            net.now += port
            for each in sites:
                each.exchange.handle_timeout(net.now)
    for a, b in pairs:
        if frozenset((sites[a].router, sites[b].router)) not in net.links:
            net.link(sites[a], sites[b])
    net.run(15.0)
    mine = {site.router: {c.routing_key for c in site.table.connector_statuses()} for site in sites}
    offered = {(router, key) for router, keys in mine.items() for key in keys}
    for site in sites:
        for other in sites:
            if other is not site:
                seen = {key for key in site.table.remote.keys_of(other.router) if site.table.remote.key(key)[other.router].targets}
                assert seen == mine[other.router]
        assert site.listening().keys() == {key for _, key in offered}
        assert site.exchange.waiting_for_all() == []
        assert site.exchange.outbox() == []
        for key in {key for _, key in offered}:
            assert {r for r, _, _ in site.routes().get(key, [])} == {r for r, k in offered if k == key and r != site.router}
        for status in (*site.table.listener_statuses(), *site.table.connector_statuses()):
            assert status.matched, f"{status.name} at {site.name}"
