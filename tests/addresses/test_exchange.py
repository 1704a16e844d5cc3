"""
What control planes say to each other, and when a peer has it: latest state, never a queue.

    south ── Advertisement 0/2 ──▶ north ── plane: in force, listener listening ── Applied 0/2 ──▶ south: `van expose` returns
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_sites import Network, Site, condition, connector, entries, fake_sign, fragment, listener, router, service

from vanrouter.addresses import Outgoing
from vanrouter.addresses.remote import MAX_AGE, SWEEP_EVERY
from vanrouter.errors import RemoteProtocolError
from vanrouter.messages import Applied, AppliedItem, Problem, Problems, SiteInfo, encode, encode_signed
from vanrouter.plane import BindStatus, LinkState, ListenerState
from vanrouter.routing.speaker import MAX_EARLY

KINDS = {1: "site", 2: "fragment", 3: "withdrawal", 4: "problems", 5: "applied", 16: "summary", 17: "relayed"}


def up(site: Site, *, lanes: int = 1, cost: int = 1) -> LinkState:
    return LinkState(router=site.router, site_name=site.name, lanes=lanes, lanes_wanted=1, cost=cost)


def pair() -> tuple[Site, Site]:
    """Two sites that know of their link, and nothing said yet."""
    north, south = Site("north"), Site("south", service_address="127.0.0.2")
    north.speaker.handle_link_state(up(south), now=0.0)
    south.speaker.handle_link_state(up(north), now=0.0)
    return north, south


def hand(sender: Site, receiver: Site, now: float = 0.0) -> list[str]:
    """Deliver everything once. The kinds of what was delivered."""
    sender.speaker.work(now)
    out = sender.due(receiver.router, now)
    for data in out:
        receiver.speaker.handle_message_untrusted(sender.router, data, now=now)
    receiver.speaker.work(now)
    return [KINDS[data[1]] for data in out]


def acquaint(north: Site, south: Site, now: float = 0.0) -> None:
    """Until neither has anything to say, though the planes have done nothing."""
    while hand(north, south, now) + hand(south, north, now):
        pass


def offer_hello(site: Site, now: float = 0.0, *, target: int = 8080) -> None:
    site.table.put_connector(connector("hello", target, offer=service("hello", 9090)), now=now)
    site.speaker.work(now)


def test_a_new_link_is_told_everything_in_order_and_once() -> None:
    north, south = pair()
    offer_hello(south)
    assert hand(south, north) == ["site", "problems", "summary", "fragment", "fragment"]
    acquaint(north, south)
    (peer,) = north.exchange.peers()
    assert peer.info == SiteInfo(name="south")
    assert north.table.remote.info(south.router, "hello:9090") is not None
    assert hand(south, north) == hand(north, south) == []


def test_lost_messages_are_said_again() -> None:
    north, south = pair()
    acquaint(north, south)
    south.speaker.handle_messages_reset(north.router, now=1.0)
    assert hand(south, north, 1.0)[:2] == ["site", "problems"]
    assert north.exchange.peers()[0].info is not None


def test_sending_an_older_state_does_not_clear_the_newer_one() -> None:
    north, south = pair()
    acquaint(north, south)
    south.exchange.set_info(SiteInfo(name="south", version="1"))
    (old,) = south.exchange.outbox(north.router)
    south.exchange.set_info(SiteInfo(name="south", version="2"))
    south.exchange.sent(old)
    (new,) = south.exchange.outbox(north.router)
    assert new.version > old.version
    south.exchange.sent(Outgoing("nobody", b"", "site", 1))


def test_a_peer_has_it_only_when_its_plane_has_it_in_force_and_the_listener_listens() -> None:
    north, south = pair()
    acquaint(north, south)
    offer_hello(south)
    assert south.exchange.waiting_for("hello:9090") == [north.router]
    assert hand(south, north) == ["fragment"]
    delta = north.table.take_changes()
    assert entries(delta) == (["listener/hello:9090", f"path/{south.router}", "route/hello:9090"], [])
    north.exchange.handed_over(7)
    north.exchange.handle_in_force(6)
    assert hand(north, south) == []
    north.exchange.handle_in_force(7)
    hand(north, south)
    assert south.exchange.waiting_for("hello:9090") == [north.router], "in force, but nobody listens yet"
    north.table.handle_listener_state(ListenerState(name="hello:9090", status=BindStatus.BOUND, port=9090), now=0.4)
    assert "applied" not in hand(north, south, 0.4), "bound, and matched, but clients are still refused"
    assert south.exchange.waiting_for("hello:9090") == [north.router]
    north.table.handle_listener_state(ListenerState(name="hello:9090", status=BindStatus.LISTENING, port=9090), now=0.5)
    assert "applied" in hand(north, south, 0.5)
    assert south.exchange.waiting_for("hello:9090") == []


def test_a_key_without_a_listener_is_applied_when_its_generation_is_in_force_and_not_before() -> None:
    north, south = pair()
    acquaint(north, south)
    north.apply(0.0)
    acquaint(north, south)
    south.table.put_connector(connector("plain"), now=0.0)
    hand(south, north)
    assert entries(north.table.take_changes()) == (["route/plain"], [])
    north.exchange.handed_over(3)
    north.exchange.handle_in_force(2)
    assert "applied" not in hand(north, south)
    north.exchange.handle_in_force(3)
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
    south.speaker.handle_link_state(up(north, lanes=0), now=1.0)
    assert south.exchange.waiting_for("hello:9090") == []
    assert south.due(north.router, 1.0) == []


def test_a_lost_answer_is_given_again_when_messages_may_have_been_lost() -> None:
    north, south = Site("north"), Site("south")
    net = Network(north, south)
    net.link(north, south)
    offer_hello(south)
    net.settle()
    north.speaker.handle_messages_reset(south.router, now=1.0)
    assert "applied" in hand(north, south, 1.0)


def test_who_is_linked_only_after_its_word_came_by_another_way_hears_that_it_was_applied() -> None:
    """east ── north ── south; then south and east link directly: each has had the other's fragments for long"""
    north, south, east = (Site(n, service_address=f"127.0.0.{i}") for i, n in enumerate(("north", "south", "east"), 1))
    net = Network(north, south, east)
    net.link(north, south)
    net.link(north, east)
    offer_hello(south)
    net.settle()
    net.link(south, east)
    net.settle()
    assert {view.router for view in south.exchange.peers()} == {north.router, east.router}
    assert south.exchange.waiting_for("hello:9090") == []


