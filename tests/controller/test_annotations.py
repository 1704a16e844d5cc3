"""What annotations on workloads and Services expose, and what is said of those that are wrong; pods by name. Decided without a cluster."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vanrouter.controller.annotations import Decided, annotated, targets_named
from vanrouter.controller.pods_by_name import pods_by_name
from vanrouter.kube.workloads import MOST_PODS, Workload, keep_service, keep_workload
from vanrouter.resources import read_resources
from vanrouter.resources.kinds import Connector

PORTS = [{"containerPort": 8080, "name": "web"}, {"containerPort": 9090}]


def workload(kind: str = "Deployment", name: str = "hello", ports: list[dict[str, Any]] | None = None, **annotations: str) -> Workload:
    """Annotations: ``proxy`` is ours, ``skupper_proxy`` the incumbent's."""
    names = {key: f"skupper.io/{key[8:]}" if key.startswith("skupper_") else f"vanrouter.io/{key}" for key in annotations}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"ports": PORTS if ports is None else ports}]}}
    spec = {"selector": {"matchLabels": {"app": name}}, "template": template, "replicas": 3}
    return keep_workload(kind, {"metadata": {"name": name, "annotations": {names[k]: v for k, v in annotations.items()}}, "spec": spec})


def service(spec: dict[str, Any] | None = None, name: str = "hello", **annotations: str) -> Workload:
    usual = {"selector": {"app": "hello"}, "ports": [{"port": 80, "targetPort": "web"}, {"port": 53, "protocol": "UDP"}]}
    marks = {f"vanrouter.io/{key}": value for key, value in annotations.items()}
    return keep_service({"metadata": {"name": name, "annotations": marks}, "spec": usual if spec is None else spec})


def connector(**spec: Any) -> Connector:
    document = {"apiVersion": "vanrouter.io/v1alpha1", "kind": "Connector", "metadata": {"name": "c"}, "spec": spec}
    (found,) = read_resources(json.dumps(document), source="test")
    assert isinstance(found, Connector)
    return found


def look(*workloads: Workload, explicit: tuple[Connector, ...] = (), before: tuple[Connector, ...] = (), services: Any = ()) -> Decided:
    return annotated(workloads, explicit, before, services)


def offered(decided: Decided) -> list[tuple[str, int, str, int, str]]:
    """(address, port, selector, port of the pods, routing key)."""
    specs = [c.spec for made in decided.made.values() for c in made]
    return [(s.expose.address, s.expose.port, s.selector, s.port, s.routing_key) for s in specs if s.expose]


# ---- What they expose -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_the_pods_ports_are_exposed_unless_the_annotation_says_others(kind: str) -> None:
    decided = look(workload(kind, proxy="tcp"))
    assert offered(decided) == [("hello", 8080, "app=hello", 8080, "hello"), ("hello", 9090, "app=hello", 9090, "hello:9090")]
    assert decided.problems == []
    assert list(decided.made) == [f"{kind.lower()}/hello"]
    decided = look(workload(kind, proxy="http", port="80:web, 443:8443", address="shop"))
    assert offered(decided) == [("shop", 80, "app=hello", 8080, "shop"), ("shop", 443, "app=hello", 8443, "shop:443")]
    assert decided.made[f"{kind.lower()}/hello"][0].spec.expose.protocol == "http"  # type: ignore[union-attr]


def test_the_incumbents_names_mean_the_same_and_ours_count_before_them() -> None:
    decided = look(workload(skupper_proxy="http2", skupper_port="80:8080", skupper_address="shop"))
    assert offered(decided) == [("shop", 80, "app=hello", 8080, "shop")]
    decided = look(workload(proxy="tcp", port="81:8080", skupper_proxy="tcp", skupper_port="80:8080"))
    assert offered(decided) == [("hello", 81, "app=hello", 8080, "hello")]
    assert [(p.path, p.message) for p in decided.problems] == [
        ("Deployment/hello: skupper.io/port", "vanrouter.io/port says '81:8080', this says '80:8080'; vanrouter.io/port counts")
    ]


def test_a_service_offers_the_pods_behind_it() -> None:
    assert offered(look(service(proxy="tcp"), workload())) == [("hello", 80, "app=hello", 8080, "hello")]
    assert offered(look(service(proxy="tcp", port="80:7000"))) == [("hello", 80, "app=hello", 7000, "hello")]


