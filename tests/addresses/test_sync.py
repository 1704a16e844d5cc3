"""
Service sync: what one site exposes appears at the others, and what cannot is said at both ends.

    south: hello:9090 ──▶ listener at north, and at south itself
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
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

from vanrouter.addresses import AddressTable, Reserved
from vanrouter.model import RouterId
from vanrouter.plane import Listener, Path


def linked(*sites: Site) -> Network:
    net = Network(*sites)
    first, *others = sites
    for other in others:
        net.link(first, other)
    net.settle()
    return net


def expose(site: Site, address: str, port: int, protocol: str = "tcp", *, target: int = 8080, key: str = "", name: str = "") -> None:
    name = name or f"{address}-{port}"
    site.table.put_connector(connector(name, target, key=key, offer=service(address, port, protocol)), now=0.0)


def test_what_one_site_exposes_appears_at_the_other_and_goes_when_it_is_taken_back() -> None:
    north, south = Site("north"), Site("south", service_address="127.0.0.2")
    net = linked(north, south)
    expose(south, "hello", 9090)
    net.settle()
    assert north.listening() == {"hello:9090": "127.0.0.1:9090"}
    assert south.listening() == {"hello:9090": "127.0.0.2:9090"}
    assert north.routes() == {"hello:9090": [(south.router, south.router, 1)]}
    assert condition(south.table.connector_statuses(), "hello-9090", "Ready").status == "True"
    south.table.drop_connector("hello-9090", now=0.0)
    net.settle()
    assert {kind for kind, _ in (*north.plane, *south.plane)} == {"path"}
    assert north.table.services() == []


def test_two_sites_on_one_address_want_the_same_port_status_says_so_and_the_rest_works() -> None:
    """both 127.0.0.1: south, which exposes, binds first; north finds the port in use"""
    north, south = Site("north"), Site("south")
    north.busy.add(("127.0.0.1", 9090))
    net = linked(north, south)
    expose(south, "hello", 9090)
    expose(south, "other", 9091)
    net.settle()
    assert condition(north.table.listener_statuses(), "hello:9090", "Ready").reason == "PortInUse"
    told = condition(south.table.connector_statuses(), "hello-9090", "Synced")
    assert (told.status, told.reason) == ("False", "PortNotBound")
    assert "site north" in told.message
    assert condition(north.table.listener_statuses(), "other:9091", "Ready").status == "True"
    north.busy.clear()
    net.settle()
    assert condition(south.table.connector_statuses(), "hello-9090", "Synced").status == "True"


def test_the_same_name_with_other_ports_adds_ports() -> None:
    north, south, east = Site("north"), Site("south"), Site("east")
    net = linked(north, south, east)
    expose(south, "hello", 9090)
    expose(east, "hello", 9091)
    net.settle()
    assert north.listening() == {"hello:9090": "127.0.0.1:9090", "hello:9091": "127.0.0.1:9091"}
    (status,) = north.table.services()
    assert (status.ports, status.protocol, status.conflict) == ([9090, 9091], "tcp", "")


def test_the_same_address_and_port_at_two_sites_are_two_targets_of_one_service() -> None:
    north, south, east = Site("north"), Site("south"), Site("east")
    net = linked(north, south, east)
    expose(south, "hello", 9090)
    expose(east, "hello", 9090)
    net.settle()
    assert len(north.routes()["hello:9090"]) == 2
    south.table.drop_connector("hello-9090", now=0.0)
    net.settle()
    assert [r for r, _, _ in north.routes()["hello:9090"]] == [east.router]
    assert north.listening() == {"hello:9090": "127.0.0.1:9090"}


def test_another_protocol_is_a_conflict_that_both_sites_show_and_the_first_one_stays() -> None:
    """south: hello tcp, first.  east: hello http, later.  Linked through north, and to each other."""
    north, south, east = Site("north"), Site("south"), Site("east", service_address="127.0.0.3")
    net = linked(north, south, east)
    net.link(south, east)
    expose(south, "hello", 9090)
    net.settle()
    expose(east, "hello", 9090, "http")
    net.settle()
    (status,) = north.table.services()
    assert status.protocol == "tcp"
    assert "east" in status.conflict
    assert [r for r, _, _ in north.routes()["hello:9090"]] == [south.router]
    told = condition(east.table.connector_statuses(), "hello-9090", "Synced")
    assert (told.status, told.next != "") == ("False", True)
    assert "tcp" in told.message
    assert south.table.services()[0].conflict
    assert east.table.services()[0].conflict
    south.table.drop_connector("hello-9090", now=0.0)
    net.settle()
    assert [r for r, _, _ in north.routes()["hello:9090"]] == [east.router]
    assert north.table.services()[0].protocol == "http"
    assert condition(east.table.connector_statuses(), "hello-9090", "Synced").status == "True"


def test_another_routing_key_on_the_same_address_and_port_is_a_conflict() -> None:
    north, south, east = Site("north"), Site("south"), Site("east")
    net = linked(north, south, east)
    expose(south, "hello", 9090, key="hello")
    net.settle()
    expose(east, "hello", 9090, key="hallo")
    net.settle()
    assert next(e for e in north.plane.values() if isinstance(e, Listener)).routing_key == "hello"
    told = condition(east.table.connector_statuses(), "hello-9090", "Synced")
    assert told.reason == "ConflictHere", "east is two hops from south, and knows what it offers"
    assert "routing key hello here" in told.message
    assert [p.reason for p in north.table.problems(east.router)] == ["KeyConflict"]


def test_what_came_first_stays_while_anybody_offers_it() -> None:
    """south: tcp, key hello.  east: http.  west: tcp, key hallo.  Then south goes, and a second west offers what south did"""
    t = AddressTable(RouterId.parse(router("north")))
    for name in ("south", "east", "west", "far"):
        t.set_path(router(name), direct(router(name), 1), now=0.0)
    learn(t, fragment("south", 1, offer("hello", 9090, key="hello")), now=0.0)
    learn(t, fragment("east", 1, offer("hello", 9090, "http", key="hello")), now=0.0)
    learn(t, fragment("west", 1, offer("hello", 9090, key="hallo")), now=0.0)
    learn(t, fragment("far", 1, offer("hello", 9090, key="hello")), now=0.0)
    forget(t, router("south"), now=1.0)
    assert [s.protocol for s in t.services()] == ["tcp"]
    assert [s.routing_key for s in t.listener_statuses()] == ["hello"]
    forget(t, router("far"), now=2.0)
    assert [s.routing_key for s in t.listener_statuses()] == ["hallo"]
    forget(t, router("west"), now=3.0)
    assert [s.protocol for s in t.services()] == ["http"]


def test_a_port_of_another_service_is_skipped_with_a_reason_until_it_is_free() -> None:
    north, south, east = Site("north"), Site("south"), Site("east")
    net = linked(north, south, east)
    expose(south, "hello", 9090)
    net.settle()
    expose(east, "other", 9090)
    net.settle()
    assert north.listening() == {"hello:9090": "127.0.0.1:9090"}
    (other,) = [s for s in north.table.services() if s.address == "other"]
    assert other.skipped[0].reason == "PortTaken"
    assert "the service hello" in other.skipped[0].message
    assert condition(east.table.connector_statuses(), "other-9090", "Synced").reason == "ConflictHere"
    assert [p.reason for p in north.table.problems(east.router)] == ["PortTaken"]
    assert north.routes().keys() == {"hello:9090", "other:9090"}, "an explicit listener may still use it"
    south.table.drop_connector("hello-9090", now=0.0)
    net.settle()
    assert north.listening() == {"other:9090": "127.0.0.1:9090"}
    assert condition(east.table.connector_statuses(), "other-9090", "Synced").status == "True"


def test_our_own_listeners_targets_and_accesses_keep_their_ports() -> None:
    north, south = Site("north"), Site("south", service_address="127.0.0.2")
    net = linked(north, south)
    north.table.put_listener(listener("mine", 9001), now=0.0)
    north.table.put_connector(connector("server", 9002), now=0.0)
    north.table.set_reserved([Reserved("0.0.0.0", 9003, "the link access default")], now=0.0)
    for port in (9001, 9002, 9003, 9004):
        expose(south, "hello", port)
    net.settle()
    assert north.listening() == {"mine": "127.0.0.1:9001", "hello:9004": "127.0.0.1:9004"}
    (status,) = north.table.services()
    why = " ".join(p.message for p in status.skipped)
    assert "the listener mine" in why
    assert "the target of the connector server" in why
    assert "the link access default" in why
    north.table.drop_listener("mine", now=0.0)
    net.settle()
    assert "hello:9001" in north.listening()


def test_a_port_that_is_not_reserved_any_more_gets_its_listener_at_once() -> None:
    t = AddressTable(RouterId.parse(router("north")))
    t.set_reserved([Reserved("127.0.0.1", 9090, "the link access default")], now=0.0)
    t.set_path(router("south"), direct(router("south"), 1), now=0.0)
    learn(t, fragment("south", 1, offer("hello", 9090)), now=0.0)
    assert "listener/hello:9090" not in entries(t.take_changes())[0]
    t.set_reserved([], now=1.0)
    assert entries(t.take_changes()) == (["listener/hello:9090"], [])


def test_an_own_listener_put_later_takes_the_port_from_the_automatic_one_in_one_change() -> None:
    north, south = Site("north"), Site("south", service_address="127.0.0.2")
    net = linked(north, south)
    expose(south, "hello", 9090)
    net.settle()
    north.table.put_listener(listener("mine", 9090), now=0.0)
    assert entries(north.table.take_changes()) == (["listener/mine"], ["listener/hello:9090"])


def test_a_service_whose_server_has_the_very_address_of_its_listener_gets_none_here() -> None:
    """van expose host 127.0.0.1:9090 --port 9090: the server is already there by that name"""
    south = Site("south")
    expose(south, "hello", 9090, target=9090)
    south.apply(0.0)
    assert south.listening() == {}
    assert "the target of the connector" in south.table.services()[0].skipped[0].message
    assert ("connector", "hello-9090") in south.plane


def test_a_site_without_sync_gets_no_listeners_and_offers_no_services_but_its_keys_are_reachable() -> None:
    north, south = Site("north", sync=False), Site("south")
    net = linked(north, south)
    expose(south, "hello", 9090)
    expose(north, "other", 9091)
    net.settle()
    assert north.listening() == {}
    assert south.listening() == {"hello:9090": "127.0.0.1:9090"}
    assert south.routes().keys() == {"other:9091"}
    north.table.set_sync(service_address="127.0.0.1", service_sync=True, now=0.0)
    net.settle()
    assert north.listening().keys() == {"hello:9090", "other:9091"}
    assert south.listening().keys() == {"hello:9090", "other:9091"}
    north.table.set_sync(service_address="127.0.0.1", service_sync=False, now=0.0)
    net.settle()
    assert north.listening() == {}
    assert south.listening().keys() == {"hello:9090"}


def test_own_services_may_be_left_out_at_their_own_site() -> None:
    north, south = Site("north"), Site("south", service_address="127.0.0.2")
    net = linked(north, south)
    south.table.set_sync(service_address="127.0.0.2", service_sync=True, sync_own=False, now=0.0)
    expose(south, "hello", 9090)
    net.settle()
    assert south.listening() == {}
    assert north.listening() == {"hello:9090": "127.0.0.1:9090"}


def test_another_service_address_moves_every_automatic_listener() -> None:
    north, south = Site("north"), Site("south", service_address="127.0.0.2")
    net = linked(north, south)
    expose(south, "hello", 9090)
    north.table.put_listener(listener("mine", 9090, host="127.0.0.5"), now=0.0)
    net.settle()
    north.table.set_sync(service_address="127.0.0.5", service_sync=True, now=0.0)
    net.settle()
    assert north.listening() == {"mine": "127.0.0.5:9090"}
    north.table.set_sync(service_address="127.0.0.6", service_sync=True, now=0.0)
    net.settle()
    assert north.listening() == {"mine": "127.0.0.5:9090", "hello:9090": "127.0.0.6:9090"}


def test_a_short_outage_keeps_the_listener_and_a_restarted_peer_finds_it_there() -> None:
    north, south = Site("north"), Site("south", service_address="127.0.0.2")
    net = linked(north, south)
    expose(south, "hello", 9090)
    net.settle()
    before = len(north.deltas)
    net.unlink(north, south)
    net.run(20.0)
    again = Site("south", service_address="127.0.0.2", boot=2)
    expose(again, "hello", 9090)
    net.sites[again.router] = again
    net.link(north, again)
    net.settle()
    assert north.listening() == {"hello:9090": "127.0.0.1:9090"}
    assert not [r for delta in north.deltas[before:] for r in delta.drop if r.kind == "listener"]
    assert [r for r, _, _ in north.routes()["hello:9090"]] == [again.router]
    net.run(120.0, step=10.0)
    assert [o.router for o in north.table.services()[0].offers] == [again.router]


# ---- any order of events ---------------------------------------------------------------------------------------------------------------

NAMES = ["south", "east", "west"]
protocols = st.sampled_from(["tcp", "http"])
services = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3), protocols, st.sampled_from(["", "x"])), max_size=4)
moves = st.lists(
    st.one_of(
        st.tuples(st.just("advertise"), st.sampled_from(NAMES), services),
        st.tuples(st.just("path"), st.sampled_from(NAMES), st.booleans()),
        st.tuples(st.just("listener"), st.sampled_from("pq"), st.integers(0, 3)),
        st.tuples(st.just("connector"), st.sampled_from("pq"), st.tuples(st.integers(0, 3), st.sampled_from("abc"), protocols)),
        st.tuples(st.just("reserve"), st.just(""), st.integers(0, 3)),
        st.tuples(st.just("sync"), st.just(""), st.booleans()),
        st.tuples(st.just("wait"), st.just(""), st.integers(1, 100)),
        st.tuples(st.just("take"), st.just(""), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(script=moves)
def test_in_any_order_no_port_has_two_listeners_and_the_differences_add_up(script: list[tuple]) -> None:  # type: ignore[type-arg]
    t = AddressTable(RouterId.parse(router("north")))
    plane: dict[tuple[str, str], object] = {}
    sequences: dict[str, int] = {}
    reachable: set[str] = set()
    now = 0.0

    def take() -> None:
        delta = t.take_changes()
        for ref in delta.drop:
            del plane[ref.kind, ref.name]
        for entry in delta.put:
            ref2 = (type(entry).__struct_config__.tag, entry.name)
            assert plane.get(ref2) != entry, "a difference that makes none"
            plane[ref2] = entry

    for what, name, value in script:
        if what == "advertise":
            sequences[name] = sequences.get(name, 0) + 1
            infos = {f"{k or a}:{port}": offer(a, port, protocol, key=f"{k or a}:{port}") for a, port, protocol, k in value}
            learn(t, fragment(name, sequences[name], *infos.values()), now=now)
        elif what == "path":
            (reachable.add if value else reachable.discard)(router(name))
            t.set_path(router(name), direct(router(name), 1) if value else None, now=now)
        elif what == "listener":
            if value:
                t.put_listener(listener(name, value), now=now)
            else:
                t.drop_listener(name, now=now)
        elif what == "connector":
            port, address, protocol = value
            if port:
                t.put_connector(connector(name, port, offer=service(address, port, protocol)), now=now)
            else:
                t.drop_connector(name, now=now)
        elif what == "reserve":
            t.set_reserved([Reserved("127.0.0.1", value, "the access")] if value else [], now=now)
        elif what == "sync":
            t.set_sync(service_address="127.0.0.1", service_sync=value, now=now)
        elif what == "wait":
            now += value
            t.handle_timeout(now)
        else:
            take()
        for status in (*t.listener_statuses(), *t.connector_statuses()):
            assert {"Ready", "Matched"} <= {c.type for c in status.conditions}
    take()
    assert sorted(plane, key=str) == sorted(((type(e).__struct_config__.tag, e.name) for e in t.entries()), key=str)
    listeners = [e for e in plane.values() if isinstance(e, Listener)]
    where = [(e.host, e.port) for e in listeners]
    assert len(where) == len(set(where)), "two listeners on one port"
    assert {e.name for e in plane.values() if isinstance(e, Path)} == reachable
    for status in t.services():
        automatic = {s.port for s in status.listeners}
        skipped = {p.port for p in status.skipped}
        assert not automatic & skipped
        fitting = {o.service.port for o in status.offers if o.service.protocol == status.protocol}
        assert automatic | skipped in (fitting, set()), "every port of a service has a listener or a reason"


def test_a_key_without_targets_offers_nothing() -> None:
    t = AddressTable(RouterId.parse(router("north")))
    t.set_path(router("south"), direct(router("south"), 1), now=0.0)
    learn(t, fragment("south", 1, KeyInfo(key="hello:9090", listeners=1, services=[service("hello", 9090)])), now=0.0)
    assert t.services() == []