def test_a_path_has_the_links_cost_and_follows_it() -> None:
    north, south = Site("north"), Site("south", service_address="127.0.0.2")
    net = Network(north, south)
    net.link(north, south)
    offer_hello(south)
    net.settle()
    assert north.routes()["hello:9090"] == [(south.router, south.router, 1)]
    for site, other in ((north, south), (south, north)):
        site.speaker.handle_link_state(up(other, cost=5), now=1.0)
    net.settle()
    assert north.routes()["hello:9090"] == [(south.router, south.router, 5)]
    net.unlink(north, south)
    net.settle()
    assert north.routes() == {}
    assert north.exchange.peers() == []


def test_leaving_withdraws_and_nothing_older_brings_it_back() -> None:
    north, south = pair()
    offer_hello(south)
    acquaint(north, south)
    assert [s.address for s in north.table.services()] == ["hello"]
    south.engine.set_draining(True, now=0.5)
    assert "fragment" in hand(south, north, 0.5)
    assert north.table.remote.draining(south.router)
    south.engine.leave(now=1.0)
    assert hand(south, north, 1.0) == ["withdrawal"]
    assert north.table.services() == []
    old = encode_signed(fragment("south", 1), identity=b"south", sign=fake_sign(b"south"), admissions=[])
    north.speaker.handle_message_untrusted(south.router, old, now=2.0)
    north.speaker.work(2.0)
    assert north.table.services() == []
    assert not north.table.remote.has_site(south.router.partition("/")[0])


