"""
From what is configured and advertised to the smallest difference for the data plane, and what is matched.

    south: connector hello ──────── link ──────── north: listener hello
"""

from __future__ import annotations

import msgspec
import pytest
from memory_sites import (
    KeyInfo,
    Network,
    Site,
    condition,
    connector,
    direct,
    entries,
    forget,
    fragment,
    learn,
    listener,
    offer,
    router,
    service,
)

from vanrouter.addresses import AddressTable, LocalConnector, LocalListener, Path, Reserved
from vanrouter.addresses.health import State, Verdict
from vanrouter.addresses.table import SYNC_LINGER
from vanrouter.checks import Check
from vanrouter.model import RouterId
from vanrouter.plane import BindStatus, Connector, KeyWeight, Listener, ListenerState, Route, RouteTarget
from vanrouter.plane import Path as PathEntry

SOUTH, EAST = router("south"), router("east")


def table(**kwargs: object) -> AddressTable:
    return AddressTable(RouterId.parse(router("north")), **kwargs)  # type: ignore[arg-type]


def bind(t: AddressTable, name: str, status: BindStatus = BindStatus.LISTENING, error: str = "") -> None:
    t.handle_listener_state(ListenerState(name=name, status=status, port=1, error=error), now=0.0)


def test_what_is_configured_goes_to_the_plane_and_only_the_difference_does() -> None:
    t = table()
    t.put_listener(listener("web", 8000, key="hello"), now=0.0)
    t.put_connector(connector("db", 5432), now=0.0)
    assert t.take_changes().put == [
        Listener(name="web", host="127.0.0.1", port=8000, routing_key="hello"),
        Connector(name="db", routing_key="db", host="127.0.0.1", port=5432),
    ]
    assert not t.take_changes()
    t.put_connector(connector("db", 5432), now=1.0)
    assert not t.take_changes()
    t.put_connector(connector("db", 5433), now=1.0)
    assert entries(t.take_changes()) == (["connector/db"], [])
    t.drop_connector("db", now=2.0)
    t.drop_listener("web", now=2.0)
    assert entries(t.take_changes()) == ([], ["connector/db", "listener/web"])
    t.drop_listener("web", now=2.0)
    assert not t.take_changes()


def test_one_key_of_thousands_changes_one_entry_and_one_advertised_key() -> None:
    t = table(service_sync=False)
    t.set_path(SOUTH, direct(SOUTH, 1), now=0.0)
    learn(t, fragment("south", 1, *(KeyInfo(key=f"k{n}", targets=1) for n in range(1000))), now=0.0)
    for n in range(1000):
        t.put_connector(connector(f"c{n}", 10_000 + n), now=0.0)
    t.take_changes()
    t.take_advertised()
    t.put_connector(connector("c500", 9), now=1.0)
    assert entries(t.take_changes()) == (["connector/c500"], [])
    assert t.take_advertised() == {}
    t.drop_connector("c501", now=1.0)
    assert t.take_advertised() == {"c501": None}
    learn(t, fragment("south", 1, KeyInfo(key="k1000", targets=1), number=1), now=1.0)
    assert entries(t.take_changes()) == (["route/k1000"], ["connector/c501"])


def test_a_change_that_is_taken_back_before_it_is_taken_costs_nothing() -> None:
    t = table()
    t.put_connector(connector("db", 5432), now=0.0)
    t.drop_connector("db", now=0.0)
    assert not t.take_changes()


def test_a_snapshot_has_everything_and_counts_as_taken() -> None:
    t = table()
    t.put_connector(connector("db", 5432), now=0.0)
    t.put_listener(listener("db", 5000), now=0.0)
    assert len(t.entries()) == 2
    assert not t.take_changes()


def test_a_route_names_routers_and_a_path_says_how_each_is_reached() -> None:
    """north ── 3 ── west ── south, and north ── 1 ── east: the next hop to south is west, and nothing assumes otherwise"""
    t, west = table(), router("west")
    t.set_path(SOUTH, Path((west,), 5), now=0.0)
    t.set_path(EAST, Path((EAST,), 1), now=0.0)
    learn(t, fragment("south", 1, KeyInfo(key="hello", targets=2, cost=1)), now=0.0)
    learn(t, fragment("east", 1, KeyInfo(key="hello", targets=1, cost=7)), now=0.0)
    assert t.take_changes().put == [
        PathEntry(name=SOUTH, next_hops=[west], cost=5),
        PathEntry(name=EAST, next_hops=[EAST], cost=1),
        Route(name="hello", targets=[RouteTarget(SOUTH, 1), RouteTarget(EAST, 7)]),
    ]