@pytest.mark.parametrize("whose", ["vanrouter.io", "skupper.io"])
def test_a_service_that_names_another_one_offers_the_pods_and_ports_of_that(whose: str) -> None:
    marks = {f"{whose}/proxy": "tcp", f"{whose}/address": "van-backend", f"{whose}/target": "backend"}
    empty = keep_service({"metadata": {"name": "front", "annotations": marks}, "spec": {"ports": [{"port": 1}]}})
    assert targets_named([empty]) == {"backend"}
    backend = service({"selector": {"app": "b"}, "ports": [{"port": 80, "targetPort": 8080}]}, name="backend")
    decided = look(empty, backend)
    assert offered(decided) == [("van-backend", 80, "app=b", 8080, "van-backend")]
    assert (list(decided.made), decided.problems) == (["service/front"], [])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (service(proxy="tcp", target="none"), "there is no Service 'none' in this namespace"),
        (service(proxy="tcp", target="hello.shop"), "'hello.shop' is in another namespace"),
        (workload(proxy="tcp", target="hello"), "a Deployment is exposed by its own pods"),
        (service(target="hello"), "it says nothing without vanrouter.io/proxy"),
    ],
)
def test_a_target_that_means_nothing_is_named(wrong: Workload, said: str) -> None:
    decided = look(wrong)
    assert not decided.made
    assert said in decided.problems[0].message
    assert "vanrouter.io/target" in decided.problems[0].path


def test_a_service_that_was_taken_over_offers_what_it_led_to_before() -> None:
    saved = {"selector": {"app": "mine"}, "ports": [{"port": 80, "targetPort": 8080}]}
    spec = {"selector": {"app.kubernetes.io/component": "router"}, "ports": [{"port": 80, "targetPort": 20001}]}
    assert offered(look(service(spec, proxy="tcp", saved=json.dumps(saved), controlled="true"))) == [
        ("hello", 80, "app=mine", 8080, "hello")
    ]


@pytest.mark.parametrize("saved", ["{", "[]", '{"selector": "x"}', '{"ports": [80]}', "[" * 5000])
def test_what_somebody_broke_in_the_saved_part_never_leads_to_the_routers_themselves(saved: str) -> None:
    spec = {"selector": {"app.kubernetes.io/component": "router"}, "ports": [{"port": 80, "targetPort": 20001}]}
    edited = look(service(spec, proxy="tcp", saved=saved, controlled="true"))
    assert (edited.made, edited.problems[0].message) == ({}, "it selects no pods")


def test_a_routing_key_stays_and_is_what_the_network_has() -> None:
    there = [{"address": "hello", "targets": [{"routingKey": "theirs", "port": 80}]}]
    first = look(workload(proxy="tcp", port="80:8080"), services=there)
    assert offered(first)[0][4] == "theirs"
    assert offered(look(workload(proxy="tcp", port="80:8080"), before=tuple(first.made["deployment/hello"])))[0][4] == "theirs"


def test_two_workloads_of_one_address_are_two_servers_of_it() -> None:
    decided = look(
        workload(name="blue", proxy="tcp", port="80", address="shop"), workload(name="green", proxy="tcp", port="80", address="shop")
    )
    assert offered(decided) == [("shop", 80, "app=blue", 80, "shop"), ("shop", 80, "app=green", 80, "shop")]


def test_a_long_name_still_makes_a_legal_connector() -> None:
    names = [c.name for n in ("a" * 63, "a" * 62 + "b") for c in look(workload(name=n, proxy="tcp", address="a")).made[f"deployment/{n}"]]
    assert len(set(names)) == 4
    assert max(map(len, names)) <= 63


# ---- Who counts first, and what is wrong ------------------------------------------------------------------------------------------------


def test_an_explicit_connector_counts_before_an_annotation_and_both_are_named() -> None:
    mine = connector(routingKey="hello", host="10.0.0.1", port=1, expose={"port": 8080})
    decided = look(workload(proxy="tcp"), explicit=(mine,))
    assert [(o[1], o[4]) for o in offered(decided)] == [(9090, "hello:9090")], "its other port is nobody's"
    (problem,) = decided.problems
    assert problem.path == "Deployment/hello: vanrouter.io/proxy"
    assert problem.message == "Connector/c exposes hello:8080 already and counts; the annotation does not"


