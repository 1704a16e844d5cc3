"""The network as one router sees it, and what it says would be lost."""

from __future__ import annotations

from typing import Any

import pytest
from engines import World, router, site

from vanrouter.errors import ConfigError
from vanrouter.routing.simulate import Down, Outcome, parse_down, simulate
from vanrouter.routing.view import NetworkView, network_view


def diamond() -> World:
    #       b
    #     1/ \1
    #     a   d ── key
    #     2\ /2
    #       c ── key
    world = World()
    world.add("a", "b", "c", "d")
    world.link("a", "b", "d")
    world.link("a", "c", "d", cost=2)
    world.set("d", "key", targets=2)
    world.set("c", "key")
    world.set("d", "only-d")
    world.set("a", "local")
    world.settle()
    return world


def of(world: World, name: str, *words: str, links: dict[str, list[str]] | None = None) -> Outcome:
    engine = world.engines[name]
    return simulate(engine, parse_down(words, NetworkView(engine, name), links or {}), streams_by_link={router("b"): 7, router("c"): 1})


def losses(outcome: Outcome) -> dict[str, tuple[int, int]]:
    return {loss.key: (loss.before, loss.after) for loss in outcome.keys}


def names(world: World, document: list[dict[str, Any]], *fields: str) -> list[tuple[Any, ...]]:
    return [tuple(item[field] for field in fields) for item in document]


def test_all_sites_are_there_with_state_links_with_both_ends_and_what_is_offered_where() -> None:
    world = diamond()
    document = network_view(world.engines["a"], "a")
    assert names(world, document["sites"], "name", "state", "self") == [
        ("a", "own", True),
        ("b", "up", False),
        ("c", "up", False),
        ("d", "up", False),
    ]
    assert sorted(names(world, document["links"], "cost", "state")) == [(1, "up"), (1, "up"), (2, "up"), (2, "up")]
    ends = {frozenset((link["from"], link["to"])) for link in document["links"]}
    assert ends == {frozenset("ab"), frozenset("bd"), frozenset("ac"), frozenset("cd")}
    keys = {doc["key"]: {(t["site"], t["count"]) for t in doc["targets"]} for doc in document["keys"]}
    assert keys == {"key": {("c", 1), ("d", 2)}, "local": {("a", 1)}, "only-d": {("d", 1)}}


def test_a_site_that_cannot_be_reached_is_shown_as_such_with_what_it_said_last() -> None:
    world = diamond()
    world.unlink("b", "d")
    world.unlink("c", "d")
    world.settle()
    document = network_view(world.engines["a"], "a")
    assert ("d", "unreachable") in names(world, document["sites"], "name", "state")
    (only,) = [doc for doc in document["keys"] if doc["key"] == "only-d"]
    assert [(t["site"], t["state"]) for t in only["targets"]] == [("d", "unreachable")]


def test_a_suspect_link_is_named() -> None:
    world = diamond()
    world.state("d", "b", suspect=True)
    world.settle()
    document = network_view(world.engines["a"], "a")
    assert [{link["from"], link["to"]} for link in document["links"] if link["state"] == "suspect"] == [{"b", "d"}]


def test_an_edge_is_seen_under_its_interior_from_everywhere() -> None:
    # e ── a ── b
    world = World()
    world.add("a", "b")
    world.add("e", edge=True)
    world.link("a", "b")
    world.link("a", "e", cost=3)
    world.set("e", "key")
    world.settle()
    for name in ("a", "b"):
        document = network_view(world.engines[name], name)
        (edge,) = [s for s in document["sites"] if s["role"] == "edge"]
        assert edge["name"] == "e"
        assert [(up["site"], up["cost"]) for up in edge["routers"][0]["uplinks"]] == [("a", 3)]
        (key,) = document["keys"]
        # Its interior knows whose it is. It tells others of it as its own, so that they know only that it is there or behind it.
        assert [(t["site"], t["orEdge"]) for t in key["targets"]] == ([("e", False)] if name == "a" else [("a", True)])
    (key,) = network_view(world.engines["e"], "e")["keys"]
    assert [(t["site"], t["count"]) for t in key["targets"]] == [("e", 1)], "and its uplink does not have it once more"
    own = network_view(world.engines["e"], "e")
    assert {s["name"]: s["role"] for s in own["sites"]} == {"a": "interior", "b": "interior", "e": "edge"}
    assert sorted((link["from"], link["to"], link["state"]) for link in own["links"] if link.get("edge")) == [("e", "a", "up")]
    assert len(own["links"]) == 2
    world.unlink("a", "e")
    world.settle()
    assert {s["name"] for s in network_view(world.engines["b"], "b")["sites"]} == {"a", "b"}