def test_a_changed_path_is_one_entry_however_many_keys_lie_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    t, west = table(), router("west")
    t.set_path(SOUTH, Path((SOUTH,), 1), now=0.0)
    learn(t, fragment("south", 1, *(KeyInfo(key=f"k{n}", targets=1) for n in range(500))), now=0.0)
    t.take_changes()
    looked_at: list[str] = []
    monkeypatch.setattr(AddressTable, "_work_key", lambda _self, key, _now: looked_at.append(key))
    t.set_path(SOUTH, Path((SOUTH, west), 1), now=1.0)
    t.set_path(SOUTH, Path((west,), 7), now=1.0)
    assert t.take_changes().put == [PathEntry(name=SOUTH, next_hops=[west], cost=7)]
    assert looked_at == []


def test_equal_costs_are_ordered_by_router_id() -> None:
    t = table()
    for name in ("south", "east", "west"):
        t.set_path(router(name), direct(router(name), 1), now=0.0)
        learn(t, fragment(name, 1, KeyInfo(key="hello", targets=1)), now=0.0)
    found = [target.router for target in t.targets("hello")]
    assert found == sorted(found)
    assert len(found) == 3


def test_a_key_with_listeners_only_has_no_route() -> None:
    t = table()
    t.set_path(SOUTH, direct(SOUTH, 1), now=0.0)
    learn(t, fragment("south", 1, KeyInfo(key="hello", listeners=1)), now=0.0)
    assert entries(t.take_changes()) == ([f"path/{SOUTH}"], [])
    assert t.matched_connector("hello")
    assert not t.matched_listener("hello")


def test_without_a_path_nothing_is_reachable_and_with_it_again_everything_is() -> None:
    t = table()
    t.set_path(SOUTH, direct(SOUTH, 1), now=0.0)
    learn(t, fragment("south", 1, KeyInfo(key="hello", targets=1, listeners=1)), now=0.0)
    t.take_changes()
    t.set_path(SOUTH, None, now=1.0)
    assert entries(t.take_changes()) == ([], [f"path/{SOUTH}"])
    assert not t.matched_connector("hello")
    assert not t.matched_listener("hello")
    t.set_path(SOUTH, direct(SOUTH, 1), now=2.0)
    assert entries(t.take_changes()) == ([f"path/{SOUTH}"], [])
    assert t.matched_connector("hello")
    assert t.matched_listener("hello")


def test_the_services_of_a_router_that_stays_away_go_after_the_linger_and_not_before_and_come_back_with_it() -> None:
    t = table()
    t.set_path(SOUTH, direct(SOUTH, 1), now=0.0)
    learn(t, fragment("south", 1, offer("hello", 9090)), now=0.0)
    t.set_path(SOUTH, None, now=10.0)
    t.take_changes()
    t.handle_timeout(10.0 + SYNC_LINGER - 0.001)
    assert [s.name for s in t.listener_statuses()] == ["hello:9090"]
    t.handle_timeout(10.0 + SYNC_LINGER)
    assert t.listener_statuses() == []
    assert entries(t.take_changes()) == ([], ["listener/hello:9090"])
    assert t.services() == []
    t.set_path(SOUTH, direct(SOUTH, 3), now=500.0)
    assert entries(t.take_changes()) == (["listener/hello:9090", f"path/{SOUTH}"], []), "nobody says again what he said before"


def test_what_a_router_offers_to_which_there_was_never_a_path_gets_no_listener() -> None:
    t = table()
    learn(t, fragment("south", 1, offer("hello", 9090)), now=0.0)
    assert t.services() == []
    assert entries(t.take_changes()) == (["route/hello:9090"], [])


