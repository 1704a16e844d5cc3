"""Ports of pods, the link access, keys and merged status, decided without a cluster and without a clock."""

from __future__ import annotations

from typing import Any

from vanrouter.controller.access import LinkAccess
from vanrouter.controller.keys import SiteKeys, compose_keys
from vanrouter.controller.ports import FIRST, PodPorts
from vanrouter.controller.report import merge_documents, slots_of
from vanrouter.pki import CertificateAuthority, IdentityKey
from vanrouter.pki.authority import LEAF_LIFETIME
from vanrouter.resources.kinds import SiteSpec

NOW = 1_800_000_000.0


# ---- Ports ------------------------------------------------------------------------------------------------------------------------------


def test_a_port_stays_with_its_listener() -> None:
    ports = PodPorts()
    ports.want(["a:80", "b:80"], now=0.0)
    first = dict(ports.given)
    assert sorted(first.values()) == [FIRST, FIRST + 1]
    ports.want(["b:80", "c:80"], now=1.0)
    assert ports.given["b:80"] == first["b:80"]
    assert ports.given["c:80"] not in first.values()


def test_a_port_rests_for_a_minute_before_it_means_something_else() -> None:
    ports = PodPorts()
    everyone = [f"h:{n}" for n in range(10_000)]
    ports.want(everyone, now=0.0)
    ports.want(everyone[1:], now=1.0)
    assert ports.want([*everyone[1:], "new:80"], now=60.9) == ["new:80"]
    assert ports.want([*everyone[1:], "new:80"], now=61.0) == []


def test_ten_thousand_listeners_have_ports_and_the_next_one_waits() -> None:
    ports = PodPorts()
    left = ports.want([f"h:{n}" for n in range(10_001)], now=0.0)
    assert len(left) == 1
    assert len(set(ports.given.values())) == 10_000


def test_of_two_controllers_what_is_written_counts() -> None:
    ports = PodPorts()
    ports.want(["a:80", "b:80"], now=0.0)
    ports.adopt({"b:80": FIRST, "x:1": 7})
    ports.want(["a:80", "b:80"], now=1.0)
    assert ports.given["b:80"] == FIRST
    assert ports.given["a:80"] != FIRST
    assert "x:1" not in ports.given, "not a port of ours"


# ---- Link access ------------------------------------------------------------------------------------------------------------------------


