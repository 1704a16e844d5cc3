"""What every home of resources promises: a directory of files, a namespace of ConfigMaps, and one of custom resources."""

from __future__ import annotations

from typing import Any

import pytest
from store_homes import Home

from vanrouter.errors import ConfigError
from vanrouter.resources import read_document, to_yaml


def listener(name: str = "web", port: int = 8080, routing_key: str = "web") -> Any:
    spec = {"routingKey": routing_key, "host": "127.0.0.1", "port": port}
    return read_document({"apiVersion": "vanrouter.io/v1alpha1", "kind": "Listener", "metadata": {"name": name}, "spec": spec})


def secret(name: str = "west") -> Any:
    data = {"tls.crt": "Y3J0", "tls.key": "a2V5", "ca.crt": "Y2E="}
    return read_document({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data})


WEB = ("Listener", "web")


def test_what_is_put_is_there_until_it_is_deleted(home: Home) -> None:
    store = home.store
    store.put(listener())
    assert store.get(*WEB) == listener()
    store.put(listener(port=9))
    store.put(listener("a", 1))
    assert store.of_kind("Listener") == [listener("a", 1), listener(port=9)]
    assert home.again().get(*WEB) == listener(port=9)
    assert store.delete(*WEB)
    assert not store.delete(*WEB)
    assert store.get(*WEB) is None
    assert store.load().resources.keys() == {("Listener", "a")}


def test_a_secret_is_a_resource_like_others(home: Home) -> None:
    home.store.put(secret())
    assert home.store.get("Secret", "west") == secret()
    assert home.again().of_kind("Secret") == [secret()]
    assert home.store.delete("Secret", "west")
    assert not home.store.delete("Secret", "west")


def test_a_change_by_somebody_else_is_noticed_and_nothing_else_is(home: Home) -> None:
    store, place = home.store, home.place_of(*WEB)
    store.load()
    assert not store.changed()
    store.put(listener())
    store.load()
    assert not store.changed()
    home.write(place, to_yaml(listener(port=8081)))
    assert store.changed()
    assert store.load().resources[WEB].resource == listener(port=8081)
    assert not store.changed()
    home.remove(place)
    assert store.changed()
    assert store.load().resources == {}


def test_what_is_broken_keeps_its_last_good_form_here_and_in_the_next_process(home: Home) -> None:
    store, place = home.store, home.place_of(*WEB)
    store.put(listener())
    store.put(listener("other", 9))
    store.load()
    home.write(place, home.broken)
    for loaded in (store.load(), home.again().load()):
        assert loaded.resources[WEB].resource == listener()
        assert loaded.resources.keys() == {WEB, ("Listener", "other")}
        (problem,) = loaded.problems
        assert place in problem.path
        assert home.what_is_wrong in problem.message, "and where in it"
        assert "last good form stays in force" in problem.message
    home.write(place, to_yaml(listener(port=7)))
    loaded = store.load()
    assert (loaded.resources[WEB].resource, loaded.problems) == (listener(port=7), [])
    home.write(place, "")
    assert WEB not in store.load().resources, "an empty text is no mistake: nothing is wanted"


def test_the_last_good_form_is_the_latest_one(home: Home) -> None:
    place = home.place_of(*WEB)
    for port in (1, 2, 3):
        home.write(place, to_yaml(listener(port=port)))
        home.store.load()
    home.write(place, "[")
    assert home.again().load().resources[WEB].resource == listener(port=3)


def test_what_was_never_good_is_a_problem_only_and_hurts_nobody_else(home: Home) -> None:
    home.store.put(listener())
    good, wrong, field = home.never_good
    home.write("x", to_yaml(listener("x")).replace(good, wrong))
    loaded = home.store.load()
    assert loaded.resources.keys() == {WEB}
    (problem,) = loaded.problems
    assert f"Listener/x: {field}" in problem.message
    assert "last good" not in problem.message


