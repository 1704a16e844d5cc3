"""
What becomes of targets that fail their checks: here, at other sites, and in what is said about it.

    south: connector a (8081), connector b (8082), key hello ──── link ──── north: listener hello
"""

from __future__ import annotations

import pytest
from memory_sites import Network, Site, condition, connector, listener, router, service

from vanrouter.addresses import AddressTable
from vanrouter.addresses.health import State, Verdict
from vanrouter.addresses.offered import LAST_RESORT, offered_targets
from vanrouter.checks import Check
from vanrouter.conditions import Condition
from vanrouter.messages import KeyInfo
from vanrouter.model import RouterId
from vanrouter.plane import RouteTarget

SOUND = Verdict(state=State.HEALTHY, check=Check())
REFUSES = Verdict(state=State.EJECTED, check=Check(), failed=2, error="Connection refused", may_serve=False)
SILENT = Verdict(state=State.EJECTED, check=Check(), failed=2, error="no answer within 1 s")
RETURNS = Verdict(state=State.PROBATION, check=Check(), passed=1, error="Connection refused")
SUSPECT = Verdict(state=State.SUSPECT, check=Check(), failed=1, error="Connection refused", may_serve=False)


def south_and_north(*, offer: bool = False) -> tuple[Network, Site, Site]:
    south, north = Site("south", service_address="127.0.0.2"), Site("north")
    network = Network(south, north)
    network.link(south, north)
    what = service("hello", 9090) if offer else None
    for name, port in (("a", 8081), ("b", 8082)):
        south.table.put_connector(connector(name, port, key="hello", offer=what), now=0.0)
    if not offer:
        north.table.put_listener(listener("web", 8000, key="hello"), now=0.0)
    network.settle()
    return network, south, north


def say(network: Network, site: Site, **verdicts: Verdict) -> None:
    site.table.set_verdicts(verdicts, now=network.now)
    network.run(2.0)


def connectors(site: Site) -> list[str]:
    return sorted(name for kind, name in site.plane if kind == "connector")


def advertised(site: Site, at: Site) -> KeyInfo | None:
    return at.table.remote.info(site.router, "hello")


def healthy(site: Site, address: str) -> Condition:
    (found,) = [s for s in site.table.services() if s.address == address]
    (said,) = [c for c in found.conditions if c.type == "Healthy"]
    return said


# ---- one of two -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [REFUSES, SILENT, RETURNS])
def test_a_target_that_is_out_is_offered_neither_here_nor_to_others_while_there_is_another(verdict: Verdict) -> None:
    network, south, north = south_and_north()
    assert advertised(south, north) == KeyInfo(key="hello", targets=2)
    say(network, south, a=verdict)
    assert connectors(south) == ["b"]
    assert "fails its checks" in south.table.connector_error("a")
    assert south.table.connector_error("b") == ""
    assert advertised(south, north) == KeyInfo(key="hello", targets=1, down=1)
    assert north.table.matched_listener("hello")
    say(network, south, a=SOUND)
    assert connectors(south) == ["a", "b"]
    assert advertised(south, north) == KeyInfo(key="hello", targets=2)


def test_a_suspect_is_still_offered() -> None:
    network, south, north = south_and_north()
    say(network, south, a=SUSPECT)
    assert connectors(south) == ["a", "b"]
    assert advertised(south, north) == KeyInfo(key="hello", targets=2)


def test_what_fails_is_named_with_reason_date_and_next_action() -> None:
    network, south, _ = south_and_north()
    network.now = 7.0
    say(network, south, a=REFUSES, b=SOUND)
    found = condition(south.table.connector_statuses(), "a", "Healthy")
    assert (found.status, found.reason, found.since) == ("False", "TargetDown", 7.0)
    assert "127.0.0.1:8081" in found.message
    assert "Connection refused" in found.message
    assert "no new stream goes there" in found.message
    assert "server runs" in found.next
    assert condition(south.table.connector_statuses(), "a", "Ready").reason == "TargetDown"
    assert condition(south.table.connector_statuses(), "b", "Healthy").reason == "Ok"


# ---- the last one -----------------------------------------------------------------------------------------------------------------------


def test_the_last_target_goes_when_nothing_is_there_and_the_other_side_says_why() -> None:
    network, south, north = south_and_north()
    say(network, south, a=REFUSES, b=REFUSES)
    assert connectors(south) == []
    assert advertised(south, north) == KeyInfo(key="hello", down=2)
    assert ("route", "hello") not in north.plane
    assert not north.table.matched_listener("hello")
    found = condition(north.table.listener_statuses(), "web", "Matched")
    assert (found.status, found.reason) == ("False", "TargetsDown")
    assert "site south" in found.message
    assert "clients are refused" in found.message
    assert "van connector status" in found.next
    say(network, south, b=SOUND)
    assert north.table.matched_listener("hello")
    assert condition(north.table.listener_statuses(), "web", "Matched").reason == "Elsewhere"