def test_both_ends_agree_that_listener_and_connector_are_matched() -> None:
    north, south = Site("north"), Site("south")
    net = Network(north, south)
    south.table.put_connector(connector("hello", 8080), now=0.0)
    north.table.put_listener(listener("hello", 9090), now=0.0)
    net.settle()
    assert condition(north.table.listener_statuses(), "hello", "Matched").reason == "NoTarget"
    assert condition(south.table.connector_statuses(), "hello", "Matched").reason == "NoListener"
    net.link(north, south)
    net.settle()
    here = condition(north.table.listener_statuses(), "hello", "Matched")
    assert (here.status, here.reason) == ("True", "Elsewhere")
    assert "site south" in here.message
    there = condition(south.table.connector_statuses(), "hello", "Matched")
    assert (there.status, there.reason) == ("True", "Elsewhere")
    assert "site north" in there.message
    net.unlink(north, south)
    net.settle()
    assert condition(north.table.listener_statuses(), "hello", "Matched").status == "False"
    assert condition(south.table.connector_statuses(), "hello", "Matched").status == "False"


def test_a_listener_whose_port_could_not_be_bound_matches_nobody_at_either_end() -> None:
    north, south = Site("north"), Site("south")
    north.busy.add(("127.0.0.1", 9090))
    net = Network(north, south)
    net.link(north, south)
    south.table.put_connector(connector("hello", 8080), now=0.0)
    north.table.put_listener(listener("hello", 9090), now=0.0)
    net.settle()
    found = condition(north.table.listener_statuses(), "hello", "Listening")
    assert (found.status, found.reason) == ("False", "PortInUse")
    assert "9090" in found.next
    assert condition(north.table.listener_statuses(), "hello", "Ready").reason == "PortInUse"
    assert condition(south.table.connector_statuses(), "hello", "Matched").status == "False"
    north.busy.clear()
    net.settle()
    assert condition(north.table.listener_statuses(), "hello", "Ready").status == "True"
    assert condition(south.table.connector_statuses(), "hello", "Matched").status == "True"


def test_a_target_here_matches_a_listener_here() -> None:
    t = table()
    t.put_connector(LocalConnector(name="me", routing_key="hello", embedded=True), now=0.0)
    t.put_listener(listener("hello", 9090), now=0.0)
    bind(t, "hello")
    assert condition(t.listener_statuses(), "hello", "Matched").reason == "Here"
    assert condition(t.connector_statuses(), "me", "Matched").reason == "Here"
    assert condition(t.connector_statuses(), "me", "Configured").message == "streams go to this process"


def test_of_two_listeners_on_one_port_the_first_stays_and_the_second_says_why_until_the_first_goes() -> None:
    t = table()
    t.put_listener(listener("one", 9090), now=0.0)
    t.put_listener(listener("two", 9090, host="0.0.0.0"), now=0.0)
    t.put_listener(listener("other-address", 9090, host="127.0.0.9"), now=0.0)
    assert entries(t.take_changes()) == (["listener/one", "listener/other-address"], [])
    found = condition(t.listener_statuses(), "two", "Listening")
    assert found.reason == "PortTaken"
    assert "the listener one" in found.message
    t.drop_listener("one", now=1.0)
    assert "other-address" in condition(t.listener_statuses(), "two", "Listening").message
    t.drop_listener("other-address", now=1.0)
    assert entries(t.take_changes()) == (["listener/two"], ["listener/one", "listener/other-address"])


def test_a_listener_does_not_take_the_port_of_a_link_access() -> None:
    t = table()
    t.set_reserved([Reserved("0.0.0.0", 7001, "the link access default")], now=0.0)
    t.put_listener(listener("web", 7001), now=0.0)
    assert not t.take_changes()
    assert "the link access default" in condition(t.listener_statuses(), "web", "Listening").message
    t.set_reserved([], now=1.0)
    assert entries(t.take_changes()) == (["listener/web"], [])


def test_a_connector_may_not_lead_back_into_this_router() -> None:
    t = table()
    t.set_reserved([Reserved("127.0.0.1", 7001, "the link access default")], now=0.0)
    t.put_connector(connector("access", 7001), now=0.0)
    t.put_connector(connector("elsewhere", 7001, host="10.0.0.1"), now=0.0)
    assert entries(t.take_changes()) == (["connector/elsewhere"], [])
    assert condition(t.connector_statuses(), "access", "Ready").reason == "LeadsBack"