def test_one_that_is_gone_and_comes_back_broken_has_no_last_good_form(home: Home) -> None:
    place = home.place_of(*WEB)
    home.store.put(listener())
    home.store.load()
    home.remove(place)
    home.store.load()
    home.write(place, "[")
    assert home.store.load().resources == {}


def test_several_in_one_text_are_read_and_left_to_their_author(home: Home) -> None:
    home.write("all", to_yaml([listener("a", 1), listener("b", 2)]))
    assert len(home.store.load().resources) == 2
    for change in (lambda: home.store.put(listener("a", 3)), lambda: home.store.delete("Listener", "b")):
        with pytest.raises(ConfigError, match=r"all.* together with others") as caught:
            change()
        assert "edit" in caught.value.hint
    assert home.store.get("Listener", "a") == listener("a", 1)


def test_one_that_stands_alone_under_another_name_is_changed_where_it_stands(home: Home) -> None:
    home.write("mine", to_yaml(listener()))
    home.store.put(listener(port=5))
    loaded = home.store.load()
    assert loaded.resources[WEB].resource == listener(port=5)
    assert "mine" in loaded.resources[WEB].file
    assert loaded.problems == []


def test_one_name_in_two_places_names_both_and_the_first_counts(home: Home) -> None:
    home.write("first", to_yaml(listener()))
    home.write("second", to_yaml(listener(port=9)))
    loaded = home.store.load()
    assert loaded.resources[WEB].resource == listener()
    (problem,) = loaded.problems
    assert "first" in problem.message
    assert "second" in problem.message


def test_which_of_two_counts_does_not_depend_on_which_was_there_first(home: Home) -> None:
    home.write("second", to_yaml(listener(port=9)))
    home.store.load()
    home.write("first", to_yaml(listener()))
    for loaded in (home.store.load(), home.again().load()):
        assert loaded.resources[WEB].resource == listener()


def test_a_place_that_holds_another_is_not_written_over(text_home: Home) -> None:
    text_home.write(text_home.place_of(*WEB), to_yaml(listener("other")))
    with pytest.raises(ConfigError, match="holds Listener/other"):
        text_home.store.put(listener())
    assert text_home.store.load().resources.keys() == {("Listener", "other")}


def test_the_longest_names_and_the_oddest_ones_have_their_places(home: Home) -> None:
    odd = ["a" * 63, "a..b", "a.-b", "a-.b", "0"]
    for port, name in enumerate(odd, 1):
        home.store.put(listener(name, port))
    assert home.again().load().resources.keys() == {("Listener", name) for name in odd}
    for name in odd:
        assert home.store.delete("Listener", name)


def test_hostile_texts_are_problems_and_not_crashes(home: Home) -> None:
    texts = ["{" * 500, "a: &a [*a]", "- 1", "kind: Listener", "\x85", "kind: [x]\nmetadata: 3", "apiVersion: v1\nkind: List\nitems: 5"]
    for number, text in enumerate(texts):
        home.write(f"bad{number}", text)
    home.store.put(listener())
    loaded = home.store.load()
    assert loaded.resources.keys() == {WEB}
    assert len(loaded.problems) >= len(texts) - 1


@pytest.mark.api_server
@pytest.mark.parametrize("home", ["custom resources"], indirect=True)
def test_a_config_map_and_a_custom_resource_of_one_name_are_both_named_and_the_config_map_counts(home: Home) -> None:
    home.store.put(listener(port=9))
    home.write("mine", to_yaml(listener()))
    loaded = home.store.load()
    assert loaded.resources[WEB].resource == listener()
    (problem,) = loaded.problems
    assert problem.path == "listeners.vanrouter.io/web"
    assert "in ConfigMap/mine: resource.yaml and in listeners.vanrouter.io/web; ConfigMap/mine: resource.yaml counts" in problem.message
    home.remove("mine")
    assert home.store.load().resources[WEB].resource == listener(port=9)