def restarted() -> World:
    """m was killed and came back as another start, with its edge e; b and z have not forgotten the earlier one."""
    # e ── m ── b ── z
    world = World()
    world.add("m", "b", "z")
    world.add("e", edge=True)
    world.link("e", "m", "b", "z")
    world.set("m", "key")
    world.settle()
    world.unlink("m", "b")
    world.unlink("e", "m")
    world.add("m", boot=2)
    world.link("e", "m", "b")
    world.set("m", "key")
    world.settle()
    return world


def test_an_edge_is_up_and_there_once_though_an_earlier_start_of_its_interior_lists_it_too() -> None:
    world = restarted()
    for name in ("b", "z"):
        document = network_view(world.engines[name], name)
        (edge,) = [s for s in document["sites"] if s["role"] == "edge"]
        assert (edge["name"], edge["state"]) == ("e", "up")
        assert [up["router"] for router_ in edge["routers"] for up in router_["uplinks"]] == [router("m", 2)]
        assert [(link["from"], link["toRouter"]) for link in document["links"] if link.get("edge")] == [("e", router("m", 2))]


def test_an_earlier_start_of_a_site_is_not_shown_beside_the_present_one() -> None:
    world = restarted()
    for name in ("b", "z"):
        engine = world.engines[name]
        assert router("m", 1) in engine.database.origins, "it is remembered"
        document = network_view(engine, name)
        (m,) = [s for s in document["sites"] if s["name"] == "m"]
        assert [r["id"] for r in m["routers"]] == [router("m", 2)]
        assert [link for link in document["links"] if link["state"] == "one-sided"] == []
        assert len(document["links"]) == 3
        (key,) = document["keys"]
        assert [t["router"] for t in key["targets"]] == [router("m", 2)]
        assert len(parse_down(["m/b"], NetworkView(engine, name), {}).links) == 1
    (m,) = [s for s in network_view(world.engines["m"], "m")["sites"] if s["self"]]
    assert [r["id"] for r in m["routers"]] == [router("m", 2)], "nor is an earlier start of our own"


def test_an_edge_whose_only_interior_is_gone_is_unreachable() -> None:
    world = restarted()
    world.unlink("m", "b")
    world.settle()
    (edge,) = [s for s in network_view(world.engines["z"], "z")["sites"] if s["role"] == "edge"]
    assert edge["state"] == "unreachable"


def test_a_site_down_takes_its_targets_and_moves_the_paths_that_led_through_it() -> None:
    world = diamond()
    gone = of(world, "a", "d")
    assert losses(gone) == {"key": (3, 1), "only-d": (1, 0)}
    assert [loss.key for loss in gone.keys] == ["only-d", "key"], "what is lost altogether comes first"
    assert (gone.cut_off, gone.moves, gone.parts, gone.streams) == ([], [], 1, 0)
    transit = of(world, "a", "b")
    assert losses(transit) == {}
    assert [(move.router, move.cost, move.new_cost, move.new_next_hops) for move in transit.moves] == [(router("d"), 2, 4, [router("c")])]
    assert transit.streams == 7, "open now over the link to it"