def balancer(*addresses: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/part-of": "vanrouter"}
    return {"metadata": {"name": "van-router", "labels": labels}, "status": {"loadBalancer": {"ingress": [{"ip": a} for a in addresses]}}}


def look(access: LinkAccess, spec: SiteSpec, service: dict[str, Any] | None, now: float) -> Any:
    return access.look(spec, service, owners=(), now=now)


def test_a_missing_address_is_waited_for_since_the_first_look() -> None:
    access, spec = LinkAccess("north"), SiteSpec(link_access="loadbalancer")
    look(access, spec, None, 10.0)
    reached = look(access, spec, balancer(), 25.0)
    assert (reached.condition.reason, reached.condition.since) == ("Pending", 10.0)
    assert "Service/van-router in north" in reached.condition.message
    assert look(access, spec, balancer("203.0.113.7"), 30.0).endpoints == [("203.0.113.7", 55671)]


def test_an_address_that_changed_is_told_for_thirty_seconds_beside_the_new_one() -> None:
    access, spec = LinkAccess("north"), SiteSpec(link_access="loadbalancer")
    look(access, spec, balancer("203.0.113.7"), 0.0)
    both = [("203.0.113.8", 55671), ("203.0.113.7", 55671)]
    assert look(access, spec, balancer("203.0.113.8"), 10.0).endpoints == both
    assert access.deadline == 40.0
    assert look(access, spec, balancer("203.0.113.8"), 39.9).endpoints == both
    assert look(access, spec, balancer("203.0.113.8"), 40.0).endpoints == both[:1]


def test_a_node_port_needs_a_nodes_address_and_says_so() -> None:
    access = LinkAccess("north")
    reached = look(access, SiteSpec(link_access="nodeport"), None, 0.0)
    assert "ingress-host" in reached.condition.message
    service = balancer() | {"spec": {"ports": [{"nodePort": 30001}]}}
    spec = SiteSpec(link_access="nodeport", settings={"ingress-host": "192.0.2.1"})
    assert look(access, spec, service, 1.0).endpoints == [("192.0.2.1", 30001)]


def test_no_link_access_is_no_service_and_a_foreign_one_is_left_alone() -> None:
    access = LinkAccess("north")
    none = look(access, SiteSpec(link_access="none"), None, 0.0)
    assert (none.service, none.condition) == (None, None)
    foreign = {"metadata": {"name": "van-router"}, "spec": {}}
    taken = look(access, SiteSpec(link_access="local"), foreign, 0.0)
    assert (taken.service, taken.condition.reason) == (None, "NameTaken")


# ---- Keys -------------------------------------------------------------------------------------------------------------------------------


def site_keys() -> SiteKeys:
    identity = IdentityKey.generate()
    return SiteKeys(identity, CertificateAuthority.create("north", identity.site_id, now=NOW))


def test_keys_are_made_anew_only_when_hosts_change_or_two_thirds_are_over() -> None:
    keys = site_keys()

    def compose(current: dict[str, bytes], host: str, now: float) -> dict[str, bytes]:
        return compose_keys(current, keys, hosts=[host], credentials={}, now=now).files

    first = compose({}, "a.test", NOW)
    assert compose(first, "a.test", NOW + 0.6 * LEAF_LIFETIME) == first
    moved = compose(first, "b.test", NOW)
    assert moved["own__server.key"] != first["own__server.key"]
    assert moved["own__client.key"] == first["own__client.key"]
    later = compose(first, "a.test", NOW + 0.7 * LEAF_LIFETIME)
    assert later["own__server.key"] != first["own__server.key"]
    assert later["own__client.key"] != first["own__client.key"]


def test_keys_that_somebody_broke_are_made_anew() -> None:
    keys = site_keys()
    broken = {"own__server.crt": b"x", "own__server.key": b"y", "own__client.crt": b"", "own__client.key": b""}
    made = compose_keys(broken, keys, hosts=[], credentials={"up": {"tls.crt": b"c"}}, now=NOW)
    assert made.files["own__server.crt"].startswith(b"-----BEGIN")
    assert made.files["credentials__up__tls.crt"] == b"c"
    assert made.look_at < NOW + LEAF_LIFETIME


# ---- Status -----------------------------------------------------------------------------------------------------------------------------


def document(pod_ready: bool, *links: dict[str, Any], **lists: Any) -> dict[str, Any]:
    return {
        "site": {"name": "north", "ready": pod_ready, "router": "r", "version": "1", "linkedSites": len(links)},
        "links": list(links),
        **lists,
    }


def link(name: str, status: str) -> dict[str, Any]:
    return {"name": name, "direction": "outgoing", "conditions": [{"type": "Ready", "status": status}]}


def test_a_link_that_is_well_at_one_router_is_well() -> None:
    merged = merge_documents({"a": document(True, link("up", "False")), "b": document(True, link("up", "True"), link("more", "False"))})
    assert {x["name"]: x["conditions"][0]["status"] for x in merged["links"]} == {"up": "True", "more": "False"}
    assert [r["pod"] for r in merged["site"]["routers"]] == ["a", "b"]


def test_a_router_that_is_ready_speaks_for_the_site() -> None:
    merged = merge_documents({"a": document(False), "b": {**document(True), "problems": [{"path": "x"}]}})
    assert merged["site"]["ready"] is True
    assert merged["problems"] == [{"path": "x"}]


def test_nothing_from_nobody() -> None:
    assert merge_documents({}) == {}
    listeners = [{"name": "a:80", "automatic": True}, {"name": "db", "automatic": False}, {"name": "odd", "automatic": True}]
    assert slots_of({"listeners": listeners}) == {("a", 80)}


def pod(name: str, *others: str, active: bool = True) -> dict[str, Any]:
    """A router that dials ``others`` of its site, and is dialled by one of it and by another site."""
    links = [{"name": f"sibling-{other}", "direction": "outgoing", "remoteSiteId": "own", "active": active} for other in others]
    for link in links:
        link["conditions"] = [{"type": "Operational", "status": "False", "message": "no route to host"}] * (not active)
    links += [{"name": site, "direction": "incoming", "remoteSiteId": site, "active": True} for site in ("own", "south")]
    return {"site": {"name": "north", "id": "own", "ready": True}, "links": links}


def test_links_between_the_routers_of_a_site_are_not_links_of_the_site() -> None:
    merged = merge_documents({"van-router-a": pod("van-router-a"), "van-router-b": pod("van-router-b", "van-router-a")})
    assert [link["name"] for link in merged["links"]] == ["south"]
    assert [router["pod"] for router in merged["site"]["routers"]] == ["van-router-a", "van-router-b"]
    assert merged["problems"] == []


def test_routers_of_a_site_that_do_not_reach_each_other_are_a_problem_that_names_both() -> None:
    merged = merge_documents({"van-router-a": pod("van-router-a"), "van-router-b": pod("van-router-b", "van-router-a", active=False)})
    (problem,) = merged["problems"]
    assert problem["message"] == "router van-router-b is not linked with router van-router-a of this site: no route to host"
    assert problem["path"] == "pod van-router-b"