def test_a_connector_is_refused_only_while_our_listener_really_has_its_address() -> None:
    """a listener put by mistake on the port of a running server does not cut that server off: its bind fails"""
    t = table()
    t.put_connector(connector("db", 5432), now=0.0)
    t.take_changes()
    t.put_listener(listener("mistake", 5432, host="0.0.0.0"), now=0.0)
    bind(t, "mistake", BindStatus.IN_USE, "address in use")
    assert entries(t.take_changes()) == (["listener/mistake"], [])
    bind(t, "mistake", BindStatus.BOUND)
    assert entries(t.take_changes()) == ([], ["connector/db"])
    t.drop_listener("mistake", now=1.0)
    assert entries(t.take_changes()) == (["connector/db"], ["listener/mistake"])


def test_a_connector_whose_target_is_not_checked_says_what_streams_met() -> None:
    t = table()
    t.put_connector(connector("db", 5432), now=0.0)
    unchecked = Verdict(state=State.NEW, check=Check(type="none"))
    t.set_verdicts({"db": msgspec.structs.replace(unchecked, connects_failed=3, error="connection refused")}, now=5.0)
    found = condition(t.connector_statuses(), "db", "Healthy")
    assert (found.status, found.reason, found.since) == ("False", "TargetFails", 5.0)
    assert "connection refused" in found.message
    t.set_verdicts({"db": unchecked}, now=6.0)
    assert condition(t.connector_statuses(), "db", "Healthy").status == "True"


def test_since_moves_only_when_status_or_reason_do() -> None:
    t = table()
    t.put_listener(listener("web", 8000), now=1.0)
    t.put_connector(connector("web", 80), now=5.0)
    assert condition(t.listener_statuses(), "web", "Matched").since == 5.0
    t.put_connector(connector("web2", 81, key="web"), now=9.0)
    assert condition(t.listener_statuses(), "web", "Matched").since == 5.0


def test_a_listener_that_moves_to_another_port_is_pending_until_the_plane_speaks_of_the_new_one() -> None:
    t = table()
    t.put_listener(listener("web", 8000), now=0.0)
    bind(t, "web", BindStatus.BOUND)
    assert t.settled(["web"])
    t.put_listener(listener("web", 8001), now=1.0)
    assert condition(t.listener_statuses(), "web", "Listening").reason == "Pending"
    assert not t.settled(["web"])


def test_what_is_advertised_counts_targets_and_bound_listeners() -> None:
    t = table()
    t.put_connector(connector("a", 1, key="hello", offer=service("hello", 80)), now=0.0)
    t.put_connector(connector("b", 2, key="hello"), now=0.0)
    t.put_listener(listener("l", 9000, key="hello", host="127.0.0.7"), now=0.0)
    assert t.take_advertised() == {"hello": KeyInfo(key="hello", targets=2, services=[service("hello", 80)])}
    bind(t, "l")
    assert t.take_advertised() == {"hello": KeyInfo(key="hello", targets=2, listeners=1, services=[service("hello", 80)])}
    assert t.take_advertised() == {}


def test_more_keys_than_a_site_may_advertise_are_said_and_wait_for_room() -> None:
    t = table(service_sync=False)
    for n in range(4097):
        t.put_connector(connector(f"c{n}", 1 + n), now=0.0)
    assert len(t.take_advertised()) == 4096
    assert condition(t.connector_statuses(), "c4096", "Ready").reason == "TooManyKeys"
    t.drop_connector("c7", now=1.0)
    assert t.take_advertised() == {"c7": None, "c4096": KeyInfo(key="c4096", targets=1)}
    assert condition(t.connector_statuses(), "c4096", "Configured").reason == "Ok"


def test_a_withdrawn_router_is_gone_at_once_with_its_listeners() -> None:
    t = table()
    t.set_path(SOUTH, direct(SOUTH, 1), now=0.0)
    learn(t, fragment("south", 1, offer("hello", 9090)), now=0.0)
    t.take_changes()
    forget(t, SOUTH, now=1.0)
    assert entries(t.take_changes()) == ([], ["listener/hello:9090", "route/hello:9090"])