@pytest.mark.parametrize("verdict", [SILENT, RETURNS])
def test_the_last_target_stays_as_a_last_resort_when_something_may_be_there(verdict: Verdict) -> None:
    """Overloaded, or held back because it came and went: a stream may still be served, and there is nothing else."""
    network, south, north = south_and_north()
    say(network, south, a=verdict, b=REFUSES)
    assert connectors(south) == ["a"]
    assert advertised(south, north) == KeyInfo(key="hello", targets=1, down=2, cost=LAST_RESORT)
    assert north.table.matched_listener("hello")
    found = condition(south.table.connector_statuses(), "a", "Healthy")
    assert found.status == "False"
    assert "nothing better is left" in found.message
    assert "no new stream" in condition(south.table.connector_statuses(), "b", "Healthy").message


def test_a_last_resort_gives_way_to_a_sound_target_at_another_site() -> None:
    """north has a listener and a target that fails; south has a sound one, then none, then one that fails too."""
    network, south, north = south_and_north()
    north.table.put_connector(connector("own", 8083, key="hello"), now=0.0)
    say(network, north, own=SILENT)
    assert connectors(north) == []
    assert advertised(north, south) == KeyInfo(key="hello", targets=1, listeners=1, down=1, cost=LAST_RESORT)
    say(network, south, a=REFUSES, b=REFUSES)
    assert connectors(north) == ["own"]
    say(network, south, a=SILENT)
    assert connectors(north) == ["own"], "two last resorts do not push each other out"
    assert connectors(south) == ["a"]
    say(network, south, b=SOUND)
    assert connectors(north) == []
    assert connectors(south) == ["b"]


def test_the_price_of_a_last_resort_is_the_highest_that_a_route_knows() -> None:
    t = AddressTable(RouterId.parse(router("north")))
    t.set_route("hello", [RouteTarget(router("south"), LAST_RESORT)], now=0.0)
    assert t.targets("hello")[0].cost == LAST_RESORT
    KeyInfo(key="k", targets=1, cost=LAST_RESORT)


def test_nothing_is_offered_beyond_what_there_is() -> None:
    both = [connector("a", 1), connector("b", 2)]
    for verdicts in ({}, {"a": SOUND}, {"a": REFUSES}, {"a": SILENT, "b": REFUSES}, {"a": REFUSES, "b": REFUSES}, {"c": REFUSES}):
        for elsewhere in (False, True):
            found = offered_targets(both, verdicts, better_elsewhere=elsewhere)
            assert len(found.here) <= 2
            assert found.targets + found.down <= 3 if found.cost else found.targets + found.down == 2
            assert bool(found.here) or found.down == 2


# ---- services ---------------------------------------------------------------------------------------------------------------------------


def test_a_service_whose_targets_are_down_keeps_its_listener_and_says_so_at_both_ends() -> None:
    network, south, north = south_and_north(offer=True)
    assert north.listening() == {"hello:9090": "127.0.0.1:9090"}
    assert (healthy(north, "hello").status, healthy(north, "hello").reason) == ("True", "Ok")
    say(network, south, a=REFUSES)
    for site in (south, north):
        found = healthy(site, "hello")
        assert (found.status, found.reason) == ("True", "SomeTargetsDown")
        assert "1 of 2" in found.message
        assert ("at this site" if site is south else "at site south") in found.message
    asked = network.now
    say(network, south, b=REFUSES)
    assert north.listening() == {"hello:9090": "127.0.0.1:9090"}, "the port stays ours: the server will return"
    assert not north.table.matched_listener("hello")
    for site in (south, north):
        found = healthy(site, "hello")
        assert (found.status, found.reason) == ("False", "TargetsDown")
        assert asked <= found.since <= network.now
        assert found.next
    say(network, south, a=SOUND, b=SOUND)
    assert healthy(north, "hello").reason == "Ok"
    south.table.drop_connector("a", now=network.now)
    south.table.drop_connector("b", now=network.now)
    network.run(2.0)
    assert north.listening() == {}
    assert [s.address for s in north.table.services()] == []


def test_a_verdict_of_a_connector_that_is_gone_changes_nothing() -> None:
    network, south, _ = south_and_north()
    say(network, south, a=REFUSES)
    south.table.drop_connector("a", now=network.now)
    south.table.set_verdicts({"a": REFUSES}, now=network.now)
    south.table.put_connector(connector("a", 8081, key="hello"), now=network.now)
    network.settle()
    assert connectors(south) == ["a", "b"]


def test_a_target_that_comes_and_goes_costs_its_key_and_nothing_else() -> None:
    network, south, north = south_and_north()
    for number in range(100):
        south.table.put_connector(connector(f"other{number}", 10_000 + number), now=network.now)
    network.run(2.0)
    south.deltas.clear()
    north.deltas.clear()
    say(network, south, a=REFUSES)
    say(network, south, b=REFUSES)
    assert [(len(d.put), [r.name for r in d.drop]) for d in south.deltas] == [(0, ["a"]), (0, ["b"])]
    assert [(len(d.put), [r.name for r in d.drop]) for d in north.deltas] == [(0, ["hello"])]