@pytest.mark.parametrize(
    ("annotations", "path", "said"),
    [
        ({"proxy": "udp"}, "vanrouter.io/proxy", "'udp' is none of tcp, http, http2"),
        ({"proxy": "tcp", "port": "80:"}, "vanrouter.io/port", "'80:' is no port"),
        ({"proxy": "tcp", "port": "0"}, "vanrouter.io/port", "'0' is no port"),
        ({"proxy": "tcp", "port": "80:8080,80"}, "vanrouter.io/port", "80 is there twice"),
        ({"proxy": "tcp", "port": "80:wbe"}, "vanrouter.io/port", "no port named 'wbe'; they have: 8080 (web), 9090"),
        ({"proxy": "tcp", "address": "1st"}, "vanrouter.io/address", "'1st' cannot be the name of a Service"),
        ({"skupper_proxy": "tcp", "skupper_address": "A"}, "skupper.io/address", "'A' cannot be the name of a Service"),
        ({"proxy": "tcp", "headless": "true"}, "vanrouter.io/headless", "pods of a Deployment have no lasting names"),
        ({"proxy": "tcp", "headless": "yes"}, "vanrouter.io/headless", "'yes' is neither true nor false"),
        ({"port": "80"}, "vanrouter.io/port", "it says nothing without vanrouter.io/proxy"),
    ],
)
def test_a_bad_value_is_named_with_its_object_and_stops_nobody_else(annotations: dict[str, str], path: str, said: str) -> None:
    decided = look(workload(**annotations), workload(name="well", proxy="tcp", port="80"))
    assert list(decided.made) == ["deployment/well"]
    (problem,) = decided.problems
    assert problem.path == f"Deployment/hello: {path}"
    assert said in problem.message
    assert problem.hint


def test_what_cannot_be_exposed_says_why() -> None:
    assert "its pods declare no TCP port" in look(workload(ports=[], proxy="tcp")).problems[0].message
    assert "it selects no pods" in look(service({"ports": [{"port": 80}]}, proxy="tcp")).problems[0].message
    assert "the Service has no port 81; it has: 80" in look(service(proxy="tcp", port="81")).problems[0].message
    assert "no port named 'web'; they have: none" in look(service(proxy="tcp")).problems[0].message
    assert look(workload(skupper_address="a"), service()).problems == []


# ---- Pods by name -----------------------------------------------------------------------------------------------------------------------


def test_each_pod_of_a_stateful_set_is_a_service_of_its_own() -> None:
    asks = connector(routingKey="db", selector="app=db", port=5432, expose={"port": 5432, "address": "db-any"}, exposePodsByName=True)
    made, problems = pods_by_name([asks], [workload("StatefulSet", "db"), workload("Deployment", "db")])
    assert problems == []
    specs = [c.spec for c in made["connector/c"]]
    assert [(s.routing_key, s.selector, s.port, s.expose.address) for s in specs if s.expose] == [
        (f"db.db-{n}", f"statefulset.kubernetes.io/pod-name=db-{n}", 5432, f"db-{n}") for n in range(3)
    ]
    assert not any(s.expose_pods_by_name for s in specs)


def test_without_a_service_each_pod_has_a_routing_key_alone() -> None:
    asks = connector(routingKey="db", selector="app=db", port=5432, exposePodsByName=True)
    made, problems = pods_by_name([asks], [workload("StatefulSet", "db")])
    assert problems == []
    assert [(c.spec.routing_key, c.spec.expose) for c in made["connector/c"]] == [(f"db.db-{n}", None) for n in range(3)]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"selector": "app=none", "expose": {"port": 1}}, "app=none means pods of no StatefulSet"),
        ({"host": "10.0.0.1", "expose": {"port": 1}}, "a host has no pods"),
    ],
)
def test_where_pods_have_no_lasting_names_it_says_so(spec: dict[str, Any], said: str) -> None:
    asks = connector(routingKey="db", port=1, exposePodsByName=True, **spec)
    made, (problem,) = pods_by_name([asks], [workload("StatefulSet", "db")])
    assert not any(made.values())
    assert said in problem.message


def test_a_headless_annotation_exposes_each_pod_too() -> None:
    db = workload("StatefulSet", "db", skupper_proxy="tcp", skupper_port="5432", skupper_headless="true")
    (asks,) = look(db).made["statefulset/db"]
    made, _ = pods_by_name([asks], [db])
    assert [c.spec.expose.address for c in made[f"connector/{asks.name}"] if c.spec.expose] == ["db-0", "db-1", "db-2"]


def test_of_a_stateful_set_of_any_size_a_thousand_names_are_kept_and_the_rest_is_said() -> None:
    labels = {"app": "db"}
    spec = {"replicas": 2**31 - 1, "template": {"metadata": {"labels": labels}}}
    huge = keep_workload("StatefulSet", {"metadata": {"name": "db"}, "spec": spec})
    assert len(huge.pods) == MOST_PODS
    made, problems = pods_by_name([connector(routingKey="db", selector="app=db", port=1, exposePodsByName=True)], [huge])
    assert len(made["connector/c"]) == MOST_PODS
    assert [p.message for p in problems] == [f"statefulset/db has {2**31 - 1} pods: the first {MOST_PODS} are exposed by name"]
