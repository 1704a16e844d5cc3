"""Label selectors mean what they mean to kubectl, and what is none is refused with an example."""

from __future__ import annotations

import pytest

from vanrouter.errors import ConfigError, InvalidResource
from vanrouter.resources import read_document
from vanrouter.resources.selectors import parse_selector

LABELS = {"app": "web", "tier": "back", "example.com/track": "stable"}


@pytest.mark.parametrize(
    "text",
    [
        "app=web",
        "app==web",
        "app = web , tier=back",
        "tier!=front",
        "none!=x",
        "app in (web, api)",
        "tier notin (front),app",
        "!old",
        "example.com/track=stable",
    ],
)
def test_a_selector_matches(text: str) -> None:
    assert parse_selector(text).matches(LABELS)


@pytest.mark.parametrize("text", ["app=api", "app!=web", "app in (api,front)", "tier notin (back)", "old", "!app", "app=", "app=web,old"])
def test_a_selector_does_not_match(text: str) -> None:
    assert not parse_selector(text).matches(LABELS)


@pytest.mark.parametrize("text", ["", ",", "app=web,", "app>1", "app in web", "app in ()x", "-app=web", "app=we b", "app=web;tier=back"])
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a label selector"):
        parse_selector(text)


def test_a_connector_with_a_wrong_selector_is_named_with_the_field() -> None:
    spec = {"routingKey": "web", "selector": "app>web", "port": 80}
    with pytest.raises(InvalidResource, match=r"spec\.selector"):
        read_document({"apiVersion": "vanrouter.io/v1alpha1", "kind": "Connector", "metadata": {"name": "web"}, "spec": spec})