@pytest.mark.parametrize("address", ["Hello", "hello:9090", "a b", "-x", "x" * 64])
def test_a_service_name_that_nobody_would_take_is_said_here_and_not_offered(address: str) -> None:
    t = table()
    t.put_connector(connector("hello", 8080, offer=service(address, 9090), key="k"), now=0.0)
    assert t.take_advertised() == {"k": KeyInfo(key="k", targets=1)}
    assert t.services() == []
    found = condition(t.connector_statuses(), "hello", "Synced")
    assert found.status == "False"
    assert "service address" in found.message


def test_a_listener_that_was_dropped_and_put_again_at_once_is_as_bound_as_before() -> None:
    """The plane sees no difference and says nothing new: what it said before still holds."""
    t = table()
    t.put_listener(listener("web", 8000, key="hello"), now=0.0)
    t.put_connector(connector("db", 5432, key="hello"), now=0.0)
    t.take_changes()
    bind(t, "web")
    assert t.settled(["hello"])
    t.drop_listener("web", now=1.0)
    t.put_listener(listener("web", 8000, key="hello"), now=1.0)
    assert not t.take_changes()
    assert t.settled(["hello"])
    t.drop_listener("web", now=2.0)
    t.take_changes()
    t.put_listener(listener("web", 8000, key="hello"), now=2.0)
    assert not t.settled(["hello"]), "this one is new to the plane"


def test_a_thousand_connectors_to_one_port_cost_no_more_than_to_a_thousand_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []
    look = AddressTable._work_key

    def counting(self: AddressTable, key: str, now: float) -> None:
        looked_at.append(key)
        look(self, key, now)

    monkeypatch.setattr(AddressTable, "_work_key", counting)
    t = table(service_sync=False)
    for n in range(1000):
        t.put_connector(connector(f"c{n}", 80), now=0.0)
    assert len(looked_at) <= 2_000


# ---- listeners with several keys --------------------------------------------------------------------------------------------------------


def several(*keys: str) -> LocalListener:
    return LocalListener(name="all", host="127.0.0.1", port=9000, strategy="priority", keys=tuple(KeyWeight(key) for key in keys))


def test_a_listener_of_several_keys_is_one_entry_and_matched_while_one_of_them_is() -> None:
    t = table()
    t.put_listener(several("blue", "green"), now=0.0)
    bind(t, "all", BindStatus.BOUND)
    (entry,) = t.take_changes().put
    assert entry == Listener(name="all", host="127.0.0.1", port=9000, strategy="priority", keys=[KeyWeight("blue"), KeyWeight("green")])
    assert not t.listener_statuses()[0].matched
    assert "blue or green" in condition(t.listener_statuses(), "all", "Matched").message
    t.put_connector(connector("green"), now=1.0)
    assert entries(t.take_changes()) == (["connector/green"], [])
    assert t.listener_statuses()[0].matched
    assert condition(t.connector_statuses(), "green", "Matched").reason == "Here"
    assert not t.settled(["blue"]), "it is matched by green, and does not listen yet"
    bind(t, "all")
    assert t.settled(["blue", "green"])
    t.set_path(SOUTH, direct(SOUTH, 1), now=2.0)
    learn(t, fragment("south", 1, KeyInfo(key="blue", targets=1)), now=2.0)
    found = condition(t.listener_statuses(), "all", "Matched")
    assert (found.status, found.reason) == ("True", "HereAndElsewhere")


def test_a_listener_of_several_keys_is_advertised_under_each_and_moves_with_them() -> None:
    t = table()
    t.put_listener(several("blue", "green"), now=0.0)
    bind(t, "all", BindStatus.BOUND)
    assert t.take_advertised() == {key: KeyInfo(key=key, listeners=1) for key in ("blue", "green")}
    t.put_listener(several("green", "red"), now=1.0)
    assert t.take_advertised() == {"blue": None, "red": KeyInfo(key="red", listeners=1)}
    t.drop_listener("all", now=2.0)
    assert t.take_advertised() == {"green": None, "red": None}
    assert entries(t.take_changes()) == ([], [])
