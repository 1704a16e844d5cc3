"""``van-services``: what people see of exposed services."""

from __future__ import annotations

import json

from vanrouter.controller.view import services_view
from vanrouter.resources import read_resources
from vanrouter.resources.kinds import Connector

TEXT = """\
apiVersion: vanrouter.io/v1alpha1
kind: Connector
metadata: {name: hello, annotations: {vanrouter.io/target: deployment/hello}}
spec: {routingKey: hello, selector: app=hello, port: 8080, expose: {port: 80, protocol: http}}
---
apiVersion: vanrouter.io/v1alpha1
kind: Connector
metadata: {name: hello-443, annotations: {vanrouter.io/target: deployment/hello}}
spec: {routingKey: "hello:443", selector: app=hello, port: 8443, expose: {port: 443, address: hello, protocol: http}}
"""


def test_the_ports_of_one_workload_are_one_target() -> None:
    connectors = [r for r in read_resources(TEXT, source="test") if isinstance(r, Connector)]
    far = {"address": "far", "protocol": "tcp", "ports": [90]}
    view = services_view(connectors, [{"address": "hello", "protocol": "http", "ports": [80, 443]}, far])
    assert {key: json.loads(text) for key, text in view["data"].items()} == {
        "hello": {
            "address": "hello",
            "protocol": "http",
            "ports": [80, 443],
            "targets": [{"name": "hello", "selector": "app=hello", "targetPorts": {"80": 8080, "443": 8443}}],
        },
        "far": {"address": "far", "protocol": "tcp", "ports": [90], "targets": []},
    }
