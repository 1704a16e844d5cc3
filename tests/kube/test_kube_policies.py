"""Which NetworkPolicies deny what a site needs, and where objects are no longer as they were made: decided without a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from vanrouter.kube.drift import drifted
from vanrouter.kube.names import CONTROLLER_LABELS, ROUTER_LABELS
from vanrouter.kube.policies import Flow, Peer, deniers

TO_API = Flow(direction="egress", labels=ROUTER_LABELS, ports=(443, 6443), peer=Peer(), what="to the API server")
FROM_ROUTER = Flow(direction="ingress", labels=CONTROLLER_LABELS, ports=(55672,), peer=Peer(labels=ROUTER_LABELS), what="router")
LINKS = Flow(direction="ingress", labels=ROUTER_LABELS, ports=(55671,), peer=Peer(in_cluster=True), what="links", names={"links": 55671})


def policy(name: str = "p", *, select: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"podSelector": select or {}, **spec}}


DENY_ALL = policy("deny-all", policyTypes=["Ingress", "Egress"])


@pytest.mark.parametrize("flow", [TO_API, FROM_ROUTER, LINKS])
def test_one_that_denies_all_is_named_and_one_that_selects_others_is_not(flow: Flow) -> None:
    assert deniers([DENY_ALL], flow) == ["deny-all"]
    assert deniers([policy(select={"matchLabels": {"app": "other"}}, policyTypes=["Ingress", "Egress"])], flow) == []
    assert deniers([], flow) == []


def test_what_any_of_them_allows_is_allowed() -> None:
    allow = policy("allow", egress=[{"ports": [{"port": 6443}]}], policyTypes=["Egress"])
    assert deniers([DENY_ALL, allow], TO_API) == []
    assert deniers([DENY_ALL, allow], LINKS) == ["deny-all"]


def test_a_policy_without_types_speaks_of_ingress_and_of_egress_only_where_it_has_rules() -> None:
    assert deniers([policy()], LINKS) == ["p"]
    assert deniers([policy()], TO_API) == []
    assert deniers([policy(egress=[{"ports": [{"port": 80}]}])], TO_API) == ["p"]


@pytest.mark.parametrize(
    ("ports", "denied"),
    [
        ([], False),
        ([{}], False),
        ([{"port": 55671}], False),
        ([{"port": "links"}], False),
        ([{"port": "web"}], True),
        ([{"port": 55000, "endPort": 56000}], False),
        ([{"port": 55000}], True),
        ([{"port": 55671, "protocol": "UDP"}], True),
    ],
)
def test_ports_by_number_name_range_and_protocol(ports: list[dict[str, Any]], denied: bool) -> None:
    assert bool(deniers([policy(ingress=[{"ports": ports}])], LINKS)) == denied


@pytest.mark.parametrize(
    ("peer", "denied"),
    [
        ({"podSelector": {}}, False),
        ({"podSelector": {"matchLabels": ROUTER_LABELS}}, False),
        ({"podSelector": {"matchLabels": {"app": "web"}}}, True),
        ({"podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}, True),
        ({"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}}, False),
        ({"ipBlock": {"cidr": "10.0.0.0/8"}}, True),
        ({"ipBlock": {"cidr": "0.0.0.0/0"}}, False),
    ],
)
def test_peers_of_this_namespace(peer: dict[str, Any], denied: bool) -> None:
    assert bool(deniers([policy(ingress=[{"from": [peer]}])], FROM_ROUTER)) == denied


@pytest.mark.parametrize(
    ("block", "address", "denied"),
    [
        ({"cidr": "192.0.2.0/24"}, "192.0.2.7", False),
        ({"cidr": "192.0.2.0/24", "except": ["192.0.2.0/28"]}, "192.0.2.7", True),
        ({"cidr": "198.51.100.0/24"}, "192.0.2.7", True),
        ({"cidr": "198.51.100.0/24"}, "", False),
    ],
)
def test_an_address_that_is_not_known_may_be_in_any_block(block: dict[str, Any], address: str, denied: bool) -> None:
    flow = Flow(direction="egress", labels=ROUTER_LABELS, ports=(7001,), peer=Peer(address=address), what="a link")
    rules = policy(egress=[{"to": [{"ipBlock": block}]}], policyTypes=["Egress"])
    assert bool(deniers([rules], flow)) == denied


def test_pods_of_this_namespace_only_is_no_way_for_other_sites_nor_to_the_api_server() -> None:
    here = [{"podSelector": {}}]
    both = policy(ingress=[{"from": here}], egress=[{"to": here}], policyTypes=["Ingress", "Egress"])
    assert deniers([both], LINKS) == ["p"]
    assert deniers([both], TO_API) == ["p"]
    assert deniers([both], FROM_ROUTER) == []


def test_drift_is_what_we_say_and_is_otherwise_and_nothing_that_others_added() -> None:
    wish = {
        "apiVersion": "v1",
        "kind": "X",
        "metadata": {"name": "x", "labels": {"a": "b"}, "namespace": "n"},
        "spec": {"replicas": 2, "min": 0, "list": [{"a": 1}], "resources": {"requests": {"cpu": "1000m"}}},
    }
    known: dict[str, Any] = {
        "metadata": {"name": "x", "labels": {"a": "b", "c": "d"}, "uid": "u"},
        "spec": {"replicas": 2, "list": [{"a": 1, "added": 2}], "resources": {"requests": {"cpu": "1"}}, "more": 1},
        "status": {},
    }
    assert drifted(wish, known) == []
    known["spec"] |= {"replicas": 3, "list": [{"a": 2}]}
    known["metadata"]["labels"] = {}
    assert drifted(wish, known) == ["metadata.labels.a", "spec.replicas", "spec.list[0].a"]
    known["spec"]["list"] = [{"a": 1}, {"b": 1}]
    assert drifted(wish, known)[-1] == "spec.list", "one more is another list"