def test_links_are_named_by_their_two_sites_or_by_our_name_and_several_may_be_down() -> None:
    world = diamond()
    one = of(world, "a", "a/b")
    assert {(move.router, move.new_cost) for move in one.moves} == {(router("b"), 5), (router("d"), 4)}
    assert one.streams == 7
    assert of(world, "a", "to-b", links={"to-b": [router("b")]}) == one
    assert of(world, "a", site("b")[:12]).streams == 7, "the start of an id"
    both = of(world, "a", "b/d", "c/d")
    assert both.cut_off == [site("d")]
    assert both.parts == 2
    assert losses(both) == {"key": (3, 1), "only-d": (1, 0)}


def test_what_comes_true_is_what_was_foretold() -> None:
    for a, b in (("a", "b"), ("b", "d"), ("a", "c"), ("c", "d")):
        world = diamond()
        foretold = of(world, "a", f"{a}/{b}")
        before = {name: world.path("a", name) for name in "bcd"}
        world.unlink(a, b)
        world.settle()
        after = {name: world.path("a", name) for name in "bcd"}
        assert {move.router for move in foretold.moves} == {router(n) for n in "bcd" if before[n] != after[n] and after[n] is not None}
        for move in foretold.moves:
            assert world.engines["a"].path(move.router) == (move.new_cost, tuple(move.new_next_hops))


def test_an_edge_of_ours_can_be_down_and_our_own_site_too() -> None:
    world = World()
    world.add("a", "b")
    world.add("e", edge=True)
    world.link("a", "b")
    world.link("a", "e")
    world.set("e", "key")
    world.set("b", "key")
    world.settle()
    assert losses(of(world, "a", "e")) == {"key": (2, 1)}
    assert of(world, "a", "a/e").cut_off == [site("e")]
    everything = of(world, "a", "a")
    assert everything.self_down
    assert losses(everything) == {"key": (2, 0)}
    assert losses(of(world, "e", "a")) == {"key": (2, 1)}, "an edge keeps its own target"


def test_of_an_edge_further_away_what_its_interior_has_may_be_lost() -> None:
    # e ── a ── b
    world = World()
    world.add("a", "b")
    world.add("e", edge=True)
    world.link("e", "a", "b")
    world.set("e", "served")
    world.set("b", "elsewhere")
    world.settle()
    for words in ("e", "a/e"):
        outcome = of(world, "b", words)
        assert losses(outcome) == {}, "it is not known here whose it is"
        assert [(loss.edge, loss.at, loss.keys) for loss in outcome.maybe] == [(site("e"), site("a"), ["served"])]
    assert of(world, "a", "e").maybe == [], "its own interior knows"
    assert of(world, "b", "a").maybe == [], "lost with its interior, and counted"
    assert losses(of(world, "b", "a")) == {"served": (1, 0)}
    world.set("e", "served", 0)
    world.settle()
    for name in ("a", "b"):
        assert [loss.keys for loss in of(world, name, "e").maybe] == [[]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing is said"),
        (["x"], "neither a site nor a link"),
        (["a/d"], "no link between a and d"),
        (["a/x"], "no site has the name 'x'"),
        (["host:a"], "neither site: nor link:"),
        (["a"] * 65, "at most 64"),
    ],
)
def test_what_is_not_there_cannot_be_down(words: list[str], message: str) -> None:
    engine = diamond().engines["a"]
    with pytest.raises(ConfigError, match=message):
        parse_down(words, NetworkView(engine, "a"), {})


def test_a_name_of_a_site_and_of_a_link_asks_which() -> None:
    engine = diamond().engines["a"]
    view, links = NetworkView(engine, "a"), {"b": [router("c")]}
    with pytest.raises(ConfigError, match="is a site and a link"):
        parse_down(["b"], view, links)
    assert parse_down(["site:b"], view, links) == Down(sites=frozenset({site("b")}))
    (link,) = parse_down(["link:b"], view, links).links
    assert set(link) == {router("a"), router("c")}