def test_a_peer_cannot_sign_for_another_router() -> None:
    north, south = pair()
    lie = encode_signed(fragment("east", 1), identity=b"south", sign=fake_sign(b"south"), admissions=[])
    with pytest.raises(RemoteProtocolError, match="another site's key"):
        north.speaker.handle_message_untrusted(south.router, lie, now=0.0)


def test_what_a_peer_says_before_its_link_is_reported_is_heard_when_it_is() -> None:
    """the events of one link may arrive in any order, and the peer does not say it again"""
    north, south = Site("north"), Site("south", service_address="127.0.0.2")
    south.speaker.handle_link_state(up(north), now=0.0)
    offer_hello(south)
    north.speaker.handle_message_untrusted(south.router, b"garbage", now=0.0)
    assert hand(south, north) == ["site", "problems", "summary", "fragment", "fragment"]
    assert north.exchange.peers() == []
    north.speaker.handle_link_state(up(south), now=0.1)
    assert north.exchange.peers()[0].info == SiteInfo(name="south")
    acquaint(north, south, 0.1)
    assert [t.router for t in north.table.targets("hello:9090")] == [south.router]


def test_what_routers_without_a_link_say_is_kept_within_a_bound() -> None:
    north = Site("north")
    for n in range(100):
        north.speaker.handle_message_untrusted(router("ghost", n), b"x" * 60_000, now=0.0)
    assert sum(len(data) for _, data in north.speaker._early) <= MAX_EARLY
    assert north.exchange.peers() == []


def test_what_others_have_applied_of_somebody_else_is_ignored() -> None:
    north, south = pair()
    offer_hello(south)
    lie = Applied(origin=router("east"), items=[AppliedItem(0, 1 << 40)])
    south.speaker.handle_message_untrusted(north.router, encode(lie), now=0.0)
    assert south.exchange.waiting_for("hello:9090") == [north.router]


def test_problems_replace_the_ones_before() -> None:
    north, south = pair()
    south.speaker.handle_message_untrusted(north.router, encode(Problems(problems=[Problem(reason="X", message="y", key="k")])), now=0.0)
    assert len(south.exchange.peers()[0].problems) == 1
    south.speaker.handle_message_untrusted(north.router, encode(Problems()), now=0.0)
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
    assert net.sent - sent <= 3 * 2 * (4 * MAX_AGE / 300 + 1), "three fragments, each refreshed each 300 s and answered, no more"


def test_a_peer_that_only_repeats_itself_makes_no_work() -> None:
    north, south = pair()
    offer_hello(south)
    acquaint(north, south)
    north.apply(0.0)
    acquaint(north, south)
    before = len(north.deltas)
    for n in range(20):
        south.speaker.handle_messages_reset(north.router, now=float(n))
        acquaint(south, north, float(n))
        north.apply(float(n))
    assert len(north.deltas) == before


def test_the_deadline_moves_on() -> None:
    north, _ = pair()
    north.speaker.work(0.0)
    assert north.speaker.deadline > 0.0
    now = 0.0
    for _ in range(20):
        now = max(now, north.speaker.deadline)
        north.speaker.work(now)
        assert north.speaker.deadline > now


# ---- further than one hop --------------------------------------------------------------------------------------------------------------


def line() -> tuple[Network, Site, Site, Site]:
    """north ── middle ── south"""
    north, middle, south = (Site(n, service_address=f"127.0.0.{i}") for i, n in enumerate(("north", "middle", "south"), 1))
    net = Network(north, middle, south)
    net.link(north, middle)
    net.link(middle, south)
    net.settle()
    return net, north, middle, south


def test_what_a_site_two_hops_away_exposes_gets_its_listener_and_goes_with_it() -> None:
    net, north, middle, south = line()
    offer_hello(south)
    net.settle()
    assert north.listening() == {"hello:9090": "127.0.0.1:9090"}
    assert north.routes() == {"hello:9090": [(south.router, middle.router, 2)]}
    assert condition(north.table.listener_statuses(), "hello:9090", "Matched").message.endswith("is at site south"), "by its name"
    south.table.drop_connector("hello", now=0.0)
    net.settle()
    assert north.listening() == middle.listening() == south.listening() == {}


