"""What stands in front of the link access, decided without a cluster: which name it chooses by, and what is said while it leads nowhere."""

from __future__ import annotations

from typing import Any

import pytest

from vanrouter.controller.access import LinkAccess, Reached, Seen
from vanrouter.errors import ConfigError
from vanrouter.kube.entrances import entrance, front_rules, unread
from vanrouter.kube.kinds import GATEWAYS, HTTP_PROXIES, INGRESSES, ROUTES, TLS_ROUTES
from vanrouter.resources.kinds import SiteSpec

KINDS = {kind.kind: kind for kind in (ROUTES, INGRESSES, HTTP_PROXIES, GATEWAYS, TLS_ROUTES[0])}
OURS = {"name": "van-router", "labels": {"app.kubernetes.io/part-of": "vanrouter"}}
NAME = "abc.van"


def spec(kind: str, **settings: str) -> SiteSpec:
    return SiteSpec(link_access=kind, settings={key.replace("_", "-"): value for key, value in settings.items()})


def look(wanted: SiteSpec, *, access: LinkAccess | None = None, now: float = 0.0, **statuses: Any) -> Reached:
    copies = {kind: {"metadata": OURS, "spec": {}, "status": status} for kind, status in statuses.items()}
    return (access or LinkAccess("north", name=NAME)).look(wanted, None, owners=(), now=now, seen=Seen(KINDS, copies))


def condition(kind: str, status: str, **more: str) -> dict[str, str]:
    return {"type": kind, "status": status, **more}


REFUSED = condition("Accepted", "False", reason="NoMatchingParent", message="no such listener")
GATEWAY = {"ingress_class": "envoy"}


@pytest.mark.parametrize(
    ("wanted", "statuses", "words"),
    [
        (spec("route"), {}, "waiting for a host of Route/van-router in north"),
        (
            spec("route"),
            {"Route": {"ingress": [{"host": "a", "conditions": [condition("Admitted", "False", reason="HostAlreadyClaimed")]}]}},
            "Route/van-router in north is not admitted: HostAlreadyClaimed",
        ),
        (spec("ingress"), {"Ingress": {}}, "waiting for an address of Ingress/van-router in north"),
        (
            spec("ingress-nginx"),
            {"Ingress": {"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}]}}},
            "has the address lb.example.com, which is a name and tells no site from another",
        ),
        (
            spec("contour-http-proxy"),
            {"HTTPProxy": {"currentStatus": "invalid", "description": "fqdn is taken"}},
            "HTTPProxy/van-router in north is invalid: fqdn is taken",
        ),
        (spec("contour-http-proxy", ingress_host="a.example"), {"HTTPProxy": {}}, "waiting for HTTPProxy/van-router in north to be valid"),
        (spec("gateway", **GATEWAY), {}, "waiting for TLSRoute/van-router in north to be accepted by Gateway/van-router in north"),
        (spec("gateway", **GATEWAY), {"TLSRoute": {"parents": [{"conditions": [REFUSED]}]}}, "NoMatchingParent: no such listener"),
        (
            spec("gateway", **GATEWAY),
            {"Gateway": {"conditions": [condition("Accepted", "False", reason="InvalidParameters")]}},
            "Gateway/van-router in north is not accepted: InvalidParameters",
        ),
        (
            spec("gateway", **GATEWAY),
            {"TLSRoute": {"parents": [{"conditions": [condition("Accepted", "True")]}]}, "Gateway": {}},
            "waiting for an address of Gateway/van-router in north",
        ),
    ],
)
def test_while_it_leads_nowhere_it_is_said_what_is_waited_for_and_what_to_do(wanted: SiteSpec, statuses: Any, words: str) -> None:
    reached = look(wanted, **statuses)
    assert reached.endpoints == []
    assert reached.condition is not None
    assert (reached.condition.status, reached.condition.reason) == ("False", "Pending")
    assert words in reached.condition.message
    assert reached.condition.next
    assert reached.service
    assert reached.fronts, "it is made at once, and goes on being wanted"


def test_the_name_is_the_host_that_was_said_else_that_of_the_site() -> None:
    ((_, without),) = look(spec("ingress")).fronts
    ((_, with_host),) = look(spec("ingress", ingress_host="a.example")).fronts
    assert [value["spec"]["rules"][0]["host"] for value in (without, with_host)] == [NAME, "a.example"]
    assert without["metadata"]["annotations"] != with_host["metadata"]["annotations"], "a change is seen, also of what is left out"


def test_a_start_that_has_not_looked_yet_keeps_what_was_told() -> None:
    access, told = LinkAccess("north", name=NAME), [("a.example", 443)]
    first = access.look(spec("route"), None, owners=(), now=0.0, seen=Seen(told=told, unsettled=True))
    assert (first.endpoints, first.fronts) == (told, [])
    refused = access.look(spec("default"), None, owners=(), now=1.0, seen=Seen(routes=None, told=told))
    assert refused.endpoints == told, "the cluster has not said yet whether it has Routes"
    assert look(spec("route"), access=access, now=2.0).endpoints == told, "and for 30 s more when its address is gone"
    assert look(spec("route"), access=access, now=32.0).endpoints == []


def test_what_is_there_and_not_ours_is_left_alone() -> None:
    seen = Seen(KINDS, {"Route": {"metadata": {"name": "van-router"}}})
    reached = LinkAccess("north", name=NAME).look(spec("route"), None, owners=(), now=0.0, seen=seen)
    assert reached.condition is not None
    assert (reached.condition.reason, reached.service, reached.fronts) == ("NameTaken", None, [])
    assert "kubectl delete route van-router" in reached.condition.next


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (spec("gateway"), "a Gateway that is made needs a class"),
        (spec("gateway", gateway="a/b/c", ingress_class="x"), "is not NAME or NAMESPACE/NAME"),
        (spec("route", ingress_host="192.0.2.1"), "route tells sites apart by host names"),
        (spec("ingress", ingress_host="a.example,b.example"), "ingress takes one"),
        (spec("ingress", ingress_port="https"), "ingress-port is 'https'"),
        (spec("loadbalancer", ingress_annotations="a"), "'a' is not KEY=VALUE"),
        (spec("somewhere"), "'somewhere' is no link access in a namespace"),
    ],
)
def test_a_setting_that_cannot_be_is_named(wanted: SiteSpec, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        entrance(wanted)


def test_an_edge_has_none_and_the_default_is_what_the_cluster_has() -> None:
    assert entrance(SiteSpec(edge=True, link_access="default")).type == "none"
    assert entrance(spec("default")).type == "loadbalancer"
    assert entrance(spec("default"), routes=True).type == "route"


def test_only_a_route_with_a_host_of_ones_own_takes_the_right_to_choose_hosts() -> None:
    def resources(wanted: SiteSpec) -> set[str]:
        return {rule["resources"][0] for rule in front_rules(entrance(wanted))}

    assert resources(spec("route")) == {"routes"}
    assert resources(spec("route", ingress_host="a.example")) == {"routes", "routes/custom-host"}
    assert resources(spec("loadbalancer")) == set()


def test_settings_that_the_choice_does_not_read_are_known() -> None:
    assert [name for name, _ in unread(spec("local", gateway="a", ingress_host="b"))] == ["ingress-host", "gateway"]
