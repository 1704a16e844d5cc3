"""Routing keys of the ports of a service."""

from __future__ import annotations

from typing import Any

from vanrouter.resources import read_resources
from vanrouter.resources.kinds import Connector
from vanrouter.resources.service_keys import keys_in_use, service_key


def connector(port: int, key: str = "hello", **expose: Any) -> Connector:
    document = {"routingKey": key, "host": "127.0.0.1", "port": port, "expose": {"port": port, **expose}}
    (found,) = read_resources(
        f"{{apiVersion: vanrouter.io/v1alpha1, kind: Connector, metadata: {{name: c}}, spec: {document}}}", source="t"
    )
    assert isinstance(found, Connector)
    return found


def test_the_first_port_has_the_name_of_the_service_and_a_further_one_its_number_too() -> None:
    assert service_key("hello", 80, {}) == "hello"
    in_use = keys_in_use([connector(80)])
    assert service_key("hello", 80, in_use) == "hello"
    assert service_key("hello", 443, in_use) == "hello:443"
    assert service_key("other", 443, in_use) == "other"


def test_a_key_that_serves_another_name_is_not_given_again() -> None:
    assert service_key("hello", 443, keys_in_use([connector(80, address="hallo")])) == "hello:443"


def test_what_the_network_has_for_this_port_counts() -> None:
    elsewhere = [{"address": "hello", "targets": [{"routingKey": "their-key", "port": 443}, {"routingKey": "hello", "port": 80}]}]
    in_use = keys_in_use([], elsewhere)
    assert service_key("hello", 443, in_use) == "their-key"
    assert service_key("hello", 81, in_use) == "hello:81", "hello:80 over there would get its streams"
    assert service_key("hello", 443, keys_in_use([connector(443, "mine", address="hello")], elsewhere)) == "mine"