def test_a_listener_two_hops_away_matches_a_connector() -> None:
    net, north, _, south = line()
    south.table.put_connector(connector("db"), now=0.0)
    north.table.put_listener(listener("db", 5432), now=0.0)
    net.settle()
    assert condition(south.table.connector_statuses(), "db", "Matched").reason == "Elsewhere"
    net.unlink(*[net.sites[router(n)] for n in ("north", "middle")])
    net.settle()
    assert condition(south.table.connector_statuses(), "db", "Matched").status == "False"


def test_a_site_is_waited_for_by_its_neighbours_only() -> None:
    net, north, middle, south = line()
    offer_hello(south)
    assert south.exchange.waiting_for("hello:9090") == [middle.router]
    assert [view.router for view in south.exchange.peers()] == [middle.router]
    net.settle()
    assert south.exchange.waiting_for("hello:9090") == []
    assert north.router not in south.exchange.routers()


def test_a_link_that_is_lost_two_hops_away_leaves_the_listener_and_no_path_until_it_is_back() -> None:
    net, north, middle, south = line()
    offer_hello(south)
    net.settle()
    net.unlink(middle, south)
    net.settle()
    assert north.routes() == {}
    assert north.listening() == {"hello:9090": "127.0.0.1:9090"}
    net.link(middle, south)
    net.settle()
    assert north.routes() == {"hello:9090": [(south.router, middle.router, 2)]}


def test_an_edges_services_are_at_all_sites_and_its_uplinks_do_not_offer_them_back() -> None:
    """edge ── north ── middle ── south"""
    net, north, middle, south = line()
    edge = Site("leaf", service_address="127.0.0.9", edge=True)
    net.sites[edge.router] = edge
    net.link(edge, north)
    edge.table.put_connector(connector("hello", offer=service("hello", 9090)), now=0.0)
    south.table.put_connector(connector("other", offer=service("other", 9091)), now=0.0)
    net.settle()
    assert south.listening().keys() == edge.listening().keys() == {"hello:9090", "other:9091"}
    assert [r for r, _, _ in north.routes()["hello:9090"]] == [edge.router]
    assert [r for r, _, _ in south.routes()["hello:9090"]] == [north.router], "an edge is known to its uplinks only"
    assert edge.routes() == {"other:9091": [(south.router, north.router, 3)]}
    assert edge.exchange.waiting_for("hello:9090") == []
    assert condition(edge.table.connector_statuses(), "hello", "Ready").status == "True"
    assert middle.table.remote.keys_of(edge.router) == []


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
            one.due(other.router, net.now)
            one.speaker.handle_messages_reset(other.router, now=net.now)
            other.speaker.handle_messages_reset(one.router, now=net.now)
        elif what == "cut":
            net.unlink(one, other)
        elif what == "link" and frozenset((one.router, other.router)) not in net.links:
            net.link(one, other)
        elif what == "wait":
            net.now += port
            for each in sites:
                each.speaker.work(net.now)
    for a, b in pairs:
        if frozenset((sites[a].router, sites[b].router)) not in net.links:
            net.link(sites[a], sites[b])
    net.run(30.0)
    mine = {site.router: {c.routing_key for c in site.table.connector_statuses()} for site in sites}
    offered = {(router, key) for router, keys in mine.items() for key in keys}
    for site in sites:
        for other in sites:
            if other is not site:
                seen = {key for key in site.table.remote.keys_of(other.router) if site.table.remote.key(key)[other.router].targets}
                assert seen == mine[other.router]
                assert site.due(other.router, net.now) == []
        assert site.listening().keys() == {key for _, key in offered}
        assert site.exchange.waiting_for_all() == []
        for key in {key for _, key in offered}:
            assert {r for r, _, _ in site.routes().get(key, [])} == {r for r, k in offered if k == key and r != site.router}
        for status in (*site.table.listener_statuses(), *site.table.connector_statuses()):
            assert status.matched, f"{status.name} at {site.name}"
